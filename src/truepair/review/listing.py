"""Which pairs a page shows, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Bool, Int, Int8

from truepair.cleaning.audit_folder import NONE, AuditFolder
from truepair.cleaning.decisions_db import ACTIONS
from truepair.errors import ConfigError
from truepair.review.issues import PairIssues

Filter = Literal["suspects", "undecided", "decided", "kept", "dropped", "re-paired", "with suggestion"]
Order = Literal["suspicious", "plausible", "borderline", "grouped"]
"""Most or least suspicious first, those nearest to the audit's threshold, or those together that an issue groups."""

_SEARCHED = ("caption", "caption_id", "image_id")


@dataclass(frozen=True)
class Query:
    """What is asked for.

    Attributes:
        filters: All of which hold.
        order: What comes first.
        probability_from: The smallest mismatch probability, in [0, 1]. Unknown ones are left out, unless all are asked
            for.
        probability_to: The largest one.
        text: What the caption or a name contains, in upper or lower case; everything contains "".
        issue: What issue the pair has, see `PairIssues`; "" for any pair.
    """

    filters: Sequence[Filter] = ()
    order: Order = "suspicious"
    probability_from: float = 0.0
    probability_to: float = 1.0
    text: str = ""
    issue: str = ""


def filters_from(text: str) -> list[Filter]:
    """Filters from a list with commas.

    Raises:
        ConfigError: If one is unknown.

    >>> filters_from("suspects, undecided")
    ['suspects', 'undecided']
    """
    known: dict[str, Filter] = {name: name for name in get_args(Filter)}
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ConfigError(f"there is no filter {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in asked]


def rows_of(
    audit: AuditFolder, issues: PairIssues, codes: Int8[np.ndarray, " pairs"], query: Query
) -> Int[np.ndarray, " chosen"]:
    """The rows of the findings that a query is about, in its order.

    Args:
        audit: The audit.
        issues: Which pairs have which issue.
        codes: What is decided about each pair, as numbers of `ACTIONS`.
        query: Which pairs.

    Raises:
        ConfigError: If no pair has the issue.
    """
    chosen = np.ones(len(audit.probability), dtype=bool)
    if query.probability_from > 0 or query.probability_to < 1:
        chosen = (audit.probability >= query.probability_from) & (audit.probability <= query.probability_to)
    if query.issue:
        chosen &= issues.having(query.issue)
    for name in query.filters:
        chosen &= _holds(audit, codes, name)
    if query.text:
        chosen &= _mentions(audit, query.text)
    rows = chosen.nonzero()[0]
    if query.order == "plausible":
        return rows[::-1]
    if query.order == "grouped" and query.issue:
        return rows[issues.group(query.issue)[rows].argsort(kind="stable")]
    if query.order == "borderline":
        return rows[np.abs(audit.probability[rows] - audit.threshold).argsort(kind="stable")]
    return rows


def _holds(audit: AuditFolder, codes: Int8[np.ndarray, " pairs"], name: Filter) -> Bool[np.ndarray, " pairs"]:
    holds: dict[Filter, np.ndarray[Any, Any]] = {
        "suspects": audit.is_suspect,
        "with suggestion": audit.suggested_image != NONE,
        "decided": codes != 0,
        "undecided": codes == 0,
        "kept": codes == ACTIONS.index("keep"),
        "dropped": codes == ACTIONS.index("drop"),
        "re-paired": codes == ACTIONS.index("re-pair"),
    }
    return holds[name]


def _mentions(audit: AuditFolder, text: str) -> Bool[np.ndarray, " pairs"]:
    found = np.zeros(len(audit.probability), dtype=bool)
    for column in _SEARCHED:
        found |= pc.match_substring(audit.findings[column], text, ignore_case=True).to_numpy()
    return found
