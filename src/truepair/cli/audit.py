"""``truepair audit``: which pairs do not match?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tyro.conf import Positional

from truepair.cleaning.summary import AuditSummary
from truepair.cli.output import Output
from truepair.cli.parsing import Flat, FlatThroughout, parse
from truepair.config import AuditConfig, DataConfig, NoiseConfig

MAIN = ("target", "out", "image-col", "caption-col", "image-root", "threshold", "re-pair", "seed", "device")


@dataclass(frozen=True)
class Audit:
    """Find the pairs that do not match: findings.parquet and report.html.

    A corpus is audited by models that are trained for it, none of which judges a pair that it learned from. A run's
    folder is audited with the run's own model: quicker, and it finds less. The input is never changed.

    For example:
      truepair audit captions.csv --out audit/
      truepair audit photos.parquet --out audit/ --caption-col title --threshold 0.8
      truepair audit runs/crcl --out audit/
    """

    target: Positional[str]
    """What to audit: a table, pictures with captions (a folder, a zip, tar shards, a dataset, COCO captions, Karpathy's
    splits, Flickr8K's lists), a folder of features, "demo", or a run's folder."""
    out: Path
    """The folder to write to."""
    audit: Flat[AuditConfig] = field(default_factory=AuditConfig)
    """How pairs are scored, and what is done with suspects."""
    data: FlatThroughout[DataConfig] = field(default_factory=DataConfig)
    """How a table or folder is read."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Mismatches to put in first, to see whether they are found."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, audit, say what was found and where it is."""
    parsed = parse(Audit, "audit", arguments, main=MAIN)
    summary = audited(parsed, output)
    say_audit(summary, parsed.out, output)
    output.line(f"next: truepair review {parsed.out}, or truepair fix {parsed.out} --out cleaned/")
    output.summary({"out": parsed.out, **asdict(summary)})


def audited(parsed: Audit, output: Output) -> AuditSummary:
    """The summary of an audit of a run, or of a corpus, of which is said first how it was read."""
    from truepair.audit.run import audit_corpus, audit_run
    from truepair.data.corpora import load_corpus
    from truepair.training.folder import load_run, make_folder

    if (Path(parsed.target) / "run.json").exists():
        run = load_run(Path(parsed.target))
        make_folder(parsed.out)
        return audit_run(run, parsed.out, parsed.audit)
    data = replace(parsed.data, path=parsed.target)
    corpus = load_corpus(data)
    for note in corpus.notes:
        output.note(f"note: {note}")
    make_folder(parsed.out)
    return audit_corpus(corpus, data, parsed.noise, parsed.out, parsed.audit)


def say_audit(summary: AuditSummary, out: Path, output: Output) -> None:
    """Say what an audit found, in a few lines, and why not to rely on it, if there is a reason."""
    estimated, pairs = summary.estimated_mismatches, summary.pairs
    if estimated is None:
        output.line(f"{pairs:,} pairs; it cannot be said which of them do not match")
    else:
        output.line(f"{pairs:,} pairs, of which about {estimated:,.0f} ({estimated / pairs:.1%}) do not match")
    if summary.truth and summary.truth["auroc"] is not None:
        output.line(f"against the known truth: AUROC {summary.truth['auroc']:.3f}")
    if summary.skipped:
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in summary.skipped.items())
        output.line(f"left out: {reasons}; see {out / (summary.files.skipped or '')}")
    for warning in summary.warnings:
        output.note(f"warning: {warning}")
    output.line(f"report: {out / summary.files.report}")
