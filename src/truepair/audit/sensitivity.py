"""Sensitivity of an audit: the share of mistakes made on purpose that the networks of its folds call suspects.

A caption with a random image is one kind of mistake. A caption with the image of a *similar* caption is another: it
looks right to models of that corpus, and the noise rate does not count it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from truepair.cleaning.summary import Finds
from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.random_streams import Stream
from truepair.scoring.cross_fitting import Fold, reference_pairs_of
from truepair.scoring.encodings import encode_captions, item_vectors
from truepair.scoring.pair_features import pair_features
from truepair.scoring.probability import Probabilities
from truepair.scoring.reference_pairs import FEWEST_REFERENCE_PAIRS

_SURE = 0.9
"""Confidence from which on a pair lends its image, or gets another one."""
_MOST_LENDING = 4096
"""Pairs of a fold that lend their image, at most."""
_MOST_TRIED = 1024
"""Captions of a fold that get another image, at most."""


def sensitivity(
    folds: Sequence[Fold],
    pairs: Pairs,
    found: Probabilities,
    *,
    frozen: MatchingModel | None,
    threshold: float,
    candidates: int | None,
    temperature: float,
    seed: int,
) -> Finds:
    """Shares of mistakes that would be suspects by the networks of the folds alone; None where none could be made.

    What the audit adds, a network that learned all pairs and joint inference over the captions of an image, would need
    mistakes that were there from the start: of the demo at 20 % noise, with short training, the networks of the folds
    called 58 % of the random ones suspects, the audit 66 %.

    Args:
        folds: Pairs and the models that score them.
        pairs: The pairs.
        found: Their probabilities.
        frozen: The untrained model whose features stand beside theirs; None without.
        threshold: From which mismatch probability on a pair is a suspect.
        candidates: As for `scoring.cross_fitting.cross_fitted_features`.
        temperature: τ of the log-odds.
        seed: Of the captions that are tried, and of reference pairs and random pairs.
    """
    if found.unknown:
        return Finds(None, None)
    generator = Stream.SENSITIVITY.generator(seed)
    is_sure = found.match >= _SURE
    tried = []
    for fold in folds:
        sure = fold.pairs[is_sure[fold.pairs]]
        if len(sure) < FEWEST_REFERENCE_PAIRS:
            continue
        # Mistakes: captions get the image of a similar caption. Where a fold's own pairs are reference pairs (models
        # that learned nothing), half of them stay as they are, and reference pairs are of these.
        tells_itself = bool(torch.isin(fold.pairs, fold.learned).any())
        most = min(_MOST_TRIED, len(sure) // 2) if tells_itself else _MOST_TRIED
        chosen, lending = _images_of_similar_captions(fold, pairs, sure, most, generator)
        unmoved = replace(fold, learned=fold.learned[~torch.isin(fold.learned, chosen)])
        images = pairs.image_of_caption.clone()
        images[chosen] = images[lending]
        # Their probabilities by these features; no network of all pairs learned them, and none is judged together.
        features = pair_features(
            fold.models,
            replace(pairs, image_of_caption=images),
            chosen,
            reference_pairs_of(unmoved, pairs, candidates, generator),
            images[chosen].unique(),
            temperature,
            generator,
            frozen=frozen,
        )
        tried.append(found.match_of(features.pairs))
    alike = torch.cat(tried) if tried else torch.empty(0)
    return Finds(_share(1 - found.random >= threshold), _share(1 - alike >= threshold))


def _images_of_similar_captions(
    fold: Fold, pairs: Pairs, sure: Int[Tensor, " sure"], most: int, generator: np.random.Generator
) -> tuple[Int[Tensor, " tried"], Int[Tensor, " tried"]]:
    """At most `most` of the pairs, and for each the pair of another image whose caption is most similar to its own."""
    lending = sure[torch.from_numpy(generator.permutation(len(sure))[:_MOST_LENDING])]
    chosen = lending[:most]
    similarity = torch.zeros(len(chosen), len(lending))  # of captions, summed over models
    for model in fold.models:
        captions = item_vectors(encode_captions(model, pairs.select(lending)))
        similarity += captions[: len(chosen)] @ captions.T
    image = pairs.image_of_caption
    similarity.masked_fill_(image[chosen][:, None] == image[lending], -torch.inf)
    nearest = similarity.max(1)
    exists = nearest.values > -torch.inf
    return chosen[exists], lending[nearest.indices[exists]]


def _share(is_found: Bool[Tensor, " tried"]) -> float | None:
    return float(is_found.double().mean()) if len(is_found) else None
