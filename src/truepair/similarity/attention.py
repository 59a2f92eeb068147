"""Cross attention with words as queries: which regions of an image each word of a caption looks at (SCAN, SGRAF)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import leaky_relu

from truepair.layers import full_precision

SHARPNESS = 9.0
"""What attention is multiplied by before the softmax (released code of SGRAF, NCR, DECL, CRCL, MSCN)."""


def word_attention(
    regions: Float[Tensor, "images regions dim"],
    words: Float[Tensor, "one_or_images words dim"],
    captions: int,
    mask: Bool[Tensor, "images regions"] | None = None,
) -> Float[Tensor, "images words regions"]:
    r"""How much each word attends to each region of each image; sums to 1 over an image's regions.

    .. math::
        a_{rl} = \mathrm{LeakyReLU}_{0.1}(v_r \cdot w_l), \qquad
        p_{lr} = \mathrm{softmax}_r\!\left(9\, a_{rl} \big/ (\lVert a_{r\cdot} \rVert_2 + 10^{-8})\right)

    The norm runs over the words of one caption (SCAN's "t2i" attention, Lee et al., ECCV 2018; SGRAF's released code).

    Args:
        regions: Unit vectors, one a region.
        words: Unit vectors of captions that have the same number of words, one caption after the other. A leading
            dimension of 1 compares all of them with every image; otherwise row k holds the words for image k.
        captions: How many captions stand in a row of `words`.
        mask: True where an image has a region; None if all have all.
    """
    # One large product where every image meets the same words, instead of a small one an image.
    scores = regions @ words[0].mT if len(words) == 1 else regions @ words.mT  # [images, regions, words]
    scores = full_precision(scores)  # for norm and softmax
    scores = leaky_relu(scores, 0.1, inplace=True).unflatten(2, (captions, -1))
    scores = scores / (scores.norm(dim=3, keepdim=True) + 1e-8)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, None, None], -torch.inf)
    weights: Tensor = (SHARPNESS * scores).softmax(1).flatten(2).mT
    return weights
