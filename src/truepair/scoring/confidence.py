"""From a trained model to a belief in each training pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from truepair.data.loader import Loaders
from truepair.model import MatchingModel
from truepair.scoring.mixtures import fit_gaussian_mixture, fit_with_known_mismatches
from truepair.scoring.plausibility import Scores, affordable_candidates, scores_of

CANDIDATES = 1024
"""Images, and as many captions, that a pair competes with; four times as many changed no AUROC by 0.001.
SAF and SGR make do with fewer."""


def pair_scores(models: Sequence[MatchingModel], loaders: Loaders, temperature: float) -> Scores:
    """Similarity and log-odds of every training pair, and of random pairs, in evaluation mode.

    The models' modes are left as they were, and torch's global generators are not touched.
    """
    was_training = [model.training for model in models]
    n = len(loaders.pairs)
    scores = Scores.unfilled(n)
    generator = np.random.default_rng(np.random.SeedSequence(loaders.seed, spawn_key=(2,)))  # 1 is the noise's
    candidates = affordable_candidates(models, CANDIDATES)
    blocks = scores_of(
        models, loaders.pairs, torch.arange(n), candidates=candidates, temperature=temperature, generator=generator
    )
    for ids, block in blocks:
        scores.put(ids, block)
    for model, training in zip(models, was_training, strict=True):
        model.train(training)
    return scores


def posterior_against_random_pairs(
    models: Sequence[MatchingModel], loaders: Loaders, temperature: float
) -> Float[Tensor, " pairs"]:
    """Belief that each pair matches, for models that did not learn mismatched pairs by heart.

    What mismatched pairs look like to such a model is known: like random ones. With that component given, a mixture of
    two Gaussians over the pairs' log-odds leaves only the clean component and the noise rate to be fitted.

    Args:
        models: Who judges; their similarities are averaged.
        loaders: Of the training pairs.
        temperature: τ that they were trained with.
    """
    scores = pair_scores(models, loaders, temperature)
    return fit_with_known_mismatches(scores.log_odds, scores.random_log_odds).posterior(scores.log_odds)


def posterior_of_two_humps(
    models: Sequence[MatchingModel], loaders: Loaders, temperature: float
) -> Float[Tensor, " pairs"]:
    """Belief that each pair matches, for models that may have learned mismatched pairs by heart.

    Such pairs score higher than random ones, so both components of the mixture over log-odds are fitted freely.
    """
    scores = pair_scores(models, loaders, temperature)
    return fit_gaussian_mixture(scores.log_odds).posterior(scores.log_odds)
