"""From the names of encoders to the encoders."""

from __future__ import annotations

from dataclasses import asdict

import torch

from truepair.config.embedding import OPEN_CLIP, ST, EmbedConfig
from truepair.embedding import lite0
from truepair.embedding.image_encoders import ImageEncoder
from truepair.embedding.other_libraries import (
    OpenClipImageEncoder,
    OpenClipTextEncoder,
    SentenceTransformersEncoder,
)
from truepair.embedding.own_encoders import OwnImageEncoder, OwnTextEncoder, registered
from truepair.embedding.plan import EncodedBy
from truepair.embedding.shard import Encoders
from truepair.embedding.text_encoders import TextEncoder
from truepair.embedding.towers import TowerImageEncoder, TowerTextEncoder
from truepair.errors import ConfigError
from truepair.pretrained.lite0 import NAME
from truepair.pretrained.pictures import check_image_side
from truepair.sources.decoding import DecodingMemory
from truepair.training.device import hardware, make_fabric


def load_encoders(config: EmbedConfig) -> tuple[Encoders, EncodedBy]:
    """The encoders of an embedding, and what readers of its features must know of them.

    Args:
        config: Names, grid and device.

    Raises:
        ConfigError: See `load_image_encoder`; or if this machine has no such device.
    """
    device = make_fabric(config.device).device
    image = load_image_encoder(config.image_encoder, grid=config.grid, device=device)
    text = load_text_encoder(config.text_encoder, device)
    by = EncodedBy(asdict(image.description), None if text is None else asdict(text.description), hardware(device))
    memory = DecodingMemory(round(config.decoding_memory * 1e9))
    return Encoders(image, text, config.batch_size, memory, config.source.largest_pixels), by


def load_image_encoder(name: str, *, grid: int | None, device: torch.device) -> ImageEncoder:
    """The encoder that `EmbedConfig.image_encoder` names.

    Args:
        name: A name of `register_encoder`, "efficientnet-lite0", "open_clip:MODEL/PRETRAINED", a folder, or a name on
            the hub.
        grid: Regions along a side; None for one vector a picture.
        device: Where to compute.

    Raises:
        ConfigError: If there is no such encoder, it has no image side, a package is missing, or it makes no such grid.
    """
    own = registered(name)
    if grid is not None and (own is not None or name.startswith(OPEN_CLIP)):
        raise ConfigError(f"grid is {grid}, but image encoder {name!r} gives one vector a picture: leave it out")
    if own is not None:
        return OwnImageEncoder(name, own)
    if name == NAME:
        return lite0.load_lite0(grid, device)
    if name.startswith(OPEN_CLIP):
        return OpenClipImageEncoder(name, device)
    if name.startswith(ST):
        raise ConfigError(f"image encoder {name!r} is of sentence-transformers, which is taken for captions only")
    check_image_side(name)
    return TowerImageEncoder(name, grid, device)


def load_text_encoder(name: str, device: torch.device) -> TextEncoder | None:
    """The encoder that `EmbedConfig.text_encoder` names; None for "none".

    Raises:
        ConfigError: If there is no such encoder, or a package is missing.
    """
    if name == "none":
        return None
    own = registered(name)
    if own is not None:
        return OwnTextEncoder(name, own)
    if name.startswith(OPEN_CLIP):
        return OpenClipTextEncoder(name, device)
    if name.startswith(ST):
        return SentenceTransformersEncoder(name, device)
    return TowerTextEncoder(name, device)
