"""The images as pictures: read when asked for, or cut into patches for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from truepair.data.pairs import Pictures
from truepair.sources.decoding import MOST_PIXELS, decoded, decoded_side
from truepair.sources.picture_files import encoded_picture
from truepair.sources.protocol import Source


@dataclass(frozen=True)
class PictureFiles:
    """One picture file an image, read when asked for."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, image: int) -> bytes:
        return encoded_picture(self.paths[image])

    def reference(self, image: int) -> str:
        """See `Pictures.reference`."""
        return str(self.paths[image].absolute())


class SourcePictures:
    """The pictures of a source, which is opened when the first of them is looked at.

    Attributes:
        references: What the source finds each picture by.
    """

    def __init__(self, references: Sequence[str], open_source: Callable[[], Source]) -> None:
        self.references = references
        self._open = cache(open_source)

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, image: int) -> bytes:
        return self._open().picture(self.references[image])

    def reference(self, image: int) -> str:
        """See `Pictures.reference`."""
        return self.references[image]


@dataclass(frozen=True)
class ChosenPictures:
    """Some of other pictures, renumbered from 0."""

    pictures: Pictures
    images: Sequence[int] | Int[np.ndarray, " images"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, image: int) -> bytes:
        return self.pictures[int(self.images[image])]

    def reference(self, image: int) -> str:
        """See `Pictures.reference`."""
        return self.pictures.reference(int(self.images[image]))


def patches(
    data: bytes, grid: int = 6, pixels: int = 8, most_pixels: int = MOST_PIXELS
) -> Float[np.ndarray, "patches values"]:
    """A picture as ``grid²`` patches, left to right, then top to bottom.

    The picture is squeezed to a square of ``grid · pixels`` a side. A patch lists its pixels in the same order, red,
    green and blue of each, scaled from 0 … 255 to -0.5 … 0.5.

    Returns:
        ``[grid², 3 · pixels²]``, float32.

    Raises:
        UnreadablePictureError: If the picture cannot be decoded.
    """
    side = grid * pixels
    square = decoded(data, decoded_side(side), most_pixels).resize((side, side), Image.Resampling.BILINEAR)
    values = np.asarray(square, dtype=np.float32) / 255.0 - 0.5
    tiles = values.reshape(grid, pixels, grid, pixels, 3).transpose(0, 2, 1, 3, 4)  # [row, column, y, x, colour]
    return tiles.reshape(grid * grid, pixels * pixels * 3)
