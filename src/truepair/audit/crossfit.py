"""Cross-fitting: a pair is judged only by models that saw neither its image nor its caption.

A model that trained on a mismatched pair has learned to find it plausible. So the pairs are cut into folds by image,
and each fold is scored by models trained on the other folds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from truepair.audit.config import AuditConfig
from truepair.config import Recipe
from truepair.data.loader import Loaders
from truepair.data.pairs import Pairs
from truepair.data.text import Vocabulary
from truepair.errors import ConfigError
from truepair.model import InputShape, MatchingModel, first_word_vectors, make_model
from truepair.training.device import make_fabric
from truepair.training.run import build_method

_FEWEST_IMAGES = 3
"""Images in a fold below which a pair of a random image and caption has no competitor left."""


@dataclass(frozen=True)
class Fold:
    """Some pairs and who may judge them.

    Attributes:
        pairs: ``[fold]``, ids of the pairs.
        models: Models in evaluation mode whose similarities are averaged; none was trained on these pairs (unless
            they are a run's, which was).
    """

    pairs: Int[Tensor, " fold"]
    models: list[MatchingModel]


def folds_by_image(image_of_caption: Int[Tensor, " pairs"], folds: int, seed: int) -> list[Int[Tensor, " fold"]]:
    """The pairs cut into `folds` parts with about as many images each; captions of one image stay together.

    Raises:
        ConfigError: If a fold would have fewer than 3 images.
    """
    images, image = image_of_caption.unique(return_inverse=True)
    if len(images) < _FEWEST_IMAGES * folds:
        raise ConfigError(
            f"audit.folds is {folds}, but {len(images):,} images make at most {len(images) // _FEWEST_IMAGES} folds of "
            f"{_FEWEST_IMAGES}: lower it, or audit more pairs"
        )
    fold_of_image = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)) % folds)
    return [(fold_of_image[image] == fold).nonzero().flatten() for fold in range(folds)]


def cross_fitted(pairs: Pairs, vocabulary: Vocabulary | None, config: AuditConfig) -> list[Fold]:
    """Folds of `pairs`, each with ``config.repetitions`` models trained on the other folds.

    Args:
        pairs: What to audit; its truth, if known, is not looked at.
        vocabulary: What made the tokens; None where captions have feature vectors.
        config: Folds, repetitions, method, backbone, seed and device.

    Raises:
        ConfigError: If there are too few images for so many folds.
    """
    cut = folds_by_image(pairs.image_of_caption, config.folds, config.seed)
    others = [torch.cat([other for other in cut if other is not fold]) for fold in cut]
    trained = trained_models(pairs, others, vocabulary, config, seed=config.seed, description="cross-fitting")
    return [Fold(fold, models) for fold, models in zip(cut, trained, strict=True)]


def trained_models(
    pairs: Pairs,
    chosen: Sequence[Int[Tensor, " chosen"]],
    vocabulary: Vocabulary | None,
    config: AuditConfig,
    *,
    seed: int,
    description: str,
) -> list[list[MatchingModel]]:
    """For each choice of pairs, ``config.repetitions`` models trained on it, in evaluation mode.

    Torch's global generators, from which weights and dropout are drawn, are left as they were.

    Args:
        pairs: All pairs.
        chosen: Pair ids to train on.
        vocabulary: What made the tokens; None where captions have feature vectors.
        config: Repetitions, method, backbone, batch size and device.
        seed: Every model has a seed of its own, which follows from this one.
        description: What the progress bar says.
    """
    fabric = make_fabric(config.accelerator)
    network = Recipe(model=config.model, method=config.method).network
    shape = InputShape.of(pairs, vocabulary)
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    total = len(chosen) * config.repetitions * config.method.epochs
    result: list[list[MatchingModel]] = []
    with (
        tqdm(total=total, unit="epoch", desc=description, disable=None, file=sys.stderr) as bar,
        torch.random.fork_rng(devices=cuda),
    ):
        for number, ids in enumerate(chosen):
            learned = pairs.select(ids)
            make = partial(make_model, network, shape, first_word_vectors(network, shape, learned))
            result.append([])
            for repetition in range(config.repetitions):
                own_seed = int(np.random.SeedSequence((seed, number, repetition)).generate_state(1)[0])
                torch.manual_seed(own_seed)
                loaders = Loaders(learned, config.batch_size, own_seed, fabric.device)
                method = build_method(config.method, make, len(learned), fabric)
                for epoch in range(method.epochs):
                    for _ in method.train_epoch(epoch, loaders):
                        pass
                    bar.update()
                result[-1] += [model.eval() for model in method.models]
    return result
