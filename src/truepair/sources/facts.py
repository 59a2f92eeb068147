"""What can be said of a picture without a network: its size, whether it is blank, and hashes to find duplicates by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from truepair.sources.decoding import opened_picture

_BLANK_RANGE = 8
"""Values of a colour that a blank picture spans at most, of 255: compression makes a plain surface this uneven."""

_TRANSPOSING = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


@dataclass(frozen=True)
class PictureFacts:
    """A picture's plain facts.

    Attributes:
        sha256: Of the encoded bytes, in hexadecimal; equal for duplicates.
        difference_hash: 64 bits; few differ between near-duplicates (see `difference_hash`).
        width: In pixels, upright.
        height: In pixels, upright.
        is_blank: Whether all pixels are nearly equal.
    """

    sha256: str
    difference_hash: int
    width: int
    height: int
    is_blank: bool


def facts_of(data: bytes, picture: Image.Image) -> PictureFacts:
    """The facts of a picture.

    Args:
        data: The encoded picture.
        picture: The same, decoded to RGB, upright, at its size or smaller.
    """
    width, height = _upright_size(data, picture)
    return PictureFacts(hashlib.sha256(data).hexdigest(), difference_hash(picture), width, height, is_blank(picture))


def difference_hash(picture: Image.Image) -> int:
    """64 bits that hardly change when a picture is scaled or compressed: dHash.

    The picture is made 9 × 8 grey pixels; a bit is set where a pixel is brighter than its right neighbour, row by row,
    the first the highest. Pictures whose hashes differ in a few bits look alike.
    """
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BILINEAR))
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


def is_blank(picture: Image.Image) -> bool:
    """Whether all pixels of an RGB picture are nearly equal."""
    extrema: list[tuple[int, int]] = list(picture.getextrema())  # type: ignore[arg-type]  # one pair a colour
    return all(highest - lowest <= _BLANK_RANGE for lowest, highest in extrema)


def _upright_size(data: bytes, picture: Image.Image) -> tuple[int, int]:
    """Width and height as seen, of a file whose upright picture is known."""
    with opened_picture(data) as stored:
        width, height = stored.size
        if width == height or picture.width != picture.height:
            is_transposed = (picture.width > picture.height) != (width > height)
        else:  # too small to tell; not always read, because in PNG they may stand behind all pixels
            is_transposed = stored.getexif().get(ExifTags.Base.Orientation) in _TRANSPOSING
    return (height, width) if is_transposed else (width, height)
