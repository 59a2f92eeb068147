"""What the audit would find: mistakes are made on purpose, and looked for with what was learned from the corpus.

A caption with a random picture is one kind of mistake. One with the picture of a *like* caption is another, which looks
right to models of that corpus, and of which the noise rate knows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from truepair.audit.crossfit import Fold
from truepair.audit.probability import Probabilities
from truepair.audit.score import witnesses_of
from truepair.data.pairs import Pairs
from truepair.scoring.encoding import encode_captions
from truepair.scoring.evidence import evidence_for, whole
from truepair.scoring.judgement import FEWEST_WITNESSES

_SURE = 0.9
"""Match probability from which on a pair lends its picture, or gets another's."""
_MOST_LENDING = 4096
_MOST_TRIED = 1024
"""Captions of a fold that get another picture."""


@dataclass(frozen=True)
class Sensitivity:
    """Shares of mistakes made on purpose that reach the threshold, in [0, 1]; None where none could be made.

    Attributes:
        random: Of captions with random pictures.
        alike: Of captions with the picture of the most similar caption.
    """

    random: float | None
    alike: float | None


def sensitivity(
    folds: Sequence[Fold],
    pairs: Pairs,
    found: Probabilities,
    *,
    threshold: float,
    candidates: int | None,
    temperature: float,
    seed: int,
) -> Sensitivity:
    """How many mistakes would be suspects.

    Args:
        folds: Who judges which pairs.
        pairs: The pairs.
        found: What their evidence said.
        threshold: From which mismatch probability on a pair is a suspect.
        candidates: As for `audit.score.cross_fitted_evidence`.
        temperature: τ of the log-odds.
        seed: Of the choice of captions, witnesses and random couples.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(8,)))
    is_sure = found.match >= _SURE
    tried = []
    for fold in folds:
        sure = fold.pairs[is_sure[fold.pairs]]
        if len(sure) < FEWEST_WITNESSES:
            continue
        chosen, lending = _pictures_of_like_captions(fold, pairs, sure, generator)
        images = pairs.image_of_caption.clone()
        images[chosen] = images[lending]
        evidence = evidence_for(
            fold.models,
            replace(pairs, image_of_caption=images),
            chosen,
            witnesses_of(fold, pairs, candidates, generator),
            images[chosen].unique(),
            temperature,
            generator,
        )
        tried.append(found.judge(evidence.pairs))
    alike = torch.cat(tried) if tried else torch.empty(0)
    return Sensitivity(_share(1 - found.random >= threshold), _share(1 - alike >= threshold))


def _pictures_of_like_captions(
    fold: Fold, pairs: Pairs, sure: Int[Tensor, " sure"], generator: np.random.Generator
) -> tuple[Int[Tensor, " tried"], Int[Tensor, " tried"]]:
    """Some of the pairs, and for each the one of another image whose caption is most like its own."""
    lending = sure[torch.from_numpy(generator.permutation(len(sure))[:_MOST_LENDING])]
    chosen = lending[:_MOST_TRIED]
    similarity = torch.zeros(len(chosen), len(lending))
    for model in fold.models:
        captions = whole(encode_captions(model, pairs.select(lending)))
        similarity += captions[: len(chosen)] @ captions.T
    image = pairs.image_of_caption
    similarity.masked_fill_(image[chosen][:, None] == image[lending], -torch.inf)
    nearest = similarity.max(1)
    exists = nearest.values > -torch.inf
    return chosen[exists], lending[nearest.indices[exists]]


def _share(is_found: Bool[Tensor, " tried"]) -> float | None:
    return float(is_found.double().mean()) if len(is_found) else None
