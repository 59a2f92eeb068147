"""Cosine similarity of unit vectors."""

from __future__ import annotations

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from truepair.data.batch import Padded


class CosineSimilarity(nn.Module):
    """The dot product of encodings that already have length 1; in [-1, 1]."""

    def matrix(self, images: Padded, captions: Padded) -> Float[Tensor, "images captions"]:
        """Every image (rows) with every caption (columns)."""
        return images.values @ captions.values.T

    def paired(self, images: Padded, captions: Padded) -> Float[Tensor, " pairs"]:
        """Image k with caption k only: the diagonal of `matrix`."""
        return torch.einsum("pd,pd->p", images.values, captions.values)
