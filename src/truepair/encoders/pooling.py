"""Generalised pooling: learned weights over each dimension's sorted values (Chen et al., CVPR 2021)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor

from truepair.data.batch import Padded
from truepair.encoders.recurrent import BidirectionalGru
from truepair.layers import full_precision, unit_length


def pool_sorted(items: Padded, weights: Float[Tensor, "items positions"]) -> Float[Tensor, "items dim"]:
    """``Σ_k w_k · x_(k)``: values sorted from large to small, each dimension for itself, then weighted.

    Weights 1/n give mean pooling; all weight on the first position gives maximum pooling.

    Args:
        items: Sequences ``[items, positions, dim]``; what stands past an item's length, if finite, takes no part.
        weights: One weight a rank; those past an item's length must be 0.

    Returns:
        One vector an item, in float32 (float64 for float64 input).
    """
    # Half precision would round the sums, and take the unit vectors that are made of them with it.
    values = full_precision(items.values)
    values = values.transpose(1, 2).contiguous()  # [items, dim, positions]: sorting along the middle takes longer
    order = _descending(values.detach(), items.mask[:, None, :])
    with torch.autocast(values.device.type, enabled=False):
        return torch.einsum("idp,ip->id", values.gather(2, order), weights.to(values.dtype))


def _descending(values: Float[Tensor, "items dim positions"], valid: Tensor) -> Int[Tensor, "items dim positions"]:
    """The order of the last dimension from large to small, what is not valid last."""
    keys = values.neg().masked_fill_(~valid, torch.inf)
    if keys.device.type != "cpu":
        return keys.argsort(dim=2)
    # NumPy's sort of short rows is vectorised; torch's takes three times as long.
    return torch.from_numpy(np.argsort(keys.numpy(), axis=2))


def position_codes(positions: int, size: int, device: torch.device | None = None) -> Float[Tensor, "positions size"]:
    """Sines in the even and cosines in the odd places, wave lengths from 2π to 10000·2π (Vaswani et al., 2017)."""
    rates = torch.exp(torch.arange(0, size, 2, device=device) * (-math.log(10_000.0) / size))
    angles = torch.arange(positions, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class GeneralisedPooling(nn.Module):
    """The weights of `pool_sorted`, from a small recurrent network that sees only how many positions there are.

    Position codes → bidirectional GRU → mean of the directions → linear score → softmax(score / temperature).

    Args:
        code_size: Width of position codes; 32 in the paper's code.
        hidden: Width of a GRU direction; 32.
        temperature: Of the softmax over positions; 0.1.
    """

    def __init__(self, code_size: int = 32, hidden: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.code_size = code_size
        self.temperature = temperature
        self.gru = BidirectionalGru(code_size, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def weights(self, lengths: Int[Tensor, " items"], positions: int) -> Float[Tensor, "items positions"]:
        """Pooling weights, at least 0, summing to 1 over an item's first `lengths` positions and 0 beyond."""
        # The weights are a function of the length alone: computed once for each length that occurs.
        distinct, which = lengths.unique(return_inverse=True)
        codes = position_codes(positions, self.code_size, lengths.device).expand(len(distinct), -1, -1)
        scores = full_precision(self.score(self.gru(Padded(codes.to(self.score.weight), distinct)).values).squeeze(-1))
        beyond = torch.arange(positions, device=lengths.device) >= distinct[:, None]
        weights: Tensor = (scores / self.temperature).masked_fill(beyond, -torch.inf).softmax(-1)
        return weights[which]

    def forward(self, items: Padded) -> Float[Tensor, "items dim"]:
        """Sequences ``[items, positions, dim]`` → one vector each."""
        assert items.lengths is not None  # only sequences are pooled
        return pool_sorted(items, self.weights(items.lengths, items.values.shape[1]))


class PooledEncoder(nn.Module):
    """An encoder of regions or words, pooled to one unit vector an item."""

    def __init__(self, encoder: nn.Module, pooling: GeneralisedPooling) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    @property
    def input_width(self) -> int:
        """See `Backbone.input_width`."""
        return int(self.encoder.input_width)  # type: ignore[arg-type]

    def inputs(self, items: Padded) -> Padded:
        """See `Backbone.inputs`."""
        return self.encoder.inputs(items)  # type: ignore[operator,no-any-return]

    def forward(self, items: Padded) -> Padded:
        """Inputs → ``[items, embedding]``, length 1."""
        return self.encoding(self.features(items))

    def features(self, items: Padded) -> Padded:
        """Inputs → pooled vectors ``[items, embedding]``."""
        return Padded(self.pooling(self.encoder(items)))

    def encoding(self, features: Padded) -> Padded:
        """Vectors of any length → of length 1."""
        return Padded(unit_length(features.values))
