"""The pairs that a run uses: a corpus without its trusted pairs, and with the mismatches that a recipe asks for."""

from __future__ import annotations

from dataclasses import replace

from truepair.config import Recipe
from truepair.data.corpora import Corpus
from truepair.data.noise import noisy
from truepair.data.trusted import TrustedSplits, with_trusted


def prepared_splits(recipe: Recipe, corpus: Corpus) -> TrustedSplits:
    """The corpus as `recipe` uses it: without the images of trusted pairs, and with mismatches among training pairs.

    With ``noise.development`` they are among development pairs too, drawn with the next seed.
    """
    taken, noise = with_trusted(corpus.splits, recipe.trusted, recipe.data, corpus.vocabulary), recipe.noise
    splits = replace(taken.splits, train=noisy(taken.splits.train, noise))
    if noise.development:
        splits = replace(splits, dev=noisy(splits.dev, replace(noise, seed=noise.seed + 1)))
    return replace(taken, splits=splits)
