"""Cross-fitting: out-of-sample scoring of every pair, by models that saw neither its image nor its caption.

A model that trained on a mismatched pair has learned to find it plausible. So the pairs are cut into folds by image,
and each fold is scored by models trained on the other folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from truepair.config import Recipe
from truepair.config.audit import AuditConfig
from truepair.data.loader import Loaders, inputs_of_captions
from truepair.data.pairs import Pairs
from truepair.data.text import Vocabulary
from truepair.encoders.projection import UnitVectors
from truepair.errors import ConfigError
from truepair.model import InputShape, MatchingModel, first_word_vectors, make_model
from truepair.progress import progress
from truepair.random_streams import Stream
from truepair.scoring.cross_fitting import Fold, folds_by_image
from truepair.similarity.cosine import CosineSimilarity
from truepair.training.device import make_fabric
from truepair.training.run import build_method


def cross_fitted(pairs: Pairs, vocabulary: Vocabulary | None, config: AuditConfig) -> list[Fold]:
    """Folds of `pairs`, each with `repetitions_of` models trained on the other folds.

    Args:
        pairs: What to audit; its truth, if known, is not looked at.
        vocabulary: What made the tokens; None where captions have feature vectors.
        config: Folds, repetitions, method, backbone, seed and device.

    Raises:
        ConfigError: If there are too few images for the number of folds.
    """
    cut = folds_by_image(pairs.image_of_caption, folds_of(len(pairs), config), config.seed)
    learned = [
        at_most(torch.cat([other for other in cut if other is not fold]), config.most_learned, config.seed)
        for fold in cut
    ]
    trained = trained_models(pairs, learned, vocabulary, config, seed=config.seed, description="cross-fitting")
    return [Fold(*each) for each in zip(cut, learned, trained, strict=True)]


def zero_shot(pairs: Pairs) -> list[Fold]:
    """All pairs as one fold, scored by the cosine of their features as they are: CLIP's, for instance.

    Raises:
        ConfigError: If images or captions have no vectors, or vectors of different width.
    """
    image, caption = pairs.images.take(torch.tensor([0])), inputs_of_captions(pairs).take(torch.tensor([0]))
    vectors = caption.values if caption.vectors is None else caption.vectors
    shapes = [list(side.shape[1:]) for side in (image.values, vectors)]
    if not (image.lengths is None and vectors.dim() == 2 and vectors.is_floating_point()):
        raise ConfigError(
            "audit.zero_shot compares features as they are, but these are regions or words: give one vector an image "
            "and one a caption, of one space, as 'truepair embed' makes with CLIP or SigLIP on both sides"
        )
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"audit.zero_shot compares features as they are, but those of images have {shapes[0][0]} values and those "
            f"of captions {shapes[1][0]}: they are not of one space; leave it out, and models are trained"
        )
    all_pairs = torch.arange(len(pairs))
    return [Fold(all_pairs, all_pairs, [MatchingModel(UnitVectors(), UnitVectors(), CosineSimilarity()).eval()])]


def folds_of(pairs: int, config: AuditConfig) -> int:
    """The number of folds: `config.folds`; or 2 or 3 if these leave `most_learned` pairs to learn from; or else 4.

    >>> [folds_of(pairs, AuditConfig(most_learned=50_000)) for pairs in (1_000, 80_000, 1_000_000)]
    [4, 3, 2]
    """
    if config.folds is not None:
        return config.folds
    return next((folds for folds in (2, 3) if pairs * (folds - 1) / folds >= config.most_learned), 4)


def repetitions_of(learned: int, config: AuditConfig) -> int:
    """The number of models of a fold: `config.repetitions`; or 1 if `most_learned` pairs are learned from; or else 2.

    >>> [repetitions_of(learned, AuditConfig(most_learned=50_000)) for learned in (1_000, 50_000)]
    [2, 1]
    """
    if config.repetitions is not None:
        return config.repetitions
    return 1 if learned >= config.most_learned else 2


def at_most(pairs: Int[Tensor, " pairs"], most: int, seed: int) -> Int[Tensor, " chosen"]:
    """A random subset of at most `most` pairs, in order."""
    if len(pairs) <= most:
        return pairs
    chosen = Stream.AUDIT_SUBSET.generator(seed).permutation(len(pairs))[:most]
    return pairs[torch.from_numpy(chosen).sort().values]


def trained_models(
    pairs: Pairs,
    chosen: Sequence[Int[Tensor, " _"]],
    vocabulary: Vocabulary | None,
    config: AuditConfig,
    *,
    seed: int,
    description: str,
) -> list[list[MatchingModel]]:
    """For each subset of the pairs, `repetitions_of` models trained on it, in evaluation mode.

    Torch's global generators, from which weights and dropout are drawn, are left as they were.

    Args:
        pairs: All pairs.
        chosen: Subsets to train on, as pair ids.
        vocabulary: What made the tokens; None where captions have feature vectors.
        config: Repetitions, method, backbone, batch size and device.
        seed: Every model has a seed of its own, which follows from this one.
        description: What the progress says.
    """
    # The device, and the shape of the networks.
    fabric = make_fabric(config.device)
    network = Recipe(model=config.model, method=config.method).network
    shape = InputShape.of(pairs, vocabulary)
    cuda = [fabric.device] if fabric.device.type == "cuda" else []

    # Every subset by itself; each repetition has its own seed.
    repetitions = [repetitions_of(len(ids), config) for ids in chosen]
    total = sum(repetitions) * config.method.epochs
    result: list[list[MatchingModel]] = []
    with (
        progress(description, "epochs", total) as shown,
        torch.random.fork_rng(devices=cuda),
    ):
        for number, ids in enumerate(chosen):
            learned = pairs.select(ids)
            make = partial(make_model, network, shape, first_word_vectors(network, shape, learned))
            models: list[MatchingModel] = []
            for repetition in range(repetitions[number]):
                own_seed = int(np.random.SeedSequence((seed, number, repetition)).generate_state(1)[0])
                torch.manual_seed(own_seed)
                loaders = Loaders(learned, config.batch_size, own_seed, fabric.device)
                method = build_method(config.method, make, len(learned), fabric)
                for epoch in range(method.epochs):
                    for _ in method.train_epoch(epoch, loaders):
                        pass
                    shown.advance()
                models += [model.eval() for model in method.models]
            result.append(models)
    return result
