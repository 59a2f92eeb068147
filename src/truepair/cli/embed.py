"""``truepair embed``: features of pictures and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import FlatThroughout, parse
from truepair.config.embedding import EmbedConfig
from truepair.errors import ConfigError

MAIN = (
    *("source", "out", "image-encoder", "text-encoder", "grid", "image-col", "caption-col", "image-root"),
    *("batch-size", "device", "workers", "shards", "join", "engine"),
)


@dataclass(frozen=True)
class Embed:
    """Encode pictures and captions with frozen networks into a folder of features to audit and train on.

    The source is never changed. A run that was stopped goes on with the same command. Pictures that cannot be read are
    left out with their captions and listed in skipped.csv.

    For example:
      truepair embed photos.csv --out features/
      truepair embed photos/ --out features/ --grid 3 --text-encoder none
      truepair embed 'shards/{000..099}.tar' --out features/ --image-encoder CLIP --text-encoder CLIP
    """

    source: Positional[str]
    """A table (.csv, .tsv, .jsonl, .json, .parquet, .arrow), a folder or a zip of pictures with captions, tar shards, a
    dataset, COCO captions, Karpathy's splits, or Flickr8K's lists; also at s3://, gs://, hf:// or https://."""
    out: Path
    """The folder to write to."""
    join: tuple[Path, ...] | None = None
    """Put the parts together that all machines of --shards made, in --out and in these folders."""
    options: FlatThroughout[EmbedConfig] = field(default_factory=EmbedConfig)
    """Encoders, columns and resources."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, encode, say what came of it."""
    parsed = parse(Embed, "embed", arguments, main=MAIN)

    def tell(said: str) -> None:
        output.note(f"note: {said}")

    if parsed.join is None:
        from truepair.embedding.run import embed

        summary = embed(parsed.source, parsed.out, parsed.options, tell)
    else:
        if parsed.options.share is not None or parsed.options.engine != "local":
            raise ConfigError("--join encodes nothing: leave --shards and --engine out")
        from truepair.embedding.joining import join

        summary = join(parsed.source, parsed.out, parsed.options, parsed.join, tell)
    output.line(embed_lines(summary, parsed.out))
    output.summary({"out": parsed.out, **summary})


def embed_lines(summary: dict[str, Any], out: Path) -> str:
    """What an embedding did, in a few lines."""
    lines = [f"{summary['images']:,} images, {summary['captions']:,} captions, {summary['images_per_second']} images/s"]
    if "share" in summary:
        next_step = "when all are, the same command with --join in place of --shards puts them together"
        return "\n".join([*lines, f"part {summary['share']} is done; {next_step}"])
    if summary["skipped"]:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in summary["skipped"].items())
        lines.append(f"left out: {reasons}; see {out / 'skipped.csv'}")
    if summary["cut_captions"]:
        tokens = summary["text_encoder"]["maximum_tokens"]
        lines.append(f"{summary['cut_captions']:,} captions are longer than {tokens} tokens and were cut")
    return "\n".join([*lines, f"features: {out}; next: truepair audit {out} --out audit/"])
