"""Two-component mixtures of one-dimensional scores, and the posterior probability that a pair is clean.

The scores of a noisy training set have two modes: mismatched pairs score low, clean pairs high. A mixture of two
densities, fitted by expectation-maximisation, turns a score into a probability. The M-step matches weighted means and
variances; for Gaussians that is maximum likelihood, for Betas the usual closed-form stand-in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.errors import DataError

_SMALLEST_VARIANCE = 1e-6
"""Of a Beta component."""
_BETA_PARAMETERS = (1e-2, 1e4)
"""Smallest and largest a and b."""
_BETA_MARGIN = 1e-3
"""Beta scores are clamped this far from 0 and 1, where the log-density is infinite."""
_NARROWEST = 1e-2
"""Smallest standard deviation of a Gaussian component, as a share of that of all scores: less is a spike on a few
equal scores, whose likelihood has no bound."""
_CLOSEST = 1e-2
"""Component means nearer than this share of the standard deviation of all scores do not tell two groups of pairs."""
_FEWEST_SCORES = 4
"""Distinct scores below which two means and two variances cannot be told."""


@dataclass(frozen=True)
class Gaussian:
    """A normal density.

    Attributes:
        mean: Its mean.
        variance: Its variance, positive.
    """

    mean: float
    variance: float

    def log_density(self, scores: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """``log N(s; mean, variance)``."""
        return -0.5 * ((scores - self.mean) ** 2 / self.variance + math.log(2 * math.pi * self.variance))

    def turning_point(self, other: Gaussian) -> float | None:
        """Where ``log self/other``, a parabola, has its vertex; None if it is a line."""
        precision = 1 / self.variance - 1 / other.variance
        if precision == 0:
            return None
        return (self.mean / self.variance - other.mean / other.variance) / precision


@dataclass(frozen=True)
class Beta:
    """A Beta density on (0, 1).

    Attributes:
        a: First parameter, positive.
        b: Second parameter, positive.
    """

    a: float
    b: float

    @classmethod
    def from_moments(cls, mean: float, variance: float) -> Beta:
        """The Beta of this mean and variance.

        With ``c = mean (1 - mean) / variance - 1``: ``a = c mean`` and ``b = c (1 - mean)``.
        Variances below 1e-6 count as 1e-6, and means as [1e-3, 1 - 1e-3], as scores do. Parameters are kept in
        [1e-2, 1e4]; above, both shrink together, so that the mean stays.

        >>> Beta.from_moments(0.5, 0.05)
        Beta(a=2.0, b=2.0)
        >>> round(Beta.from_moments(0.0, 0.0).mean, 3)
        0.001
        """
        smallest, largest = _BETA_PARAMETERS
        mean = min(max(mean, _BETA_MARGIN), 1 - _BETA_MARGIN)
        concentration = mean * (1 - mean) / max(variance, _SMALLEST_VARIANCE) - 1
        concentration = min(concentration, largest / max(mean, 1 - mean))
        return cls(max(concentration * mean, smallest), max(concentration * (1 - mean), smallest))

    @property
    def mean(self) -> float:
        """``a / (a + b)``."""
        return self.a / (self.a + self.b)

    def log_density(self, scores: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """``log Beta(s; a, b)``, with scores clamped to [1e-3, 1 - 1e-3]."""
        scores = scores.clamp(_BETA_MARGIN, 1 - _BETA_MARGIN)
        log_normaliser = math.lgamma(self.a) + math.lgamma(self.b) - math.lgamma(self.a + self.b)
        return (self.a - 1) * scores.log() + (self.b - 1) * torch.log1p(-scores) - log_normaliser

    def turning_point(self, other: Beta) -> float | None:
        """Where in (0, 1) ``log self/other`` stops rising or falling; None if it never does."""
        low, high = self.a - other.a, self.b - other.b  # its slope is low/s - high/(1 - s)
        return low / (low + high) if low * high > 0 else None


Component = TypeVar("Component", Gaussian, Beta)


@dataclass(frozen=True)
class Mixture(Generic[Component]):
    """``noise_rate · mismatched(s) + (1 - noise_rate) · clean(s)``.

    Attributes:
        mismatched: Density of the scores of mismatched pairs.
        clean: Density of the scores of clean pairs; its mean is the larger one.
        noise_rate: Weight of the mismatched pairs, in [0, 1].
        converged: Whether the log-likelihood stopped rising before the iterations ran out.
        iterations: Expectation-maximisation steps taken.
        degenerate: The scores did not show two groups of pairs, and this is the fallback that the fit names.
    """

    mismatched: Component
    clean: Component
    noise_rate: float
    converged: bool
    iterations: int
    degenerate: bool = False

    def posterior(self, scores: Float[Tensor, " pairs"], *, monotone: bool = True) -> Float[Tensor, " pairs"]:
        """The probability, in [0, 1], that a pair with this score is clean.

        Bayes' rule alone is not monotone: where one density is wider than the other, it wins again in the far tail,
        and a pair with the lowest score of all would be called clean. The log-odds of two Gaussians or two Betas turn
        back at most once, and always outside the two means. With `monotone`, scores beyond that point get the
        posterior of the point, so that a higher score never means a lower probability.

        Args:
            scores: ``[pairs]``, higher = more similar.
            monotone: Hold the posterior constant beyond its turning point.

        Raises:
            DataError: If a score is NaN or infinite.
        """
        values = _finite(scores)
        if self.noise_rate == 0:
            return torch.ones_like(scores)
        turning_point = self.clean.turning_point(self.mismatched) if monotone else None
        if turning_point is not None:
            is_peak = turning_point > self.clean.mean
            values = values.clamp(max=turning_point) if is_peak else values.clamp(min=turning_point)
        prior = math.log(1 - self.noise_rate) - math.log(self.noise_rate)
        return (prior + self.clean.log_density(values) - self.mismatched.log_density(values)).sigmoid().to(scores)


def fit_gaussian_mixture(
    scores: Float[Tensor, " pairs"], *, max_iterations: int = 1000, tolerance: float = 1e-3
) -> Mixture[Gaussian]:
    """A mixture of two Gaussians, started from the best split of the scores into a low and a high group.

    No component gets narrower than a hundredth of the scores' standard deviation.

    Args:
        scores: ``[pairs]``, higher = more similar, of any scale. Losses must change sign first.
        max_iterations: Expectation-maximisation steps at most.
        tolerance: Stop when a step raises the log-likelihood, summed over pairs, by less.

    Returns:
        The mixture. If the scores do not show two groups of pairs (fewer than 4 distinct scores, an empty component,
        means that meet, or one Gaussian describes them as well by the Bayesian information criterion), a degenerate
        one with noise rate 0: its posterior is 1, and no pair is called mismatched.

    Raises:
        DataError: If there is no score, or one is NaN or infinite.
    """
    values = _finite(scores)
    narrowest = max(values.var(correction=0).item() * _NARROWEST**2, torch.finfo(torch.float64).tiny)

    def gaussian(mean: float, variance: float) -> Gaussian:
        return Gaussian(mean, max(variance, narrowest))

    return _fit(values, gaussian, None, max_iterations, tolerance)


def fit_with_known_mismatches(
    scores: Float[Tensor, " pairs"],
    mismatched: Float[Tensor, " known"],
    *,
    max_iterations: int = 1000,
    tolerance: float = 1e-3,
) -> Mixture[Gaussian]:
    """A mixture of two Gaussians, one of which is that of pairs known not to match.

    Expectation-maximisation over the clean component and the noise rate; the mismatched component stays as measured.
    The idea of a known null density is Efron's (Large-scale simultaneous hypothesis testing, JASA 2004).

    Args:
        scores: ``[pairs]``, higher = more similar, of any scale.
        mismatched: ``[known]``, scores of pairs that surely do not match, on the same scale.
        max_iterations: Steps at most.
        tolerance: Stop when a step raises the log-likelihood, summed over pairs, by less.

    Returns:
        The mixture. If no clean component rises above the mismatched one, or the steps run out, a degenerate one with
        noise rate 0, which calls no pair mismatched: such scores say nothing either way.

    Raises:
        DataError: If a score is NaN or infinite, or one side has fewer than 2.
    """
    values, known = scores.detach().cpu().double(), mismatched.detach().cpu().double()
    for name, given in (("score", values), ("score of mismatched pairs", known)):
        if len(given) < 2 or not given.isfinite().all():
            raise DataError(
                f"a mixture needs at least 2 finite values of each {name}, but {int(given.isfinite().sum()):,} of "
                f"{len(given):,} are; check the model that made them"
            )

    # The start: the mismatched component as measured, the clean one from the upper half of the scores.
    smallest = max((torch.cat([values, known]).std().item() * _NARROWEST) ** 2, torch.finfo(torch.float64).tiny)
    null = Gaussian(known.mean().item(), max(known.var().item(), smallest))
    upper = values[values >= values.median()]
    clean = Gaussian(upper.mean().item(), max(values.var().item(), smallest))

    # Expectation-maximisation over the clean component and the noise rate.
    noise_rate, likelihood, converged, iterations = 0.5, -math.inf, False, 0
    while not converged and iterations < max_iterations:
        of_null = math.log(noise_rate) + null.log_density(values)
        of_clean = math.log(1 - noise_rate) + clean.log_density(values)
        before, likelihood = likelihood, torch.logaddexp(of_null, of_clean).sum().item()
        converged = likelihood - before < tolerance
        if not converged:
            weight = (of_clean - of_null).sigmoid()  # [pairs], how far each belongs to the clean component
            total = weight.sum().item()
            if total < 1:
                break
            mean = (weight * values).sum().item() / total
            variance = (weight * (values - mean) ** 2).sum().item() / total
            clean = Gaussian(mean, max(variance, smallest))
            noise_rate = min(max(1 - total / len(values), 1e-12), 1 - 1e-12)
            iterations += 1
    if not converged or clean.mean <= null.mean:
        return Mixture(null, clean, 0.0, converged=converged, iterations=iterations, degenerate=True)
    return Mixture(null, clean, noise_rate, converged=converged, iterations=iterations)


def fit_beta_mixture(
    scores: Float[Tensor, " pairs"],
    *,
    initial: tuple[Beta, Beta] | None = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-3,
) -> Mixture[Beta]:
    """A mixture of two Betas, as MSCN divides its training data (Han et al., CVPR 2023, https://arxiv.org/abs/2304.06275).

    The paper starts from Betas fitted to pairs known to be wrong and right, with equal weights, takes at most 10 steps
    and stops below a gain of 1e-2. The M-step takes the weighted moments, as in its code.

    Args:
        scores: ``[pairs]``, in [0, 1], higher = more similar; of cosines, half of 1 + them.
        initial: Mismatched and clean component to start from (see `fit_beta`), in this order, which is kept. Without,
            the start is the best split of the scores into a low and a high group.
        max_iterations: Expectation-maximisation steps at most.
        tolerance: Stop when a step raises the log-likelihood, summed over pairs, by less.

    Returns:
        The mixture. If the scores do not show two groups of pairs (as in `fit_gaussian_mixture`; with `initial`, one
        Beta is never enough), a degenerate one: `initial` with equal weights, or where that is not given or is itself
        in the wrong order, noise rate 0, whose posterior is 1.

    Raises:
        DataError: If there is no score, or one is NaN or outside [0, 1].
    """
    return _fit(_unit(scores), Beta.from_moments, initial, max_iterations, tolerance)


def fit_beta(scores: Float[Tensor, " pairs"]) -> Beta:
    """The Beta with the mean and variance of scores in [0, 1].

    Raises:
        DataError: If there is no score, or one is NaN or outside [0, 1].
    """
    values = _unit(scores)
    return Beta.from_moments(values.mean().item(), values.var(correction=0).item())


def _fit(
    values: Tensor,
    from_moments: Callable[[float, float], Component],
    initial: tuple[Component, Component] | None,
    max_iterations: int,
    tolerance: float,
) -> Mixture[Component]:
    """Expectation-maximisation; `from_moments` makes a component from a weighted mean and variance."""
    single = from_moments(values.mean().item(), values.var(correction=0).item())
    fallback = Mixture(single, single, 0.0, converged=False, iterations=0, degenerate=True)
    if initial is not None and initial[0].mean < initial[1].mean:
        fallback = Mixture(*initial, 0.5, converged=False, iterations=0, degenerate=True)
    if (values.sort().values.diff() > 0).sum() + 1 < _FEWEST_SCORES:
        return fallback

    # The start: the best split into two groups, or the components given.
    if initial is None:
        mismatched, clean, noise_rate = _maximise(values, _upper_group(values), from_moments)
    else:
        mismatched, clean, noise_rate = initial[0], initial[1], 0.5

    # Expectation-maximisation.
    likelihood, converged, iterations = -math.inf, False, 0
    while not converged and iterations < max_iterations:
        of_mismatched = math.log(noise_rate) + mismatched.log_density(values)
        of_clean = math.log(1 - noise_rate) + clean.log_density(values)
        before, likelihood = likelihood, torch.logaddexp(of_mismatched, of_clean).sum().item()
        converged = likelihood - before < tolerance
        if not converged:
            belonging = (of_clean - of_mismatched).sigmoid()
            if not 1 <= belonging.sum().item() <= len(values) - 1:
                return fallback
            mismatched, clean, noise_rate = _maximise(values, belonging, from_moments)
            iterations += 1

    # Do two components describe the scores better than one?
    means_meet = clean.mean - mismatched.mean < _CLOSEST * values.std(correction=0).item()
    gain = likelihood - single.log_density(values).sum().item()
    one_is_enough = initial is None and gain < 1.5 * math.log(len(values))  # BIC: half of 3 more parameters × log n
    if means_meet or one_is_enough:
        return fallback
    return Mixture(mismatched, clean, noise_rate, converged, iterations)


def _maximise(
    values: Tensor, belonging: Tensor, from_moments: Callable[[float, float], Component]
) -> tuple[Component, Component, float]:
    """The mismatched and the clean component and the noise rate, given how far each value belongs to the clean one."""
    components = []
    for weight in (1 - belonging, belonging):
        weight = weight / weight.sum()
        mean = (weight * values).sum()
        components.append(from_moments(mean.item(), (weight * (values - mean) ** 2).sum().item()))
    mismatched, clean = components
    return mismatched, clean, (1 - belonging).mean().item()


def _upper_group(values: Tensor) -> Tensor:
    """One for the values of the upper group, zero for the lower, of the split with the least variance within groups.

    That is the split with the largest ``n_low · n_high · (mean_high - mean_low)²`` (Otsu, 1979).
    """
    ordered = values.sort().values
    below = torch.arange(1, len(values), dtype=values.dtype)
    above = len(values) - below
    total = ordered.cumsum(0)
    distance = (total[-1] - total[:-1]) / above - total[:-1] / below
    best = (below * above * distance**2).argmax()
    return (values > ordered[best]).double()


def _finite(scores: Tensor) -> Tensor:
    """As float64 on the CPU: sums over many pairs need it, and not every device has it."""
    bad = (~scores.isfinite()).nonzero().flatten()
    if len(scores) == 0 or len(bad):
        where = f" (first: pair {int(bad[0])})" if len(bad) else ""
        raise DataError(
            f"a mixture needs at least one score and finite ones, but {len(bad):,} of {len(scores):,} are NaN or "
            f"infinite{where}; check the model that made them"
        )
    return scores.detach().cpu().double()


def _unit(scores: Tensor) -> Tensor:
    values = _finite(scores)
    outside = (values < 0) | (values > 1)
    if outside.any():
        raise DataError(
            f"a Beta mixture needs scores in [0, 1], but {int(outside.sum()):,} of {len(values):,} are outside (range "
            f"{values.min():.4g} … {values.max():.4g}); rescale them first, cosines to (1 + cosine) / 2"
        )
    return values
