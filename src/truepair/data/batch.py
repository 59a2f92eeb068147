"""What a method sees: pair ids and the inputs of both sides, padded; never the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """

    values: Tensor
    lengths: Int[Tensor, " items"] | None = None
    vectors: Float[Tensor, "items dim"] | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

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

    def to(self, device: torch.device) -> Padded:
        """The same items on `device`."""
        lengths = None if self.lengths is None else self.lengths.to(device, non_blocking=True)
        vectors = None if self.vectors is None else self.vectors.to(device, non_blocking=True)
        return Padded(self.values.to(device, non_blocking=True), lengths, vectors)

    def rows(self, chosen: slice | Int[Tensor, " chosen"]) -> Padded:
        """Some of the items, in the order asked for."""
        lengths = None if self.lengths is None else self.lengths[chosen]
        return Padded(self.values[chosen], lengths, None if self.vectors is None else self.vectors[chosen])


def joined(parts: Sequence[Padded]) -> Padded:
    """All items of `parts`, one part after the other, padded to the longest of all."""
    if parts[0].lengths is None:
        return Padded(torch.cat([part.values for part in parts]))
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
        share: Which of the pairs `images` and `captions` are of, where several processes have a share each; None where
            they are of all pairs.
        encode_at_once: Most items to encode at once; 0 is all.
    """

    pair: Int[Tensor, " pairs"]
    images: Padded
    captions: Padded
    share: slice | None = None
    encode_at_once: int = 0

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
