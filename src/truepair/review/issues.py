"""Which pairs have which issue: what ``issues.parquet`` says of images and captions, as columns of the findings."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, Shaped

from truepair.cleaning.audit_folder import NONE, AuditFolder
from truepair.errors import ConfigError


class PairIssues:
    """Issues by pair. An issue of an image is one of every pair that has the image."""

    def __init__(self, audit: AuditFolder) -> None:
        """Read the audit's ``issues.parquet``; an audit without that file has no issues."""
        self._has: dict[str, Bool[np.ndarray, " pairs"]] = {}
        self._group: dict[str, Int[np.ndarray, " pairs"]] = {}
        if not (audit.folder / audit.summary.files.issues).exists():
            return
        issues = audit.issues
        for kind in pc.unique(issues["issue"]).to_pylist():
            of_kind = issues.filter(pc.equal(issues["issue"], kind))
            group = pc.fill_null(of_kind["group"], NONE).to_numpy()
            has, groups = np.zeros(len(audit.findings), dtype=bool), np.full(len(audit.findings), NONE)
            for name in ("image_id", "caption_id"):
                place = _places(audit.findings[name], of_kind[name].combine_chunks())
                has |= place != NONE
                groups = np.where(place != NONE, group[place], groups)
            if has.any():
                self._has[kind], self._group[kind] = has, groups

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs have each kind of issue, for the kinds that there are."""
        return {kind: int(has.sum()) for kind, has in self._has.items()}

    def of(self, row: int) -> list[str]:
        """The kinds of issues of a row of the findings."""
        return [kind for kind, has in self._has.items() if has[row]]

    def having(self, kind: str) -> Bool[np.ndarray, " pairs"]:
        """True where the pair has that issue.

        Raises:
            ConfigError: If no pair has.
        """
        self._check(kind)
        return self._has[kind]

    def group(self, kind: str) -> Int[np.ndarray, " pairs"]:
        """The same number for pairs that belong together, such as those of duplicates of one image; `NONE` for alone.

        Raises:
            ConfigError: If no pair has that issue.
        """
        self._check(kind)
        return self._group[kind]

    def _check(self, kind: str) -> None:
        if kind not in self._has:
            raise ConfigError(f"no pair has the issue {kind!r}; there are {', '.join(self._has) or 'no issues'}")


def _places(names: pa.ChunkedArray, known: pa.Array) -> Int[np.ndarray, " names"]:
    """Where each name stands among the known ones; `NONE` for none."""
    places: Shaped[np.ndarray, " names"] = pc.fill_null(pc.index_in(names, value_set=known), NONE).to_numpy()
    return places.astype(np.int64)
