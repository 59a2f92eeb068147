"""What a method sees: pair ids and the inputs of both sides, padded; never the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad


@dataclass  # not frozen: for mixed precision, Fabric fills copies of what a network is called with
class Padded:
    """Items of one modality: single vectors, or sequences padded to the longest of the batch.

    Used for inputs (region features, token ids, frozen vectors) and for what encoders make of them.

    Attributes:
        values: ``[items, dim]`` vectors when `lengths` is None, else ``[items, positions, dim]`` features or
            ``[items, positions]`` token ids. Positions past an item's length hold zeros.
        lengths: ``[items]``, valid positions per item, at least 1; None for single vectors.
        vectors: ``[items, dim]``, one frozen vector an item beside its sequence, of a caption that is read both as
            words and as a vector; else None.
        places: ``[items]``, the row of `values` that each item is, of pictures, which are decoded and encoded once
            however many pairs of a batch they are in: `values` are then ``[pictures, 3, height, width]``. Else None,
            and item k is row k.
    """

    values: Tensor
    lengths: Int[Tensor, " items"] | None = None
    vectors: Float[Tensor, "items dim"] | None = None
    places: Int[Tensor, " items"] | None = None

    def __len__(self) -> int:
        return len(self.values if self.places is None else self.places)

    @property
    def mask(self) -> Bool[Tensor, "items positions"]:
        """True at valid positions.

        Raises:
            ValueError: If the items are single vectors, which have no positions.
        """
        if self.lengths is None:
            raise ValueError(f"single vectors {tuple(self.values.shape)} have no positions to mask")
        positions = torch.arange(self.values.shape[1], device=self.values.device)
        return positions < self.lengths[:, None]

    def tensors(self) -> list[Tensor]:
        """All that the items are made of, in the order of the attributes."""
        return [part for part in (self.values, self.lengths, self.vectors, self.places) if part is not None]

    def to(self, device: torch.device) -> Padded:
        """The same items on `device`."""
        lengths = None if self.lengths is None else self.lengths.to(device, non_blocking=True)
        vectors = None if self.vectors is None else self.vectors.to(device, non_blocking=True)
        places = None if self.places is None else self.places.to(device, non_blocking=True)
        return Padded(self.values.to(device, non_blocking=True), lengths, vectors, places)

    def rows(self, chosen: slice | Int[Tensor, " chosen"]) -> Padded:
        """Some of the items, in the order asked for."""
        if self.places is not None:
            pictures, places = self.places[chosen].unique(return_inverse=True)
            return Padded(self.values[pictures], places=places)
        lengths = None if self.lengths is None else self.lengths[chosen]
        return Padded(self.values[chosen], lengths, None if self.vectors is None else self.vectors[chosen])


def joined(parts: Sequence[Padded]) -> Padded:
    """All items of `parts`, one part after the other, padded to the longest of all."""
    if parts[0].lengths is None:
        values_of_all, places, first = torch.cat([part.values for part in parts]), [], 0
        for part in parts:
            if part.places is not None:
                places.append(part.places + first)
            first += len(part.values)
        return Padded(values_of_all, places=torch.cat(places) if places else None)
    longest = max(part.values.shape[1] for part in parts)
    tail = [0, 0] * (parts[0].values.dim() - 2)
    values = [pad(part.values, [*tail, 0, longest - part.values.shape[1]]) for part in parts]
    vectors = [part.vectors for part in parts if part.vectors is not None]
    return Padded(
        torch.cat(values),
        torch.cat([part.lengths for part in parts if part.lengths is not None]),
        torch.cat(vectors) if vectors else None,
    )


@dataclass
class Batch:
    """Some training pairs: item k of `images` belongs, as far as anyone knows, to item k of `captions`.

    Attributes:
        pair: ``[pairs]``, the pairs' ids in 0 … N-1, for per-pair state.
        images: The images' inputs, one row a pair (an image that occurs in two pairs is repeated).
        captions: The captions' inputs, one row a pair.
        counts: How many of the pairs, one process after the other, each process has the `images` and `captions` of;
            None where all processes have those of all pairs.
        encode_at_once: Most items to encode at once; 0 is all.
        number: The place of the batch in its epoch, from 0.
        lost: Pairs that were to be in the batch and are not, as their picture could not be decoded: why, by pair.
    """

    pair: Int[Tensor, " pairs"]
    images: Padded
    captions: Padded
    counts: Sequence[int] | None = None
    encode_at_once: int = 0
    number: int = 0
    lost: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.pair.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        pair, images, captions = (
            self.pair.to(device, non_blocking=True),
            self.images.to(device),
            self.captions.to(device),
        )
        return replace(self, pair=pair, images=images, captions=captions)
