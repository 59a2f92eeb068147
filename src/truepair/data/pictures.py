"""The images as pictures: read when asked for, made small for reports, cut into patches for training."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float
from PIL import Image, ImageOps

from truepair.data.features import FeatureFile, Features
from truepair.data.pairs import Inputs, Pictures
from truepair.errors import DataError


@dataclass(frozen=True)
class PictureFiles:
    """One picture file an image, read when asked for."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, image: int) -> bytes:
        path = self.paths[image]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}); was it moved or renamed?") from error


@dataclass(frozen=True)
class PictureBytes:
    """Encoded pictures that are in memory already."""

    encoded: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, image: int) -> bytes:
        return self.encoded[image]


class PictureColumn:
    """The pictures of a Parquet file's binary or ``{bytes, path}`` column; one row group at a time is in memory.

    Reading rows in order reads each row group once; a row at random reads its whole group.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.path = path
        self.column = column
        metadata = pq.read_metadata(path)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._ends = np.cumsum([0, *sizes])
        self._group = -1
        self._rows: list[object] = []

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, image: int) -> bytes:
        group = int(np.searchsorted(self._ends, image, side="right")) - 1
        if group != self._group:
            with pq.ParquetFile(self.path) as file:
                self._rows = file.read_row_group(group, columns=[self.column])[self.column].to_pylist()
            self._group = group
        cell = self._rows[image - int(self._ends[group])]
        encoded = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(encoded, bytes) or not encoded:
            raise DataError(f"{self.path}: row {image + 1} has no picture in column {self.column!r}")
        return encoded


@dataclass(frozen=True)
class ChosenPictures:
    """Some of other pictures, renumbered from 0."""

    pictures: Pictures
    images: Sequence[int]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, image: int) -> bytes:
        return self.pictures[self.images[image]]


def decoded(data: bytes, largest_side: int | None = None) -> Image.Image:
    """The picture upright, in RGB, on white where it is transparent; the first frame if it moves.

    Args:
        data: An encoded picture in any format that Pillow reads.
        largest_side: A hint, in pixels, that no more is needed; lets JPEG decode at a fraction of its size.

    Raises:
        DataError: If the bytes are broken, or the picture has so many pixels that it may be a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels on; here that is the limit, since one such picture takes 270 MB.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            stored = Image.open(io.BytesIO(data))
            if largest_side is not None:
                stored.draft("RGB", (largest_side, largest_side))
            picture = ImageOps.exif_transpose(stored)
            if picture.has_transparency_data:
                seen = picture.convert("RGBA")
                on_white = Image.new("RGBA", seen.size, "white")
                on_white.alpha_composite(seen)
                picture = on_white
            return picture.convert("RGB")
    except Exception as error:  # broken bytes lead decoders to raise nearly anything
        raise DataError(f"a picture of {len(data):,} bytes cannot be decoded ({error})") from error


def thumbnail(data: bytes, side: int) -> bytes:
    """A small copy as WebP, for reports: nothing of the file but its pixels remains (no EXIF, no position).

    Args:
        data: An encoded picture.
        side: The longer side of the copy in pixels; a smaller picture keeps its size.

    Raises:
        DataError: If the picture cannot be decoded or is far too large (see `decoded`).
    """
    picture = decoded(data, largest_side=2 * side)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=80)
    return written.getvalue()


def patches(data: bytes, grid: int = 6, pixels: int = 8) -> Float[np.ndarray, "patches values"]:
    """A picture as ``grid²`` patches, left to right, then top to bottom.

    The picture is squeezed to a square of ``grid · pixels`` a side. A patch lists its pixels in the same order, red,
    green and blue of each, scaled from 0 … 255 to -0.5 … 0.5.

    Returns:
        ``[grid², 3 · pixels²]``, float32.

    Raises:
        DataError: If the picture cannot be decoded.
    """
    side = grid * pixels
    square = decoded(data, largest_side=2 * side).resize((side, side), Image.Resampling.BILINEAR)
    values = np.asarray(square, dtype=np.float32) / 255.0 - 0.5
    tiles = values.reshape(grid, pixels, grid, pixels, 3).transpose(0, 2, 1, 3, 4)  # [row, column, y, x, colour]
    return tiles.reshape(grid * grid, pixels * pixels * 3)


@dataclass(frozen=True)
class Patched:
    """Patch features, and which pictures gave none.

    Attributes:
        features: One row a picture; zeros where the picture is unreadable.
        unreadable: Why, for each picture that could not be read.
    """

    features: Inputs
    unreadable: dict[int, str]


def patch_features(pictures: Pictures, *, grid: int = 6, pixels: int = 8, file: Path | None = None) -> Patched:
    """Raw pixels as region features, so that an encoder can be trained on pictures from scratch.

    This needs no pretrained network and learns little from a few thousand pictures: the frozen features of a network
    that was trained on millions are far better wherever they can be had.

    Args:
        pictures: The pictures, read one after another.
        grid: Patches along a side.
        pixels: Pixels along a patch's side.
        file: Where to write the features (``.npy``) if they are too many for memory; 14 KB a picture at the defaults.

    Returns:
        Features ``[images, grid², 3 · pixels²]``, stored as float16 (see `patches`), and the unreadable pictures.
    """
    shape = (len(pictures), grid * grid, 3 * pixels * pixels)
    on_disk = None if file is None else np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
    values = np.zeros(shape, dtype=np.float16) if on_disk is None else on_disk
    unreadable = {}
    for image in range(len(pictures)):
        try:
            values[image] = patches(pictures[image], grid, pixels)
        except DataError as error:
            unreadable[image] = str(error)
    if file is None:
        return Patched(Features(values), unreadable)
    del values, on_disk  # closes the mapped file, which writes it
    return Patched(FeatureFile(file), unreadable)
