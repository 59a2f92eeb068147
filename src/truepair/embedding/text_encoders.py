"""What a frozen network that reads captions is, and how a shard of captions goes through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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
        weights: The sum of the bits of its weights (`sum_of_bits`), which others hardly have; None where it is not
            known.
    """

    name: str
    size: int
    maximum_tokens: int
    pooling: str
    weights: int | None = None


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


def batches_by_length(captions: Sequence[str], batch_size: int) -> list[list[int]]:
    """Captions by number; those of similar length share a batch, so little is padded."""
    order = sorted(range(len(captions)), key=lambda caption: len(captions[caption]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def encode_by_length(encoder: TextEncoder, captions: Sequence[str], batch_size: int) -> EncodedCaptions:
    """Features of any number of captions, in their order."""
    return encode_batches(encoder, captions, batches_by_length(captions, batch_size))


def encode_batches(encoder: TextEncoder, captions: Sequence[str], batches: Sequence[Sequence[int]]) -> EncodedCaptions:
    """Features of the captions that are in a batch, in the order of the captions."""
    place = {row: place for place, row in enumerate(sorted(row for batch in batches for row in batch))}
    features = np.empty((len(place), encoder.description.size), dtype=np.float32)
    cut = 0
    for batch in batches:
        encoded = encoder.encode([captions[row] for row in batch])
        features[[place[row] for row in batch]] = encoded.features
        cut += encoded.cut
    return EncodedCaptions(features, cut)
