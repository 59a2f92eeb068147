"""From scores to mismatch probabilities, with random pairs as the example of what does not match.

A mixture of two free components asks the scores to have two humps, which they need not have: pairs that match are easy
or hard, and a free "mismatched" component swallows the hard ones. But what mismatched pairs look like is known: take a
caption and a random image. With that component fixed, only the other one and the noise rate are left to be fitted.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.errors import DataError
from truepair.mixtures import Gaussian, Mixture

_NARROWEST = 1e-2
"""Smallest standard deviation of a component, as a share of that of all scores."""


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
        The mixture. If no clean component rises above the mismatched one, a degenerate one with noise rate 0, which
        calls no pair mismatched: such scores say nothing either way.

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
    smallest = max((torch.cat([values, known]).std().item() * _NARROWEST) ** 2, torch.finfo(torch.float64).tiny)
    null = Gaussian(known.mean().item(), max(known.var().item(), smallest))
    upper = values[values >= values.median()]
    clean = Gaussian(upper.mean().item(), max(values.var().item(), smallest))
    noise_rate, likelihood, converged, iterations = 0.5, -math.inf, False, 0
    while not converged and iterations < max_iterations:
        of_null = math.log(noise_rate) + null.log_density(values)
        of_clean = math.log(1 - noise_rate) + clean.log_density(values)
        before, likelihood = likelihood, torch.logaddexp(of_null, of_clean).sum().item()
        converged = likelihood - before < tolerance
        if not converged:
            weight = (of_clean - of_null).sigmoid()
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


def separation(scores: Float[Tensor, " pairs"], mismatched: Float[Tensor, " known"]) -> float:
    """Probability, in [0, 1], that a pair scores above one known not to match, ties counting half.

    ½ means that the models cannot tell pairs from random pairings. Needs no truth about `scores`.

    >>> separation(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0]))
    0.75
    """
    ordered = mismatched.double().sort().values
    below = torch.searchsorted(ordered, scores.double(), right=False)
    not_above = torch.searchsorted(ordered, scores.double(), right=True)
    return ((below + not_above).double().mean() / 2 / len(ordered)).item()
