"""Out-of-sample scoring: the features of every pair, by models that saw neither its image nor its caption.

A model that trained on a mismatched pair has learned to find it plausible. So the pairs are cut into folds by image,
and each fold is scored by models trained on other folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from truepair.data.pairs import Pairs
from truepair.errors import ConfigError
from truepair.model import MatchingModel
from truepair.random_streams import Stream
from truepair.scoring.log_odds import affordable_negatives
from truepair.scoring.pair_features import FEATURES, OF_FROZEN, PairFeatures, pair_features
from truepair.scoring.reference_pairs import reference_among, reference_candidates

USUAL_CANDIDATES = 1024
"""Negatives and reference pairs of a pair, if the configuration names no number and scores are cosines."""
FEWEST_IMAGES = 3
"""Images in a fold below which a pair of a random image and caption has no negative left."""
_RANDOM_PAIRS_EACH = 4
"""Random pairs of a caption, in a small corpus."""
_UNEQUAL = 2.0
"""Times as many random pairs, for each pair of a fold, as another fold has, from which on they are thinned."""
_RANDOM_IMAGES = 4096
"""Images of random pairs, at most."""


@dataclass(frozen=True)
class Fold:
    """Some pairs and the models that may score them.

    Attributes:
        pairs: ``[fold]``, ids of the pairs.
        learned: ``[learned]``, ids of the pairs that the models were trained on, none of which has an image of the
            fold; of models that learned nothing, all pairs.
        models: Models in evaluation mode whose similarities are averaged.
    """

    pairs: Int[Tensor, " fold"]
    learned: Int[Tensor, " learned"]
    models: list[MatchingModel]


def folds_by_image(image_of_caption: Int[Tensor, " pairs"], folds: int, seed: int) -> list[Int[Tensor, " _"]]:
    """The pairs cut into `folds` parts with about as many images each; captions of one image stay together.

    Raises:
        ConfigError: If a fold would have fewer than 3 images.
    """
    images, image = image_of_caption.unique(return_inverse=True)
    if len(images) < FEWEST_IMAGES * folds:
        raise ConfigError(
            f"audit.folds is {folds}, but {len(images):,} images make at most {len(images) // FEWEST_IMAGES} folds of "
            f"{FEWEST_IMAGES}: lower it, or audit more pairs"
        )
    fold_of_image = torch.from_numpy(Stream.AUDIT_FOLDS.generator(seed).permutation(len(images)) % folds)
    return [(fold_of_image[image] == fold).nonzero().flatten() for fold in range(folds)]


def folds_judged_by(networks: Sequence[MatchingModel], pairs: Pairs, seed: int) -> list[Fold]:
    """As many folds as there are networks, each of which learns all folds but its own; none if images are too few."""
    if len(pairs.image_of_caption.unique()) < FEWEST_IMAGES * len(networks):
        return []
    folds = folds_by_image(pairs.image_of_caption, len(networks), seed)
    learned = [torch.cat([other for other in folds if other is not fold]) for fold in folds]
    return [Fold(*each) for each in zip(folds, learned, ([network] for network in networks), strict=True)]


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
    folds: Sequence[Fold],
    pairs: Pairs,
    candidates: int | None,
    temperature: float,
    seed: int,
    *key: int,
    frozen: MatchingModel | None = None,
    progress: Callable[[int], object] = lambda pairs: None,
) -> PairFeatures:
    """Features of all pairs, each by the models of its fold, which learned neither its image nor its caption.

    Reference pairs and negatives are pairs that the models learned and that probably match. Random pairs are captions
    of the fold with images of the fold, as mismatched pairs are: models score images that they learned differently, and
    with images drawn from all the noise rate came out at 76 % where 80 % were shuffled, with those of the fold at 78 %.

    Where one fold is much larger than others, these lend fewer random pairs, so that random pairs are scored by the
    same mixture of models as pairs are: otherwise a noise rate of 20 % came out as 40 to 49 %.

    Args:
        folds: Pairs and the models that score them; each pair is in exactly one.
        pairs: The pairs.
        candidates: Number of reference pairs and negatives; None takes 1,024, or fewer where SAF or SGR score.
        temperature: τ of the log-odds.
        seed: Of reference pairs and of random pairs.
        key: Further numbers that draw other pairs from the same seed.
        frozen: A model that was trained on other data; what it says of the same pairs and random pairs are further
            features.
        progress: Told how many pairs a block had.
    """
    generator = Stream.AUDIT_SCORES.generator(seed, *key)
    names = FEATURES if frozen is None else (*FEATURES, *OF_FROZEN)
    of_pairs, of_random = torch.empty(len(pairs), len(names)), []
    for fold in folds:
        reference = reference_pairs_of(fold, pairs, candidates, generator)
        images = generator.permutation(pairs.image_of_caption[fold.pairs].unique().numpy())
        features = pair_features(
            fold.models,
            pairs,
            fold.pairs,
            reference,
            torch.from_numpy(images[:_RANDOM_IMAGES]),
            temperature,
            generator,
            random_pairs_each=max(1, min(_RANDOM_PAIRS_EACH, 4 * _RANDOM_IMAGES // len(pairs))),
            frozen=frozen,
            progress=progress,
        )
        of_pairs[fold.pairs] = features.pairs
        of_random.append(features.random)
    of_random = _in_proportion(of_random, [len(fold.pairs) for fold in folds])
    return PairFeatures(of_pairs, torch.cat(of_random), names)


def _in_proportion(of_random: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Random pairs of each fold, ``[random, features]``, of unequal folds in proportion to the pairs of the fold."""
    most = min(len(random) / size for random, size in zip(of_random, sizes, strict=True))  # of a pair
    least = max(len(random) / size for random, size in zip(of_random, sizes, strict=True))
    if least < _UNEQUAL * most:
        return list(of_random)
    kept = [max(1, round(most * size)) for size in sizes]
    return [
        random[torch.linspace(0, len(random) - 1, count).long()] for random, count in zip(of_random, kept, strict=True)
    ]
