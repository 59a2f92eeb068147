r"""From features of pairs to the probability that a pair matches, without a single label.

Random pairs surely do not match, and a mismatched pair looks like one of them to a model that did not learn it. So

1. the noise rate r is read where random pairs' log-odds are low and matching pairs are rare
   (`noise_rate.rate_against_random`);
2. matching pairs are taken to be random pairs, reweighted: :math:`f_1(e) = f_0(e)\, e^{a + b e}` for features e.
   Of such densities the odds are logistic, and expectation–maximisation alternates a logistic regression of pairs,
   weighted by the probability p that they match, against random pairs, with

   .. math:: p = \frac{(1 - r)\, e^{a + b e}}{(1 - r)\, e^{a + b e} + r}

The weights b of the features are so learned from the corpus itself. The model is the exponential tilt of case–control
studies (Qin & Zhang, Biometrika 1997); contamination with a known null is Efron's (JASA 2004).

Where pairs are not more plausible than random pairs by more than chance, nothing is known about any of them, and the
probabilities are NaN (`noise_rate.Comparison`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from truepair.random_streams import Stream
from truepair.scoring.noise_rate import Comparison, Unknown, rate_against_random, share_above
from truepair.scoring.pair_features import PairFeatures

_MOST_FITTED = 50_000
"""Pairs, and random pairs, that the regression is fitted to, at most; all pairs get its probability."""
_MOST_RESAMPLED = 10_000
"""Pairs of a resample; the spread of the rate is scaled to the true number."""
_RESAMPLES = 40
_LEAST_TOLD = 0.8
"""Of comparisons of a matching pair with a random one, the share that models get right whose noise rate is trusted:
0.94 to 0.97 with features of pretrained networks, 0.69 with patches of 1,000 photographs, whose captions, all right,
were given a noise rate of 28 %."""
_LEAST_WRONG = 0.5
"""Mismatched pairs that the low end of the interval of the noise rate must amount to, for any to be called one."""
_MAX_STEPS = 100
_TOLERANCE = 1e-4
"""Mean change of the probabilities at which a fit ends."""
_REGULARISATION = 10.0
"""Inverse strength of the penalty on standardised weights: enough that features which tell everything end somewhere."""


@dataclass(frozen=True)
class Probabilities:
    """Probability of each pair to match, by its features.

    Attributes:
        match: ``[pairs]``, probability, in [0, 1], that each pair matches; NaN for every pair where it is `unknown`.
        log_odds: ``[pairs]``, log-odds of its features under matching against random, whatever the noise rate; where
            probabilities are unknown, τ times the log-odds against negatives.
        random_log_odds: ``[random]``, the same of the random pairs.
        noise_rate: Estimated share of mismatched pairs: the mean probability that a pair does not match; NaN where it
            is unknown.
        weights: By feature, what a standard deviation of it adds to the log-odds; empty where they are unknown.
        match_of: The probability that a pair with such features ``[rows, features]`` matches; NaN where it is unknown.
        warnings: Why not to rely on it, in sentences with figures; empty if nothing speaks against it.
        unknown: Why no probability is known: "too few pairs" to say, or "captions elsewhere": captions that seem to
            belong to other images (a table joined or sorted wrongly). None where probabilities are known.
    """

    match: Float[Tensor, " pairs"]
    log_odds: Float[Tensor, " pairs"]
    random_log_odds: Float[Tensor, " random"]
    noise_rate: float
    weights: dict[str, float]
    match_of: Callable[[Tensor], Tensor]
    warnings: tuple[str, ...] = ()
    unknown: Unknown | None = None

    @property
    def random(self) -> Float[Tensor, " random"]:
        """Probability that each random pair matches, at the noise rate of the pairs."""
        return _posterior(self.random_log_odds, self.noise_rate)


def probabilities(features: PairFeatures, seed: int) -> Probabilities:
    """Probabilities of all pairs; unknown, with a warning that says why, where nothing consistent was learned.

    Args:
        features: Of the pairs, by models that did not learn them, and of random pairs.
        seed: Of resamples, and of the pairs that are fitted to where there are very many.
    """
    # Do pairs differ from random pairs at all?
    comparison = Comparison.of(features.log_odds, features.random_log_odds)
    if comparison.unknown:
        return _unknown(features, comparison, comparison.unknown)

    # The noise rate, by the log-odds alone.
    generator = Stream.AUDIT_PROBABILITIES.generator(seed)
    rate = rate_against_random(features.log_odds, features.random_log_odds)

    # The probabilities at that rate, by all features.
    fitted = features if len(features.pairs) <= _MOST_FITTED else _some(features, _MOST_FITTED, generator)
    tilt = _Tilt.fitted(fitted, rate)
    log_odds, random_log_odds = tilt(features.pairs), tilt(features.random)
    match = _posterior(log_odds, rate)

    # What speaks against relying on them.
    warnings = []
    told = _told_from_random(features, rate)
    if told < _LEAST_TOLD:
        warnings.append(
            f"the models tell a matching pair from a random one in only {100 * told:.0f} % of comparisons: matching "
            f"pairs that they do not understand count as mismatches, and the noise rate of {100 * rate:.0f} % may be "
            "far too high; audit embeddings of other pretrained networks (--image-encoder), or more pairs"
        )
    return Probabilities(
        match=match.to(features.log_odds),
        log_odds=log_odds,
        random_log_odds=random_log_odds,
        noise_rate=1 - float(match.mean()),
        weights=tilt.weights(features.names),
        match_of=lambda rows: _posterior(tilt(rows), rate),
        warnings=tuple(warnings),
    )


def _told_from_random(features: PairFeatures, rate: float) -> float:
    """How often a matching pair's log-odds exceed a random pair's; those of a mismatched one do half the time."""
    above = share_above(features.log_odds, features.random_log_odds)
    return (above - rate / 2) / (1 - rate)


def _unknown(features: PairFeatures, comparison: Comparison, reason: Unknown) -> Probabilities:
    """No probabilities; the log-odds against negatives still order the pairs."""
    said = comparison.explained(
        "pairs are more plausible than random pairs", "no pair is called a suspect", "audit more pairs together"
    )
    return Probabilities(
        match=torch.full_like(features.log_odds, torch.nan),
        log_odds=features.log_odds.double(),
        random_log_odds=features.random_log_odds.double(),
        noise_rate=float("nan"),
        weights={},
        match_of=lambda rows: rows.new_full(rows.shape[:1], torch.nan),
        warnings=(said,),
        unknown=reason,
    )


def known_to_differ(found: Probabilities, features: PairFeatures, seed: int) -> Probabilities:
    """The probabilities, or none where it may well be that every pair matches: no pair is then called a suspect.

    For a handful of pairs, of which the least plausible one is otherwise dropped, whatever it is.

    Args:
        found: What the features gave.
        features: Of the pairs and of random pairs.
        seed: Of the resamples.
    """
    low, high = noise_rate_interval(features, found, seed)
    if found.unknown is not None or low * len(features.pairs) >= _LEAST_WRONG:
        return found
    rates = f"rates from {100 * low:.0f} to {100 * high:.0f} %"
    if round(100 * low) == round(100 * high):
        rates = f"a rate of about {100 * high:.0f} %"
    said = (
        f"of {len(features.pairs):,} pairs it cannot be said whether any does not match: resamples of them give noise "
        f"{rates}; no pair is called a suspect, the least plausible come first; audit more pairs together"
    )
    return replace(
        found,
        match=torch.full_like(found.match, torch.nan),
        noise_rate=float("nan"),
        weights={},
        match_of=lambda rows: rows.new_full(rows.shape[:1], torch.nan),
        warnings=(said,),
        unknown="too few pairs",
    )


def log_ratio(
    values: Float[Tensor, " values"], of_random: Float[Tensor, " random"], rate: float
) -> Float[Tensor, " values"]:
    """Logarithm of the density of what is not random against that of random ones, of a single feature.

    Args:
        values: A mixture of both.
        of_random: What is random for sure.
        rate: Share of random ones among `values`, in (0, 1).
    """
    features = PairFeatures(values[:, None], of_random[:, None])
    generator = np.random.default_rng(0)
    fitted = features if len(values) <= _MOST_FITTED else _some(features, _MOST_FITTED, generator)
    return _Tilt.fitted(fitted, rate)(features.pairs)


def _posterior(log_odds: Float[Tensor, " pairs"], rate: float) -> Float[Tensor, " pairs"]:
    return (log_odds + float(np.log1p(-rate) - np.log(rate))).sigmoid()


@dataclass(frozen=True)
class _Tilt:
    """``a + b · e`` for features e, standardised."""

    mean: np.ndarray
    scale: np.ndarray
    slope: np.ndarray
    offset: float

    def __call__(self, features: Float[Tensor, "rows features"]) -> Float[Tensor, " rows"]:
        rows = (features.double().numpy() - self.mean) / self.scale
        return torch.from_numpy(rows @ self.slope + self.offset)

    def weights(self, names: Sequence[str]) -> dict[str, float]:
        """By the features' names."""
        return {name: round(float(weight), 3) for name, weight in zip(names, self.slope, strict=True)}

    @classmethod
    def fitted(cls, features: PairFeatures, rate: float) -> _Tilt:
        """By expectation–maximisation at the given noise rate."""
        from sklearn.linear_model import LogisticRegression  # takes a second to load

        # Rows of pairs and of random pairs, standardised together: [pairs + random, features].
        pairs, random = features.pairs.double().numpy(), features.random.double().numpy()
        everything = np.concatenate([pairs, random])
        mean, scale = everything.mean(0), everything.std(0)
        scale[scale == 0] = 1
        rows = (everything - mean) / scale
        is_pair = np.arange(len(rows)) < len(pairs)

        # Expectation–maximisation, from the same probability for every pair on.
        match = np.full(len(pairs), 1 - rate)
        for _ in range(_MAX_STEPS):
            # As much weight on random pairs as on matching pairs: then the odds are the ratio of densities.
            weights = np.concatenate([match, np.full(len(random), match.sum() / len(random))])
            regression = LogisticRegression(C=_REGULARISATION).fit(rows, is_pair, sample_weight=weights)
            tilt = cls(mean, scale, regression.coef_[0], float(regression.intercept_[0]))
            before, match = match, _posterior(tilt(features.pairs), rate).numpy()
            if np.abs(match - before).mean() < _TOLERANCE:
                break
        return tilt


def _some(features: PairFeatures, most: int, generator: np.random.Generator) -> PairFeatures:
    """At most `most` pairs and at most `most` random pairs, drawn without replacement."""

    def some(rows: Tensor) -> Tensor:
        return rows[torch.from_numpy(generator.permutation(len(rows))[:most])]

    return replace(features, pairs=some(features.pairs), random=some(features.random))


def noise_rate_interval(features: PairFeatures, found: Probabilities, seed: int) -> tuple[float, float]:
    """95 % of the noise rates that resamples of pairs and random pairs give, and the one that was found.

    It says how much the estimate depends on the pairs drawn, not how far the models mislead it.

    Args:
        features: Of the pairs and of random pairs.
        found: What they gave.
        seed: Of the resamples.

    Returns:
        (0, 1) where the rate is unknown.
    """
    if found.unknown is not None:
        return 0.0, 1.0
    generator = Stream.AUDIT_PROBABILITIES.generator(seed)
    log_odds, random = features.log_odds, features.random_log_odds
    size, other_size = (min(len(values), _MOST_RESAMPLED) for values in (log_odds, random))
    rates = []
    for _ in range(_RESAMPLES):
        some = torch.from_numpy(generator.integers(len(log_odds), size=size))
        others = torch.from_numpy(generator.integers(len(random), size=other_size))
        rates.append(rate_against_random(log_odds[some], random[others]))
    low, high = (np.quantile(rates, (0.025, 0.975)) - np.mean(rates)) * (size / len(log_odds)) ** 0.5
    rate = found.noise_rate
    return max(rate + float(low), 0.0), min(rate + float(high), 1.0)
