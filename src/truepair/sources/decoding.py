"""Encoded pictures as pixels: upright, in RGB, as a browser shows them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from truepair.config.source import SourceConfig
from truepair.errors import said_by
from truepair.sources.picture_files import UnreadablePictureError

MOST_PIXELS = SourceConfig.largest_pixels
"""Pixels above which a picture is left out as huge, if nothing else is asked for; cameras reach 200 million."""
FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF"),
    *("ICO", "JPEG2000", "PPM", "TGA"),
)
"""What Pillow may take a file for; others are not opened, EPS for instance, for which it starts Ghostscript."""

UNREADABLE = "unreadable picture"
HUGE = "huge picture"
TOO_MUCH = "not enough memory for the picture"

_LARGE = 50_000_000
"""Pixels above which a picture is made smaller before anything else is done with it, if a smaller one is enough."""
_BYTES_A_PIXEL, _BYTES_A_DEEP_PIXEL = 17, 29
"""What decoding takes of memory at most, as measured; of pictures that are made smaller first it is half of that."""

_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes of one channel with more than 8 bits."""
_UNEVEN = 8
"""Values of a colour that a plain surface spans at most, of 255."""
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_OPENING = Lock()


def decoded(data: bytes, largest_side: int | None = None, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The picture upright, in RGB; the first frame if it moves.

    Transparent parts are white, or black where all that is visible is white. One channel of more than 8 bits (16-bit
    grey, integers, floating point) is scaled by its own range.

    Args:
        data: An encoded picture in one of `FORMATS`; HEIC if pillow-heif is installed.
        largest_side: A hint, in pixels, that no more is needed (`decoded_side`); lets JPEG decode at a fraction of its
            size, and makes other pictures of more than 50 million pixels smaller.
        most_pixels: Width × height above which a picture is not decoded.

    Raises:
        UnreadablePictureError: If the bytes are broken or of no known format, the picture is huge, or memory ends.
    """
    try:
        stored = opened_picture(data)
        width, height = stored.size
        if width * height > most_pixels:
            raise UnreadablePictureError(
                HUGE, f"{width:,} × {height:,} pixels are more than {most_pixels:,} (--largest-pixels)"
            )
        if largest_side is not None:
            stored.draft("RGB", (largest_side, largest_side))
        ImageOps.exif_transpose(stored, in_place=True)
        picture = _shrunk(stored, largest_side)
        if picture.mode in _DEEP_MODES:
            picture = _scaled(picture)
        elif picture.mode == "LAB":
            to_rgb = ImageCms.buildTransform(
                ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
            )
            picture = ImageCms.applyTransform(picture, to_rgb) or picture
        elif picture.has_transparency_data:
            picture = _opaque(picture.convert("RGBA"))
        return picture.convert("RGB")
    except UnreadablePictureError:
        raise
    except MemoryError as error:
        raise UnreadablePictureError(TOO_MUCH, f"{len(data):,} bytes of picture ({said_by(error)})") from error
    except Exception as error:  # broken bytes lead decoders to raise nearly anything
        raise UnreadablePictureError(
            UNREADABLE, f"{len(data):,} bytes cannot be decoded ({_why(data, error)})"
        ) from error


def decoded_side(side: int) -> int:
    """`largest_side` of a picture that will be made `side` pixels wide: twice that, so that pixels are averaged."""
    return 2 * side


def thumbnail(data: bytes, side: int) -> bytes:
    """A small copy as WebP, for reports: nothing of the file but its pixels remains (no EXIF, no position).

    Args:
        data: An encoded picture.
        side: The longer side of the copy in pixels; a smaller picture keeps its size.

    Raises:
        UnreadablePictureError: If the picture cannot be decoded or is huge (see `decoded`).
    """
    picture = decoded(data, decoded_side(side))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=80)
    return written.getvalue()


class DecodingMemory:
    """Keeps several threads from decoding more at once than memory should hold.

    Args:
        most: Bytes that pictures take together, by an estimate from their headers. One that needs more is decoded
            when no other is.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken = 0
        self._changed = Condition()

    @contextmanager
    def of(self, data: bytes, largest_side: int | None = None) -> Iterator[None]:
        """Wait until there is room for a picture, which is taken until the block ends.

        Args:
            data: See `decoded`.
            largest_side: See `decoded`.
        """
        needed = min(_needed(data, largest_side), self.most)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + needed <= self.most)
            self._taken += needed
        try:
            yield
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()


def _needed(data: bytes, largest_side: int | None) -> int:
    """Bytes that decoding a picture takes, about."""
    try:
        stored = opened_picture(data)
        if largest_side is not None:
            stored.draft("RGB", (largest_side, largest_side))
    except Exception:  # broken bytes: decoding them says so
        return 0
    pixel = _BYTES_A_DEEP_PIXEL if stored.mode in _DEEP_MODES else _BYTES_A_PIXEL
    return pixel * stored.width * stored.height


def _shrunk(stored: Image.Image, largest_side: int | None) -> Image.Image:
    """A large picture at a whole fraction of its size, of which both sides are at least as long as needed."""
    factor = 1 if largest_side is None else min(stored.size) // largest_side
    if stored.width * stored.height <= _LARGE or factor < 2:
        return stored
    if stored.mode in _DEEP_MODES:
        return stored.resize((-(-stored.width // factor), -(-stored.height // factor)), Image.Resampling.NEAREST)
    return (stored.convert("RGBA") if stored.mode in ("1", "P", "PA") else stored).reduce(factor)


def opened_picture(data: bytes) -> Image.Image:
    """The picture's header. Pillow's own limit on pixels, which is one for the whole process, is off meanwhile."""
    if _is_heif(data):
        _register_heif()
    with _OPENING:
        usual = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(io.BytesIO(data), formats=known_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def known_formats() -> list[str]:
    """Those of `FORMATS` that Pillow, as it is installed, can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _scaled(picture: Image.Image) -> Image.Image:
    """One channel of any depth as 8 bits, its smallest value black and its largest white."""
    values = np.asarray(picture, dtype=np.float64)
    is_number = np.isfinite(values)
    low = values[is_number].min(initial=np.inf)
    span = values[is_number].max(initial=-np.inf) - low
    grey = (np.where(is_number, values, low) - low) * (255 / span) if span > 0 else np.zeros_like(values)
    return Image.fromarray(grey.round().astype(np.uint8))


def _opaque(seen: Image.Image) -> Image.Image:
    """A picture in RGBA on white, or on black where white would hide all there is."""
    on_white = _on(seen, "white")
    is_plain = all(high - low <= _UNEVEN for low, high in on_white.convert("RGB").getextrema())  # type: ignore[misc]
    has_something = seen.getchannel("A").getextrema()[1] > _UNEVEN  # type: ignore[operator]
    return _on(seen, "black") if is_plain and has_something else on_white


def _on(seen: Image.Image, colour: str) -> Image.Image:
    ground = Image.new("RGBA", seen.size, colour)
    ground.alpha_composite(seen)
    return ground


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return  # Pillow then says that it does not know the format
    register_heif_opener()


def _why(data: bytes, error: Exception) -> str:
    """What is wrong, in words that do not change from run to run."""
    if _is_heif(data):
        return "HEIC is read with pillow-heif: pip install 'truepair[heic]'"
    if data[:1024].lstrip().startswith((b"<svg", b"<?xml")) and b"<svg" in data[:4096]:
        return "vector graphics, SVG, are not read"
    if isinstance(error, UnidentifiedImageError):
        return "no known picture format"
    return str(error) or type(error).__name__
