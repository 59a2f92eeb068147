"""``truepair fix``: the corpus without the pairs that do not match, in its own format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from truepair.errors import ConfigError


@dataclass(frozen=True)
class Fix:
    """Write a copy of the audited corpus without its mismatched pairs: table to table, tar to tar, dataset to dataset.

    Pairs that somebody decided about (in review.sqlite, which 'truepair review' writes, or in a table of decisions) are
    kept, dropped or re-paired as decided, all others by the rule. provenance.parquet beside the copy says of every pair
    what became of it and why. The corpus is never touched: to undo all, delete the copy.

    For example:
      truepair fix audit/ --out cleaned/
      truepair fix audit/ --out cleaned/ --threshold 0.8 --re-pair
      truepair fix audit/ --out cleaned/ --decisions checked.csv
    """

    audit: Annotated[Path, tyro.conf.Positional]
    """The audit's folder."""
    out: Path
    """The folder to write to: new, empty, or what an earlier fix wrote, which is replaced as a whole."""
    threshold: float | None = None
    """Drop pairs whose mismatch probability is at least this; as in the audit, if not given."""
    re_pair: bool = False
    """Give suspects the picture that is suggested, where it is likely to be theirs; so it is too if the audit did."""
    decisions: Path | None = None
    """A table (.csv, .tsv, .jsonl, .parquet) with the columns caption_id, action (keep, drop, re-pair) and, for
    re-pair, image_id. It goes before decisions of a review."""

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}, but it is a probability above 0")


def command(arguments: Sequence[str]) -> None:
    """Parse, copy, say what became of the pairs."""
    parsed = tyro.cli(Fix, prog="truepair fix", args=arguments)
    from truepair.cleaning.audit_folder import open_audit
    from truepair.cleaning.copying import check_target, export
    from truepair.cleaning.decision_tables import read_decisions
    from truepair.cleaning.decisions_db import HandDecisions

    audit = open_audit(parsed.audit)
    check_target(audit, parsed.out)
    database = parsed.audit / "review.sqlite"
    by_hand = HandDecisions(database, audit.digest, audit.findings_file).all() if database.exists() else {}
    if parsed.decisions is not None:
        by_hand |= read_decisions(parsed.decisions, audit)
    threshold = audit.threshold if parsed.threshold is None else parsed.threshold
    result = export(audit, by_hand, parsed.out, threshold=threshold, re_pair=parsed.re_pair or audit.re_pairs)
    counts = f"{result['keep']:,} kept, {result['drop']:,} dropped, {result['re-pair']:,} given another picture"
    print(f"{counts}; {len(by_hand):,} of these by hand\ncopy: {parsed.out}")
