"""Features of every pair, by the models of its fold, and scores of every pair by the models of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from truepair.audit.crossfit import Fold
from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.progress import progress
from truepair.random_streams import Stream
from truepair.scoring.log_odds import Scores, affordable_negatives, scores_of_all_pairs
from truepair.scoring.pair_features import FEATURES, PairFeatures, pair_features
from truepair.scoring.reference_pairs import reference_among, reference_candidates

USUAL_CANDIDATES = 1024
"""Negatives and reference pairs of a pair, if the configuration names no number and scores are cosines."""
_RANDOM_PAIRS_EACH = 4
"""Random pairs of a caption, in a small corpus."""
_RANDOM_IMAGES = 4096
"""Images of random pairs, at most."""


def candidates_of(models: Sequence[MatchingModel], candidates: int | None) -> int:
    """The number of negatives of a pair: `candidates`, or else 1,024, or 128 where SAF or SGR score."""
    return candidates or affordable_negatives(models, USUAL_CANDIDATES)


def reference_pairs_of(
    fold: Fold, pairs: Pairs, candidates: int | None, generator: np.random.Generator
) -> Int[Tensor, " reference"]:
    """Reference pairs of a fold: pairs that its models learned and that probably match."""
    most = candidates_of(fold.models, candidates)
    learned = pairs.select(fold.learned)
    return fold.learned[reference_among(fold.models, learned, reference_candidates(learned, generator, most), most)]


def cross_fitted_features(
    folds: Sequence[Fold], pairs: Pairs, *, candidates: int | None, temperature: float, seed: int
) -> PairFeatures:
    """Features of all pairs, each by the models of its fold, which learned neither its image nor its caption.

    Reference pairs and negatives are pairs that the models learned and that probably match. Random pairs are captions
    of the fold with images drawn from all: with images of the fold only, the noise rate of the demo came out at 45 %
    where 40 % were shuffled, with all at 41 %.

    Args:
        folds: Pairs and the models that score them; each pair is in exactly one.
        pairs: The pairs.
        candidates: Number of reference pairs and negatives; None takes 1,024, or fewer where SAF or SGR score.
        temperature: τ of the log-odds.
        seed: Of reference pairs and of random pairs.
    """
    generator = Stream.AUDIT_SCORES.generator(seed)
    of_pairs, of_random = torch.empty(len(pairs), len(FEATURES)), []
    with progress("scoring", "pairs", len(pairs)) as shown:
        for fold in folds:
            reference = reference_pairs_of(fold, pairs, candidates, generator)
            images = generator.permutation(pairs.image_of_caption.unique().numpy())
            features = pair_features(
                fold.models,
                pairs,
                fold.pairs,
                reference,
                torch.from_numpy(images[:_RANDOM_IMAGES]),
                temperature,
                generator,
                random_pairs_each=max(1, min(_RANDOM_PAIRS_EACH, 4 * _RANDOM_IMAGES // len(pairs))),
                progress=shown.advance,
            )
            of_pairs[fold.pairs] = features.pairs
            of_random.append(features.random)
    return PairFeatures(of_pairs, torch.cat(of_random))


def scores_by_a_run(
    models: Sequence[MatchingModel], pairs: Pairs, *, candidates: int | None, temperature: float, seed: int
) -> Scores:
    """Scores of all pairs by models that learned them, with a progress bar.

    Args:
        models: Their similarities are averaged.
        pairs: The pairs.
        candidates: Number of negative images, and of negative captions, of a pair; None takes 1,024, or fewer where SAF
            or SGR score.
        temperature: τ of the log-odds.
        seed: Of negatives and of random pairs.
    """
    with progress("scoring", "pairs", len(pairs)) as shown:
        return scores_of_all_pairs(
            models,
            pairs,
            negatives=candidates_of(models, candidates),
            temperature=temperature,
            generator=Stream.AUDIT_SCORES.generator(seed),
            progress=shown.advance,
        )
