"""An audit from Python, in the words that users of cleanlab know: find issues, get issues, report."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import dacite
import pyarrow as pa
import pyarrow.compute as pc
from PIL import UnidentifiedImageError

from truepair.audit.given import TableOfPictures, corpus_of, embedded, given, is_to_embed
from truepair.audit.issues import KINDS
from truepair.audit.notebook import notebook_view
from truepair.audit.run import audit_corpus, audit_pairs
from truepair.cleaning.audit_folder import AuditFolder, open_audit
from truepair.cleaning.generation import generation_of_page, refuse_mixture
from truepair.cleaning.summary import IN_MEMORY, AuditSummary
from truepair.config import AuditConfig, DataConfig, EmbedConfig, NoiseConfig
from truepair.data.arrays import PairsInMemory
from truepair.errors import ConfigError, DataError
from truepair.files.json import write_json
from truepair.files.locking import alone_in, alone_with
from truepair.files.replacing import replacing
from truepair.sources.decoding import opened_picture
from truepair.sources.demo import DEMO
from truepair.sources.in_memory import labelled_like, like
from truepair.sources.picture_files import Location
from truepair.sources.protocol import Source
from truepair.sources.skipped import read_skipped
from truepair.sources.tables import TableSource, caption_ids_of

MISMATCH = "mismatch"
"""The issue of pairs; the others, `audit.issues.KINDS`, are of images and captions."""


class PairLab:
    """Issues of a corpus of pairs.

        lab = PairLab(frame)            # columns image and caption; or image_col="file", caption_col="title"
        lab.find_issues()               # or find_issues("audit/"), to review and fix it
        lab.issues                      # a row a pair, in the order of the input
        lab.get_issues("mismatch")      # the same, most suspicious first
        lab.issue_summary
        lab.report()                    # report.html

    Args:
        data: What ``truepair audit`` takes (a table's path, a folder, "demo"); all options of reading it; pairs in
            memory; a table in memory (a DataFrame of pandas or Polars, a relation of DuckDB, a table of PyArrow, a
            `datasets.Dataset`, a dict of columns) with pictures (paths, which start at the working folder, bytes, or
            PIL images) or embeddings; or, with `captions`, the images: embeddings ``[images, dim]``, or pictures.
        captions: Embeddings ``[captions, dim]`` or texts, where `data` is the images.
        options: Of corpora and tables: those of `SourceConfig`, by their names (``image_col``, ``caption_col``,
            ``image_feature_col`` …). Of embeddings: ``image_of_caption`` (``[captions]``, the row of each caption's
            image; row k with row k by default), ``image_ids``, ``caption_ids`` and ``caption_texts`` (see
            `truepair.data.arrays.pairs_of_arrays`).

    Attributes:
        data: What is audited; None after `load` of an audit of what was in memory.
        folder: The audit's folder, from any working folder; None before `find_issues`.

    Raises:
        ConfigError: If `data` is of a type that nothing is known of, or there is no such option.
        DataError: If data in memory is empty or contradicts itself.
    """

    def __init__(self, data: Any, captions: Any = None, **options: Any) -> None:
        self.data: DataConfig | PairsInMemory | TableOfPictures | None = given(data, captions, options)
        self.folder: Path | None = None
        self._given = data

    @classmethod
    def load(cls, folder: str | Path) -> PairLab:
        """The issues that an earlier audit, from Python or the command line, found; `data` is what was audited.

        Raises:
            ConfigError: If there is no audit in the folder.
            DataError: If it is damaged.
        """
        lab = cls.__new__(cls)
        lab.data = _audited(open_audit(Path(folder)).summary)
        lab.folder = Path(folder).resolve()
        lab._given = None
        return lab

    def find_issues(
        self, out: str | Path | None = None, config: AuditConfig | None = None, embedding: EmbedConfig | None = None
    ) -> AuditSummary:
        """Audit the corpus; findings, issues and report go into the folder `out`.

        Args:
            out: The folder; made if missing. None keeps what is found for as long as this object lives.
            config: How pairs are audited.
            embedding: How pictures are embedded that have no embeddings.

        Returns:
            What ``summary.json`` holds.

        Raises:
            ConfigError: As `audit.run.audit_corpus`, if an encoder cannot be loaded, or if the pairs were in memory
                once and are not any more.
            DataError: As there, or if a table in memory cannot be read.
        """
        config = AuditConfig() if config is None else config
        if self.data is None:
            raise ConfigError("the pairs of this audit were in memory: make a PairLab of them again")
        if embedding is not None and not is_to_embed(self.data):
            raise ConfigError("embedding is for pictures that have no embeddings: leave it out")
        folder = self._temporary_folder() if out is None else Path(out)
        with alone_in(folder):
            summary = _audit(self.data, folder, config, embedding or EmbedConfig(device=config.device))
        self.folder = folder.resolve()
        return summary

    @property
    def issues(self) -> Any:
        """One row a pair, in the order of the input: whether it is a mismatch, and what fits better.

        ``caption_id``, ``image_id``, ``is_mismatch_issue``, ``mismatch_score`` (in [0, 1], low = suspicious, as in
        cleanlab; missing where it is not known), ``mismatch_prob``, ``suggested_image_id``, ``suggested_caption_id``,
        ``suggestion_prob``. What was not audited (see `skipped`) has a row without a score. A table of pandas or
        Polars where the data came as one, else of PyArrow; rows of pandas have the labels that they came with.

        Raises:
            ConfigError: If `find_issues` has not run, or the corpus was moved.
        """
        return labelled_like(self._shown(_mismatches(_in_order_of_input(self._audit()))), self._given)

    @property
    def issue_summary(self) -> Any:
        """How many issues there are of each kind: ``issue_type``, ``num_issues``."""
        summary = self._audit().summary
        counts = {MISMATCH: summary.suspects, **summary.issues}
        columns = {"issue_type": pa.array(counts, pa.string()), "num_issues": pa.array(counts.values(), pa.int64())}
        return self._shown(pa.table(columns))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against relying on the issues, in sentences; that nothing is known of single pairs, too."""
        return tuple(self._audit().summary.warnings)

    @property
    def skipped(self) -> Any:
        """What could not be read and was left out: ``where``, ``reason``, ``detail``."""
        audit = self._audit()
        file, source = audit.summary.files.skipped, audit.summary.source or {}
        skipped = [] if file is None else read_skipped(audit.folder / file)
        path = Path(str(source.get("path")))
        if path.is_relative_to(audit.folder.resolve()):  # of a table that was in memory, rows are enough
            skipped = [replace(skip, where=skip.where.removeprefix(f"{path}: ")) for skip in skipped]
        names = ("where", "reason", "detail")
        return self._shown(
            pa.table({name: pa.array([getattr(s, name) for s in skipped], pa.string()) for name in names})
        )

    def get_issues(self, issue: str = MISMATCH) -> Any:
        """One kind of issue.

        Args:
            issue: ``"mismatch"``, which gives the columns of `issues` for every audited pair, most suspicious first. Or
                a key of `audit.issues.KINDS`, which gives a row for every image or caption that has it.

        Raises:
            ConfigError: If there is no such kind, or `find_issues` has not run.
        """
        if issue not in (MISMATCH, *KINDS):
            raise ConfigError(f"there is no issue {issue!r}; there are {', '.join((MISMATCH, *KINDS))}")
        audit = self._audit()
        if issue != MISMATCH:
            return self._shown(audit.issues.filter(pc.equal(audit.issues["issue"], issue)))
        return self._shown(_mismatches(audit.findings))

    def report(self) -> Path:
        """The page that shows them.

        Raises:
            DataError: If it is of another audit than the findings.
        """
        audit = self._audit()
        page = audit.folder / audit.summary.files.report
        refuse_mixture(audit.folder, page.name, generation_of_page(page), audit.summary.generation)
        return page

    def to_fiftyone(self, path: str | Path) -> None:
        """The pairs as samples that FiftyOne takes; needs no FiftyOne.

        ``fo.Dataset().add_samples([fo.Sample(**sample) for sample in json.load(open(path))["samples"]])``

        Pictures that lie in no file of their own (tar shards, Parquet, archives) are written to a folder beside it.

        Args:
            path: The JSON file to write: ``filepath`` of the picture, ``tags`` (``mismatch`` for suspects),
                ``caption_id``, ``caption``, ``mismatch_prob``, ``is_mismatch``, ``suggested_image``.

        Raises:
            ConfigError: If another process is writing the file.
            DataError: If the audit has no pictures, or one cannot be read.
        """
        with alone_with(Path(path)):
            self._write_samples(Path(path))

    def _write_samples(self, path: Path) -> None:
        """The file of `to_fiftyone`, after the pictures that it names."""
        audit = self._audit()
        if not audit.has_pictures:
            raise DataError(f"the audit in {audit.folder} is of features without pictures, which FiftyOne cannot show")
        files = _PictureFiles(audit, path.with_name(f"{path.stem}_pictures"))
        names = ("caption_id", "caption", "mismatch_probability", "is_suspect")
        rows = zip(*(audit.findings[name].to_pylist() for name in names), strict=True)
        samples = [
            {
                "filepath": files.of(int(audit.image[row])),
                "tags": [MISMATCH] if is_suspect else [],
                "caption_id": caption_id,
                "caption": caption,
                "mismatch_prob": probability,
                "is_mismatch": is_suspect,
                "suggested_image": files.of(int(audit.suggested_image[row])),
            }
            for row, (caption_id, caption, probability, is_suspect) in enumerate(rows)
        ]
        write_json(path, {"samples": samples})

    def __repr__(self) -> str:
        """How many pairs, and how many suspects."""
        if self.folder is None:
            return "PairLab (no issues yet: call find_issues)"
        summary = open_audit(self.folder).summary
        if summary.estimated_noise_rate is None:
            return f"PairLab ({summary.pairs:,} pairs; which of them do not match is not known, see warnings)"
        return f"PairLab ({summary.pairs:,} pairs, {summary.suspects:,} suspects)"

    def _repr_html_(self) -> str:
        """What a notebook shows: the numbers, and the most suspicious pairs with their pictures."""
        return f"<p>{escape(repr(self))}</p>" if self.folder is None else notebook_view(self._audit())

    def _shown(self, table: pa.Table) -> Any:
        """A result as the caller's kind of table."""
        return like(table, self._given)

    def _temporary_folder(self) -> Path:
        """A folder that goes when this object does."""
        folder = Path(mkdtemp(prefix="truepair-"))
        finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _audit(self) -> AuditFolder:
        if self.folder is None:
            raise ConfigError("there are no issues yet: call find_issues first, or load an audit's folder")
        return open_audit(self.folder)


def _audit(
    data: DataConfig | PairsInMemory | TableOfPictures, folder: Path, config: AuditConfig, encoders: EmbedConfig
) -> AuditSummary:
    """Audit what was given, after its pictures were embedded where they have no embeddings."""
    if isinstance(data, PairsInMemory):
        return audit_pairs(data.pairs, data.vocabulary, folder, config)
    if isinstance(data, TableOfPictures):
        stored = data.stored(folder, encoders)
    else:
        stored = embedded(data, folder, encoders, config)
    return audit_corpus(corpus_of(stored), stored, NoiseConfig(), folder, config)


def find_pair_issues(
    data: Any,
    captions: Any = None,
    *,
    out: str | Path | None = None,
    config: AuditConfig | None = None,
    embedding: EmbedConfig | None = None,
    **options: Any,
) -> PairLab:
    """A `PairLab` whose issues have been found.

    Example:
        find_pair_issues(image_embeddings, caption_embeddings).issues

    Args:
        data: Image embeddings ``[images, dim]``, or anything else that `PairLab` takes.
        captions: Caption embeddings ``[captions, dim]`` or texts, where `data` is the images.
        out: See `PairLab.find_issues`.
        config: See there.
        embedding: See there.
        options: See `PairLab`.

    Raises:
        ConfigError: As `PairLab` and its `find_issues`.
        DataError: As there.
    """
    lab = PairLab(data, captions, **options)
    lab.find_issues(out, config, embedding)
    return lab


def _audited(summary: AuditSummary) -> DataConfig | None:
    """What an audit was of; None if that was in memory: pairs, or a corpus that a run was given (its path is unset)."""
    is_in_memory = summary.source is None and (summary.corpus == IN_MEMORY or summary.data["path"] == DEMO)
    return (
        None if is_in_memory else dacite.from_dict(DataConfig, summary.data, dacite.Config(strict=True, cast=[tuple]))
    )


def _in_order_of_input(audit: AuditFolder) -> pa.Table:
    """The findings, a row for each pair of the input, in its order; of one that was not audited only the name."""
    source, findings = audit.source, audit.findings
    if source is None:
        if "pair" not in findings.column_names:  # of an earlier version
            return findings
        ids, pairs = (findings[name].to_pylist() for name in ("caption_id", "pair"))
        return findings.take(pa.array(_places_in_input(None if audit.summary.corpus == IN_MEMORY else ids, pairs)))
    names = pa.array(caption_ids_of(source), pa.string())
    found = findings.take(pc.index_in(names, value_set=findings["caption_id"].combine_chunks()))
    return found.set_column(found.column_names.index("caption_id"), "caption_id", names)


def _places_in_input(caption_ids: Sequence[str] | None, pairs: Sequence[int]) -> list[int]:
    """The rows of the findings in the order of the input.

    That is the number in ids that `data.embeddings` gave: such folders are split at random, and audited split by split.
    Otherwise it is that of the audited pairs.

    Args:
        caption_ids: Of each row; None where they are the caller's own, whatever they look like.
        pairs: Of each row, its place among the audited pairs.

    >>> _places_in_input(["row-3", "row-1"], [0, 1]), _places_in_input(["b", "a"], [1, 0])
    ([1, 0], [1, 0])
    >>> _places_in_input(None, [1, 0, 2])
    [1, 0, 2]
    """
    numbers = [re.fullmatch(r"(?:row|caption)-(\d+)", name) for name in caption_ids or ()]
    keys = [int(number[1]) for number in numbers if number is not None]
    wanted = keys if len(keys) == len(pairs) else pairs
    return sorted(range(len(pairs)), key=wanted.__getitem__)


def _mismatches(findings: pa.Table) -> pa.Table:
    """The findings in cleanlab's words."""
    probability = findings["mismatch_probability"]
    return pa.table(
        {
            "caption_id": findings["caption_id"],
            "image_id": findings["image_id"],
            "is_mismatch_issue": pc.fill_null(findings["is_suspect"], False),
            "mismatch_score": pc.subtract(pa.scalar(1, probability.type), probability),
            "mismatch_prob": probability,
            "suggested_image_id": findings["suggested_image_id"],
            "suggested_caption_id": findings["suggested_caption_id"],
            "suggestion_prob": findings["suggestion_probability"],
        }
    )


class _PictureFiles:
    """Paths of the images' pictures; those without a file of their own are written to a folder."""

    def __init__(self, audit: AuditFolder, folder: Path) -> None:
        self._audit = audit
        self._folder = folder
        self._known: dict[int, str | None] = {}

    def of(self, image: int) -> str | None:
        """The file of an image, by its number; None where there is none."""
        if image not in self._known:
            self._known[image] = self._found(image)
        return self._known[image]

    def _found(self, image: int) -> str | None:
        reference = self._audit.references[image] if image >= 0 else None
        if reference is None:
            return None
        source = self._audit.source
        if source is None:
            return reference
        file = _file_of(source, reference)
        if isinstance(file, Path):
            return str(file.absolute())
        self._folder.mkdir(parents=True, exist_ok=True)
        encoded = source.picture(reference)
        written = self._folder / f"{image:08d}{_extension_of(encoded)}"  # FiftyOne tells pictures by it
        with replacing(written) as temporary:
            temporary.write_bytes(encoded)
        return str(written.absolute())


def _extension_of(encoded: bytes) -> str:
    """Of a picture's format, ``.jpeg`` for instance; empty if it has none that is known."""
    try:
        with opened_picture(encoded) as picture:
            return f".{(picture.format or '').lower()}"
    except UnidentifiedImageError:
        return ""


def _file_of(source: Source, reference: str) -> Location | None:
    """The file that a picture has for itself."""
    if isinstance(source, TableSource):
        return source.file_of(source.row_of(reference))
    return source.path / reference if source.kind == "folder" and source.path.is_dir() else None
