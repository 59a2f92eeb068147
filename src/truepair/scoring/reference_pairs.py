"""Reference pairs: pairs of different images that probably match, with which other pairs are compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from truepair.data.pairs import Pairs
from truepair.data.splitting import one_of_each_image
from truepair.model import MatchingModel
from truepair.scoring.encodings import similarity_of_pairs
from truepair.scoring.mixtures import fit_gaussian_mixture

REFERENCE_PAIRS = 1024
"""Pairs among which neighbours and negatives are sought; with all 5,000 images of Flickr8K, AUROC rose by 0.001."""
FEWEST_REFERENCE_PAIRS = 4
"""With fewer, a random pair has no negative left that is neither of its sides."""


def reference_candidates(
    pairs: Pairs, generator: np.random.Generator, most: int = REFERENCE_PAIRS
) -> Int[Tensor, " candidates"]:
    """Random pairs of different images, four times as many as reference pairs are wanted, or all there are."""
    order = torch.from_numpy(generator.permutation(len(pairs)))
    candidates = one_of_each_image(pairs.image_of_caption, order)
    return torch.from_numpy(generator.permutation(candidates.numpy())[: 4 * most])


def reference_among(
    models: Sequence[MatchingModel],
    pairs: Pairs,
    candidates: Int[Tensor, " candidates"],
    most: int = REFERENCE_PAIRS,
) -> Int[Tensor, " reference"]:
    """Candidates that a mixture over similarities calls clean, at most `most`; any candidates if fewer than 4 are."""
    similarity = similarity_of_pairs(models, pairs.select(candidates))
    clean = candidates[fit_gaussian_mixture(similarity).posterior(similarity) > 0.5]
    return (clean if len(clean) >= FEWEST_REFERENCE_PAIRS else candidates)[:most]
