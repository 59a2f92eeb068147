"""The options of an embedding; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from truepair.config.source import SourceConfig
from truepair.errors import ConfigError

ST, OPEN_CLIP = "st:", "open_clip:"
"""What names of encoders of sentence-transformers, and of open_clip, begin with; they are read by these libraries."""


@dataclass(frozen=True)
class Share:
    """The part of an embedding that one of several machines makes."""

    number: int
    """Which machine, counted from 1."""
    of: int
    """How many machines there are."""

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class EmbedConfig:
    """Which encoders read what, and how."""

    image_encoder: str = "efficientnet-lite0"
    """"efficientnet-lite0"; a network of transformers with an image side and a text side (CLIP, SigLIP, MetaCLIP 2,
    ALIGN and others): its folder, or its name on the hub; or open_clip:MODEL/PRETRAINED."""
    text_encoder: str = "minilm"
    """"minilm"; a network such as for images, or a sentence BERT (its folder, or its name on the hub); st:NAME, by
    sentence-transformers; open_clip:MODEL/PRETRAINED; or "none": captions are then read as words in training. The same
    network on both sides gives features of one space."""
    grid: int | None = None
    """Keep grid × grid regions of a picture, which SAF and SGR need, instead of one vector. EfficientNet-Lite0 has
    7 × 7 positions, CLIP and SigLIP one a patch; a smaller grid averages them."""
    batch_size: int = 16
    """Pictures, or captions, that go through an encoder together; a GPU wants more."""
    workers: int | None = None
    """Threads that decode pictures; one a CPU core if not given."""
    decoding_memory: float = 4.0
    """GB that pictures may take together while workers decode them; the others wait. One that needs more is decoded
    alone."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """How pictures and captions are read."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; "auto" takes a GPU if there is one."""
    shards: str | None = None
    """K/N: be the K-th of N machines (3/16) and encode only its share; --join then puts the parts together. All
    machines reach the source by the same path."""
    engine: Literal["local", "ray"] = "local"
    """"ray" encodes on all nodes of a Ray cluster, a shard at a time; without a cluster it starts one on this machine.
    Nodes read the source and write to the folder by the same paths. A GPU has one process; without GPUs a node has
    one, or one for as many cores as --workers says."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("grid", "batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, but it must be at least 1")
        if not self.decoding_memory > 0:
            raise ConfigError(f"decoding_memory is {self.decoding_memory}, but it is a number of GB above 0")
        if self.share is not None and self.engine == "ray":
            raise ConfigError("engine is 'ray', which gives out the shards itself: leave --shards out")

    @property
    def share(self) -> Share | None:
        """What `shards` says; None for everything.

        Raises:
            ConfigError: If it is not K/N with K from 1 to N.
        """
        if self.shards is None:
            return None
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", self.shards)
        share = found and Share(int(found[1]), int(found[2]))
        if not share or not 1 <= share.number <= share.of:
            raise ConfigError(
                f"shards is {self.shards!r}, but it is K/N, this machine's number of all, from 1/N to N/N"
            )
        return share
