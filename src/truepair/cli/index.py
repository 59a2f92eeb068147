"""``truepair index``: an index to search in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import Flat, FlatThroughout, parse
from truepair.config import EmbedConfig, SourceConfig
from truepair.config.search import IndexConfig
from truepair.errors import ConfigError

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from truepair.search.layout import Manifest

MAIN = (
    "target",
    "out",
    "of",
    "add",
    "drop",
    "image-encoder",
    "text-encoder",
    "approximate",
    "recall",
    "pairs",
    "device",
)


@dataclass(frozen=True)
class Index:
    """Make an index to search in with 'truepair search', or change one.

    A run's index encodes the run's corpus, and queries, by its networks. Embeddings that share a space (CLIP, SigLIP,
    or what 'truepair embed' makes by default) need no training. Pictures with captions are embedded first, into
    OUT/embeddings. The source is never changed.

    For example:
      truepair index photos.csv --out index/
      truepair index runs/mine --out index/
      truepair index audit/ --out audit/index
      truepair index --out index/ --add more.csv
      truepair index --out index/ --drop photo-17.jpg photo-18.jpg
    """

    out: Path
    """The folder of the index; made if missing."""
    target: Positional[str | None] = None
    """A run's folder, a folder of features, an audit's folder (for what it embedded), or pictures with captions (a
    table, a folder, tar shards, a dataset)."""
    of: Path | None = None
    """With a run: a folder of features to index in place of the run's own corpus."""
    add: str | None = None
    """Add these pictures with captions, or this folder of features, to the index in --out."""
    drop: tuple[str, ...] = ()
    """Take images, with their captions, or captions out of the index in --out, by their ids."""
    image_encoder: str = EmbedConfig.image_encoder
    """What embeds pictures: "efficientnet-lite0", or a CLIP or SigLIP network (its folder, or its name on the hub)."""
    text_encoder: str = EmbedConfig.text_encoder
    """What embeds captions: "minilm", or a CLIP or SigLIP network."""
    index: Flat[IndexConfig] = field(default_factory=IndexConfig)
    """How the index is made."""
    source: FlatThroughout[SourceConfig] = field(default_factory=SourceConfig)
    """How pictures and captions are read."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, make or change the index, say what it holds."""
    parsed = parse(Index, "index", arguments, main=MAIN)
    if sum((parsed.target is not None, parsed.add is not None, bool(parsed.drop))) != 1:
        raise ConfigError(
            "name what to index (truepair index SOURCE --out index/), or one change: --add SOURCE, or --drop ID …"
        )
    manifest = _made(parsed, lambda said: output.note(f"note: {said}"))
    output.line(f"{manifest.count('images'):,} images, {manifest.count('captions'):,} captions: {parsed.out}")
    for line in calibration_lines(manifest):
        output.line(line)
    output.line(f'next: truepair search {parsed.out} "two dogs in the snow"')
    output.summary({"out": parsed.out, **_summary(manifest)})


def _made(parsed: Index, tell: Any) -> Manifest:
    from truepair.search.building import add_to_index, build_index, drop_from_index

    embedding = EmbedConfig(parsed.image_encoder, parsed.text_encoder, device=parsed.index.device, source=parsed.source)
    if parsed.add is not None or parsed.drop:
        _refuse_of_others(parsed)
    if parsed.add is not None:
        return add_to_index(parsed.out, parsed.add, embedding, tell)
    if parsed.drop:
        return drop_from_index(parsed.out, parsed.drop, tell)
    return build_index(parsed.target or "", parsed.out, parsed.index, embedding, parsed.of, tell)


def _refuse_of_others(parsed: Index) -> None:
    """Refuse options of making an index when one is changed."""
    told = {name: (getattr(parsed, name), getattr(Index, name)) for name in ("of", "image_encoder", "text_encoder")}
    told |= {each.name: (getattr(parsed.index, each.name), each.default) for each in fields(parsed.index)}
    for name, (value, default) in told.items():
        if value != default and not (name == "device" and parsed.add is not None):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} is {value!r}, but {parsed.out} goes on as it was made: leave it out")


def calibration_lines(manifest: Manifest) -> list[str]:
    """How far probabilities can be relied on, a line a direction."""
    lines = []
    for side, way in (("images", "a text finds images"), ("captions", "an image finds captions")):
        found = manifest.calibration.get(side)
        if found is None:
            lines.append(f"{way}: no probabilities, too few pairs that the index's encoders did not learn from")
            continue
        measured = found["measured"]
        lines.append(
            f"{way}: R@1 {measured['recall_at_1']:.1%}, calibration error {measured['calibration_error']:.3f}, is "
            f"there an answer: AUROC {measured['answer_auroc']:.3f} ({measured['queries']:,} held-out queries)"
        )
    return lines


def _summary(manifest: Manifest) -> dict[str, Any]:
    measured = {side: None if found is None else found["measured"] for side, found in manifest.calibration.items()}
    approximate = {segment.name: segment.approximate for segment in manifest.segments if segment.approximate}
    return {
        "images": manifest.count("images"),
        "captions": manifest.count("captions"),
        "width": manifest.width,
        "space": manifest.space,
        "calibration": measured,
        "approximate": approximate,
    }
