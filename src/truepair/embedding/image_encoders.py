"""What a frozen network that sees pictures is, and what it makes of a map of positions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from truepair.errors import ConfigError


@dataclass(frozen=True)
class ImageEncoderDescription:
    """What a reader of the features must know of the encoder.

    Attributes:
        name: What `EmbedConfig.image_encoder` called it.
        size: Width of a feature vector.
        grid: Regions along a side; None for one vector a picture.
        side: Pixels along the side of the square that the network sees.
        preprocessing: How a picture becomes that square.
        runtime: What computes.
        shared_space: Whether the text tower of the same network gives vectors to compare these with.
        weights: The sum of the bits of its weights (`sum_of_bits`), which others hardly have; None where it is not
            known.
    """

    name: str
    size: int
    grid: int | None
    side: int
    preprocessing: str
    runtime: str
    shared_space: bool
    weights: int | None = None


@runtime_checkable
class ImageEncoder(Protocol):
    """What makes features of pictures. Several threads may call `preprocess` at once, one calls `encode`."""

    @property
    def description(self) -> ImageEncoderDescription:
        """What it is."""
        ...

    def preprocess(self, picture: Image.Image) -> np.ndarray:
        """What the network reads of an RGB picture of any size: pixels ``[3, side, side]``, if not of its own form."""
        ...

    def encode(self, batch: Iterable[np.ndarray]) -> Float32[np.ndarray, "images *regions dim"]:
        """Of what `preprocess` made of pictures, one at least.

        Returns:
            ``[images, dim]``, or ``[images, grid², dim]``: regions from left to right, then from top to bottom.
        """
        ...


def regions_of(maps: Float[Tensor, "images dim height width"], grid: int) -> Float[Tensor, "images regions dim"]:
    """A map of positions, averaged to ``grid²`` regions: from left to right, then from top to bottom.

    Where the grid does not divide the map, neighbouring regions share a row or column of positions.
    """
    averaged: Tensor = adaptive_avg_pool2d(maps, grid)
    return averaged.flatten(2).transpose(1, 2)


def check_grid(grid: int | None, positions: int, name: str) -> None:
    """Refuse a grid that is finer than the network's map.

    Raises:
        ConfigError: If it is.
    """
    if grid is not None and grid > positions:
        raise ConfigError(f"grid is {grid}, but {name} sees {positions} × {positions} positions: use at most that")
