"""What makes pixels of a picture, as numbers that any tool can follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from truepair.errors import ConfigError
from truepair.pretrained.hub import load_image_processor
from truepair.pretrained.lite0 import NAME, SIDE
from truepair.pretrained.pictures import HubReader, picture_reader

_FILTERS = {
    Image.Resampling.BICUBIC: "bicubic",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.LANCZOS: "lanczos",
}
_LITE0 = {
    "side": SIDE,
    "crop_share": 224 / 256,
    "resize": "square",
    "resize_to": SIDE,
    "filter": "bicubic",
    "mean": [127 / 255] * 3,
    "std": [128 / 255] * 3,
}
RULE = (
    "Upright, as EXIF says; transparent parts white, or black where all that is visible is white; one channel of more "
    "than 8 bits scaled by its own range; RGB. If crop_share is not null, the middle square of so much of the shorter "
    "side is cut out. Then the picture is resized to a square of side resize_to, or so that its shorter side is "
    "resize_to; what is longer is cut to the middle square of side × side. Values in [0, 1] less mean, divided by "
    "std, as float32 [batch, 3, side, side]."
)


def preprocessing_of(name: str, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """How the image encoder of this name sees pictures: side, crop, resize rule, mean and standard deviation.

    Args:
        name: See `picture_reader`.
        pictures: Those by which the description is compared with the encoder's own reader.

    Raises:
        ConfigError: If the encoder's own reader does something else.
    """
    reader = picture_reader(name)
    how = _LITE0 if name == NAME else _of_processor(load_image_processor(name).to_dict(), reader)
    for picture in pictures:
        if how is None or np.abs(pixels_of(how, picture) - reader(picture)).max() > 1e-3:
            raise ConfigError(
                f"the image processor of {name!r} does more than resizing, cutting out the middle and scaling, so that "
                "no preprocessing.json can describe it: export with --to hf, which saves the processor itself"
            )
    return {"rule": RULE, **(how or {})}


def pixels_of(how: Mapping[str, Any], picture: Image.Image) -> Float32[np.ndarray, "3 side side"]:
    """The pixels of an RGB picture, by a description."""
    width, height = picture.size
    box, to = None, how["resize_to"]
    size = (to, to)
    if how["crop_share"] is not None:
        cut = how["crop_share"] * min(width, height)
        left, top = (width - cut) / 2, (height - cut) / 2
        box = (left, top, left + cut, top + cut)
    elif how["resize"] == "shorter_side":
        shorter = min(width, height)
        size = (int(to * width / shorter), int(to * height / shorter))
    resized = picture.resize(size, Image.Resampling[how["filter"].upper()], box=box)
    left, top = ((length - how["side"]) // 2 for length in resized.size)
    middle = resized.crop((left, top, left + how["side"], top + how["side"]))
    values = (np.asarray(middle, dtype=np.float32) / 255 - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _of_processor(options: Mapping[str, Any], reader: Any) -> dict[str, Any] | None:
    """What the options of an image processor of transformers say; None if they are of another kind."""
    squeezes = isinstance(reader, HubReader) and reader.patch is not None
    size = {"height": reader.side} if squeezes else options.get("size") or {}
    to, is_shorter = size.get("shortest_edge") or size.get("height"), "shortest_edge" in size
    kernel = Image.Resampling.BILINEAR if squeezes else options.get("resample")
    if to is None or kernel not in _FILTERS:
        return None
    scale = 255 * options.get("rescale_factor", 1 / 255)
    is_normed = options.get("do_normalize", True)
    return {
        "side": reader.side,
        "crop_share": None,
        "resize": "shorter_side" if is_shorter else "square",
        "resize_to": to,
        "filter": _FILTERS[Image.Resampling(kernel)],
        "mean": [mean / scale for mean in (options["image_mean"] if is_normed else [0, 0, 0])],
        "std": [deviation / scale for deviation in (options["image_std"] if is_normed else [1, 1, 1])],
    }
