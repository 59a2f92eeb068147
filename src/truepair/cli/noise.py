"""``truepair noise``: shuffle captions on purpose, once for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import FlatThroughout, parse
from truepair.config import DataConfig, NoiseConfig

MAIN = (
    *("target", "out", "noise.rate", "noise.level", "noise.partners", "noise.seed"),
    *("image-col", "caption-col", "image-root"),
)


@dataclass(frozen=True)
class Noise:
    """Mismatch some training captions and write which image each now has: the field's t2i_index, a .npy file.

    Train on it with --noise.index, so that every method meets the same mistakes. The corpus itself is not changed.

    For example:
      truepair noise f30k_precomp --noise.rate 0.4 --out f30k_0.4.npy
    """

    out: Path
    """The index file to write (.npy)."""
    target: Positional[str] = "demo"
    """Where the pairs are: a table, a folder, or "demo"."""
    data: FlatThroughout[DataConfig] = field(default_factory=DataConfig)
    """How a table or folder is read."""
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(rate=0.4))
    """What to do to them."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, shuffle, write."""
    parsed = parse(Noise, "noise", arguments, main=MAIN)
    from truepair.data.corpora import load_corpus
    from truepair.data.noise import check_noise_index_target, noise_level, noisy, write_noise_index

    check_noise_index_target(parsed.out)
    train = noisy(load_corpus(replace(parsed.data, path=parsed.target)).splits.train, parsed.noise)
    write_noise_index(parsed.out, train)
    rate = train.realised_noise_rate or 0.0
    mismatched = round(rate * len(train))
    level = noise_level(train)
    in_words = "" if level is None else f"; {level.in_words}"
    output.line(f"{parsed.out}: {len(train):,} captions, {mismatched:,} of them mismatched ({rate:.2%}{in_words})")
    output.summary(
        {
            "out": parsed.out,
            "captions": len(train),
            "mismatched": mismatched,
            "realised_rate": rate,
            "realised_level": level and asdict(level),
        }
    )
