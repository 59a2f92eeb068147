r"""Information in and between codes: what DisNCL minimises and maximises (Dang et al., https://arxiv.org/abs/2408.05503).

A code is a Gaussian with independent coordinates for each item of a batch. Of each modality there are two: the shared
code s, which shall hold what image and caption have in common, and the exclusive code x, which shall hold the rest. The
paper's text was not available; docs/papers.md says what is known of it and what is inferred.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import layer_norm, softplus

from truepair.layers import Code, gaussian, unit_length, xavier_linear

_EPSILON = 1e-5
"""Added to a coordinate's variance over the batch before it is divided by."""
_DIRECTIONS = 16
"""Of a shared code that are looked at in one batch."""


def symmetric_divergence(one: Code, other: Code) -> Float[Tensor, " items"]:
    r"""Half the sum of both Kullback-Leibler divergences of each item's two codes, in nats.

    .. math::
        \tfrac12 \big[ KL(q(s_v|V) \,\|\, q(s_t|T)) + KL(q(s_t|T) \,\|\, q(s_v|V)) \big] \ge 0

    An upper bound on what a shared code holds of its own modality only, as in the multi-view information bottleneck
    (Federici et al., ICLR 2020): a code that is as likely from the caption as from the image holds nothing of the image
    alone. 0 for equal codes.
    """
    divergence: Tensor = (kl_divergence(one, other) + kl_divergence(other, one)) / 2
    return divergence


def divergence_from_prior(code: Code) -> Float[Tensor, " items"]:
    """KL(q ‖ N(0, I)) of each item's code, in nats: an upper bound, in the mean, on what the code holds at all."""
    zero = torch.zeros_like(code.mean)
    divergence: Tensor = kl_divergence(code, gaussian(zero, zero + 1))
    return divergence


def reconstruction_error(
    made: Float[Tensor, "items features"], features: Float[Tensor, "items features"]
) -> Float[Tensor, " items"]:
    """Mean squared distance to the features, layer-normalised and detached.

    Detached, because features that both sides can move would collapse: a constant is easy to reconstruct. 1 for a
    decoder that gives 0.
    """
    target = layer_norm(features.detach(), features.shape[-1:])
    return (made - target).square().mean(-1)


def derangement(items: int, device: torch.device | None = None) -> Int[Tensor, " items"]:
    """A random order of `items` items in which none keeps its place, from torch's global generator: one random cycle.

    Raises:
        ValueError: If there are fewer than 2: a single item has no other place.
    """
    if items < 2:
        raise ValueError(f"{items} item cannot change places with another: at least 2 are needed")
    return along(torch.randperm(items, device=device))


def along(cycle: Int[Tensor, " items"]) -> Int[Tensor, " items"]:
    """The order in which every item gives way to the one before it in a cycle through all of them.

    >>> along(torch.tensor([2, 0, 1])).tolist()
    [2, 0, 1]
    """
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order


class DensityRatioCritic(nn.Module):
    """Tells the two codes of one item from those of two items; its optimum is log p(s, x) / (p(s) p(x)).

    Both codes → one linear map each, summed → LeakyReLU 0.2 → hidden layers → logit. Coordinates are standardised over
    the batch, in evaluation too: a code cannot hide from the critic by growing.

    Args:
        shared: Width of s.
        exclusive: Width of x.
        hidden: Width of the hidden layers.
        layers: Hidden layers after the first.
    """

    def __init__(self, shared: int, exclusive: int, hidden: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.first = xavier_linear(shared + exclusive, hidden)
        inner = [part for _ in range(layers) for part in (nn.LeakyReLU(0.2), xavier_linear(hidden, hidden))]
        self.rest = nn.Sequential(*inner, nn.LeakyReLU(0.2), xavier_linear(hidden, 1))

    def forward(
        self, shared: Float[Tensor, "items shared"], exclusive: Float[Tensor, "items exclusive"]
    ) -> Float[Tensor, " items"]:
        """Logits of at least 2 items."""
        codes = torch.cat([_standardised(shared), _standardised(exclusive)], 1)
        logits: Tensor = self.rest(self.first(codes)).squeeze(1)
        return logits


def critic_loss(joint: Float[Tensor, " items"], shuffled: Float[Tensor, " items"]) -> Float[Tensor, ""]:
    """Cross-entropy of telling joint from shuffled codes, ``E softplus(-D) + E softplus(D)``; 2 log 2 for D = 0."""
    return softplus(-joint).mean() + softplus(shuffled).mean()


def cross_correlation(
    shared: Float[Tensor, "items shared"], exclusive: Float[Tensor, "items exclusive"]
) -> Float[Tensor, ""]:
    """Squared correlations of all pairs of coordinates of two codes, summed, divided by the width of the second.

    For a shared code of uncorrelated coordinates this is the mean R² of the exclusive code's coordinates, predicted
    linearly. Independent codes have about ``shared / items`` in a batch of so many items, not 0.
    """
    correlation = _standardised(shared).T @ _standardised(exclusive) / len(shared)
    return correlation.square().sum() / exclusive.shape[1]


def nonlinear_correlation(
    shared: Float[Tensor, "items shared"], exclusive: Float[Tensor, "items exclusive"], features: int
) -> Float[Tensor, ""]:
    """`cross_correlation` of some random directions of a shared code with an exclusive code and random waves of it.

    Codes without any linear correlation may still depend on each other. The waves ``cos(u · x + b)`` of the
    standardised code, with a random unit vector u and a random phase b, are random Fourier features of a Gaussian
    kernel (Rahimi & Recht, NeurIPS 2007): correlations with all of them vanish only where the mean of s does not depend
    on x. They are drawn anew at every call, from torch's global generator, as are the orthonormal directions
    of s, as many as it is wide and 16 at most: what a batch of 128 shows of 1,024 coordinates is chance.

    Args:
        shared: s.
        exclusive: x.
        features: Waves for each coordinate of x; with 0 the correlations are linear.
    """
    width = exclusive.shape[1]
    draw = partial(torch.randn, device=exclusive.device, dtype=exclusive.dtype)
    directions = torch.linalg.qr(draw(shared.shape[1], min(_DIRECTIONS, shared.shape[1]))).Q
    waves = unit_length(draw(features * width, width)).T
    phases = math.pi * draw(features * width)  # a wide normal phase is as good as a uniform one
    standardised = _standardised(exclusive)
    columns = torch.cat([exclusive, (standardised @ waves + phases).cos()], 1)
    return cross_correlation(_standardised(shared) @ directions, columns)


def _standardised(codes: Float[Tensor, "items size"]) -> Float[Tensor, "items size"]:
    """Mean 0 and variance 1 over the batch, coordinate by coordinate."""
    centred = codes - codes.mean(0)
    return centred / (centred.square().mean(0) + _EPSILON).sqrt()
