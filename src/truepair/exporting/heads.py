"""A head as dense layers, which every tool has: a linear map each, with a ReLU behind it or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from truepair.encoders.codes import GaussianHead, SharedEncoder
from truepair.encoders.projection import PlainProjection, ResidualProjection, Scaling, VectorEncoder


@dataclass(frozen=True, eq=False)
class Layer:
    """``weight · x + bias``, and a ReLU if `is_relu`.

    Attributes:
        weight: ``[outputs, inputs]``.
        bias: ``[outputs]``.
        is_relu: Whether negative values become 0.
    """

    weight: Float[Tensor, "outputs inputs"]
    bias: Float[Tensor, " outputs"]
    is_relu: bool


@dataclass(frozen=True, eq=False)
class Head:
    """A vector of a pretrained network → a vector of the joint space, once that is divided by its length.

    Attributes:
        scaling: What is done with the vector first: nothing ("none"), it is divided by its length ("length"), or each
            value becomes the root of its size with its sign, and then it is divided by its length ("root").
        layers: In their order.
    """

    scaling: Scaling
    layers: tuple[Layer, ...]


@torch.no_grad()
def dense_head(encoder: nn.Module) -> Head:
    """The same function as an encoder of vectors, or one with shared codes behind it, in evaluation mode."""
    vectors = cast(VectorEncoder, encoder.backbone if isinstance(encoder, SharedEncoder) else encoder)
    scaling, projection = vectors.scaling, cast(ResidualProjection | PlainProjection, vectors.projection)
    layers_of_network: list[Any] = [*projection.network]
    straight, (first, *between, last) = projection.linear, layers_of_network
    if isinstance(projection, ResidualProjection):
        first = fuse_linear_bn_eval(first, between[0])
    factor = 1.0 if scaling.kind == "none" else scaling.size * straight.in_features**0.5
    layers: tuple[Layer, ...] = _beside(first, last.weight, last.bias, factor, straight.weight, straight.bias)
    if isinstance(encoder, SharedEncoder):
        layers += _of_codes(encoder.head)
    return Head(scaling.kind, layers)


def _of_codes(head: GaussianHead) -> tuple[Layer, ...]:
    """The means of codes."""
    factor = float((head.mean_square + 1e-12).rsqrt())
    layers_of_network: list[Any] = [*head.network]
    hidden, _, last = layers_of_network
    straight = hidden.weight.new_zeros(0, 0)
    if head.kept is not None:
        straight = head.kept.weight if isinstance(head.kept, nn.Linear) else torch.eye(head.size)
    return _beside(hidden, last.weight[: head.size], last.bias[: head.size], factor, straight)


def _beside(
    hidden: nn.Linear,
    last: Float[Tensor, "outputs hidden"],
    last_bias: Float[Tensor, " outputs"],
    factor: float,
    straight: Tensor,
    straight_bias: Tensor | None = None,
) -> tuple[Layer, Layer]:
    """``last · relu(hidden · f x) + straight · f x`` as two layers: any value v is ``relu(v) - relu(-v)``.

    Args:
        hidden: The hidden layer.
        last: Weights of the layer behind it.
        last_bias: Its bias.
        factor: f, of what comes in.
        straight: ``[outputs, inputs]``, the map beside the hidden layer; without rows if there is none.
        straight_bias: Its bias, if there is one.
    """
    if not len(straight):
        return Layer(hidden.weight * factor, hidden.bias, True), Layer(last, last_bias, False)
    bias = last_bias.new_zeros(len(straight)) if straight_bias is None else straight_bias
    one = torch.eye(len(straight))
    return (
        Layer(torch.cat([hidden.weight, straight, -straight]) * factor, torch.cat([hidden.bias, bias, -bias]), True),
        Layer(torch.cat([last, one, -one], 1), last_bias, False),
    )
