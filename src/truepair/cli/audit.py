"""``truepair audit``: which pairs do not match?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from truepair.cleaning.summary import AuditSummary
from truepair.config import DataConfig, NoiseConfig
from truepair.config.audit import AuditConfig


@dataclass(frozen=True)
class Audit:
    """Find the pairs that do not match: findings.parquet, a cleaned manifest and report.html.

    A table, a folder of features or "demo" is audited by models that are trained for it, none of which judges a pair
    that it learned from. A run's folder is audited with the run's own model: quicker, and it finds less. The input is
    never changed.

    For example:
      truepair audit captions.csv --out audit/
      truepair audit photos.parquet --out audit/ --data.columns.caption title --audit.threshold 0.8
      truepair audit runs/crcl --out audit/
    """

    target: Annotated[str, tyro.conf.Positional]
    """What to audit: a table, a folder, "demo", or a run's folder."""
    out: Path
    """The folder to write to."""
    audit: AuditConfig = field(default_factory=AuditConfig)
    """How pairs are scored, and what is done with suspects."""
    data: DataConfig = field(default_factory=DataConfig)
    """How a table or folder is read; data.path is the target."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Mismatches to put in first, to see whether they are found."""


def command(arguments: Sequence[str]) -> None:
    """Parse, audit, say what was found and where it is."""
    parsed = tyro.cli(tyro.conf.AvoidSubcommands[Audit], prog="truepair audit", args=arguments)
    from truepair.audit.run import audit_corpus, audit_run
    from truepair.data.corpora import load_corpus
    from truepair.training.folder import load_run, make_folder

    if (Path(parsed.target) / "run.json").exists():
        run = load_run(Path(parsed.target))
        make_folder(parsed.out)
        summary = audit_run(run, parsed.out, parsed.audit)
    else:
        data = replace(parsed.data, path=parsed.target)
        corpus = load_corpus(data)
        make_folder(parsed.out)
        summary = audit_corpus(corpus, data, parsed.noise, parsed.out, parsed.audit)
    print(audit_lines(summary, parsed.out))


def audit_lines(summary: AuditSummary, out: Path) -> str:
    """What an audit found, in a few lines."""
    estimated, pairs = summary.estimated_mismatches, summary.pairs
    if estimated is None:
        lines = [f"{pairs:,} pairs; it cannot be said which of them do not match"]
    else:
        lines = [f"{pairs:,} pairs, of which about {estimated:,.0f} ({estimated / pairs:.1%}) do not match"]
    if summary.truth and summary.truth["auroc"] is not None:
        lines.append(f"against the known truth: AUROC {summary.truth['auroc']:.3f}")
    lines.append(f"report: {out / summary.files.report}")
    return "\n".join([*lines, f"next: truepair review {out}, or truepair fix {out} --out cleaned/"])
