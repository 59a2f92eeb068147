"""The hinge-based triplet loss over all negatives or the hardest ones, and MSCN's margin that follows the similarity.

The similarity matrix of a batch has images as rows, captions as columns and the pairs on its diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.layers import full_precision

Negatives = Literal["sum", "mean", "hardest", "smooth"]
"""How an anchor's negatives are put together; see `triplet_loss`."""

_OVER_NEGATIVES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "hardest": torch.amax,
}


def triplet_loss(
    similarity: Float[Tensor, "pairs pairs"],
    margin: float | Float[Tensor, " pairs"] = 0.2,
    *,
    negatives: Negatives = "hardest",
    margin_of: Literal["anchor", "caption"] = "anchor",
    temperature: float = 0.05,
) -> Float[Tensor, ""]:
    r"""How far negatives come within a margin of their anchor's own pair, over both directions.

    .. math::
        \frac{1}{B} \sum_i \Big( R_{j \ne i} [\gamma_i + S_{ij} - S_{ii}]_+
                               + R_{j \ne i} [\gamma_i + S_{ji} - S_{ii}]_+ \Big)

    The first hinge compares captions j with anchor image i, the second images j with anchor caption i. R is the sum
    over negatives (Karpathy and Fei-Fei, CVPR 2015, https://arxiv.org/abs/1412.2306), that sum divided by B (the
    warm-up of MSCN: Han et al., CVPR 2023, https://arxiv.org/abs/2304.06275) or the maximum (VSE++: Faghri et al.,
    BMVC 2018, https://arxiv.org/abs/1707.05612, Eq. 6), or a smooth maximum of the hinges and 0,

    .. math::
        \tau \log \Big( 1 + \sum_{j \ne i} e^{(\gamma_i + S_{ij} - S_{ii}) / \tau} \Big)

    which is the maximum for τ → 0, and τ times InfoNCE (`losses.contrastive`) for γ = 0: every close negative pulls,
    not the closest alone, which in a noisy batch often matches.

    The papers' code sums over the pairs of the batch. Here it is the mean, as in the other losses, so that a learning
    rate or a gradient clip means the same at every batch size; multiply by B for the papers' value.

    Args:
        similarity: ``[images, captions]``, higher = more similar; pair i is image i with caption i.
        margin: γ, one for all or one per pair: pair i's margin serves image i and caption i as anchors.
        negatives: R, how an anchor's negatives are put together. "mean" divides by B, not B - 1: it counts the
            anchor's own pair as a negative that costs nothing.
        margin_of: Whose margin counts. "caption" takes γ_j instead of γ_i where image i is the anchor, a slip of
            broadcasting in MSCN's released code; caption anchors have their own either way.
        temperature: τ of the smooth maximum; nothing to the others.

    Returns:
        The mean over pairs of the sum of both directions, at least 0, in float32 (float64 for float64 input). A batch
        of one has no negatives and costs 0.

    Example:
        Image 0 has caption 1 within its margin (0.2 + 0.8 - 0.9 = 0.1), caption 1 has image 0 (0.2 + 0.8 - 0.5 = 0.5),
        the other two anchors are far from their negatives: (0.1 + 0.5) / 2 pairs.

        >>> triplet_loss(torch.tensor([[0.9, 0.8], [0.1, 0.5]]), margin=0.2)
        tensor(0.3000)
    """
    similarity = full_precision(similarity)
    own = similarity.diagonal()[:, None]
    of_anchor = torch.as_tensor(margin, dtype=own.dtype, device=own.device).expand(len(own))[:, None]
    of_image = of_anchor if margin_of == "anchor" else of_anchor.T
    behind = torch.stack([similarity + (of_image - own), similarity.T + (of_anchor - own)])
    is_pair = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    behind = behind.masked_fill(is_pair, 0)  # [directions, anchors, candidates]
    if negatives == "smooth":
        return (temperature * torch.logsumexp(behind / temperature, 2)).sum(0).mean()
    return _OVER_NEGATIVES[negatives](behind.relu(), 2).sum(0).mean()


def self_adaptive_margin(similarity: Float[Tensor, " pairs"], margin: float = 0.2) -> Float[Tensor, " pairs"]:
    r"""A margin per pair that grows with the pair's own similarity, along an S-curve.

    .. math::
        \hat\gamma_i = \gamma \, \frac{s_i^2}{s_i^2 + (1 - s_i)^2}

    This is γ / (1 + (s/(1-s))⁻²), the paper's form (Han et al., CVPR 2023, https://arxiv.org/abs/2304.06275), without
    its divisions by zero at 0 and 1: the denominator is at least ½.

    Args:
        similarity: s, the similarities of the pairs themselves, in [0, 1].
        margin: γ, the margin at similarity 1.

    Returns:
        Margins in [0, `margin`], which carry no gradient.

    Example:
        At 0.75 the squares are 9/16 and 1/16.

        >>> self_adaptive_margin(torch.tensor([0.0, 0.5, 0.75, 1.0]), margin=0.2)
        tensor([0.0000, 0.1000, 0.1800, 0.2000])
    """
    similar = similarity.detach().square()
    dissimilar = (1 - similarity.detach()).square()
    return margin * similar / (similar + dissimilar)
