"""``truepair noise``: shuffle captions on purpose, once for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from truepair.config import DataConfig, NoiseConfig


@dataclass(frozen=True)
class Noise:
    """Mismatch some training captions and write which image each now has: the field's t2i_index, a .npy file.

    Train on it with --noise.index, so that every method meets the same mistakes. The corpus itself is not changed.

    For example:
      truepair noise --data.path f30k_precomp --noise.rate 0.4 --out f30k_0.4.npy
    """

    out: Path
    """The index file to write."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where the pairs are."""
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(rate=0.4))
    """What to do to them."""


def command(arguments: Sequence[str]) -> None:
    """Parse, shuffle, write."""
    parsed = tyro.cli(Noise, prog="truepair noise", args=arguments)
    from truepair.data.corpora import load_corpus
    from truepair.data.noise import noisy, write_noise_index

    train = noisy(load_corpus(parsed.data).splits.train, parsed.noise)
    write_noise_index(parsed.out, train)
    rate = train.realised_noise_rate or 0.0
    print(f"{parsed.out}: {len(train):,} captions, {round(rate * len(train)):,} of them mismatched ({rate:.2%})")
