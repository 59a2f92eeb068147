"""Similarity of global vectors by a learned function of the parts of their cosine."""

from __future__ import annotations

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from truepair.data.batch import Padded
from truepair.similarity.head import scored

_VECTOR_BYTES = 2**22
"""Where nothing is kept for a gradient, similarity vectors of one block of images take at most this much, so that a
core's cache holds them."""


class PartialCosine(nn.Module):
    """The cosine of two unit vectors in parts, scored in (0, 1) by a head.

    A cosine adds up the products of coordinates; here they are added up within blocks of neighbouring coordinates, and
    the head weighs the blocks. Each is multiplied by the number of blocks, so that their mean is the cosine.

    Args:
        size: Number of blocks; divides the width of the vectors. With as many as coordinates, a block is a product.
        head: ``[..., size]`` → log-odds ``[..., 1]``.
    """

    def __init__(self, size: int, head: nn.Module) -> None:
        super().__init__()
        self.size = size
        self.head = head

    def matrix(self, images: Padded, captions: Padded) -> Float[Tensor, "images captions"]:
        """Every image (rows) with every caption (columns), in (0, 1)."""
        affordable = len(images) or 1
        if not torch.is_grad_enabled():
            affordable = max(1, _VECTOR_BYTES // (4 * max(1, len(captions) * self.size)))
        return torch.cat(
            [scored(self.head, self.vectors(Padded(rows), captions)) for rows in images.values.split(affordable)]
        )

    def paired(self, images: Padded, captions: Padded) -> Float[Tensor, " pairs"]:
        """Image k with caption k only: the diagonal of `matrix`."""
        return scored(self.head, self.paired_vectors(images, captions))

    def vectors(self, images: Padded, captions: Padded) -> Float[Tensor, "images captions size"]:
        """The parts of the cosine that `matrix` scores."""
        parts: Tensor = torch.einsum("isw,csw->ics", self._blocks(images), self._blocks(captions))
        return parts * self.size

    def paired_vectors(self, images: Padded, captions: Padded) -> Float[Tensor, "pairs size"]:
        """The diagonal of `vectors`."""
        return (self._blocks(images) * self._blocks(captions)).sum(2) * self.size

    def _blocks(self, items: Padded) -> Float[Tensor, "items size width"]:
        count, width = items.values.shape
        return items.values.reshape(count, self.size, width // self.size)
