"""SAF: similarity attention filtration (Diao et al., AAAI 2021)."""

from __future__ import annotations

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from truepair.layers import unit_length, xavier_linear


class AttentionFiltration(nn.Module):
    r"""The similarity vectors of an image and a caption, weighted by how much each of them says.

    .. math::
        \beta = \mathrm{l1norm}(\sigma(\mathrm{norm}(\mathrm{gate}(x)))), \qquad
        \mathrm{l2norm}\Big(\sum_l \beta_l x_l\Big)
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gate = xavier_linear(size, 1)
        self.norm = CaptionwiseBatchNorm()

    def forward(self, nodes: Float[Tensor, "images captions nodes size"]) -> Float[Tensor, "images captions size"]:
        """One unit vector a pair."""
        gates = self.gate(nodes).squeeze(3)
        weights = self.norm(gates.to(self.norm.weight.dtype)).sigmoid()  # statistics need more than half precision
        weights = weights / (weights.sum(2, keepdim=True) + 1e-8)
        return unit_length(torch.einsum("icn,icns->ics", weights, nodes))


class CaptionwiseBatchNorm(nn.Module):
    """Batch normalisation of one channel, whose batch is everything that one caption is compared with.

    That is what ``BatchNorm1d(1)`` becomes in the released code, where captions are processed one by one: in training,
    a caption's values over all images and nodes. Running statistics move by `momentum` a caption; there it is 0.1,
    which leaves them to the last dozen captions of a batch, here 0.001: the last eight batches of 128. They start as
    the plain mean of the captions seen so far.
    """

    running_mean: Tensor
    running_var: Tensor
    captions_seen: Tensor

    def __init__(self, momentum: float = 0.001) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("running_mean", torch.zeros(1))
        self.register_buffer("running_var", torch.ones(1))
        self.register_buffer("captions_seen", torch.zeros(1))

    def forward(self, values: Float[Tensor, "images captions nodes"]) -> Float[Tensor, "images captions nodes"]:
        """Values of captions that have the same number of nodes."""
        mean, variance = self.running_mean, self.running_var
        if self.training:
            variance, mean = torch.var_mean(values, dim=(0, 2), correction=0)
            with torch.no_grad():
                count, captions = values.shape[0] * values.shape[2], values.shape[1]
                self.captions_seen += captions
                moved = (captions / self.captions_seen).clamp(min=1 - (1 - self.momentum) ** captions)
                self.running_mean.lerp_(mean.mean(), moved)
                self.running_var.lerp_(variance.mean() * (count / max(1, count - 1)), moved)
        unit = (values - mean[:, None]) / (variance[:, None] + 1e-5).sqrt()
        return unit * self.weight + self.bias
