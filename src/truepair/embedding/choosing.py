"""From the names of encoders to the encoders."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from truepair.config.embedding import EmbedConfig
from truepair.embedding import lite0
from truepair.embedding.image_encoders import ImageEncoder
from truepair.embedding.plan import EncodedBy
from truepair.embedding.pretrained import model_type
from truepair.embedding.sentences import MINILM, SentenceEncoder, load_minilm
from truepair.embedding.shard import Encoders
from truepair.embedding.text_encoders import TextEncoder
from truepair.embedding.towers import TOWERS, ImageTower, TextTower
from truepair.errors import ConfigError
from truepair.sources.decoding import DecodingMemory
from truepair.training.device import hardware, make_fabric


def load_encoders(config: EmbedConfig, cache: Path) -> tuple[Encoders, EncodedBy]:
    """The encoders of an embedding, and what readers of its features must know of them.

    Args:
        config: Names, grid and device.
        cache: See `load_image_encoder`.

    Raises:
        ConfigError: See `load_image_encoder`; or if this machine has no such device.
    """
    device = make_fabric(config.device).device
    image = load_image_encoder(config.image_encoder, grid=config.grid, device=device, cache=cache)
    text = load_text_encoder(config.text_encoder, device)
    by = EncodedBy(asdict(image.description), None if text is None else asdict(text.description), hardware(device))
    memory = DecodingMemory(round(config.decoding_memory * 1e9))
    return Encoders(image, text, config.batch_size, memory, config.source.largest_pixels), by


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
