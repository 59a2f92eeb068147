"""Soft many-to-many targets: what else an image and a caption of the batch match, beside their own partner."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.layers import full_precision


def soft_targets(
    similarity: Float[Tensor, "pairs pairs"],
    among_images: Float[Tensor, "pairs pairs"],
    among_captions: Float[Tensor, "pairs pairs"],
    confidence: Float[Tensor, " pairs"],
    *,
    temperature: float = 0.05,
    neighbours: float = 0.5,
    smoothing: float = 0.1,
) -> tuple[Float[Tensor, "pairs pairs"], Float[Tensor, "pairs pairs"]]:
    r"""Matching targets of image-to-text and text-to-image: the pair as far as its confidence says, and its likes.

    .. math::
        Q^{\Rightarrow}_{i\cdot} = \tilde w_i e_i + (1 - \tilde w_i) \bar P_{i\cdot}, \quad \tilde w_i = (1 - \rho) w_i,
        \quad
        \bar P_{ij} \propto \exp \Big( \big( \tfrac12 (S_{ij} + S_{ji}) + \kappa A_{ij} \big) / \tau_t \Big)

    A is the similarity of captions with captions for an image's targets, and of images with images for a caption's. A
    pair with w < ½ has 0 in its own place of :math:`\bar P`: its partner is the one that it surely does not match.

    Args:
        similarity: S ``[images, captions]``, pairs on the diagonal.
        among_images: ``[images, images]``, similarity of images with images.
        among_captions: ``[captions, captions]``.
        confidence: w, in [0, 1], that each pair matches.
        temperature: τ_t.
        neighbours: κ.
        smoothing: ρ, in [0, 1]: how much even a surely matching pair leaves to others.

    Returns:
        ``(Q⇒ [images, captions], Q⇐ [captions, images])``, without gradient; rows sum to 1. With w = 1 and ρ = 0 they
        are the pairs themselves.
    """
    both_ways = full_precision(similarity.detach() + similarity.detach().T) / 2
    own = (1 - smoothing) * confidence.detach().to(both_ways)
    is_rejected = torch.diag(confidence.detach() < 0.5)
    targets = []
    for likeness in (among_captions, among_images):
        logits = (both_ways + neighbours * likeness.detach().to(both_ways)) / temperature
        others = logits.masked_fill(is_rejected, -torch.inf).softmax(1)
        targets.append((1 - own)[:, None] * others + torch.diag(own))
    return targets[0], targets[1]


def targets_among_others(
    similarity: Float[Tensor, "pairs pairs"], temperature: float
) -> tuple[Float[Tensor, "pairs pairs"], Float[Tensor, "pairs pairs"]]:
    r"""What else of the batch a pair's image and caption match, if not one another.

    .. math::
        Q^{\Rightarrow}_{ij} \propto e^{S_{ij}/\tau}, \quad Q^{\Leftarrow}_{ij} \propto e^{S_{ji}/\tau},
        \quad j \ne i

    Args:
        similarity: S ``[images, captions]``, pairs on the diagonal, at least 2.
        temperature: τ.

    Returns:
        ``(Q⇒ [images, captions], Q⇐ [captions, images])``, without gradient, with 0 on the diagonal; rows sum to 1.

    Example:
        >>> targets_among_others(torch.zeros(3, 3), 0.05)[0][0]
        tensor([0.0000, 0.5000, 0.5000])
    """
    logits = full_precision(similarity.detach()) / temperature
    logits = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool, device=logits.device), -torch.inf)
    return logits.softmax(1), logits.T.softmax(1)
