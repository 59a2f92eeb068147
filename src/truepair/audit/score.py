"""Scores of every pair, by the models of a run."""

from __future__ import annotations

from collections.abc import Sequence

from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.progress import progress
from truepair.random_streams import Stream
from truepair.scoring.cross_fitting import candidates_of
from truepair.scoring.log_odds import Scores, scores_of_all_pairs


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
