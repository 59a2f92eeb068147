"""The options of an embedding; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from truepair.config.source import SourceConfig
from truepair.errors import ConfigError


@dataclass(frozen=True)
class EmbedConfig:
    """Which encoders read what, and how."""

    image_encoder: str = "efficientnet-lite0"
    """"efficientnet-lite0", or a CLIP or SigLIP network as transformers stores it: its folder, or its name on the
    hub."""
    text_encoder: str = "minilm"
    """"minilm", a CLIP, SigLIP or sentence BERT network (its folder, or its name on the hub), or "none": captions
    are then read as words in training. The same CLIP or SigLIP on both sides gives features of one space."""
    grid: int | None = None
    """Keep grid × grid regions of a picture, which SAF and SGR need, instead of one vector. EfficientNet-Lite0 has
    7 × 7 positions, CLIP and SigLIP one a patch; a smaller grid averages them."""
    batch_size: int = 16
    """Pictures, or captions, that go through an encoder together; a GPU wants more."""
    workers: int | None = None
    """Threads that decode pictures; one a CPU core if not given."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """How pictures and captions are read."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; "auto" takes a GPU if there is one."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("grid", "batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, but it must be at least 1")
