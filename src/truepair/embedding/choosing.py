"""From an encoder's name to the encoder."""

from __future__ import annotations

from pathlib import Path

import torch

from truepair.embedding import lite0
from truepair.embedding.image_encoders import ImageEncoder
from truepair.embedding.pretrained import model_type
from truepair.embedding.sentences import MINILM, SentenceEncoder, load_minilm
from truepair.embedding.text_encoders import TextEncoder
from truepair.embedding.towers import TOWERS, ImageTower, TextTower
from truepair.errors import ConfigError


def load_image_encoder(name: str, *, grid: int | None, device: torch.device, cache: Path) -> ImageEncoder:
    """The encoder that `EmbedConfig.image_encoder` names.

    Args:
        name: "efficientnet-lite0", a folder, or a name on the hub.
        grid: Regions along a side; None for one vector a picture.
        device: Where to compute.
        cache: A folder for what is made of a network once; made if needed.

    Raises:
        ConfigError: If there is no such encoder, a package is missing, or the grid is too fine for it.
    """
    if name == lite0.NAME:
        return lite0.load_lite0(grid, device, cache)
    kind = model_type(name)
    if kind in TOWERS:
        return ImageTower(name, grid, device)
    raise ConfigError(f"image encoder {name!r} is of type {kind!r}; known are {lite0.NAME!r}, {' and '.join(TOWERS)}")


def load_text_encoder(name: str, device: torch.device) -> TextEncoder | None:
    """The encoder that `EmbedConfig.text_encoder` names; None for "none".

    Raises:
        ConfigError: If there is no such encoder, or a package is missing.
    """
    if name == "none":
        return None
    if name == MINILM:
        return load_minilm(device)
    if model_type(name) in TOWERS:
        return TextTower(name, device)
    return SentenceEncoder(name, name, device)
