"""From pairs to their mismatch probabilities: models, what they say of pairs and of random pairs, what that means.

Three kinds of models may say something: those that did not learn the pair, one that learned all pairs, and one that was
trained on other data, where the embeddings share a space. How much each counts is learned from the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.audit.crossfit import AuditModels, trained
from truepair.audit.shared_space import no_shared_space, shared_space
from truepair.cleaning.summary import Together
from truepair.config.audit import AuditConfig
from truepair.data.pairs import Pairs
from truepair.data.text import Vocabulary
from truepair.errors import ConfigError
from truepair.model import MatchingModel
from truepair.progress import progress
from truepair.scoring.cross_fitting import Fold, cross_fitted_features
from truepair.scoring.noise_rate import Comparison
from truepair.scoring.out_of_sample import Prior, combined, prior_from
from truepair.scoring.pair_features import FEATURES, OF_FROZEN, PairFeatures
from truepair.scoring.probability import Probabilities, known_to_differ, probabilities

FEWEST_LEARNED = 100
"""Pairs below which models that are trained on them say less than ones that are not: with 40 photographs AUROC 0.73
against 0.94, and together 0.93; with 100 already 0.94 together against 0.92."""
_FEWEST_IMAGES = 10
_MOST_UNTRAINED = 20_000
"""Pairs from which on an untrained model adds nothing to trained ones that is worth its time."""


@dataclass(frozen=True)
class Judgement:
    """What is known of every pair, and by which models.

    Attributes:
        models: The trained models; where nothing was trained, one fold with the untrained model.
        frozen: The untrained model whose features stand beside those of the trained ones; None without.
        features: By the models of the folds, and `frozen`.
        found: What the features say.
        prior: The same with the captions of an image judged together; None where nothing is known.
        match: ``[pairs]``, probability, in [0, 1], that each pair matches; NaN for every pair where nothing is known.
    """

    models: AuditModels
    frozen: MatchingModel | None
    features: PairFeatures
    found: Probabilities
    prior: Prior | None
    match: Float[Tensor, " pairs"]

    @property
    def is_trained(self) -> bool:
        """Whether models were trained on the pairs."""
        return bool(self.models.of_all)

    @property
    def together(self) -> Together | None:
        """What captions of one image said about each other; None where nothing is known, or images have one caption."""
        if self.prior is None or self.prior.moved_together is None:
            return None
        return Together(self.prior.images_together, round(self.prior.moved_together, 3))


def judged(
    pairs: Pairs, vocabulary: Vocabulary | None, encoders: tuple[str, str] | None, config: AuditConfig
) -> Judgement:
    """Judge all pairs.

    Args:
        pairs: What to audit; its truth, if known, is not looked at.
        vocabulary: What made the tokens; None where captions have feature vectors.
        encoders: Names of the encoders of images and of captions; None where they are not known.
        config: How.

    Raises:
        ConfigError: If there are too few images for the number of folds, or nothing shall be trained and the embeddings
            share no space.
    """
    models, frozen, features = _features(pairs, vocabulary, encoders, config)
    found = probabilities(features, config.seed)
    if len(pairs) < FEWEST_LEARNED:
        found = known_to_differ(found, features, config.seed)
    prior = prior_from(found, models.folds, pairs, config.seed)
    match = found.match if prior is None else prior.confidence
    if prior is not None and models.of_all and models.learned_all:
        match = combined(prior, models.of_all, pairs, config.temperature, config.seed).confidence
    return Judgement(models, frozen, features, found, prior, match)


def _features(
    pairs: Pairs, vocabulary: Vocabulary | None, encoders: tuple[str, str] | None, config: AuditConfig
) -> tuple[AuditModels, MatchingModel | None, PairFeatures]:
    """The models that judge, an untrained one beside them, and what they say of all pairs."""
    # By an untrained model alone, where that was asked for, or pairs are few and it says something.
    frozen = _untrained(pairs, encoders, config)
    if frozen is not None and (config.zero_shot or len(pairs) < FEWEST_LEARNED):
        refuse_too_few(len(pairs.image_of_caption.unique()))
        every = torch.arange(len(pairs))
        alone = AuditModels([Fold(every, every, [frozen])], [])
        features = _scored(alone, None, pairs, config)
        if config.zero_shot or encoders is not None or not _says_nothing(features):
            return alone, None, features

    # By trained models, with an untrained one beside them, if it says something.
    models = trained(pairs, vocabulary, config)
    features = _scored(models, frozen, pairs, config)
    if frozen is not None and _says_nothing(features.columns(OF_FROZEN)):
        return models, None, features.columns(FEATURES)
    return models, frozen, features


def _scored(models: AuditModels, frozen: MatchingModel | None, pairs: Pairs, config: AuditConfig) -> PairFeatures:
    with progress("scoring", "pairs", len(pairs)) as shown:
        return cross_fitted_features(
            models.folds,
            pairs,
            config.candidates,
            config.temperature,
            config.seed,
            frozen=frozen,
            progress=shown.advance,
        )


def refuse_too_few(images: int) -> None:
    """Refuse to compare pairs of so few images that there is hardly another to compare each with.

    Raises:
        ConfigError: If they are fewer than 10.
    """
    if images < _FEWEST_IMAGES:
        raise ConfigError(
            f"there are pairs of {images} {'image' if images == 1 else 'images'}, too few to compare them with each "
            f"other: audit pairs of at least {_FEWEST_IMAGES} images together"
        )


def _untrained(pairs: Pairs, encoders: tuple[str, str] | None, config: AuditConfig) -> MatchingModel | None:
    """An untrained model; one that was asked for is refused in words where there is none."""
    if config.zero_shot:
        return shared_space(pairs, encoders)
    if len(pairs) > _MOST_UNTRAINED or no_shared_space(pairs, encoders) is not None:
        return None
    try:
        return shared_space(pairs, encoders)
    except ConfigError:  # embeddings made elsewhere, by encoders that are not installed here
        return None


def _says_nothing(features: PairFeatures) -> bool:
    """Whether an untrained model tells pairs from random pairs by no more than chance."""
    return Comparison.of(features.log_odds, features.random_log_odds).unknown is not None
