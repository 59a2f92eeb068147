r"""From evidence to the probability that a pair matches, without a single label.

Random couples surely do not match, and a mismatched pair looks like one of them to a model that did not learn it. So

1. the noise rate r is that of a mixture over what speaks for the pairs themselves, one component of which is that of
   random couples (`mixtures.fit_with_known_mismatches`);
2. matching pairs are taken to be random couples, reweighted: :math:`f_1(e) = f_0(e)\, e^{a + b e}` for evidence e.
   Of such densities the odds are logistic, and expectation–maximisation alternates a logistic regression of pairs,
   weighted by the probability p that they match, against random couples, with

   .. math:: p = \frac{(1 - r)\, e^{a + b e}}{(1 - r)\, e^{a + b e} + r}

The weights b of the kinds of evidence are so learned from the corpus itself. The model is the exponential tilt of
case–control studies (Qin & Zhang, Biometrika 1997); contamination with a known null is Efron's (JASA 2004).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from truepair.scoring.evidence import KINDS, Evidence
from truepair.scoring.judgement import LEAST_RATE, needed_share, rate_against_random, share_above
from truepair.scoring.mixtures import fit_with_known_mismatches

_MOST_FITTED = 50_000
"""Pairs, and random couples, that the regression is fitted to; all pairs get its probability."""
_MOST_RESAMPLED = 10_000
"""Pairs of a resample; the spread of the rate is scaled to the true number."""
_RESAMPLES = 40
_MAX_STEPS = 100
_TOLERANCE = 1e-4
"""Mean change of the probabilities at which a fit ends."""
_REGULARISATION = 10.0
"""Inverse strength of the penalty on standardised weights: enough that separable evidence ends somewhere."""


@dataclass(frozen=True)
class Probabilities:
    """What the evidence says.

    Attributes:
        match: ``[pairs]``, probability, in [0, 1], that each pair matches.
        log_odds: ``[pairs]``, log-odds of its evidence under matching against random, whatever the noise rate.
        random_log_odds: ``[random]``, the same of the random couples.
        noise_rate: Estimated share of mismatched pairs: the mean probability that a pair does not match.
        interval: Of the noise rate: from all ways to estimate it, and 95 % of resamples of the pairs.
        weights: By kind of evidence, what a standard deviation of it adds to the log-odds.
        judge: The probability that a pair with such evidence ``[rows, kinds]`` matches.
        warnings: Why not to rely on it, in sentences with figures; empty if nothing speaks against it.
    """

    match: Float[Tensor, " pairs"]
    log_odds: Float[Tensor, " pairs"]
    random_log_odds: Float[Tensor, " random"]
    noise_rate: float
    interval: tuple[float, float]
    weights: dict[str, float]
    judge: Callable[[Tensor], Tensor]
    warnings: tuple[str, ...] = ()

    @property
    def random(self) -> Float[Tensor, " random"]:
        """Probability that each random couple matches, at the noise rate of the pairs."""
        return _posterior(self.random_log_odds, self.noise_rate)


def probabilities(evidence: Evidence, seed: int) -> Probabilities:
    """Probabilities of all pairs.

    Args:
        evidence: Of the pairs, by models that did not learn them, and of random couples.
        seed: Of resamples, and of the choice of pairs where there are very many.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,)))
    own, random_own = evidence.own, evidence.random_own
    share = share_above(own, random_own)
    needed = needed_share(len(own), len(random_own))
    if share < needed:
        said = (
            f"nothing consistent was learned: pairs are more plausible than random ones in {share:.1%} of comparisons "
            f"(chance: 50 %, needed: {needed:.1%}), so that every probability is 0.5, which says nothing; do the "
            "captions belong to these pictures at all?"
        )
        scores = own.double(), random_own.double()
        unknown = torch.full_like(own, 0.5)
        return Probabilities(
            unknown, *scores, 0.5, (0.0, 1.0), {}, lambda rows: rows.new_full(rows.shape[:1], 0.5), (said,)
        )
    rate, is_bound = rate_against_random(own, random_own)
    said = f"the noise rate of {rate:.0%} is an upper bound: the evidence does not fall into two kinds"
    fitted = evidence if len(own) <= _MOST_FITTED else _some(evidence, _MOST_FITTED, generator)
    tilt = _Tilt.fitted(fitted, rate)
    log_odds, random_log_odds = tilt(evidence.pairs), tilt(evidence.random)
    match = _posterior(log_odds, rate)
    mean = 1 - float(match.mean())  # nearer to the truth than the mixture's rate, in nearly all that was measured
    rates = [*_resampled(evidence, rate, generator), _Tilt.free_rate(fitted, rate), mean]
    return Probabilities(
        match.to(own),
        log_odds,
        random_log_odds,
        mean,
        (max(min(rates), 0.0), min(max(rates), 1.0)),
        tilt.weights,
        lambda rows: _posterior(tilt(rows), rate),
        (said,) if is_bound else (),
    )


def log_ratio(
    values: Float[Tensor, " values"], of_random: Float[Tensor, " random"], rate: float
) -> Float[Tensor, " values"]:
    """Logarithm of the density of what is not random against that of random ones, of a single kind of evidence.

    Args:
        values: A mixture of both.
        of_random: What is random for sure.
        rate: Share of random ones among `values`, in (0, 1).
    """
    evidence = Evidence(values[:, None], of_random[:, None])
    generator = np.random.default_rng(0)
    fitted = evidence if len(values) <= _MOST_FITTED else _some(evidence, _MOST_FITTED, generator)
    return _Tilt.fitted(fitted, rate)(evidence.pairs)


def _posterior(log_odds: Float[Tensor, " pairs"], rate: float) -> Float[Tensor, " pairs"]:
    return (log_odds + float(np.log1p(-rate) - np.log(rate))).sigmoid()


@dataclass(frozen=True)
class _Tilt:
    """``a + b · e`` for evidence e, standardised."""

    mean: np.ndarray
    scale: np.ndarray
    slope: np.ndarray
    offset: float

    def __call__(self, evidence: Float[Tensor, "rows kinds"]) -> Float[Tensor, " rows"]:
        rows = (evidence.double().numpy() - self.mean) / self.scale
        return torch.from_numpy(rows @ self.slope + self.offset)

    @property
    def weights(self) -> dict[str, float]:
        """By kind of evidence."""
        return {kind: round(float(weight), 3) for kind, weight in zip(KINDS, self.slope, strict=True)}

    @classmethod
    def fitted(cls, evidence: Evidence, rate: float) -> _Tilt:
        """By expectation–maximisation at the given noise rate."""
        tilt, _ = cls._fit(evidence, rate, keep_rate=True)
        return tilt

    @classmethod
    def free_rate(cls, evidence: Evidence, rate: float) -> float:
        """The noise rate, where it is fitted too, from a first guess on."""
        _, rate = cls._fit(evidence, rate, keep_rate=False)
        return rate

    @classmethod
    def _fit(cls, evidence: Evidence, rate: float, *, keep_rate: bool) -> tuple[_Tilt, float]:
        pairs, random = evidence.pairs.double().numpy(), evidence.random.double().numpy()
        everything = np.concatenate([pairs, random])
        mean, scale = everything.mean(0), everything.std(0)
        scale[scale == 0] = 1
        rows = (everything - mean) / scale
        is_pair = np.arange(len(rows)) < len(pairs)
        match = np.full(len(pairs), 1 - rate)
        for _ in range(_MAX_STEPS):
            # As much weight on random couples as on matching pairs: then the odds are the ratio of densities.
            weights = np.concatenate([match, np.full(len(random), match.sum() / len(random))])
            regression = LogisticRegression(C=_REGULARISATION).fit(rows, is_pair, sample_weight=weights)
            tilt = cls(mean, scale, regression.coef_[0], float(regression.intercept_[0]))
            before, match = match, _posterior(tilt(evidence.pairs), rate).numpy()
            if not keep_rate:
                rate = float(np.clip(1 - match.mean(), LEAST_RATE, 1 - LEAST_RATE))
            if np.abs(match - before).mean() < _TOLERANCE:
                break
        return tilt, rate


def _some(evidence: Evidence, most: int, generator: np.random.Generator) -> Evidence:
    """At most so many pairs and random couples, drawn without replacement."""

    def some(rows: Tensor) -> Tensor:
        return rows[torch.from_numpy(generator.permutation(len(rows))[:most])]

    return Evidence(some(evidence.pairs), some(evidence.random))


def _resampled(evidence: Evidence, rate: float, generator: np.random.Generator) -> tuple[float, float]:
    """95 % of the rates that resamples of pairs and random couples give."""
    own, random = evidence.own, evidence.random_own
    size = min(len(own), _MOST_RESAMPLED)
    found = []
    for _ in range(_RESAMPLES):
        some = torch.from_numpy(generator.integers(len(own), size=size))
        others = torch.from_numpy(generator.integers(len(random), size=min(len(random), _MOST_RESAMPLED)))
        mixture = fit_with_known_mismatches(own[some], random[others])
        if not mixture.degenerate:
            found.append(mixture.noise_rate)
    if not found:
        return rate, rate
    low, high = (np.quantile(found, (0.025, 0.975)) - np.mean(found)) * (size / len(own)) ** 0.5
    return rate + float(low), rate + float(high)
