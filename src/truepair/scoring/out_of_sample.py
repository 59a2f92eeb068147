"""Confidence in training pairs by models that did not learn them, and together with one that did.

A network that has learned a mismatched pair finds it plausible. Models that were trained on other images do not: their
log-odds, with the captions of an image judged together, are the prior. A network that is then trained on all pairs, as
far as the prior says, judges better together with it than either does alone: the final confidence rests on the mean of
both log-odds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.scoring.captions_of_image import joint_inference
from truepair.scoring.confidence import (
    ConfidenceEstimate,
    in_sample_features,
    in_sample_scores,
    shifted_to_mean,
    slope_against_random,
    warnings_about,
)
from truepair.scoring.cross_fitting import Fold, cross_fitted_features
from truepair.scoring.probability import Probabilities, probabilities

_LEAST = 1e-6
"""Probabilities nearer to 0 or 1 are not told apart."""


@dataclass(frozen=True)
class Prior:
    """Confidence in pairs by models that did not learn them.

    Attributes:
        confidence: ``[pairs]``, probability, in [0, 1], that each pair matches; captions of an image judged together.
        log_odds: ``[pairs]``, of each pair by its own features, whatever the noise rate and the other captions.
        noise_rate: Estimated share of mismatched pairs, in [0, 1].
        images_together: Groups of captions of one image that were judged together.
        moved_together: Of two captions that do not match their image, how often they belong together, in [0, 1]: 0 if
            captions went astray one by one, 1 if with all others of their image. None where images have one caption.
        warnings: Why not to rely on it, in sentences with figures.
    """

    confidence: Float[Tensor, " pairs"]
    log_odds: Float[Tensor, " pairs"]
    noise_rate: float
    images_together: int
    moved_together: float | None
    warnings: tuple[str, ...]

    @property
    def estimate(self) -> ConfidenceEstimate:
        """The same as an estimate of its own."""
        return ConfidenceEstimate(self.confidence, self.noise_rate, self.warnings)


def prior_of(folds: Sequence[Fold], pairs: Pairs, temperature: float, seed: int, *key: int) -> Prior | None:
    """Confidence in every pair by the models of its fold; None where they learned nothing consistent.

    Memory grows with the pairs by a few numbers each; encodings are in memory a block at a time.

    Args:
        folds: Pairs and the models that score them; each pair is in exactly one, with all others of its image.
        pairs: The pairs.
        temperature: τ that the models were trained with.
        seed: Of reference pairs and random pairs.
        key: Further numbers, of the epoch for instance, that draw other pairs from the same seed.
    """
    features = cross_fitted_features(folds, pairs, None, temperature, seed, *key)
    return prior_from(probabilities(features, seed), folds, pairs, seed)


def prior_from(found: Probabilities, folds: Sequence[Fold], pairs: Pairs, seed: int) -> Prior | None:
    """The prior by what the features of the pairs say, with the captions of an image judged together.

    Args:
        found: By features of the models of the folds, and of others.
        folds: Pairs and the models that link the captions of an image.
        pairs: The pairs.
        seed: Of random pairs of captions.

    Returns:
        None where nothing is known.
    """
    if found.unknown is not None:
        return None
    together = joint_inference(folds, pairs, found.match, found.log_odds, seed)
    return Prior(
        confidence=found.match if together is None else together.match,
        log_odds=found.log_odds,
        noise_rate=found.noise_rate,
        images_together=0 if together is None else together.images,
        moved_together=None if together is None else together.moved_together,
        warnings=(*warnings_about(pairs), *found.warnings),
    )


def combined(
    prior: Prior, models: Sequence[MatchingModel], pairs: Pairs, temperature: float, seed: int, *key: int
) -> ConfidenceEstimate:
    r"""The prior together with what models say that learned the pairs; the noise rate is the prior's.

    Both log-odds of a pair rest on the same features of the same pair, so that their mean is taken. The captions of an
    image are then judged together, by links that these models give, if the models of the folds found such links.

    How much a score of these models says is not known, because they have learned some mismatched pairs by heart. It is
    at most what it would say had they not (`confidence.slope_against_random`), and at least what the prior, itself in
    doubt, confirms: the slope of a logistic regression of the prior's confidence on the scores. The geometric mean of
    both is taken.

    Args:
        prior: Of the pairs.
        models: Their similarities are averaged.
        pairs: The pairs.
        temperature: τ that the models were trained with.
        seed: Of reference pairs and random pairs.
        key: Further numbers that draw other pairs from the same seed.
    """
    features = in_sample_features(models, pairs, temperature, seed, *key)
    scores, random_scores = (each.double() for each in in_sample_scores(features))
    confirmed = _slope_of(prior.confidence, scores)
    if scores.mean() <= random_scores.mean() or confirmed <= 0:
        return prior.estimate
    rate = min(max(prior.noise_rate, _LEAST), 1 - _LEAST)  # 0 where every pair surely matches
    slope = math.sqrt(slope_against_random(rate, scores, random_scores) * confirmed)
    own = shifted_to_mean(slope * scores, 1 - rate).clamp(_LEAST, 1 - _LEAST).logit()
    own = own - math.log((1 - rate) / rate)  # of the features, whatever the noise rate
    log_odds = (prior.log_odds.double() + own) / 2
    match = shifted_to_mean(log_odds, 1 - rate).to(prior.confidence)
    if prior.moved_together is None:
        return ConfidenceEstimate(match, prior.noise_rate, prior.warnings)
    every = torch.arange(len(pairs))
    together = joint_inference([Fold(every, every, list(models))], pairs, match, log_odds, seed)
    confidence = match if together is None else together.match
    return ConfidenceEstimate(confidence, prior.noise_rate, prior.warnings)


def _slope_of(confidence: Float[Tensor, " pairs"], scores: Float[Tensor, " pairs"]) -> float:
    """The slope of a logistic regression of confidence on scores, in units of 1 / score."""
    from sklearn.linear_model import LogisticRegression  # takes a second to load

    spread = float(scores.std())
    if not spread > 0:
        return 0.0
    rows = ((scores - scores.mean()) / spread)[:, None].numpy()
    matches, weights = np.repeat((1, 0), len(rows)), torch.cat([confidence, 1 - confidence]).numpy()
    regression = LogisticRegression().fit(np.concatenate([rows, rows]), matches, sample_weight=weights)
    return float(regression.coef_[0, 0]) / spread
