"""Encoders that a caller brings: any object with ``encode_images`` and ``encode_texts``, under a name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from truepair.embedding.image_encoders import ImageEncoderDescription
from truepair.embedding.text_encoders import EncodedCaptions, TextEncoderDescription
from truepair.errors import ConfigError

_SIDE = 512
"""Pictures are handed over with at least twice as many pixels a side, or as large as they are."""


@runtime_checkable
class OwnEncoder(Protocol):
    """What `register_encoder` takes: both sides of one space, each item one row, in order."""

    def encode_images(self, images: list[Image.Image]) -> Float32[np.ndarray, "images dim"]:
        """Vectors of RGB pictures of any size."""
        ...

    def encode_texts(self, texts: list[str]) -> Float32[np.ndarray, "texts dim"]:
        """Vectors of captions."""
        ...


_ENCODERS: dict[str, OwnEncoder] = {}


def register_encoder(name: str, encoder: object) -> None:
    """Let ``EmbedConfig(image_encoder=name, text_encoder=name)`` mean this object, in this process.

    Feature stores remember the name: another encoder needs another one.

    Args:
        name: Not a path, nor the name of an encoder that truepair knows.
        encoder: An object with ``encode_images(list of PIL images) -> [n, dim]`` and ``encode_texts(list of str) ->
            [n, dim]``, arrays or tensors on the CPU.

    Raises:
        ConfigError: If it lacks one of them, or makes vectors of two widths.
    """
    if not isinstance(encoder, OwnEncoder):
        raise ConfigError(f"encoder {name!r} is a {type(encoder).__name__} without encode_images and encode_texts")
    image = _rows(encoder.encode_images([Image.new("RGB", (64, 64), "grey")]), 1, name, "encode_images")
    text = _rows(encoder.encode_texts(["a photo"]), 1, name, "encode_texts")
    if image.shape != text.shape:
        raise ConfigError(
            f"encoder {name!r} makes vectors of width {image.shape[1]} of images and {text.shape[1]} of texts, but "
            "both are compared: make them of one width"
        )
    _ENCODERS[name] = encoder


def registered(name: str) -> OwnEncoder | None:
    """The object of this name; None if there is none."""
    return _ENCODERS.get(name)


class OwnImageEncoder:
    """Pictures by a caller's object; an `ImageEncoder`."""

    def __init__(self, name: str, encoder: OwnEncoder) -> None:
        self._encoder = encoder
        self.description = ImageEncoderDescription(
            name=name,
            size=_rows(encoder.encode_images([Image.new("RGB", (64, 64))]), 1, name, "encode_images").shape[1],
            grid=None,
            side=_SIDE,
            preprocessing="the encoder's own",
            runtime=type(encoder).__name__,
            shared_space=True,
        )

    def preprocess(self, picture: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """See `ImageEncoder.preprocess`: the picture as it is."""
        return np.asarray(picture)

    def encode(self, batch: Iterable[np.ndarray]) -> Float32[np.ndarray, "images dim"]:
        """See `ImageEncoder.encode`."""
        pictures = [Image.fromarray(picture) for picture in batch]
        return _rows(self._encoder.encode_images(pictures), len(pictures), self.description.name, "encode_images")


class OwnTextEncoder:
    """Captions by a caller's object; a `TextEncoder`."""

    def __init__(self, name: str, encoder: OwnEncoder) -> None:
        self._encoder = encoder
        self.description = TextEncoderDescription(
            name=name,
            size=_rows(encoder.encode_texts(["a"]), 1, name, "encode_texts").shape[1],
            maximum_tokens=0,
            pooling="the encoder's own",
        )

    def encode(self, captions: Sequence[str]) -> EncodedCaptions:
        """See `TextEncoder.encode`; how many captions were cut is not known."""
        vectors = self._encoder.encode_texts(list(captions))
        return EncodedCaptions(_rows(vectors, len(captions), self.description.name, "encode_texts"), 0)


def _rows(vectors: object, count: int, name: str, method: str) -> Float32[np.ndarray, "rows dim"]:
    """What a caller's object gave, as it must be.

    Raises:
        ConfigError: If it is something else.
    """
    array = np.asarray(vectors, dtype=np.float32)
    if array.ndim != 2 or len(array) != count:
        raise ConfigError(
            f"{method} of encoder {name!r} gave shape {array.shape} for {count} items, but it is [n, dim]"
        )
    return array
