"""Pairs against random pairs: whether they differ at all, and the share of pairs that look like random ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Unknown = Literal["too few pairs", "captions elsewhere"]
"""Why nothing consistent was learned: too few pairs to say, or captions that belong to other images."""

LEAST_RATE = 0.005
"""Smallest estimate of the noise rate: some pair is always the least plausible, and keeps its place in the order."""
_LOWEST_SHARES = torch.linspace(0.05, 0.5, 19, dtype=torch.float64)
"""Shares of random pairs below the scores at which the noise rate is read."""
_FEWEST_BELOW = 30
"""Pairs below the lowest score that the noise rate is read at, if all were mismatched."""
_AGREEING = 2.5
"""Standard errors within which two estimates of the noise rate agree."""
_CONSISTENT = 5
"""Standard errors by which the share of pairs above random pairs must exceed one half."""
_SURELY_BELOW = 3
"""Standard errors by which that share must stay below what right captions reach, to say that they are not right."""
_RIGHT_CAPTIONS = 0.6
"""Share above random pairs that right captions surely reach."""
_FEWEST_PAIRS = 100
"""Pairs below which models learn too little for right captions to reach that share."""


@dataclass(frozen=True)
class Comparison:
    """How often a pair scores above a random pair, and whether that is more than chance.

    Attributes:
        share: Probability, in [0, 1], that a pair scores above a random pair; 0.5 is chance.
        pairs: Number of pairs.
        random: Number of random pairs.
    """

    share: float
    pairs: int
    random: int

    @classmethod
    def of(cls, scores: Float[Tensor, " pairs"], of_random: Float[Tensor, " random"]) -> Comparison:
        """By the scores of both."""
        return cls(share_above(scores, of_random), len(scores), len(of_random))

    @property
    def standard_error(self) -> float:
        """Of the share, if pairs score like random pairs (Mann & Whitney, 1947): ``√((1/n + 1/m) / 12)``."""
        return sqrt((1 / self.pairs + 1 / self.random) / 12)

    @property
    def needed(self) -> float:
        """The share from which on pairs differ from random ones by more than chance: five standard errors above ½."""
        return 0.5 + _CONSISTENT * self.standard_error

    @property
    def unknown(self) -> Unknown | None:
        """Why nothing can be said about single pairs; None where pairs differ from random pairs.

        Right captions reach a share of 0.8 and more with frozen features, once there are 300 pairs, and 0.7 with 100:
        of the demo, 0.89 of 500 pairs, 0.81 of 300, 0.77 of 200, 0.70 of 100, 0.62 of 40. So where the share and three
        standard errors together stay below 0.6, right captions would have shown: the captions belong to other images
        ("captions elsewhere"), or the features do not tell. Otherwise, and with fewer than 100 pairs in any case, there
        are too few pairs to say.

        >>> [Comparison(share, pairs, 4 * pairs).unknown for share, pairs in ((0.4, 40), (0.5, 2500), (0.9, 2500))]
        ['too few pairs', 'captions elsewhere', None]
        """
        if self.share >= self.needed:
            return None
        is_surely_below = self.share + _SURELY_BELOW * self.standard_error < _RIGHT_CAPTIONS
        return "captions elsewhere" if is_surely_below and self.pairs >= _FEWEST_PAIRS else "too few pairs"

    def explained(self, difference: str, consequence: str, more_pairs: str) -> str:
        """One sentence that nothing consistent was learned: figures, reason, consequence and next step.

        Args:
            difference: What should hold of pairs: "pairs are more plausible than random pairs".
            consequence: What follows: "no pair is called a suspect".
            more_pairs: What to do about too few pairs: "audit more pairs together".
        """
        figures = (
            f"nothing consistent was learned: {difference} in {100 * self.share:.1f} % of comparisons (chance is 50 %, "
            f"needed: {100 * self.needed:.1f} %)"
        )
        if self.unknown == "too few pairs":
            return f"{figures}, and {self.pairs:,} pairs are too few to say; {consequence}; {more_pairs}"
        return (
            f"{figures}, though {self.pairs:,} pairs are enough: the captions seem to belong to other images (was the "
            f"table joined or sorted wrongly?), or the features, or what was learned of them, say too little; "
            f"{consequence}; look at a few captions beside their images"
        )


def share_above(scores: Float[Tensor, " pairs"], of_random: Float[Tensor, " random"]) -> float:
    """Probability, in [0, 1], that a pair scores above one known not to match, ties counting half.

    ½ means that the models cannot tell pairs from random pairs. Needs no truth about `scores`.

    >>> share_above(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0]))
    0.75
    """
    ordered = of_random.sort().values
    below, not_above = torch.searchsorted(ordered, scores), torch.searchsorted(ordered, scores, right=True)
    return ((below + not_above).double().mean() / (2 * len(ordered))).item()


def rate_against_random(scores: Float[Tensor, " pairs"], of_random: Float[Tensor, " random"]) -> float:
    r"""The share of pairs that score like random ones, in [`LEAST_RATE`, 1 - `LEAST_RATE`].

    Mismatched pairs are distributed like random ones, and matching pairs are rare where random ones score low. With the
    shares F and F_0 of pairs and of random pairs below a score, every :math:`F / F_0` is therefore an upper bound of
    the noise rate in expectation, tighter the lower the score, but noisier (Storey, JRSS B 2002, whose λ is 1 - F_0).
    Of scores at which F_0 is 0.05, …, 0.5, the highest one is taken whose estimate agrees with those of all
    lower ones, within `_AGREEING` standard errors of these (Lepski's method). No shape of either distribution is
    assumed: a mixture of Gaussians gave a rate of 7 % where 80 % were mismatched and models knew little.

    Of few pairs, scores start higher, where `_FEWEST_BELOW` would lie if all were mismatched: below the lowest ones may
    be no pair by chance, and the noise rate would come out as 0 (of 300 photographs with 20 % shuffled, once).
    """
    values, known = scores.double().sort().values, of_random.double().sort().values
    least = min(_FEWEST_BELOW / len(values), float(_LOWEST_SHARES[-1]))
    places = (_LOWEST_SHARES[least <= _LOWEST_SHARES] * len(known)).long().clamp(1, len(known) - 1)
    at = known[places]
    at = at[at > known[0]] if (at > known[0]).any() else at[:1]  # below the lowest score is nothing: up to it
    is_lowest = bool(at[0] == known[0])
    of_null = torch.searchsorted(known, at, right=is_lowest).double() / len(known)  # F_0, fewer where scores are equal
    below = torch.searchsorted(values, at, right=is_lowest).double() / len(values)  # F
    rate = below / of_null
    at_least = below.clamp(min=1 / len(values))  # where no pair is, there might be one
    relative = (1 - below) / (len(values) * at_least) + (1 - of_null) / (len(known) * of_null)
    error = _AGREEING * (at_least / of_null) * relative.sqrt()
    agrees = (rate[:, None] - rate).abs() <= error  # [estimate, lower one]
    agrees |= torch.ones_like(agrees).triu()  # only lower ones count
    chosen = int(agrees.all(1).nonzero().max())
    return min(max(float(rate[chosen]), LEAST_RATE), 1 - LEAST_RATE)
