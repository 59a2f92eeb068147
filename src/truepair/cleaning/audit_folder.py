"""An audit's folder, opened for review and for fixing: its findings as columns, and the pictures that they are about.

Nothing here needs PyTorch: a copy is made from the findings and the source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int, Shaped

from truepair.cleaning.generation import generation_of_table, refuse_mixture
from truepair.cleaning.provenance import refuse_other_caption
from truepair.cleaning.summary import AuditSummary, read_summary
from truepair.errors import ConfigError, DataError
from truepair.files.names import FINDINGS
from truepair.files.parquet import read_parquet
from truepair.sources.folders import FolderSource
from truepair.sources.opening import reopened
from truepair.sources.picture_files import encoded_picture
from truepair.sources.protocol import Sample, Source
from truepair.sources.stores import StorePath
from truepair.sources.tables import TableSource
from truepair.sources.thumbnails import Thumbnails

NONE = -1
"""In place of a number where there is no image or caption."""

_COLUMNS = {
    "caption_id": pa.string(),
    "image_id": pa.string(),
    "caption": pa.string(),
    "mismatch_probability": pa.float32(),
    "is_suspect": pa.bool_(),
    "similarity": pa.float32(),
    "suggested_image_id": pa.string(),
    "suggestion_probability": pa.float32(),
    "suggestion_is_mutual": pa.bool_(),
    "may_re_pair": pa.bool_(),
    "suggested_caption_id": pa.string(),
    "image_reference": pa.string(),
}
_NEVER_MISSING = ("caption_id", "image_id", "caption", "is_suspect", "suggestion_is_mutual", "may_re_pair")
_MOST_OF_TABLES, _MOST_OF_FOLDERS = 100_000, 2_000
"""Pairs whose captions are compared with a source of this kind when it is checked."""
_ISSUES = {
    "issue": pa.string(),
    "image_id": pa.string(),
    "caption_id": pa.string(),
    "group": pa.int64(),
    "detail": pa.string(),
}
_ROUNDING = 1e-5
"""By how much a probability may miss [0, 1]."""


@dataclass(frozen=True, eq=False)
class AuditFolder:
    """What an audit found, and about what. Row i of the findings has rank i + 1.

    Attributes:
        folder: The audit's folder.
        summary: What ``summary.json`` holds.
        findings: What ``findings.parquet`` holds, most suspicious first.
        digest: Of the findings' ids and probabilities, see `digest_of`.
    """

    folder: Path
    summary: AuditSummary
    findings: pa.Table
    digest: str

    @property
    def findings_file(self) -> Path:
        """Where the findings are."""
        return self.folder / FINDINGS

    @property
    def threshold(self) -> float:
        """From which mismatch probability on the audit calls a pair a suspect."""
        return self.summary.threshold

    @property
    def re_pairs(self) -> bool:
        """Whether the audit's rule re-pairs suspects with a mutual suggestion."""
        return bool(self.summary.audit.get("re_pair"))

    @cached_property
    def source(self) -> Source | None:
        """What the pairs are from, opened; None for features without a source, and for pairs in memory.

        Raises:
            ConfigError: If it is not there any more.
        """
        if self.summary.source is None:
            return None
        try:
            return reopened(self.summary.source)
        except DataError as error:
            raise ConfigError(
                f"the audit in {self.folder} is of {self.summary.source.get('path')!r}, which cannot be opened "
                f"({error}); was it moved?"
            ) from error

    def check_source(self) -> None:
        """Open the source, and refuse one whose captions are others than were audited.

        Captions are compared where that is quick: on a disk, of tables that name pictures with at most 100,000 pairs,
        and of folders with at most 2,000.

        Raises:
            ConfigError: If the source is not there any more.
            DataError: If a caption is another.
        """
        source = self.source
        if not self.summary.can_copy:  # of captions that were moved on purpose
            return
        if not _is_quickly_read(source, len(self.findings)):
            return
        assert source is not None
        audited = dict(zip(*(self.findings[name].to_pylist() for name in ("caption_id", "caption")), strict=True))
        for shard in source.shards():
            for sample in source.read(shard, pictures=False):
                if isinstance(sample, Sample):
                    for name, caption in zip(sample.caption_ids, sample.captions, strict=True):
                        refuse_other_caption(name, caption, audited.get(name, caption))

    @cached_property
    def issues(self) -> pa.Table:
        """What ``issues.parquet`` holds."""
        return _table_of(self.folder, self.summary.files.issues, self.summary, _ISSUES, ("issue",))

    @cached_property
    def probability(self) -> Float[np.ndarray, " pairs"]:
        """Mismatch probabilities, in [0, 1]; NaN where they are not known."""
        return self._numbers("mismatch_probability")

    @cached_property
    def is_suspect(self) -> Bool[np.ndarray, " pairs"]:
        """True where the probability reaches the audit's threshold: the first rows."""
        return self._numbers("is_suspect")

    @cached_property
    def suspects(self) -> int:
        """How many there are."""
        return int(self.is_suspect.sum())

    @cached_property
    def is_mutual(self) -> Bool[np.ndarray, " pairs"]:
        """True where caption and suggested image choose each other."""
        return self._numbers("suggestion_is_mutual")

    @cached_property
    def may_re_pair(self) -> Bool[np.ndarray, " pairs"]:
        """True where the rule may give the caption its suggested image."""
        may: np.ndarray[Any, Any] = self._numbers("may_re_pair") & (self.suggested_image != NONE)
        return may

    @cached_property
    def image(self) -> Int[np.ndarray, " pairs"]:
        """The number of each pair's image."""
        return _places(self.findings["image_id"], self._image_ids)

    @cached_property
    def suggested_image(self) -> Int[np.ndarray, " pairs"]:
        """The number of the image suggested instead; `NONE` where there is none."""
        return _places(self.findings["suggested_image_id"], self._image_ids)

    @cached_property
    def suggested_caption(self) -> Int[np.ndarray, " pairs"]:
        """The row of the caption suggested instead; `NONE` where there is none."""
        return _places(self.findings["suggested_caption_id"], self.findings["caption_id"].combine_chunks())

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures to look at."""
        return bool(self.findings["image_reference"].null_count < len(self.findings))

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """The images' pictures, made small."""
        return Thumbnails(self.picture)

    @cached_property
    def references(self) -> Sequence[str | None]:
        """By an image's number, what its picture is found by; None where that is not known."""
        found: list[str | None] = [None] * len(self._image_ids)
        for image, reference in zip(self.image.tolist(), self.findings["image_reference"].to_pylist(), strict=True):
            found[image] = reference
        return found

    @cached_property
    def _image_ids(self) -> pa.Array:
        """Every image that a finding names, by number."""
        suggested = self.findings["suggested_image_id"].drop_null().chunks
        named = [*self.findings["image_id"].chunks, *suggested]
        return pc.unique(pa.chunked_array(named, pa.string()))

    def picture(self, image: int) -> bytes:
        """The encoded picture of an image by its number.

        Raises:
            DataError: If there is no such picture, or it cannot be read.
        """
        reference = self.references[image] if 0 <= image < len(self.references) else None
        if reference is None:
            raise DataError(f"there is no picture of image {image:,}")
        return encoded_picture(Path(reference)) if self.source is None else self.source.picture(reference)

    def rows(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Some rows of the findings."""
        chosen: list[dict[str, Any]] = self.findings.take(pa.array(rows, pa.int64())).to_pylist()
        return chosen

    def row_of(self, caption_id: str) -> int | None:
        """The row of a caption's pair; None if there is none."""
        row = pc.index(self.findings["caption_id"], caption_id).as_py()
        return None if row < 0 else int(row)

    def number_of_image(self, image_id: str) -> int:
        """The number of the image of that name; `NONE` if there is none."""
        return int(pc.index(self._image_ids, image_id).as_py())

    def _numbers(self, column: str) -> Shaped[np.ndarray, " pairs"]:
        numbers: np.ndarray[Any, Any] = self.findings[column].to_numpy()
        return numbers


def _is_quickly_read(source: Source | None, pairs: int) -> bool:
    """Whether captions of so many pairs are read in about a second."""
    if isinstance(source, TableSource):
        is_on_disk = not isinstance(source.parts[0].root, StorePath)
        return is_on_disk and pairs <= _MOST_OF_TABLES and isinstance(source.path_of(0), str)  # not bytes in cells
    return isinstance(source, FolderSource) and not isinstance(source.root, StorePath) and pairs <= _MOST_OF_FOLDERS


def open_audit(folder: Path) -> AuditFolder:
    """Open an audit's folder. Only summary and findings are read; the source is opened when it is asked for.

    Raises:
        ConfigError: If the folder holds no audit.
        DataError: If the audit's files are damaged, or of different audits.
    """
    summary = read_summary(folder)
    try:
        findings = _table_of(folder, summary.files.findings, summary, _COLUMNS, _NEVER_MISSING)
    except DataError:
        if read_summary(folder).generation == summary.generation:
            raise
        return open_audit(folder)  # a newer audit took the place of that one in between
    if len(findings) == 0:
        raise DataError(f"{folder / summary.files.findings} has no rows: audit again")
    wrong = _misfit(findings)
    if wrong is not None:
        raise DataError(f"{folder / summary.files.findings} {wrong}: audit again")
    return AuditFolder(folder, summary, findings, digest_of(findings))


def _misfit(findings: pa.Table) -> str | None:
    """What an audit would not have written; None if nothing: ids are unique, probabilities are, suspects come first."""
    ids = findings["caption_id"]
    if pc.count_distinct(ids).as_py() != len(ids):
        repeated = next(one["values"] for one in ids.value_counts().to_pylist() if one["counts"] > 1)
        return f"has {repeated!r} as the caption_id of several rows"
    for name in ("mismatch_probability", "suggestion_probability"):
        numbers = findings[name].drop_null().to_numpy()
        wrong = ~((numbers >= -_ROUNDING) & (numbers <= 1 + _ROUNDING))  # true of NaN, too
        if wrong.any():
            return f"has {numbers[wrong][0]:g} as a {name}, which is none"
    numbers = findings["mismatch_probability"].to_numpy()
    if not (np.isnan(numbers).all() or (np.diff(numbers) <= 0).all()):
        return "is not in the order of the mismatch probability, or lacks some"
    if (np.diff(findings["is_suspect"].to_numpy().astype(np.int8)) > 0).any():
        return "has suspects behind other pairs"
    return None


def digest_of(findings: pa.Table) -> str:
    """SHA-256 of the ids and probabilities, in order: tells findings apart that decisions could not be about both."""
    digest = hashlib.sha256()
    names = pa.concat_arrays(findings["caption_id"].cast(pa.large_string()).chunks)
    ends = np.frombuffer(names.buffers()[1], dtype=np.int64)[names.offset : names.offset + len(names) + 1]
    digest.update((ends - ends[0]).tobytes())
    digest.update(memoryview(names.buffers()[2])[ends[0] : ends[-1]])
    digest.update(findings["mismatch_probability"].to_numpy().tobytes())
    return digest.hexdigest()


def _table_of(
    folder: Path, name: str, summary: AuditSummary, columns: dict[str, pa.DataType], never_missing: Sequence[str]
) -> pa.Table:
    """A table of the audit's folder, with these columns, and of the audit that the summary is of."""
    path = folder / name
    table = read_parquet(path, hint="audit again")
    for column, kind in columns.items():
        found = table.schema.field(column).type if column in table.column_names else None
        if found != kind:
            raise DataError(f"{path} has {column} as {found}, but an audit writes {kind}: audit again")
        missing = table[column].null_count if column in never_missing else 0
        if missing:
            raise DataError(f"{path} has no {column} in {missing:,} of {len(table):,} rows: audit again")
    refuse_mixture(folder, name, generation_of_table(table), summary.generation)
    return table


def _places(names: pa.ChunkedArray, known: pa.Array) -> Int[np.ndarray, " names"]:
    """Where each name stands among the known ones; `NONE` for none."""
    places: np.ndarray[Any, Any] = pc.fill_null(pc.index_in(names, value_set=known), NONE).to_numpy().astype(np.int64)
    return places
