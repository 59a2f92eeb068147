"""Named streams of random numbers, so that two uses of one seed do not draw the same numbers.

A stream is a spawn key of NumPy's `SeedSequence`: the same seed and the same stream give the same numbers, and
different streams of one seed are independent. The numbers of the streams never change, because results depend on them.
Some are shared, and why that does no harm is written beside their names; a new stream takes the next free number.

Two draws have no stream of their own: batches are shuffled by ``(seed, epoch)`` (`data.loader`), and every model of an
audit has its own seed from ``(seed, repetition)`` (`audit.crossfit`).
"""

from __future__ import annotations

from enum import Enum

import numpy as np


class Stream(Enum):
    """What random numbers are drawn for; names with the same number draw the same numbers from the same seed.

    Those of the plain seed have no spawn key: None, because Python 3.11.2 makes another value of an empty tuple.
    """

    SPLITS = None
    """The plain seed: which images go to which split. Shared with the folds of an audit and the pairs of an inspection,
    which are drawn from pairs that have been split before."""
    AUDIT_FOLDS = None
    """The plain seed: which images go to which fold of an audit."""
    INSPECTION = None
    """The plain seed: which pairs an inspection looks at."""
    SYNTHETIC_WORLD = (0,)
    """Weights of the maps that make synthetic features."""
    NOISE = (1,)
    """Mismatches put in on purpose; not the plain seed, or the captions drawn would be the first batches of an epoch.
    Shared with the factors of synthetic pairs, whose seed is one of their own."""
    SYNTHETIC_FACTORS = (1,)
    """Factors of synthetic pairs."""
    CONFIDENCE = (2,)
    """Negatives and random pairs of a confidence against random pairs (CRCL, DisNCL, plain training)."""
    REFERENCE_PAIRS = (3,)
    """Reference pairs and random pairs of the teacher's confidence. Shared with the audit, which compares pairs by
    other models, trained with other seeds."""
    AUDIT_SCORES = (3,)
    """Reference pairs, negatives and random pairs of an audit."""
    AUDIT_PROBABILITIES = (4,)
    """Resamples of an audit, and the pairs that its probabilities are fitted to."""
    LABELLED_PAIRS = (4,)
    """Labelled pairs of MSCN's meta step. Their spawn key is (4, key, use), so that they are independent of the
    audit's probabilities all the same."""
    AUDIT_SUBSET = (5,)
    """Pairs that an audit's models learn from, where there are more than they may learn from."""
    TRUSTED_PAIRS = (5,)
    """Trusted pairs of MSCN. Shared with the audit, which draws from another set of pairs."""
    PROBES = (6,)
    """Pairs that suggested partners are tried on."""
    CAPTION_LINKS = (7,)
    """Random pairs of captions, for the joint inference over the captions of one image."""
    SENSITIVITY = (8,)
    """Mistakes that an audit makes on purpose, to see whether it finds them."""
    REPORT = (9,)
    """Borderline pairs and pairs that look right which a report shows."""
    SEARCH = (10,)
    """Reference pairs of an index for search, and the queries that its probabilities are learned from."""
    FITTED_GROUPS = (11,)
    """Images whose captions the joint inference is fitted to, where there are many."""

    def generator(self, seed: int, *key: int) -> np.random.Generator:
        """Random numbers of this stream.

        Args:
            seed: The seed of the configuration.
            key: Further numbers where one use needs several streams.

        >>> first, again, other = Stream.NOISE.generator(0), Stream.NOISE.generator(0), Stream.PROBES.generator(0)
        >>> value = int(first.integers(1 << 30))
        >>> value == int(again.integers(1 << 30)), value == int(other.integers(1 << 30))
        (True, False)
        """
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*(self.value or ()), *key)))
