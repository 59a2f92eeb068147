"""What a frozen network that reads captions is, and how a shard of captions goes through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class TextEncoderDescription:
    """What a reader of the features must know of the encoder.

    Attributes:
        name: What `EmbedConfig.text_encoder` called it.
        size: Width of a feature vector.
        maximum_tokens: Longer captions are cut.
        pooling: How tokens become a vector.
    """

    name: str
    size: int
    maximum_tokens: int
    pooling: str


@dataclass(frozen=True)
class EncodedCaptions:
    """Features of captions.

    Attributes:
        features: ``[captions, dim]``.
        cut: How many captions were longer than the network reads.
    """

    features: Float32[np.ndarray, "captions dim"]
    cut: int


@runtime_checkable
class TextEncoder(Protocol):
    """What makes features of captions."""

    @property
    def description(self) -> TextEncoderDescription:
        """What it is."""
        ...

    def encode(self, captions: Sequence[str]) -> EncodedCaptions:
        """Features of a batch, at least one caption."""
        ...


def encode_by_length(encoder: TextEncoder, captions: Sequence[str], batch_size: int) -> EncodedCaptions:
    """Features of any number of captions in their order; those of similar length share a batch, so little is padded."""
    features = np.empty((len(captions), encoder.description.size), dtype=np.float32)
    order = sorted(range(len(captions)), key=lambda caption: len(captions[caption]))
    cut = 0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        encoded = encoder.encode([captions[row] for row in rows])
        features[rows] = encoded.features
        cut += encoded.cut
    return EncodedCaptions(features, cut)


def cut_captions(tokens: Any) -> int:
    """How many captions of a tokenizer's batch did not fit whole; 0 from tokenizers in Python, which do not say."""
    return sum(bool(encoding.overflowing) for encoding in tokens.encodings or ())
