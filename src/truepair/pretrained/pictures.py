"""What a pretrained network reads of a picture: one array of pixels, of the same shape for every picture."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from PIL import Image

from truepair.errors import ConfigError
from truepair.pretrained import lite0
from truepair.pretrained.hub import has_both_sides, load_image_processor, model_type, refusing

_LONGEST = 32
"""Longer than so many times its width, a picture is cut to its middle before a processor resizes it."""


@runtime_checkable
class PictureReader(Protocol):
    """From a picture to the pixels that a network reads; several threads may call it at once."""

    @property
    def side(self) -> int:
        """Pixels along the side of the square."""
        ...

    @property
    def preprocessing(self) -> str:
        """How a picture becomes that square, in words."""
        ...

    def __call__(self, picture: Image.Image) -> Float32[np.ndarray, "3 side side"]:
        """The pixels of an RGB picture of any size."""
        ...


class Lite0Reader:
    """For EfficientNet-Lite0."""

    side = lite0.SIDE
    preprocessing = f"middle square of 7/8 of the shorter side, bicubic to {side} × {side}, (x - 127) / 128"

    def __call__(self, picture: Image.Image) -> Float32[np.ndarray, "3 side side"]:
        """See `PictureReader`."""
        return lite0.middle_of(picture)


class HubReader:
    """For a network of transformers, by its own image processor.

    Where that makes patches of a picture and keeps its proportions (NaFlex, of SigLIP 2), the picture is squeezed to a
    square first, so that all pictures have the same patches; ``patch`` is then the side of a patch, otherwise None.
    """

    def __init__(self, name: str) -> None:
        """Load it.

        Args:
            name: A folder, or a name on the hub.

        Raises:
            ConfigError: If it cannot be loaded, or makes arrays of different shapes of different pictures.
        """
        self._processor = load_image_processor(name)
        self.patch: int | None = None
        self.preprocessing = f"{type(self._processor).__name__} of the network"
        with refusing("image", name):
            made = self._processed(Image.new("RGB", (64, 64)))
        if "spatial_shapes" in made:
            self.patch = self._processor.patch_size
            self.side = self.patch * int(self._processor.max_num_patches**0.5)
            self.preprocessing = f"squeezed to {self.side} × {self.side}, {self.preprocessing}"
            return
        shapes = {made["pixel_values"].shape[1:], self._processed(Image.new("RGB", (96, 64)))["pixel_values"].shape[1:]}
        shape = min(shapes)
        if len(shapes) > 1 or len(shape) != 3 or shape[1] != shape[2]:
            raise ConfigError(
                f"the image processor of {name!r} makes arrays of shape {' and '.join(map(str, sorted(shapes)))} of "
                "two pictures, but all pictures must become squares of one size: choose another encoder"
            )
        self.side = shape[1]

    def __call__(self, picture: Image.Image) -> Float32[np.ndarray, "3 side side"]:
        """See `PictureReader`."""
        if self.patch is None:
            values = self._processed(_middle(picture))["pixel_values"][0]
        else:
            square = picture.resize((self.side, self.side), Image.Resampling.BILINEAR)
            rows = self.side // self.patch
            patches = self._processed(square)["pixel_values"][0]  # [rows², patch · patch · 3]
            tiles = patches.reshape(rows, rows, self.patch, self.patch, 3).transpose(4, 0, 2, 1, 3)
            values = tiles.reshape(3, self.side, self.side)
        return np.ascontiguousarray(values, dtype=np.float32)

    def _processed(self, picture: Image.Image) -> Any:
        return self._processor(picture, return_tensors="np", input_data_format="channels_last")


def _middle(picture: Image.Image) -> Image.Image:
    """The middle of a picture that is much longer than wide: all that processors keep that resize the shorter side.

    Resized as a whole, 60,000 × 2 pixels would need gigabytes.
    """
    width, height = picture.size
    most = _LONGEST * min(width, height)
    if max(width, height) <= most:
        return picture
    left, top = (max(0, length - most) // 2 for length in (width, height))
    return picture.crop((left, top, left + min(width, most), top + min(height, most)))


def picture_reader(name: str) -> PictureReader:
    """What makes pixels for the image encoder of this name.

    Args:
        name: "efficientnet-lite0", a folder, or a name on the hub.

    Raises:
        ConfigError: If there is no such encoder, it has no image side, or a package is missing.
    """
    if name == lite0.NAME:
        return Lite0Reader()
    check_image_side(name)
    return HubReader(name)


def check_image_side(name: str) -> None:
    """Refuse a network of transformers that does not make vectors of pictures.

    Raises:
        ConfigError: If it is one, or cannot be loaded.
    """
    if not has_both_sides(name):
        raise ConfigError(
            f"image encoder {name!r} is of type {model_type(name)!r}, which has no get_image_features beside "
            f"get_text_features as CLIP and SigLIP have: name such a network, or {lite0.NAME!r}"
        )
