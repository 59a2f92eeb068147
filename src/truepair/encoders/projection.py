"""From features of any width to the joint space: a linear map plus a small network beside it."""

from __future__ import annotations

import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from truepair.data.batch import Padded
from truepair.layers import unit_length, xavier_linear


class ResidualProjection(nn.Module):
    """``FC(x) + MLP(x)``, the image projection of VSE∞ (Chen et al., CVPR 2021) as CRCL's released code has it.

    FC is a `xavier_linear`; the network is Linear → BatchNorm → ReLU → Linear with
    PyTorch's own initialisation. Batch statistics run over all rows, whatever the leading dimensions.
    """

    def __init__(self, features: int, embedding: int) -> None:
        super().__init__()
        self.linear = xavier_linear(features, embedding)
        hidden = max(embedding // 2, 1)
        self.network = nn.Sequential(
            nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, embedding)
        )

    def forward(self, features: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows embedding"]:
        """Project the last dimension."""
        rows = features.flatten(0, -2)
        projected: Tensor = self.linear(rows) + self.network(rows)
        unflattened: Tensor = projected.unflatten(0, features.shape[:-1])
        return unflattened


class VectorEncoder(nn.Module):
    """Frozen global vectors, one an item → unit vectors of the joint space."""

    def __init__(self, features: int, embedding: int, input_dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(input_dropout)
        self.projection = ResidualProjection(features, embedding)

    def forward(self, items: Padded) -> Padded:
        """Vectors ``[items, features]`` → ``[items, embedding]``, length 1."""
        return self.encoding(self.features(items))

    def features(self, items: Padded) -> Padded:
        """Vectors ``[items, features]`` → ``[items, embedding]``."""
        return Padded(self.projection(self.dropout(items.values)))

    def encoding(self, features: Padded) -> Padded:
        """Vectors of any length → of length 1."""
        return Padded(unit_length(features.values))


class UnitVectors(nn.Module):
    """Frozen global vectors of a space that both sides share already → unit vectors; nothing is learned."""

    def forward(self, items: Padded) -> Padded:
        """Vectors ``[items, features]``, made of length 1."""
        return Padded(unit_length(items.values))
