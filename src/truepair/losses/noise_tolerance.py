r"""How much label noise can cost a model that minimises the complementary loss: bounds in closed form.

Take one direction of `losses.complementary.complementary_loss` with exponent q, N candidates, and labels that are kept
with probability 1 - η and otherwise uniform over the N - 1 others. With the total tangent :math:`T = \sum_j \tan p_j`,
the losses of all N labels sum to :math:`(N - 1) \, T^{1-q}`, so that the noisy risk of any model is

.. math::
    R^\eta = \Big( 1 - \frac{\eta N}{N - 1} \Big) R + \eta \, E[T^{1-q}].

At q = 1 the last term is constant: below η = (N-1)/N, clean and noisy risk have the same minimisers. At q < 1 it can
move no further than T does. These are Lemmas 1 and 2 of Qin et al., NeurIPS 2023, https://arxiv.org/abs/2310.17468,
whose Figure 2 plots the constants C and C′ of the second; the constants here are derived anew. The loss over both
directions doubles them.
"""

from __future__ import annotations

import math

from truepair.errors import ConfigError


def total_tangent_bounds(candidates: int) -> tuple[float, float]:
    r"""The smallest and the largest :math:`\sum_j \tan p_j` of a probability vector of N entries.

    The tangent is convex on [0, 1], hence the least total, N · tan(1/N), at uniform probabilities and the largest,
    tan 1, at certainty.

    Args:
        candidates: N, at least 1.

    Returns:
        ``(N · tan(1/N), tan 1)``.

    Example:
        >>> [round(bound, 4) for bound in total_tangent_bounds(2)]  # 2 · tan(½), tan(1)
        [1.0926, 1.5574]
    """
    return candidates * math.tan(1 / candidates), math.tan(1)


def risk_gap_bounds(candidates: int, noise_rate: float, exponent: float) -> tuple[float, float]:
    r"""Between which bounds the risks of the clean minimiser f* and of the noisy minimiser f*_η can differ.

    .. math::
        -\frac{\eta \, d}{a} \le R(f^*) - R(f^*_\eta) \le 0, \qquad
        0 \le R^\eta(f^*) - R^\eta(f^*_\eta) \le \eta \, d,

    where :math:`d = (\tan 1)^{1-q} - (N \tan \tfrac1N)^{1-q}` and :math:`a = 1 - \eta N / (N - 1)`.

    Args:
        candidates: N, at least 2.
        noise_rate: η, in [0, (N-1)/N).
        exponent: q, in [0, 1].

    Returns:
        ``(-η·d/a, η·d)``: the lower bound on the gap in clean risk and the upper bound on the gap in noisy risk.

    Raises:
        ConfigError: If an argument is out of its range; at η = (N-1)/N labels say nothing and no bound holds.

    Example:
        The plain sum (q = 0) can be misled by label noise, the normalised one (q = 1) cannot.

        >>> [round(bound, 4) for bound in risk_gap_bounds(candidates=100, noise_rate=0.2, exponent=0.0)]
        [-0.1397, 0.1115]
        >>> risk_gap_bounds(candidates=100, noise_rate=0.2, exponent=1.0)
        (0.0, 0.0)
    """
    if candidates < 2:
        raise ConfigError(f"candidates is {candidates}, but a label can only be wrong among at least 2")
    most_noise = (candidates - 1) / candidates
    if not 0 <= noise_rate < most_noise:
        raise ConfigError(
            f"noise_rate is {noise_rate}, but with {candidates} candidates bounds hold only in [0, {most_noise:.6g})"
        )
    if not 0 <= exponent <= 1:
        raise ConfigError(f"exponent is {exponent}, but it must be in [0, 1]")
    least, largest = total_tangent_bounds(candidates)
    spread = largest ** (1 - exponent) - least ** (1 - exponent)
    upper = noise_rate * spread
    return 0.0 - upper / (1 - noise_rate / most_noise), upper  # from 0.0, so that no gap is 0.0 and not -0.0
