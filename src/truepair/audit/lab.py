"""An audit from Python, in the words that users of cleanlab know: find issues, get issues, report."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import dacite
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

from truepair.audit.issues import KINDS
from truepair.audit.run import audit_corpus, audit_pairs
from truepair.cleaning.audit_folder import AuditFolder, open_audit
from truepair.cleaning.summary import IN_MEMORY, AuditSummary
from truepair.config import AuditConfig, DataConfig, NoiseConfig, SourceConfig
from truepair.data.corpora import load_corpus
from truepair.data.pairs import Pairs
from truepair.errors import ConfigError, DataError
from truepair.files.json import write_json
from truepair.sources.picture_files import Location
from truepair.sources.protocol import Source
from truepair.sources.tables import TableSource

MISMATCH = "mismatch"
"""The issue of pairs; the others, `audit.issues.KINDS`, are of images and captions."""


class PairLab:
    """Issues of a corpus of pairs.

    Example:
        lab = PairLab("photos.csv", image_col="file", caption_col="title")
        lab.find_issues("audit/")
        lab.get_issues("mismatch")      # is_mismatch_issue, mismatch_score (low = suspicious), mismatch_prob, …
        lab.get_issue_summary()
        lab.report()                    # audit/report.html
        PairLab.load("audit/")          # the same, another day

    Args:
        data: What ``truepair audit`` takes (a table, a folder, "demo"), all options of reading it, or pairs in memory.
        options: Options of reading, by the names of `SourceConfig`: ``image_col``, ``caption_col``, ``image_root`` …
    """

    def __init__(self, data: str | Path | DataConfig | Pairs, **options: Any) -> None:
        if isinstance(options.get("caption_col"), str):
            options["caption_col"] = (options["caption_col"],)
        if options and isinstance(data, DataConfig | Pairs):
            raise ConfigError(f"{', '.join(options)}: say that in the DataConfig")
        self.data: DataConfig | Pairs | None = (
            data if isinstance(data, DataConfig | Pairs) else DataConfig(str(data), SourceConfig(**options))
        )
        self.folder: Path | None = None

    @classmethod
    def load(cls, folder: str | Path) -> PairLab:
        """The issues that an earlier audit, from Python or the command line, found; `data` is what was audited.

        Raises:
            ConfigError: If there is no audit in the folder.
            DataError: If it is damaged.
        """
        summary = open_audit(Path(folder)).summary
        lab = cls.__new__(cls)
        config = dacite.Config(strict=True, cast=[tuple])
        lab.data = None if summary.corpus == IN_MEMORY else dacite.from_dict(DataConfig, summary.data, config)
        lab.folder = Path(folder)
        return lab

    def find_issues(self, out: str | Path, config: AuditConfig | None = None) -> AuditSummary:
        """Audit the corpus; findings, issues and report go into the folder `out`.

        Returns:
            What ``summary.json`` holds.

        Raises:
            ConfigError: As `audit.run.audit_corpus`, or if the pairs were in memory once and are not any more.
            DataError: As there.
        """
        config = AuditConfig() if config is None else config
        if self.data is None:
            raise ConfigError("the pairs of this audit were in memory: make a PairLab of them again")
        if isinstance(self.data, Pairs):
            summary = audit_pairs(self.data, None, Path(out), config)
        else:
            summary = audit_corpus(load_corpus(self.data), self.data, NoiseConfig(), Path(out), config)
        self.folder = Path(out)
        return summary

    def get_issues(self, issue: str = MISMATCH) -> pa.Table:
        """One kind of issue.

        Args:
            issue: ``"mismatch"``, which gives a row for every pair, most suspicious first: ``caption_id``,
                ``image_id``, ``is_mismatch_issue``, ``mismatch_score`` (in [0, 1], low = suspicious, as in cleanlab;
                missing where it is not known), ``mismatch_prob``, ``suggested_image_id``, ``suggested_caption_id``,
                ``suggestion_prob``. Or a key of `audit.issues.KINDS`, which gives a row for every image or caption that
                has it.

        Raises:
            ConfigError: If there is no such kind, or `find_issues` has not run.
        """
        if issue not in (MISMATCH, *KINDS):
            raise ConfigError(f"there is no issue {issue!r}; there are {', '.join((MISMATCH, *KINDS))}")
        audit = self._audit()
        if issue != MISMATCH:
            return audit.issues.filter(pc.equal(audit.issues["issue"], issue))
        findings = audit.findings
        probability = findings["mismatch_probability"]
        return pa.table(
            {
                "caption_id": findings["caption_id"],
                "image_id": findings["image_id"],
                "is_mismatch_issue": findings["is_suspect"],
                "mismatch_score": pc.subtract(pa.scalar(1, probability.type), probability),
                "mismatch_prob": probability,
                "suggested_image_id": findings["suggested_image_id"],
                "suggested_caption_id": findings["suggested_caption_id"],
                "suggestion_prob": findings["suggestion_probability"],
            }
        )

    def get_issue_summary(self) -> pa.Table:
        """How many there are of each kind: ``issue_type``, ``num_issues``."""
        summary = self._audit().summary
        counts = {MISMATCH: summary.suspects, **summary.issues}
        return pa.table(
            {"issue_type": pa.array(counts, pa.string()), "num_issues": pa.array(counts.values(), pa.int64())}
        )

    def report(self) -> Path:
        """The page that shows them."""
        audit = self._audit()
        return audit.folder / audit.summary.files.report

    def to_fiftyone(self, path: str | Path) -> None:
        """The pairs as samples that FiftyOne takes; needs no FiftyOne.

        ``fo.Dataset().add_samples([fo.Sample(**sample) for sample in json.load(open(path))["samples"]])``

        Pictures that lie in no file of their own (tar shards, Parquet, archives) are written to a folder beside it.

        Args:
            path: The JSON file to write: ``filepath`` of the picture, ``tags`` (``mismatch`` for suspects),
                ``caption_id``, ``caption``, ``mismatch_prob``, ``is_mismatch``, ``suggested_image``.

        Raises:
            DataError: If the audit has no pictures, or one cannot be read.
        """
        audit, path = self._audit(), Path(path)
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

    def _audit(self) -> AuditFolder:
        if self.folder is None:
            raise ConfigError("there are no issues yet: call find_issues first, or load an audit's folder")
        return open_audit(self.folder)


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
        written.write_bytes(encoded)
        return str(written.absolute())


def _extension_of(encoded: bytes) -> str:
    """Of a picture's format, ``.jpeg`` for instance; empty if it has none that is known."""
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            return f".{(picture.format or '').lower()}"
    except UnidentifiedImageError:
        return ""


def _file_of(source: Source, reference: str) -> Location | None:
    """The file that a picture has for itself."""
    if isinstance(source, TableSource):
        return source.file_of(source.row_of(reference))
    return source.path / reference if source.kind == "folder" and source.path.is_dir() else None
