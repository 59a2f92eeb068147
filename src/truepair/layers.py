"""What encoders and similarities are both made of."""

from typing import TypeAlias

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal


def unit_length(vectors: Float[Tensor, "*items dim"]) -> Float[Tensor, "*items dim"]:
    """The vectors divided by their Euclidean length, the way every backbone of this field writes it.

    ``x / (‖x‖₂ + 1e-8)``: the constant protects all-zero vectors, which stay zero; it costs others one part in 10⁸.

    Args:
        vectors: ``[..., dim]``.

    Returns:
        The same shape; lengths 1 (or 0).
    """
    unit: Tensor = vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-8)
    return unit


def full_precision(values: Tensor) -> Tensor:
    """The values in float32, or float64 where they are that: what autocast made of them is too coarse for some steps.

    >>> full_precision(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


Code: TypeAlias = Independent[Normal]
"""Stochastic codes: one Gaussian an item, with independent coordinates."""


def gaussian(mean: Float[Tensor, "*items size"], deviation: Float[Tensor, "*items size"]) -> Code:
    """Codes of these means and standard deviations."""
    return Independent(Normal(mean, deviation, validate_args=False), 1, validate_args=False)


def xavier_linear(features: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear map with weights from ``U(-r, r), r = √6/√(in + out)`` and bias 0."""
    linear = nn.Linear(features, outputs, bias=bias)
    nn.init.xavier_uniform_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
