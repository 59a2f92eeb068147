"""Matching probabilities of a batch, and the symmetric InfoNCE loss on them.

The similarity matrix of a batch has images as rows, captions as columns and the pairs on its diagonal. p⇒ is the
probability of each caption given an image, p⇐ that of each image given a caption; in both, rows are queries.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from truepair.layers import full_precision


def matching_log_probabilities(
    similarity: Float[Tensor, "images captions"], temperature: float
) -> tuple[Float[Tensor, "images captions"], Float[Tensor, "captions images"]]:
    r"""Log-probabilities of image-to-text and text-to-image matching.

    .. math::
        \log p^{\Rightarrow}_{ij} = S_{ij}/\tau - \log \sum_k e^{S_{ik}/\tau}, \qquad
        \log p^{\Leftarrow}_{ji} = S_{ij}/\tau - \log \sum_k e^{S_{kj}/\tau}

    Half-precision similarities, such as autocast makes, are turned to float32 first: a temperature of 0.05 multiplies
    their rounding errors by 20, and an exponential would overflow or lose the small probabilities.

    Args:
        similarity: ``[images, captions]``, higher = more similar.
        temperature: τ, above 0.

    Returns:
        ``(log p⇒ [images, captions], log p⇐ [captions, images])``, in float32 (float64 for float64 input); every row is
        the logarithm of probabilities that sum to 1.
    """
    logits = full_precision(similarity) / temperature
    return logits.log_softmax(1), logits.T.log_softmax(1)


def matching_loss(
    image_to_text: Float[Tensor, "pairs pairs"],
    text_to_image: Float[Tensor, "pairs pairs"],
    targets: tuple[Float[Tensor, "pairs pairs"], Float[Tensor, "pairs pairs"]] | None = None,
) -> Float[Tensor, " pairs"]:
    r"""The cross-entropy of each pair's two matching distributions, summed over the two directions.

    .. math::
        -\log p^{\Rightarrow}_{ii} - \log p^{\Leftarrow}_{ii}
        \quad\text{or, with targets,}\quad
        -\sum_j Q^{\Rightarrow}_{ij} \log p^{\Rightarrow}_{ij} - \sum_j Q^{\Leftarrow}_{ij} \log p^{\Leftarrow}_{ij}

    Args:
        image_to_text: log p⇒, ``[images, captions]``; see `matching_log_probabilities`.
        text_to_image: log p⇐, ``[captions, images]``.
        targets: ``(Q⇒ [images, captions], Q⇐ [captions, images])``, whose rows sum to 1; the pairs themselves if None.

    Returns:
        ``[pairs]``, at least 0.
    """
    if targets is None:
        return -image_to_text.diagonal() - text_to_image.diagonal()
    of_image, of_caption = targets
    return -(of_image * image_to_text + of_caption * text_to_image).sum(1)


def info_nce(
    similarity: Float[Tensor, "pairs pairs"],
    temperature: float,
    *,
    weights: Float[Tensor, " pairs"] | None = None,
    targets: tuple[Float[Tensor, "pairs pairs"], Float[Tensor, "pairs pairs"]] | None = None,
) -> Float[Tensor, ""]:
    r"""Symmetric InfoNCE: the mean over pairs of the sum of both directions.

    .. math::
        \frac{1}{B} \sum_i w_i \left( -\log p^{\Rightarrow}_{ii} - \log p^{\Leftarrow}_{ii} \right)

    van den Oord et al., 2018, https://arxiv.org/abs/1807.03748, Eq. 4, with both modalities as queries. Directions are
    summed, as in the active loss of CRCL (`losses.complementary`); CLIP's loss, their mean, is half of this one.

    Args:
        similarity: ``[images, captions]``, higher = more similar; pair i is image i with caption i.
        temperature: τ, above 0.
        weights: w, how much each pair counts, 1 if None. The sum is divided by B, not by the sum of the weights: a
            batch of doubtful pairs makes a small step.
        targets: Soft targets instead of the pairs themselves, as in `matching_loss`.

    Returns:
        The loss, at least 0, in float32 (float64 for float64 input).

    Example:
        A model that tells nothing apart gives each of 4 candidates ¼: 2 · log 4 = 2.7726.

        >>> import torch
        >>> info_nce(torch.zeros(4, 4), temperature=0.05)
        tensor(2.7726)
    """
    per_pair = matching_loss(*matching_log_probabilities(similarity, temperature), targets)
    return per_pair.mean() if weights is None else (weights * per_pair).mean()
