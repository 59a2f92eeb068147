"""What speaks for every pair, each judged by the models that may judge it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from truepair.audit.crossfit import Fold
from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.scoring.evidence import KINDS, Evidence, evidence_for
from truepair.scoring.judgement import possible_witnesses, witnesses_among
from truepair.scoring.plausibility import Scores, affordable_candidates, scores_of

USUAL_CANDIDATES = 1024
"""Competitors and witnesses of a pair, if none are asked for and they are cheap."""
_COUPLES = 4
"""Random couples of a caption, in a small corpus."""
_STRANGERS = 4096
"""Images of random couples, at most."""


def candidates_of(models: Sequence[MatchingModel], asked: int | None) -> int:
    """How many competitors a pair has: as many as asked for, or else 1,024, or 128 where SAF or SGR score."""
    return asked or affordable_candidates(models, USUAL_CANDIDATES)


def witnesses_of(
    fold: Fold, pairs: Pairs, candidates: int | None, generator: np.random.Generator
) -> Int[Tensor, " witnesses"]:
    """Pairs that a fold's models learned and that probably match: its pairs' witnesses and competitors."""
    most = candidates_of(fold.models, candidates)
    learned = pairs.select(fold.learned)
    return fold.learned[witnesses_among(fold.models, learned, possible_witnesses(learned, generator, most), most)]


def cross_fitted_evidence(
    folds: Sequence[Fold], pairs: Pairs, *, candidates: int | None, temperature: float, seed: int
) -> Evidence:
    """Evidence for all pairs, each by the models of its fold, which learned neither its image nor its caption.

    Witnesses and competitors are pairs that the models learned and that probably match. Random couples are of captions
    of the fold with images drawn from all: with images of the fold only, the noise rate of the demo came out at 45 %
    where 40 % were shuffled, with all at 41 %.

    Args:
        folds: Who judges which pairs; each pair is in exactly one.
        pairs: The pairs.
        candidates: Witnesses and competitors; None takes 1,024, or fewer where SAF or SGR score.
        temperature: τ of the log-odds.
        seed: Of witnesses and of random couples.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))  # 1 is the noise's, 2 a run's
    of_pairs, of_random = torch.empty(len(pairs), len(KINDS)), []
    with tqdm(total=len(pairs), unit="pair", desc="scoring", disable=None, file=sys.stderr) as bar:
        for fold in folds:
            witness = witnesses_of(fold, pairs, candidates, generator)
            images = generator.permutation(pairs.image_of_caption.unique().numpy())
            strangers = torch.from_numpy(images[:_STRANGERS])
            couples = max(1, min(_COUPLES, 4 * _STRANGERS // len(pairs)))
            evidence = evidence_for(
                fold.models,
                pairs,
                fold.pairs,
                witness,
                strangers,
                temperature,
                generator,
                couples=couples,
                progress=bar.update,
            )
            of_pairs[fold.pairs] = evidence.pairs
            of_random.append(evidence.random)
    return Evidence(of_pairs, torch.cat(of_random))


def scores_by_a_run(
    models: Sequence[MatchingModel], pairs: Pairs, *, candidates: int | None, temperature: float, seed: int
) -> Scores:
    """Scores of all pairs by models that learned them.

    Args:
        models: Who judges.
        pairs: The pairs.
        candidates: Images (and as many captions) that a pair competes with; None takes 1,024, or fewer where SAF or SGR
            score.
        temperature: τ of the log-odds.
        seed: Of competitors and of random pairs.
    """
    scores = Scores.unfilled(len(pairs))
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    rivals = candidates_of(models, candidates)
    everyone = torch.arange(len(pairs))
    blocks = scores_of(models, pairs, everyone, candidates=rivals, temperature=temperature, generator=generator)
    with tqdm(total=len(pairs), unit="pair", desc="scoring", disable=None, file=sys.stderr) as bar:
        for ids, block in blocks:
            scores.put(ids, block)
            bar.update(len(ids))
    return scores
