"""From features of any width to the joint space: a linear map plus a small network beside it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from truepair.data.batch import Padded
from truepair.errors import ConfigError
from truepair.layers import unit_length, xavier_linear

Projection: TypeAlias = Literal["batch_norm", "plain", "identity"]
"""What ``model.projection`` may be."""
Scaling: TypeAlias = Literal["none", "length", "root"]
"""What ``model.feature_scaling`` may be, once "auto" is decided."""


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


class PlainProjection(nn.Module):
    """``FC(x) + MLP(x)`` without normalisation: Linear → ReLU → Linear beside a linear map, as wide as the joint space.

    PyTorch's own initialisation throughout. For frozen vectors, whose distribution training does not change, batch
    statistics are noise: benchmarks/RESULTS.md has what each choice costs.
    """

    def __init__(self, features: int, embedding: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, embedding)
        self.network = nn.Sequential(
            nn.Linear(features, embedding), nn.ReLU(inplace=True), nn.Linear(embedding, embedding)
        )

    def forward(self, features: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows embedding"]:
        """Project the last dimension."""
        projected: Tensor = self.linear(features) + self.network(features)
        return projected

    @torch.no_grad()
    def begin_as_identity(self) -> None:
        """Weights by which every vector, as wide as the joint space, is projected to itself."""
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.eye_(self.linear.weight)
        for rest in (self.linear.bias, last.weight, last.bias):
            nn.init.zeros_(rest)


def projection(kind: Projection, features: int, embedding: int) -> nn.Module:
    """The map that ``model.projection`` names.

    Raises:
        ConfigError: If it is to begin as the identity, but the joint space has another width than the features.
    """
    if kind == "batch_norm":
        return ResidualProjection(features, embedding)
    plain = PlainProjection(features, embedding)
    if kind == "identity":
        if features != embedding:
            raise ConfigError(
                f"model.projection is 'identity', which keeps the width of vectors: they have {features} values, but "
                f"model.embedding is {embedding}; make it {features}, or use 'plain'"
            )
        plain.begin_as_identity()
    return plain


class FeatureScaling(nn.Module):
    r"""What frozen features become before a network reads them.

    .. math::
        x \to r \sqrt d \, \frac{z}{\lVert z \rVert}, \quad z_i = x_i
        \quad\text{or}\quad z_i = \operatorname{sign}(x_i) \sqrt{|x_i|}

    so that features of any encoder come in one range, and, with the root, a few large values do not decide alone
    (Perronnin, Sánchez & Mensink, ECCV 2010). Vectors of zeros stay zero.

    Args:
        kind: "none", "length" or "root" (``model.feature_scaling``).
        size: r, the root mean square of a scaled vector.
    """

    def __init__(self, kind: Scaling, size: float = 0.5) -> None:
        super().__init__()
        self.kind = kind
        self.size = size

    def forward(self, features: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows features"]:
        """Scale along the last dimension."""
        if self.kind == "none":
            return features
        values = features.sign() * features.abs().sqrt() if self.kind == "root" else features
        scaled: Tensor = unit_length(values) * (self.size * features.shape[-1] ** 0.5)
        return scaled


class VectorEncoder(nn.Module):
    """Frozen global vectors, one an item → unit vectors of the joint space.

    Args:
        features: Width of a vector.
        embedding: Width of the joint space.
        input_dropout: Probability that an input value is zeroed, in training mode.
        kind: ``model.projection``.
        scaling: ``model.feature_scaling``.
        size: The root mean square of a scaled vector.
    """

    def __init__(
        self,
        features: int,
        embedding: int,
        input_dropout: float = 0.0,
        kind: Projection = "batch_norm",
        scaling: Scaling = "none",
        size: float = 0.5,
    ) -> None:
        super().__init__()
        self.input_width = features
        self.scaling = FeatureScaling(scaling, size)
        self.dropout = nn.Dropout(input_dropout)
        self.projection = projection(kind, features, embedding)

    def inputs(self, items: Padded) -> Padded:
        """The vectors, scaled."""
        return Padded(self.scaling(items.values))

    def forward(self, items: Padded) -> Padded:
        """Vectors ``[items, features]`` → ``[items, embedding]``, length 1."""
        return self.encoding(self.features(items))

    def features(self, items: Padded) -> Padded:
        """Vectors ``[items, features]`` → ``[items, embedding]``."""
        return Padded(self.projection(self.dropout(self.scaling(items.values))))

    def encoding(self, features: Padded) -> Padded:
        """Vectors of any length → of length 1."""
        return Padded(unit_length(features.values))
