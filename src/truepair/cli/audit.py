"""``truepair audit``: which pairs do not match?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from truepair.cleaning.summary import AuditSummary
from truepair.cli.output import Output
from truepair.cli.parsing import Flat, FlatThroughout, parse
from truepair.config import AuditConfig, DataConfig, EmbedConfig, NoiseConfig
from truepair.errors import ConfigError
from truepair.files.names import RUN

MAIN = ("target", "out", "image-col", "caption-col", "image-root", "threshold", "re-pair", "seed", "device")


@dataclass(frozen=True)
class Audit:
    """Find the pairs that do not match: findings.parquet and report.html.

    Pictures and captions are embedded by frozen networks first; the embeddings are kept in OUT/embeddings. Models that
    are trained on them, and what the embeddings say by themselves, judge every pair. A run's folder is audited with the
    run's own model: quicker, and it finds less. The input is never changed, and the same command goes on after a stop.

    For example:
      truepair audit captions.csv --out audit/
      truepair audit photos.parquet --out audit/ --caption-col title --threshold 0.8
      truepair audit runs/crcl --out audit/
    """

    target: Positional[str]
    """What to audit: a table, pictures with captions (a folder, a zip, tar shards, a dataset, COCO captions, Karpathy's
    splits, Flickr8K's lists; also at s3://, gs://, hf:// or https://), a folder of features, "demo", or a run's
    folder."""
    out: Path
    """The folder to write to."""
    image_encoder: str = EmbedConfig.image_encoder
    """What embeds pictures: "efficientnet-lite0", or a CLIP or SigLIP network (its folder, or its name on the hub)."""
    text_encoder: str = EmbedConfig.text_encoder
    """What embeds captions: "minilm", a CLIP, SigLIP or sentence BERT network, or "none" for words alone."""
    engine: Literal["local", "ray"] = EmbedConfig.engine
    """"ray" embeds on all nodes of a Ray cluster (see 'truepair embed --help-all'), which takes nearly all of the time;
    this machine then audits the embeddings."""
    patches: bool = False
    """Embed nothing: read pictures as 6 × 6 patches of their pixels. Needs no network, and finds far less."""
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
    from truepair.files.locking import alone_in

    with alone_in(parsed.out):  # one lock for embedding and audit
        return _audited(parsed, output)


def _audited(parsed: Audit, output: Output) -> AuditSummary:
    from truepair.audit.given import corpus_of, embedded
    from truepair.audit.run import audit_corpus, audit_run
    from truepair.data.corpora import reads_patches
    from truepair.training.folder import load_run

    if (Path(parsed.target) / RUN).exists():
        return audit_run(load_run(Path(parsed.target)), parsed.out, parsed.audit)
    data = replace(parsed.data, path=parsed.target)
    _refuse_unused_encoders(parsed, embeds=reads_patches(data) and not parsed.patches)
    if not parsed.patches:
        encoders = EmbedConfig(
            parsed.image_encoder, parsed.text_encoder, device=parsed.audit.device, engine=parsed.engine
        )
        data = embedded(data, parsed.out, encoders, parsed.audit, lambda said: output.note(f"note: {said}"))
    corpus = corpus_of(data)
    for note in corpus.notes:
        output.note(f"note: {note}")
    return audit_corpus(corpus, data, parsed.noise, parsed.out, parsed.audit)


def _refuse_unused_encoders(parsed: Audit, embeds: bool) -> None:
    for name in ("image_encoder", "text_encoder", "engine"):
        value = getattr(parsed, name)
        if not embeds and value != getattr(EmbedConfig, name):
            raise ConfigError(
                f"--{name.replace('_', '-')} is {value!r}, but nothing is embedded: {parsed.target} has features, or "
                "--patches was given; leave it out"
            )


def say_audit(summary: AuditSummary, out: Path, output: Output) -> None:
    """Say what an audit found, in a few lines, and why not to rely on it, if there is a reason."""
    estimated, rate, pairs = summary.estimated_mismatches, summary.estimated_noise_rate, summary.pairs
    if estimated is None or rate is None:
        output.line(f"{pairs:,} pairs; it cannot be said which of them do not match")
    else:
        low, high = summary.noise_rate_interval or (None, None)
        between = "" if low is None or high is None else f", most likely {low:.1%} to {high:.1%}"
        output.line(f"{pairs:,} pairs, of which about {estimated:,.0f} ({rate:.1%}{between}) do not match")
    if summary.truth and summary.truth["auroc"] is not None:
        output.line(f"against the known truth: AUROC {summary.truth['auroc']:.3f}")
    if summary.skipped:
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in summary.skipped.items())
        output.line(f"left out: {reasons}; see {out / (summary.files.skipped or '')}")
    for warning in summary.warnings:
        output.note(f"warning: {warning}")
    output.line(f"report: {out / summary.files.report}")
