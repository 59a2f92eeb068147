"""Confidence, in [0, 1], that each training pair matches, from models that are being trained on it.

Three estimates, by what the models may have learned by heart:

- `confidence_against_random_pairs`: not the mismatched pairs, which then look like random pairs;
- `confidence_of_two_components`: perhaps the mismatched pairs too, so that what they look like is not known;
- `estimated_confidence`: certainly some. What a network has hardly learned by heart is how a caption fits captions of
  *other* images similar to the pair's: neighbour agreement, as LEMoN weighs it (Zhang et al., ICML 2025,
  https://arxiv.org/abs/2407.18941). Against random pairs it tells the noise rate; together with the log-odds of the
  pair itself it tells which pairs are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from truepair.data.loader import Loaders
from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.pages.html import shortened
from truepair.random_streams import Stream
from truepair.scoring.log_odds import Scores, affordable_negatives, scores_of_all_pairs
from truepair.scoring.mixtures import Gaussian, Mixture, fit_gaussian_mixture, fit_with_known_mismatches
from truepair.scoring.noise_rate import Comparison, rate_against_random
from truepair.scoring.pair_features import PairFeatures, pair_features
from truepair.scoring.reference_pairs import (
    FEWEST_REFERENCE_PAIRS,
    REFERENCE_PAIRS,
    reference_among,
    reference_candidates,
)

NOTHING_KNOWN = 0.5
"""The confidence in every pair where pairs do not differ from random pairs by more than chance."""
NEGATIVES = 1024
"""Negative images, and as many captions, of a pair; four times as many changed no AUROC by 0.001.
SAF and SGR make do with fewer."""
WEIGHT = 0.3
"""Of the neighbour agreement, a sum of two cosines, beside the log-odds of the pair itself."""
_FEWEST_PAIRS = 200
"""Below, two groups of scores cannot be told from chance."""
_SHARED = 0.01
"""A caption that more than this share of the pairs have says little about any of them."""


def pair_scores(models: Sequence[MatchingModel], loaders: Loaders, temperature: float) -> Scores:
    """Similarity and log-odds of every training pair, and of random pairs, in evaluation mode.

    The models' modes are left as they were, and torch's global generators are not touched.
    """
    return scores_of_all_pairs(
        models,
        loaders.pairs,
        negatives=affordable_negatives(models, NEGATIVES),
        temperature=temperature,
        generator=Stream.CONFIDENCE.generator(loaders.seed),
    )


@dataclass(frozen=True)
class ConfidenceEstimate:
    """Confidence in training pairs, and how far to rely on it.

    Attributes:
        confidence: ``[pairs]``, probability, in [0, 1], that each pair matches.
        noise_rate: Estimated share of mismatched pairs, on which the confidence rests.
        warnings: Why not to rely on it, in sentences with figures; empty if nothing speaks against it.
    """

    confidence: Float[Tensor, " pairs"]
    noise_rate: float
    warnings: tuple[str, ...] = ()


def confidence_against_random_pairs(
    models: Sequence[MatchingModel], loaders: Loaders, temperature: float
) -> ConfidenceEstimate:
    """Confidence in each pair, by models that did not learn mismatched pairs by heart.

    What mismatched pairs look like to such a model is known: like random ones. With that component given, a mixture of
    two Gaussians over the pairs' log-odds leaves only the clean component and the noise rate to be fitted.

    Args:
        models: Their similarities are averaged.
        loaders: Of the training pairs.
        temperature: τ that they were trained with.
    """
    return _by_mixture(
        models, loaders, temperature, lambda scores: fit_with_known_mismatches(scores.log_odds, scores.random_log_odds)
    )


def confidence_of_two_components(
    models: Sequence[MatchingModel], loaders: Loaders, temperature: float
) -> ConfidenceEstimate:
    """Confidence in each pair, by models that may have learned mismatched pairs by heart.

    Such pairs score higher than random ones, so both components of the mixture over log-odds are fitted freely.
    """
    return _by_mixture(models, loaders, temperature, lambda scores: fit_gaussian_mixture(scores.log_odds))


def _by_mixture(
    models: Sequence[MatchingModel],
    loaders: Loaders,
    temperature: float,
    fit: Callable[[Scores], Mixture[Gaussian]],
) -> ConfidenceEstimate:
    """The posterior of a mixture over log-odds, where pairs differ from random pairs at all."""
    pairs = loaders.pairs
    too_few = _too_few_images(pairs)
    if too_few is not None:
        return too_few
    scores, warnings = pair_scores(models, loaders, temperature), warnings_about(pairs)
    unknown = _unknown(scores.log_odds, scores.random_log_odds, "pairs are more plausible than random pairs", warnings)
    if unknown is not None:
        return unknown
    mixture = fit(scores)
    if mixture.degenerate:
        warnings = (*warnings, "log-odds of the pairs do not show two groups: every confidence is 1")
    return ConfidenceEstimate(mixture.posterior(scores.log_odds), mixture.noise_rate, warnings)


def _too_few_images(pairs: Pairs) -> ConfidenceEstimate | None:
    """What is said of pairs of fewer images than can be compared; None of others."""
    images = len(pairs.image_of_caption.unique())
    if images >= FEWEST_REFERENCE_PAIRS:
        return None
    said = f"there are pairs of {images} images, too few to compare them: every confidence is 1"
    return ConfidenceEstimate(torch.ones(len(pairs)), 0.0, (said,))


def _unknown(
    scores: Float[Tensor, " pairs"], of_random: Float[Tensor, " random"], difference: str, warnings: tuple[str, ...]
) -> ConfidenceEstimate | None:
    """What is said of pairs that score like random pairs; None where they differ by more than chance.

    Args:
        scores: ``[pairs]``.
        of_random: ``[random]``, the same scores of random pairs.
        difference: See `Comparison.explained`.
        warnings: What is to be said before.
    """
    comparison = Comparison.of(scores, of_random)
    if not comparison.unknown:
        return None
    said = comparison.explained(
        difference, "every confidence is 0.5, which says nothing", "train on more pairs, or longer"
    )
    return ConfidenceEstimate(torch.full_like(scores, NOTHING_KNOWN), 0.5, (*warnings, said))


def estimated_confidence(
    models: Sequence[MatchingModel], pairs: Pairs, temperature: float, seed: int, *key: int
) -> ConfidenceEstimate:
    """Confidence in all pairs, in evaluation mode, from log-odds and neighbour agreement.

    1. Some pairs of different images are candidates; those that a mixture over their similarities calls clean are the
       reference pairs.
    2. The neighbour agreement of all pairs against that of random pairs gives the noise rate
       (`noise_rate.rate_against_random`).
    3. Log-odds and neighbour agreement of a pair, weighted with `WEIGHT`, are its score, which gives the confidence
       (`confidence_at`).

    Every pair is encoded once. Memory grows with the encodings of the reference pairs, with those of 1,024 pairs and
    with 1,024 · `REFERENCE_PAIRS`. The models' modes are left as they were, and torch's global generators are not
    touched.

    Args:
        models: Their similarities are averaged.
        pairs: Training pairs.
        temperature: τ that they are trained with.
        seed: Of the reference pairs and the random pairs.
        key: Further numbers, of the epoch for instance, that draw other pairs from the same seed.
    """
    too_few = _too_few_images(pairs)
    if too_few is not None:
        return too_few
    return confidence_from(in_sample_features(models, pairs, temperature, seed, *key), warnings=warnings_about(pairs))


def in_sample_features(
    models: Sequence[MatchingModel], pairs: Pairs, temperature: float, seed: int, *key: int
) -> PairFeatures:
    """Features of all pairs by models that learned them, among reference pairs that look right to these models.

    Args:
        models: Their similarities are averaged.
        pairs: Pairs of at least `FEWEST_REFERENCE_PAIRS` images.
        temperature: τ that they are trained with.
        seed: Of the reference pairs and the random pairs.
        key: Further numbers that draw other pairs from the same seed.
    """
    generator = Stream.REFERENCE_PAIRS.generator(seed, *key)
    candidates = reference_candidates(pairs, generator)
    reference = reference_among(models, pairs, candidates)
    random_images = pairs.image_of_caption[candidates[:REFERENCE_PAIRS]]
    return pair_features(models, pairs, torch.arange(len(pairs)), reference, random_images, temperature, generator)


def confidence_from(features: PairFeatures, *, warnings: tuple[str, ...] = ()) -> ConfidenceEstimate:
    """Steps 2 and 3 of `estimated_confidence`; `warnings` are put before those that the features give cause for."""
    # Is there anything to tell pairs by?
    difference = "neighbours agree with a pair more than with a random pair"
    unknown = _unknown(features.agreement, features.random_agreement, difference, warnings)
    if unknown is not None:
        return unknown

    # The noise rate, by neighbour agreement alone; the pairs, by both features.
    rate = rate_against_random(features.agreement, features.random_agreement)
    scores, random_scores = in_sample_scores(features)
    if scores.mean() <= random_scores.mean():
        said = (
            f"scores of pairs (mean {scores.mean():.3f}, standard deviation {scores.std():.3f}) are no higher than "
            f"those of random pairs (mean {random_scores.mean():.3f}): every confidence is 1"
        )
        return ConfidenceEstimate(torch.ones_like(scores), 0.0, (*warnings, said))
    return ConfidenceEstimate(confidence_at(rate, scores, random_scores), rate, warnings)


def in_sample_scores(features: PairFeatures) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " random"]]:
    """Log-odds and neighbour agreement of pairs and of random pairs, weighted with `WEIGHT`.

    Fixed weights: those that tell pairs from random pairs best would rest on what was learned by heart.
    """
    return (
        features.log_odds + WEIGHT * features.agreement,
        features.random_log_odds + WEIGHT * features.random_agreement,
    )


def confidence_at(
    noise_rate: float, scores: Float[Tensor, " pairs"], random_scores: Float[Tensor, " random"]
) -> Float[Tensor, " pairs"]:
    r"""The probability that each pair matches, given the noise rate and the scores of random pairs.

    .. math::
        \sigma(a s + b), \quad a = \frac{\mu_1 - \mu_0}{2 v}, \quad
        \mu_1 = \frac{\bar s - r \mu_0}{1 - r}

    with the noise rate r, the mean :math:`\mu_0` and the variance v of random pairs' scores, and b such that the mean
    confidence is 1 - r. Two Gaussians of equal width would have this form with twice the slope; it is halved because
    tails are wider (calibration error 0.032 instead of 0.044 on Flickr8K at 40 % noise, 0.055 instead of 0.074 at
    80 %). Nothing is fitted, and a higher score never gets a lower confidence.

    Args:
        noise_rate: r, in (0, 1).
        scores: ``[pairs]``, higher = more plausible; their mean is above that of random pairs.
        random_scores: ``[random]``, at least 2.
    """
    slope = slope_against_random(noise_rate, scores.double(), random_scores.double())
    return shifted_to_mean(slope * scores.double(), 1 - noise_rate).to(scores)


def slope_against_random(
    noise_rate: float, scores: Float[Tensor, " pairs"], random_scores: Float[Tensor, " random"]
) -> float:
    """What a score adds to the log-odds, if mismatched pairs look like random ones: a of `confidence_at`.

    Args:
        noise_rate: r, in (0, 1).
        scores: ``[pairs]``, in double precision.
        random_scores: ``[random]``, at least 2, in double precision.
    """
    clean_mean = (scores.mean() - noise_rate * random_scores.mean()) / (1 - noise_rate)
    return float((clean_mean - random_scores.mean()) / (2 * random_scores.var()))


def shifted_to_mean(log_odds: Float[Tensor, " pairs"], mean: float) -> Float[Tensor, " pairs"]:
    """Probabilities of log-odds, all shifted by the same amount, so that the probabilities have the given mean.

    Args:
        log_odds: ``[pairs]``, in double precision.
        mean: In (0, 1).

    >>> shifted_to_mean(torch.tensor([-1.0, 3.0]), 0.5)
    tensor([0.1192, 0.8808])
    """
    # By bisection: the mean probability rises with the shift.
    low, high = -log_odds.max() - 40, -log_odds.min() + 40  # means of about 0 and 1
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (log_odds + middle).sigmoid().mean() < mean else (low, middle)
    return (log_odds + (low + high) / 2).sigmoid()


def warnings_about(pairs: Pairs) -> tuple[str, ...]:
    """What the pairs themselves, before any model, say against relying on a confidence."""
    said = []
    if len(pairs) < _FEWEST_PAIRS:
        said.append(f"there are {len(pairs):,} pairs, and with fewer than {_FEWEST_PAIRS} probabilities are rough")
    # Captions by their hashes: the texts may be on disk, and more than memory holds.
    hashes = np.fromiter(map(hash, pairs.captions), np.int64, len(pairs))
    _, first, count = np.unique(hashes, return_index=True, return_counts=True)
    times = int(count.max())
    if times > max(_SHARED * len(pairs), 20):
        caption = pairs.captions[int(first[count == times].min())]
        said.append(
            f"{times:,} of {len(pairs):,} pairs have the same caption ({shortened(caption, 40)!r}), which says little "
            "about any image: their confidence is that of the caption, not of the pair"
        )
    return tuple(said)
