"""The active complementary loss of CRCL: learn from trusted pairs, and push the others apart within bounds.

Qin et al., "Cross-modal Active Complementary Learning with Self-refining Correspondence", NeurIPS 2023,
https://arxiv.org/abs/2310.17468. The formulas are those of the paper's released code, except that log-softmax stands in
for its ``exp(S/τ) / (Σ exp(S/τ) + 1e-10)``; the two differ by that 1e-10 only.

The similarity matrix of a batch has images as rows, captions as columns and the pairs on its diagonal. The active term
is `losses.contrastive.matching_loss`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.losses.contrastive import matching_log_probabilities, matching_loss


def complementary_loss(
    probabilities: Float[Tensor, "queries candidates"], exponent: Float[Tensor, " queries"]
) -> Float[Tensor, " queries"]:
    r"""What each query gives to candidates that are not its own; one direction of the complementary loss.

    .. math::
        \ell_i = \frac{\sum_{j \ne i} \tan p_{ij}}{\big( \sum_j \tan p_{ij} \big)^{q_i}}

    The denominator includes the query's own candidate and takes part in the gradient. At q = 1 the loss is
    ``1 - tan(p_ii) / Σ_j tan(p_ij)``: at most 1, and tolerant of uniform label noise (docs/papers.md). At
    q = 0 it is the plain sum, which learns faster.

    Args:
        probabilities: p, rows in [0, 1] that sum to 1; the own candidate of query i is column i.
        exponent: q, in [0, 1].

    Returns:
        ``[queries]``, in [0, tan 1]. The total tangent is at least 1, so nothing is ever divided by a small number.

    Example:
        tan(½) against nothing, and tan(½) against 2 · tan(½).

        >>> complementary_loss(torch.full((2, 2), 0.5), exponent=torch.tensor([0.0, 1.0]))
        tensor([0.5463, 0.5000])
    """
    tangents = probabilities.tan()
    is_own = torch.eye(*tangents.shape, dtype=torch.bool, device=tangents.device)
    # Own candidates are masked, not subtracted from the total: at p_ii ≈ 1 the difference would be mere rounding.
    return tangents.masked_fill(is_own, 0).sum(1) / tangents.sum(1).pow(exponent)


def active_complementary_loss(
    similarity: Float[Tensor, "pairs pairs"],
    correspondence: Float[Tensor, " pairs"],
    *,
    temperature: float = 0.05,
    negative_weight: float = 5.0,
) -> Float[Tensor, ""]:
    r"""Active learning as far as a pair is trusted, complementary learning with the rest.

    .. math::
        \frac{1}{B} \sum_i \left[ \hat y_i \left( -\log p^{\Rightarrow}_{ii} - \log p^{\Leftarrow}_{ii} \right)
        + \lambda \left( \ell^{\Rightarrow}_i + \ell^{\Leftarrow}_i \right) \right], \qquad q_i = 1 - \hat y_i

    with `complementary_loss` ℓ of each direction. A fully trusted pair gets InfoNCE and λ times its negatives'
    tangents; an untrusted one, ŷ = 0, only a bounded pull that vanishes as its probability does.

    Args:
        similarity: ``[images, captions]``, higher = more similar; pair i is image i with caption i.
        correspondence: ŷ, in [0, 1], 1 = matching; a constant, into which no gradient flows.
        temperature: τ, above 0 (released default: 0.05).
        negative_weight: λ (the released code writes 5 as a number).

    Returns:
        The loss, at least 0, in float32 (float64 for float64 input). A batch of one has no negatives and costs 0.

    Example:
        Two distrusted pairs that the model cannot tell apart: 5 · (½ + ½).

        >>> active_complementary_loss(torch.zeros(2, 2), correspondence=torch.zeros(2))
        tensor(5.)
    """
    image_to_text, text_to_image = matching_log_probabilities(similarity, temperature)
    trust = correspondence.detach().to(image_to_text.dtype)
    active = matching_loss(image_to_text, text_to_image)
    complementary = complementary_loss(image_to_text.exp(), 1 - trust) + complementary_loss(
        text_to_image.exp(), 1 - trust
    )
    return (trust * active + negative_weight * complementary).mean()


def mean_matching_probability(
    similarity: Float[Tensor, "pairs pairs"], temperature: float = 0.05
) -> Float[Tensor, " pairs"]:
    r"""The probability that the model gives to each pair, averaged over the two directions.

    .. math::
        \bar p_i = \tfrac12 \left( p^{\Rightarrow}_{ii} + p^{\Leftarrow}_{ii} \right)

    CRCL corrects its correspondences with it. It depends on the negatives that happen to be in the batch.

    Args:
        similarity: ``[images, captions]``, higher = more similar; pair i is image i with caption i.
        temperature: τ, above 0.

    Returns:
        ``[pairs]``, in [0, 1], without gradient, in float32 (float64 for float64 input).

    Example:
        >>> mean_matching_probability(torch.zeros(4, 4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    image_to_text, text_to_image = matching_log_probabilities(similarity.detach(), temperature)
    return (image_to_text.diagonal().exp() + text_to_image.diagonal().exp()) / 2
