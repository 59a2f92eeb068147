"""An audit's folder, opened for review: its findings as columns, and the pairs and pictures that they are about."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import dacite
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int, Shaped

from truepair.config import DataConfig
from truepair.data.corpora import load_corpus
from truepair.data.embeddings import stored_source
from truepair.data.features import Features
from truepair.data.pairs import Pairs, Pictures
from truepair.data.pictures import thumbnail
from truepair.data.tables import SkippedRow
from truepair.data.whole import every_pair
from truepair.errors import CheckpointError, ConfigError, DataError, TruepairError
from truepair.files.json import read_json
from truepair.sources.opening import open_source
from truepair.sources.protocol import Source

IN_MEMORY = "pairs in memory"
"""What the corpus of an audit of pairs in memory is called."""

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
}
_HELD = ("corpus", "pairs", "data", "audit", "scored_by", "threshold", "image_root", "source_kind")
"""What is read of ``summary.json``."""
_THUMBNAILS = 512
"""How many are kept in memory; one of 320 pixels takes some 15 KB."""


@dataclass(frozen=True)
class AuditedTable:
    """The table that the audited pairs are from.

    Attributes:
        data: Where it is.
        pairs: All its pairs, audited or not.
        skipped: Rows that were left out on loading.
    """

    data: DataConfig
    pairs: Pairs
    skipped: Sequence[SkippedRow]


@dataclass(frozen=True, eq=False)
class AuditFolder:
    """What an audit found, and about what. Row i of the findings has rank i + 1.

    Attributes:
        folder: The audit's folder.
        summary: What ``summary.json`` holds.
        findings: What ``findings.parquet`` holds, most suspicious first.
        digest: Of the findings' ids and probabilities, see `digest_of`.
        data: Where the corpus is; None for pairs that were in memory.
        pairs: Pairs that hold the audited ones, in their own order.
        table: The table that the cleaned manifest is a copy of; None if there is none (see `audit.run`).
        thumbnails: The pictures of ``pairs``, made small.
    """

    folder: Path
    summary: Mapping[str, Any]
    findings: pa.Table
    digest: str
    data: DataConfig | None
    pairs: Pairs
    table: AuditedTable | None
    thumbnails: Thumbnails

    @property
    def findings_file(self) -> Path:
        """Where the findings are."""
        return self.folder / "findings.parquet"

    @property
    def threshold(self) -> float:
        """From which mismatch probability on the audit calls a pair a suspect."""
        return float(self.summary["threshold"])

    @property
    def re_pairs(self) -> bool:
        """Whether the audit's rule re-pairs suspects with a mutual suggestion."""
        return bool(self.summary["audit"]["re_pair"])

    @property
    def source(self) -> Source | None:
        """What the audited feature store was made of; None where there is no store, or its pairs were mismatched."""
        if self.data is None or self.summary["source_kind"] is None:
            return None
        options = stored_source(Path(self.data.path)) or {}
        return open_source(**{name: value for name, value in options.items() if name != "kind"})

    @cached_property
    def probability(self) -> Float[np.ndarray, " pairs"]:
        """Mismatch probabilities, in [0, 1]."""
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
        """The number of each pair's image in ``pairs``."""
        return _places(self.findings["image_id"], self._image_ids)

    @cached_property
    def suggested_image(self) -> Int[np.ndarray, " pairs"]:
        """The number of the image suggested instead; `NONE` where there is none."""
        return _places(self.findings["suggested_image_id"], self._image_ids)

    @cached_property
    def suggested_caption(self) -> Int[np.ndarray, " pairs"]:
        """The row of the caption suggested instead; `NONE` where there is none."""
        return _places(self.findings["suggested_caption_id"], self.findings["caption_id"].combine_chunks())

    @cached_property
    def _image_ids(self) -> pa.Array:
        return pa.array(self.pairs.image_ids, pa.string())

    def rows(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Some rows of the findings."""
        chosen: list[dict[str, Any]] = self.findings.take(pa.array(rows, pa.int64())).to_pylist()
        return chosen

    def row_of(self, caption_id: str) -> int | None:
        """The row of a caption's pair; None if there is none."""
        row = pc.index(self.findings["caption_id"], caption_id).as_py()
        return None if row < 0 else int(row)

    def number_of_image(self, image_id: str) -> int:
        """The number of the image of that name in ``pairs``; `NONE` if there is none."""
        return int(pc.index(self._image_ids, image_id).as_py())

    def _numbers(self, column: str) -> Shaped[np.ndarray, " pairs"]:
        numbers: np.ndarray[Any, Any] = self.findings[column].to_numpy()
        return numbers


class Thumbnails:
    """Small copies of pictures, made when asked for; the last few hundred stay in memory. Threads may share it."""

    def __init__(self, pictures: Pictures | None) -> None:
        self._pictures = pictures
        self._reading = Lock()  # a Parquet column keeps one row group, which threads would take from each other
        self.of = lru_cache(maxsize=_THUMBNAILS)(self._of)

    def _of(self, image: int, side: int) -> bytes:
        """A picture as WebP.

        Args:
            image: The image's number.
            side: The longer side in pixels.

        Raises:
            DataError: If there is no such picture, or it cannot be read.
        """
        if self._pictures is None or not 0 <= image < len(self._pictures):
            raise DataError(f"there is no picture of image {image:,}")
        with self._reading:
            encoded = self._pictures[image]
        return thumbnail(encoded, side)


def open_audit(folder: Path) -> AuditFolder:
    """Open an audit's folder and the corpus that it is about. Only findings and names are read, no pictures.

    (A table without feature files is the exception: `load_corpus` reads all its pictures, as in the audit.)

    Raises:
        ConfigError: If the folder holds no audit, or its corpus cannot be opened.
        DataError: If the audit's files are damaged, or the corpus has changed since.
    """
    summary = _summary(folder)
    findings = _findings(folder / "findings.parquet")
    if summary["corpus"] == IN_MEMORY:
        data, pairs, table = None, _named_pairs(findings), None
    else:
        data = _data_config(folder, summary)
        pairs, table = _corpus(folder, summary, data)
    audit = AuditFolder(folder, summary, findings, digest_of(findings), data, pairs, table, Thumbnails(pairs.pictures))
    _check_same_pairs(audit)
    return audit


def digest_of(findings: pa.Table) -> str:
    """SHA-256 of the ids and probabilities, in order: tells findings apart that decisions could not be about both."""
    digest = hashlib.sha256()
    names = pa.concat_arrays(findings["caption_id"].cast(pa.large_string()).chunks)
    ends = np.frombuffer(names.buffers()[1], dtype=np.int64)[names.offset : names.offset + len(names) + 1]
    digest.update((ends - ends[0]).tobytes())
    digest.update(memoryview(names.buffers()[2])[ends[0] : ends[-1]])
    digest.update(findings["mismatch_probability"].to_numpy().tobytes())
    return digest.hexdigest()


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    try:
        summary = read_json(path)
    except CheckpointError as error:
        raise DataError(f"{path} cannot be read ({error.__cause__}): audit again") from error
    if summary is None or not (folder / "findings.parquet").exists():
        raise ConfigError(
            f"{folder} holds no audit (summary.json and findings.parquet): make one with 'truepair audit … --out "
            f"{folder}'"
        )
    missing = [name for name in _HELD if name not in summary]
    if missing:
        raise DataError(f"{path} does not say {', '.join(missing)}, as an audit's does: audit again")
    return summary


def _findings(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}): audit again") from error
    for name, kind in _COLUMNS.items():
        found = table.schema.field(name).type if name in table.column_names else None
        if found != kind:
            raise DataError(f"{path} has {name} as {found}, but an audit writes {kind}: audit again")
    if len(table) == 0:
        raise DataError(f"{path} has no rows: audit again")
    return table


def _data_config(folder: Path, summary: Mapping[str, Any]) -> DataConfig:
    try:
        return dacite.from_dict(DataConfig, summary["data"], dacite.Config(strict=True))
    except (dacite.DaciteError, ConfigError) as error:
        raise DataError(f"{folder / 'summary.json'}: data cannot be read ({error}): audit again") from error


def _corpus(folder: Path, summary: Mapping[str, Any], data: DataConfig) -> tuple[Pairs, AuditedTable | None]:
    """Pairs that hold the audited ones, under the names that the audit had for them, and the table if there is one."""
    try:
        corpus = load_corpus(data)
    except TruepairError as error:
        raise ConfigError(
            f"the audit in {folder} is of {data.path!r}, which cannot be opened ({error}); relative paths start, as in "
            "the audit, at the folder that the command is run in"
        ) from error
    whole = every_pair(corpus.splits)
    is_of_training = summary["scored_by"]["how"] == "run" or summary["audit"]["split"] == "train"
    has_table = summary["image_root"] is not None  # said of tables that were cleaned, and of nothing else
    return corpus.splits.train if is_of_training else whole, (
        AuditedTable(data, whole, corpus.skipped) if has_table else None
    )


def _named_pairs(findings: pa.Table) -> Pairs:
    """Pairs that were in memory: what the findings say of them, without features and pictures, in their order."""
    named = pa.concat_arrays([*findings["image_id"].chunks, *findings["suggested_image_id"].drop_null().chunks])
    image_ids = pc.unique(named)
    return Pairs(
        images=Features(np.zeros((len(image_ids), 1), dtype=np.float32)),
        captions=findings["caption"].to_pylist(),
        image_of_caption=torch.from_numpy(_places(findings["image_id"], image_ids)),
        image_ids=image_ids.to_pylist(),
        caption_ids=findings["caption_id"].to_pylist(),
    )


def _check_same_pairs(audit: AuditFolder) -> None:
    """Refuse a corpus without the audited pairs: decisions about one are not decisions about another."""
    findings, pairs = audit.findings, audit.pairs
    place = _places(findings["caption_id"], pa.array(pairs.caption_ids, pa.string()))
    captions = pa.array(pairs.captions, pa.string()).take(pa.array(place.clip(0)))
    differs = (place == NONE) | (audit.image == NONE)
    differs |= pc.not_equal(captions, findings["caption"].combine_chunks()).to_numpy(zero_copy_only=False)
    wrong = differs.nonzero()[0]
    if len(wrong):
        row = int(wrong[0])
        name, caption = findings["caption_id"][row].as_py(), findings["caption"][row].as_py()
        path = "the corpus" if audit.data is None else audit.data.path
        raise DataError(
            f"{path} is not what {audit.findings_file} is about: {len(wrong):,} of {len(findings):,} pairs differ "
            f"(first: {name}, {caption!r}); was it changed? Audit it again"
        )


def _places(names: pa.ChunkedArray, known: pa.Array) -> Int[np.ndarray, " names"]:
    """Where each name stands among the known ones; `NONE` for none."""
    places: np.ndarray[Any, Any] = pc.fill_null(pc.index_in(names, value_set=known), NONE).to_numpy().astype(np.int64)
    return places
