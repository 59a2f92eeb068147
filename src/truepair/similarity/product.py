"""Similarity of global vectors by a learned function of their coordinates."""

from __future__ import annotations

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from truepair.data.batch import Padded
from truepair.similarity.head import scored

_VECTOR_BYTES = 2**26
"""Where nothing is kept for a gradient, similarity vectors of one block of images take at most this much."""


class ProductSimilarity(nn.Module):
    """The products of the coordinates of two unit vectors, scored in (0, 1) by a head.

    A cosine adds the products up; here the head weighs them. They are multiplied by √width, so that a coordinate
    is of the size that it would have in a unit vector: what SAF and SGR give to their heads.

    Args:
        head: ``[..., width]`` → log-odds ``[..., 1]``.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def matrix(self, images: Padded, captions: Padded) -> Float[Tensor, "images captions"]:
        """Every image (rows) with every caption (columns), in (0, 1)."""
        affordable = len(images) or 1
        if not torch.is_grad_enabled():
            affordable = max(1, _VECTOR_BYTES // (4 * max(1, captions.values.numel())))
        return torch.cat(
            [scored(self.head, self.vectors(Padded(rows), captions)) for rows in images.values.split(affordable)]
        )

    def paired(self, images: Padded, captions: Padded) -> Float[Tensor, " pairs"]:
        """Image k with caption k only: the diagonal of `matrix`."""
        return scored(self.head, self.paired_vectors(images, captions))

    def vectors(self, images: Padded, captions: Padded) -> Float[Tensor, "images captions width"]:
        """The products that `matrix` scores."""
        return images.values[:, None] * captions.values * images.values.shape[1]

    def paired_vectors(self, images: Padded, captions: Padded) -> Float[Tensor, "pairs width"]:
        """The diagonal of `vectors`."""
        return images.values * captions.values * images.values.shape[1]
