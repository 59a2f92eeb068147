"""Scores of all pairs, each by the models that may judge it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from truepair.audit.crossfit import Fold
from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.plausibility import Scores, affordable_candidates, scores_of

USUAL_CANDIDATES = 4096
"""Competitors of a pair, if none are asked for and they are cheap."""


def candidates_of(models: Sequence[MatchingModel], asked: int | None) -> int:
    """How many competitors a pair has: as many as asked for, or else 4,096, or 128 where SAF or SGR score."""
    return asked or affordable_candidates(models, USUAL_CANDIDATES)


def score(folds: Sequence[Fold], pairs: Pairs, *, candidates: int | None, temperature: float, seed: int) -> Scores:
    """Scores of all pairs, each by the models of its fold.

    Args:
        folds: Who judges which pairs; each pair is in exactly one.
        pairs: The pairs.
        candidates: Images (and as many captions), drawn from the fold, that a pair competes with; None takes 4,096, or
            fewer where SAF or SGR score.
        temperature: τ of the log-odds.
        seed: Seed of competitors and of random pairs.
    """
    scores = Scores.unfilled(len(pairs))
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))  # 1 is the noise's, 2 a run's
    with tqdm(total=len(pairs), unit="pair", desc="scoring", disable=None, file=sys.stderr) as bar:
        for fold in folds:
            rivals = candidates_of(fold.models, candidates)
            blocks = scores_of(
                fold.models, pairs, fold.pairs, candidates=rivals, temperature=temperature, generator=generator
            )
            for ids, block in blocks:
                scores.put(ids, block)
                bar.update(len(ids))
    return scores


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
