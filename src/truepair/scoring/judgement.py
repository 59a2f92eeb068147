"""Belief in each pair, from how its two sides agree and from how their neighbours do.

A network that has trained on a mismatched pair finds it plausible. What it has hardly learned by heart is how the
caption fits captions of *other* images like the pair's: evidence from neighbours, as LEMoN weighs it (Zhang et al.,
ICML 2025, https://arxiv.org/abs/2407.18941). Against random pairs it tells the noise rate; together with the pair's own
similarity it tells which pairs are meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair.data.pairs import Pairs
from truepair.data.splitting import one_of_each_image
from truepair.model import MatchingModel
from truepair.pages.html import shortened
from truepair.scoring.evidence import Evidence, evidence_for
from truepair.scoring.mixtures import fit_gaussian_mixture, fit_with_known_mismatches
from truepair.scoring.plausibility import similarity_of_pairs

WITNESSES = 1024
"""Pairs among which neighbours are sought, and competitors; with all 5,000 images of Flickr8K, AUROC rose by 0.001."""
WEIGHT = 0.3
"""Of the neighbours' evidence, a sum of two cosines, beside the pair's own similarity."""
_FEWEST_PAIRS = 200
"""Below, two kinds of scores cannot be told from chance."""
FEWEST_WITNESSES = 4
"""With fewer, a random pair has no competitor left that is none of its own."""
LEAST_RATE = 0.005
"""Smallest estimate of the noise rate: some pair is always the least plausible, and keeps its place in the order."""
_MAX_ITERATIONS = 10_000
"""Of fitting the rate: of many pairs with weak evidence, a thousand steps are not enough."""
_CONSISTENT = 5
"""Standard errors by which the share of pairs with more evidence than random ones must exceed one half."""
_SHARED = 0.01
"""A caption that more than this share of the pairs have says little about any of them."""


@dataclass(frozen=True)
class Judgement:
    """What a network thinks of its training pairs.

    Attributes:
        belief: ``[pairs]``, probability, in [0, 1], that each pair matches.
        noise_rate: Estimated share of mismatched pairs, by which it was made.
        warnings: Why not to rely on it, in sentences with figures; empty if nothing speaks against it.
    """

    belief: Float[Tensor, " pairs"]
    noise_rate: float
    warnings: tuple[str, ...] = ()


def judged(models: Sequence[MatchingModel], pairs: Pairs, temperature: float, seed: int) -> Judgement:
    """Judge all pairs, in evaluation mode; draws nothing from torch's global generators.

    1. Some pairs of different images are candidates; those that a mixture over their similarities calls clean are
       witnesses.
    2. The neighbours' evidence for all pairs against that for random ones gives the noise rate
       (`fit_with_known_mismatches`).
    3. What speaks for a pair itself and its neighbours' evidence, weighted with `WEIGHT`, are its score, which gives
       the belief (`belief_at`).

    Every pair is encoded once. Memory grows with the encodings of the witnesses, with those of 1,024 pairs and with
    1,024 · `WITNESSES`.

    Args:
        models: Who judges; their similarities are averaged. Their modes are left as they were.
        pairs: Training pairs.
        temperature: τ that they are trained with.
        seed: Of the witnesses.
    """
    images = len(pairs.image_of_caption.unique())
    if images < FEWEST_WITNESSES:
        said = f"there are pairs of {images} images, too few to compare them: no pair is doubted"
        return Judgement(torch.ones(len(pairs)), 0.0, (said,))
    was_training = [model.training for model in models]
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    candidates = possible_witnesses(pairs, generator)
    witness = witnesses_among(models, pairs, candidates)
    strangers = pairs.image_of_caption[candidates[:WITNESSES]]
    everyone = torch.arange(len(pairs))
    evidence = evidence_for(models, pairs, everyone, witness, strangers, temperature, generator)
    for model, training in zip(models, was_training, strict=True):
        model.train(training)
    return judgement_of(evidence, warnings=warnings_about(pairs))


def judgement_of(evidence: Evidence, *, warnings: tuple[str, ...] = ()) -> Judgement:
    """Steps 2 and 3 of `judged`; `warnings` are put before those that the evidence gives cause for."""
    share = share_above(evidence.neighbours, evidence.random_neighbours)
    needed = needed_share(len(evidence.neighbours), len(evidence.random_neighbours))
    if share < needed:
        unknown = torch.full_like(evidence.own, 0.5)
        said = (
            f"nothing consistent was learned: neighbours speak for a pair against a random one in {share:.1%} of "
            f"cases (chance: 50 %, needed: {needed:.1%}), so that every confidence is 0.5, which says nothing; "
            "do the captions belong to these pictures at all?"
        )
        return Judgement(unknown, 0.5, (*warnings, said))
    rate, is_bound = rate_against_random(evidence.neighbours, evidence.random_neighbours)
    scores = evidence.own + WEIGHT * evidence.neighbours
    random_scores = evidence.random_own + WEIGHT * evidence.random_neighbours
    if scores.mean() <= random_scores.mean():
        said = (
            f"scores of pairs (mean {scores.mean():.3f}, standard deviation {scores.std():.3f}) are no higher than "
            f"those of random pairs (mean {random_scores.mean():.3f}): no pair is doubted"
        )
        return Judgement(torch.ones_like(scores), 0.0, (*warnings, said))
    if is_bound:
        said = f"the noise rate of {rate:.0%} is an upper bound: neighbours' evidence does not fall into two kinds"
        warnings = (*warnings, said)
    return Judgement(belief_at(rate, scores, random_scores), rate, warnings)


def belief_at(
    noise_rate: float, scores: Float[Tensor, " pairs"], random_scores: Float[Tensor, " random"]
) -> Float[Tensor, " pairs"]:
    r"""The probability that each pair matches, where it is known how many do not, and what random pairs score.

    .. math::
        \sigma(a s + b), \quad a = \frac{\mu_1 - \mu_0}{2 v}, \quad
        \mu_1 = \frac{\bar s - r \mu_0}{1 - r}

    with the noise rate r, the mean :math:`\mu_0` and the variance v of random pairs' scores, and b such that the mean
    belief is 1 - r. Two Gaussians of equal width would have this form with twice the slope; it is halved because tails
    are wider (calibration error 0.032 instead of 0.044 on Flickr8K at 40 % noise, 0.055 instead of 0.074 at 80 %).
    Nothing is fitted, and a higher score never gets a lower belief.

    Args:
        noise_rate: r, in (0, 1).
        scores: ``[pairs]``, higher = more plausible; their mean is above that of random pairs.
        random_scores: ``[random]``, at least 2.
    """
    s, null = scores.double(), random_scores.double()
    clean_mean = (s.mean() - noise_rate * null.mean()) / (1 - noise_rate)
    evidence = (clean_mean - null.mean()) / (2 * null.var()) * s
    low, high = -evidence.max() - 40, -evidence.min() + 40  # mean beliefs of about 0 and 1
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (evidence + middle).sigmoid().mean() < 1 - noise_rate else (low, middle)
    return (evidence + (low + high) / 2).sigmoid().to(scores)


def possible_witnesses(
    pairs: Pairs, generator: np.random.Generator, most: int = WITNESSES
) -> Int[Tensor, " candidates"]:
    """Random pairs of different images, four times as many as witnesses are wanted, or all there are."""
    order = torch.from_numpy(generator.permutation(len(pairs)))
    candidates = one_of_each_image(pairs.image_of_caption, order)
    return torch.from_numpy(generator.permutation(candidates.numpy())[: 4 * most])


def witnesses_among(
    models: Sequence[MatchingModel], pairs: Pairs, candidates: Int[Tensor, " candidates"], most: int = WITNESSES
) -> Int[Tensor, " witnesses"]:
    """Candidates that a mixture over similarities calls clean, at most so many; all of them if these are too few."""
    similarity = similarity_of_pairs(models, pairs.select(candidates))
    believed = candidates[fit_gaussian_mixture(similarity).posterior(similarity) > 0.5]
    return (believed if len(believed) >= FEWEST_WITNESSES else candidates)[:most]


def share_above(scores: Float[Tensor, " pairs"], of_random: Float[Tensor, " random"]) -> float:
    """Probability, in [0, 1], that a pair scores above one known not to match, ties counting half.

    ½ means that the models cannot tell pairs from random couples. Needs no truth about `scores`.

    >>> share_above(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0]))
    0.75
    """
    ordered = of_random.sort().values
    below, not_above = torch.searchsorted(ordered, scores), torch.searchsorted(ordered, scores, right=True)
    return ((below + not_above).double().mean() / (2 * len(ordered))).item()


def needed_share(pairs: int, random: int) -> float:
    """The `share_above` from which on pairs differ from random ones by more than chance, for so many of each."""
    return 0.5 + _CONSISTENT * sqrt((1 / pairs + 1 / random) / 12)


def rate_against_random(scores: Float[Tensor, " pairs"], of_random: Float[Tensor, " random"]) -> tuple[float, bool]:
    """The share of pairs that score like random ones, in (0, 1), and whether it is an upper bound only.

    It is one where the scores do not fall into two kinds: mismatched pairs are above random ones half the time, the
    others more often.
    """
    mixture = fit_with_known_mismatches(scores, of_random, max_iterations=_MAX_ITERATIONS)
    if mixture.degenerate:
        return min(max(2 * (1 - share_above(scores, of_random)), LEAST_RATE), 1 - LEAST_RATE), True
    return max(mixture.noise_rate, LEAST_RATE), False


def warnings_about(pairs: Pairs) -> tuple[str, ...]:
    """What the pairs themselves, before any model, say against relying on a judgement."""
    said = []
    if len(pairs) < _FEWEST_PAIRS:
        said.append(
            f"there are {len(pairs):,} training pairs, and with fewer than {_FEWEST_PAIRS} confidence is a guess"
        )
    caption, times = Counter(pairs.captions).most_common(1)[0]
    if times > max(_SHARED * len(pairs), 20):
        said.append(
            f"{times:,} of {len(pairs):,} pairs have the same caption ({shortened(caption, 40)!r}), which says little "
            "about any picture: their confidence is that of the caption, not of the pair"
        )
    return tuple(said)
