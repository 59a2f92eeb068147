"""What a threshold would do, answered from sums that are made once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int8

from truepair.cleaning.decisions_db import ACTIONS
from truepair.errors import ConfigError


class Cut:
    """What a threshold does to the pairs of an audit, by the estimated probabilities."""

    def __init__(
        self, probability: Float[np.ndarray, " pairs"], may_re_pair: Bool[np.ndarray, " pairs"], *, re_pair: bool
    ) -> None:
        """Sort and add up.

        Args:
            probability: Mismatch probabilities, in any order; NaN where unknown, where the rule drops nothing.
            may_re_pair: True where the rule may re-pair.
            re_pair: Whether it does.
        """
        self._probability = probability
        self._may_re_pair = may_re_pair & re_pair
        is_known = ~np.isnan(probability)
        self._ascending = np.sort(probability[is_known])
        self._ascending_mutual = np.sort(probability[self._may_re_pair & is_known])
        self._sums = np.concatenate([[0.0], np.cumsum(self._ascending, dtype=np.float64)])

    @property
    def is_known(self) -> bool:
        """Whether any mismatch probability is known: without one, a threshold does nothing."""
        return len(self._ascending) > 0

    def at(self, threshold: float) -> dict[str, float]:
        """What the rule does at a threshold, in O(log pairs).

        Returns:
            ``threshold``; ``dropped`` and ``re_paired`` (how many); of these together ``expected_mismatched`` (how many
            do not match) and ``expected_matching`` (good ones lost); ``expected_missed`` (mismatched ones that stay).

        Raises:
            ConfigError: If it is not in (0, 1].
        """
        limit = self._limit(threshold)
        below = int(np.searchsorted(self._ascending, limit))
        suspects = len(self._ascending) - below
        re_paired = len(self._ascending_mutual) - int(np.searchsorted(self._ascending_mutual, limit))
        mismatched = float(self._sums[-1] - self._sums[below])
        return {
            "threshold": threshold,
            "dropped": suspects - re_paired,
            "re_paired": re_paired,
            "expected_mismatched": mismatched,
            "expected_matching": suspects - mismatched,
            "expected_missed": float(self._sums[below]),
        }

    def with_decisions(self, threshold: float, codes: Int8[np.ndarray, " pairs"]) -> dict[str, int]:
        """How many pairs are ``keep``, ``drop`` and ``re-pair`` where decisions by hand go before the rule.

        Args:
            threshold: In (0, 1].
            codes: Decisions, as numbers of `ACTIONS`; 0 where the rule decides.
        """
        rule = self.at(threshold)
        decided = codes.nonzero()[0]
        is_suspect = self._probability[decided] >= self._limit(threshold)
        rule_re_pairs = int((is_suspect & self._may_re_pair[decided]).sum())
        drop = int(rule["dropped"]) - int(is_suspect.sum()) + rule_re_pairs
        re_pair = int(rule["re_paired"]) - rule_re_pairs
        keep = len(codes) - len(decided) - drop - re_pair
        by_rule = {"keep": keep, "drop": drop, "re-pair": re_pair}
        by_hand = np.bincount(codes[decided], minlength=len(ACTIONS))
        return {action: count + int(by_hand[ACTIONS.index(action)]) for action, count in by_rule.items()}

    def _limit(self, threshold: float) -> np.generic:
        """In the precision of the probabilities, as the audit compares: 0.7 as float32 is not 0.7."""
        if not 0 < threshold <= 1:
            raise ConfigError(f"threshold is {threshold:g}, but it is a probability above 0")
        limit: np.generic = self._probability.dtype.type(threshold)
        return limit
