"""An audit from Python, in the words that users of cleanlab know: find issues, get issues, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from truepair.audit.issues import KINDS
from truepair.audit.run import audit_corpus, audit_pairs
from truepair.config import DataConfig, NoiseConfig, TableColumns
from truepair.config.audit import AuditConfig
from truepair.data.corpora import load_corpus
from truepair.data.pairs import Pairs
from truepair.errors import ConfigError
from truepair.files.json import read_json, write_json

MISMATCH = "mismatch"
"""The issue of pairs; the others, `audit.issues.KINDS`, are of pictures and captions."""


class PairLab:
    """Issues of a corpus of pairs.

    Example:
        lab = PairLab("photos.csv", image_key="file", caption_key="title")
        lab.find_issues("audit/")
        lab.get_issues("mismatch")      # is_mismatch_issue, mismatch_score (low = suspicious), mismatch_prob, …
        lab.get_issue_summary()
        lab.report()                    # audit/report.html
        PairLab.load("audit/")          # the same, another day

    Args:
        data: What ``truepair audit`` takes (a table, a folder, "demo"), all options of reading it, or pairs in memory.
        image_key: A table's column of pictures.
        caption_key: A table's column of captions.
    """

    def __init__(
        self, data: str | Path | DataConfig | Pairs, *, image_key: str = "image", caption_key: str = "caption"
    ) -> None:
        columns = TableColumns(image=image_key, caption=caption_key)
        self.data = data if isinstance(data, DataConfig | Pairs) else DataConfig(path=str(data), columns=columns)
        self.folder: Path | None = None

    @classmethod
    def load(cls, folder: str | Path) -> PairLab:
        """The issues that an earlier audit, from Python or the command line, found.

        Raises:
            ConfigError: If there is no audit in the folder.
        """
        lab = cls("demo")
        lab.folder = Path(folder)
        lab._summary()
        return lab

    def find_issues(self, out: str | Path, config: AuditConfig | None = None) -> dict[str, Any]:
        """Audit the corpus; findings, cleaned manifest and report go into the folder `out`.

        Returns:
            What ``summary.json`` holds.

        Raises:
            ConfigError: As `audit.run.audit_corpus`.
            DataError: As there.
        """
        config = AuditConfig() if config is None else config
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
                ``image_id``, ``is_mismatch_issue``, ``mismatch_score`` (in [0, 1], low = suspicious, as in cleanlab),
                ``mismatch_prob``, ``suggested_image_id``, ``suggested_caption_id``, ``suggestion_prob``. Or a key of
                `audit.issues.KINDS`, which gives a row for every picture or caption that has it.

        Raises:
            ConfigError: If there is no such kind, or nobody has looked for issues.
        """
        if issue not in (MISMATCH, *KINDS):
            raise ConfigError(f"there is no issue {issue!r}; there are {', '.join((MISMATCH, *KINDS))}")
        if issue != MISMATCH:
            table = pq.read_table(self._folder() / "issues.parquet")
            return table.filter(pc.equal(table["issue"], issue))
        findings = pq.read_table(self._folder() / "findings.parquet")
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
        summary = self._summary()
        counts = {MISMATCH: summary["suspects"], **summary["issues"]}
        return pa.table(
            {"issue_type": pa.array(counts, pa.string()), "num_issues": pa.array(counts.values(), pa.int64())}
        )

    def report(self) -> Path:
        """The page that shows them."""
        path: Path = self._folder() / self._summary()["files"]["report"]
        return path

    def to_fiftyone(self, path: str | Path, *, image_root: str | Path | None = None) -> None:
        """The pairs as samples that FiftyOne takes; needs no FiftyOne.

        ``fo.Dataset().add_samples([fo.Sample(**sample) for sample in json.load(open(path))["samples"]])``

        Args:
            path: The JSON file to write: ``filepath`` (the image's id, below the root), ``tags`` (``mismatch`` for
                suspects), ``caption_id``, ``caption``, ``mismatch_prob``, ``is_mismatch``, ``suggested_image``.
            image_root: Where the pictures lie; a table's own root if not given.
        """
        root = image_root if image_root is not None else self._summary()["image_root"] or ""
        findings = pq.read_table(self._folder() / "findings.parquet")
        names = ("image_id", "caption_id", "caption", "mismatch_probability", "is_suspect", "suggested_image_id")
        samples = [
            {
                "filepath": str(Path(root) / image),
                "tags": [MISMATCH] if is_suspect else [],
                "caption_id": caption_id,
                "caption": caption,
                "mismatch_prob": probability,
                "is_mismatch": is_suspect,
                "suggested_image": None if suggested is None else str(Path(root) / suggested),
            }
            for image, caption_id, caption, probability, is_suspect, suggested in zip(
                *(findings[name].to_pylist() for name in names), strict=True
            )
        ]
        write_json(Path(path), {"samples": samples})

    def _folder(self) -> Path:
        if self.folder is None:
            raise ConfigError("nobody has looked for issues: call find_issues first, or load an audit's folder")
        return self.folder

    def _summary(self) -> dict[str, Any]:
        summary = read_json(self._folder() / "summary.json")
        if summary is None:
            raise ConfigError(f"{self.folder} holds no audit (summary.json): make one with find_issues")
        return summary
