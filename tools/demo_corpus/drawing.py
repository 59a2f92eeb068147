"""One rule for all pictures: cropped to what is drawn, centred on a white square of 128 pixels, as WebP."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 128
MARGIN = 0.04  # of the longer side, on each side


@dataclass(frozen=True)
class Drawing:
    """A picture as it is shipped, and what near-duplicates and empty pictures are told by.

    Attributes:
        webp: The encoded picture.
        difference_hash: 64 bits: whether each of 8 × 8 pixels is brighter than its left neighbour.
        ink: Share of pixels, in [0, 1], that are not white.
        colours: How many of 512 coarse colours occur.
    """

    webp: bytes
    difference_hash: int
    ink: float
    colours: int


def drawing(file: Path) -> Drawing | None:
    """The normalised picture of a file; None if it is unreadable or blank."""
    Image.MAX_IMAGE_PIXELS = None  # some of Debian's pictures have 180 million pixels; they are meant
    try:
        square = _square(Image.open(file))
    except (OSError, ValueError):
        return None
    if square is None:
        return None
    written = io.BytesIO()
    square.save(written, "WEBP", quality=80, method=6)
    grey = np.asarray(square.convert("L").resize((9, 8), Image.Resampling.LANCZOS)).astype(int)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    small = np.asarray(square.resize((32, 32)).convert("RGB")).astype(int)
    return Drawing(
        webp=written.getvalue(),
        difference_hash=int("".join("1" if bit else "0" for bit in bits), 2),
        ink=float((small.min(axis=2) < 240).mean()),
        colours=len(np.unique((small // 32).reshape(-1, 3), axis=0)),
    )


def _square(picture: Image.Image) -> Image.Image | None:
    if picture.mode in {"P", "LA"}:
        picture = picture.convert("RGBA")
    if picture.mode != "RGBA":
        picture = picture.convert("RGB").convert("RGBA")
    picture.thumbnail((4 * SIDE, 4 * SIDE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    flat = white.convert("RGB")
    drawn = np.asarray(flat).min(axis=2) < 250
    if not drawn.any():
        return None
    rows, columns = np.where(drawn)
    flat = flat.crop((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    side = round(max(flat.size) * (1 + 2 * MARGIN))
    square = Image.new("RGB", (side, side), "white")
    square.paste(flat, ((side - flat.width) // 2, (side - flat.height) // 2))
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
