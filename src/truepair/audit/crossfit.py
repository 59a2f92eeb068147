"""The models of an audit: the default method's, which judge pairs that they did not learn, and one that learns all.

A model that trained on a mismatched pair has learned to find it plausible. So the images are cut into folds, and each
fold is scored by networks trained on the other folds; a network of all pairs, which learns as far as these say, judges
together with them (`methods.teacher`, `scoring.out_of_sample`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from truepair.config import Recipe, TeacherConfig
from truepair.config.audit import AuditConfig
from truepair.data.loader import Loaders
from truepair.data.pairs import Pairs
from truepair.data.text import Vocabulary
from truepair.methods.teacher import Teacher
from truepair.model import InputShape, MatchingModel, first_word_vectors, make_model
from truepair.progress import progress
from truepair.random_streams import Stream
from truepair.scoring.cross_fitting import Fold, folds_by_image
from truepair.training.device import make_fabric

_MANY_PAIRS = 1_000
"""Pairs from which on a second training is not worth its time: AUROC 0.960 with one and with two, of 300 photographs
0.936 and 0.940."""
_LARGE_BATCHES = 20_000
"""Pairs from which on batches of 256 find as much as of 128 (Flickr8K, 40 %: AUROC 0.989 with both), in less time."""


@dataclass(frozen=True)
class AuditModels:
    """What scores the pairs.

    Attributes:
        folds: Every pair is in one, with all others of its image, and with models that learned no pair of the fold.
        of_all: Models that learned all pairs that are learned from; none where nothing is trained.
        learned_all: Whether these are all pairs there are.
        cut: Parts of cross-fitting.
        epochs: Of the networks of the folds.
    """

    folds: list[Fold]
    of_all: list[MatchingModel]
    learned_all: bool = False
    cut: int | None = None
    epochs: int | None = None


def trained(pairs: Pairs, vocabulary: Vocabulary | None, config: AuditConfig) -> AuditModels:
    """Models of these pairs, by `repetitions_of` trainings of the default method.

    Of more than `AuditConfig.most_learned` pairs, those of random images are learned from; the others are a fold of
    their own, which the networks of all learned pairs have not seen.

    Args:
        pairs: What to audit; its truth, if known, is not looked at.
        vocabulary: What made the tokens; None where captions have feature vectors.
        config: Folds, repetitions, method, backbone, seed and device.

    Raises:
        ConfigError: If there are too few images for the number of folds.
    """
    # The pairs that are learned from, and the folds of all pairs.
    some = _of_random_images(pairs.image_of_caption, config.most_learned, config.seed)
    parts = config.folds or config.method.folds_of(len(some))
    method = replace(config.method, folds=parts)
    cut = [some[fold] for fold in folds_by_image(pairs.image_of_caption[some], parts, config.seed)]

    # Every training has its own seed; the folds are those of the audit's.
    repetitions = repetitions_of(len(some), config)
    epochs = method.epochs + method.fold_epochs_of(len(some))
    folds = [Fold(fold, some, []) for fold in cut]
    of_all: list[MatchingModel] = []
    with progress("training", "epochs", repetitions * epochs) as shown:
        for repetition in range(repetitions):
            own_seed = _seed(config.seed, repetition)
            teacher, loaders = _trained(pairs.select(some), vocabulary, method, config, own_seed, shown.advance)
            own = zip(folds, teacher.folds(loaders), strict=True)
            folds = [Fold(fold.pairs, some[other.learned], fold.models + _judging(other.models)) for fold, other in own]
            of_all += _judging(teacher.models)
    is_other = torch.ones(len(pairs), dtype=torch.bool)
    is_other[some] = False
    if is_other.any():
        folds.append(Fold(is_other.nonzero().flatten(), some, of_all))
    return AuditModels(folds, of_all, len(some) == len(pairs), len(cut), method.fold_epochs_of(len(some)))


def trained_without(
    asked: Int[Tensor, " asked"], pairs: Pairs, vocabulary: Vocabulary | None, config: AuditConfig
) -> list[MatchingModel]:
    """A model that did not learn the pairs `asked` for, to look for their partners: it learned from all others.

    If nearly all are asked for, it learned from all pairs.
    """
    rest = torch.ones(len(pairs), dtype=torch.bool)
    rest[asked] = False
    is_enough = rest.sum() >= batch_size_of(len(pairs), config)
    learned = rest.nonzero().flatten() if is_enough else torch.arange(len(pairs))
    some = pairs.select(at_most(learned, config.most_learned, config.seed))
    # What looks wrong has been left out already.
    method = replace(config.method, fold_epochs=0, judge_every=0, start=None)
    with progress("learning from the rest", "epochs", method.epochs) as shown:
        teacher, _ = _trained(some, vocabulary, method, config, _seed(config.seed + 1, 0), shown.advance)
    return _judging(teacher.models)


def repetitions_of(learned: int, config: AuditConfig) -> int:
    """The number of trainings: `config.repetitions`; or 1 if there are 1,000 pairs to learn from; or else 2.

    >>> [repetitions_of(learned, AuditConfig()) for learned in (999, 1_000)]
    [2, 1]
    """
    if config.repetitions is not None:
        return config.repetitions
    return 1 if learned >= _MANY_PAIRS else 2


def batch_size_of(learned: int, config: AuditConfig) -> int:
    """The number of pairs in a batch: `config.batch_size`; or 256 if there are 20,000 pairs to learn from; or else 128.

    >>> [batch_size_of(learned, AuditConfig()) for learned in (19_999, 20_000)]
    [128, 256]
    """
    if config.batch_size is not None:
        return config.batch_size
    return 256 if learned >= _LARGE_BATCHES else 128


def at_most(pairs: Int[Tensor, " pairs"], most: int, seed: int) -> Int[Tensor, " chosen"]:
    """A random subset of at most `most` pairs, in order."""
    if len(pairs) <= most:
        return pairs
    chosen = Stream.AUDIT_SUBSET.generator(seed).permutation(len(pairs))[:most]
    return pairs[torch.from_numpy(chosen).sort().values]


def _of_random_images(image_of_caption: Int[Tensor, " pairs"], most: int, seed: int) -> Int[Tensor, " chosen"]:
    """All pairs of random images, at most `most`, in order; all pairs if there are no more."""
    pairs = len(image_of_caption)
    if pairs <= most:
        return torch.arange(pairs)
    images, image = image_of_caption.unique(return_inverse=True)
    place = torch.from_numpy(Stream.AUDIT_SUBSET.generator(seed).permutation(len(images)))[image]  # of a pair's image
    order = place.argsort(stable=True)
    is_whole = place[order[:most]] < place[order[most]]  # the last image may not fit
    return (order[:most][is_whole] if is_whole.any() else order[:most]).sort().values


def _judging(models: Iterable[MatchingModel]) -> list[MatchingModel]:
    """The models, in evaluation mode."""
    return [model.eval() for model in models]


def _seed(seed: int, repetition: int) -> int:
    return int(np.random.SeedSequence((seed, repetition)).generate_state(1)[0])


def _trained(
    pairs: Pairs,
    vocabulary: Vocabulary | None,
    method: TeacherConfig,
    config: AuditConfig,
    seed: int,
    advance: Callable[[], object],
) -> tuple[Teacher, Loaders]:
    """The default method, trained on all these pairs.

    Torch's global generators, from which weights and dropout are drawn, are left as they were.
    """
    fabric = make_fabric(config.device)
    network = Recipe(model=config.model, method=method).network
    shape = InputShape.of(pairs, vocabulary)
    loaders = Loaders(pairs, batch_size_of(len(pairs), config), config.seed, fabric.device)
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        make = partial(make_model, network, shape, first_word_vectors(network, shape, pairs))
        teacher = Teacher(method, make, len(pairs), fabric)
        for epoch in range(teacher.epochs):
            for _ in teacher.train_epoch(epoch, loaders):
                pass
            advance()
    return teacher, loaders
