"""What `detection.py` measures an audit against: other ways to find mismatched pairs, each as it was published.

All read networks of the audit's backbone that plain InfoNCE trains on the same pairs, and give every pair a score, low
= suspicious. `PlainNetworks` trains them once, whoever asks first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GroupKFold
from torch import Tensor
from torch.nn.functional import normalize

from truepair.config import BaselineConfig, ModelConfig
from truepair.data.loader import Loaders
from truepair.data.pairs import Pairs
from truepair.data.text import Vocabulary
from truepair.losses.contrastive import matching_log_probabilities, matching_loss
from truepair.model import InputShape, MatchingModel, first_word_vectors, make_model
from truepair.scoring.encodings import Encodings, similarity_of_pairs
from truepair.training.device import make_fabric
from truepair.training.run import build_method

_PAIRS_AT_A_TIME, _SIMILARITIES = 512, 1 << 24
"""Neighbours are looked for of at most so many pairs at a time, with so many similarities in memory (64 MB)."""


@dataclass(frozen=True)
class PlainConfig:
    """How the networks are trained."""

    model: ModelConfig
    """The backbone."""
    method: BaselineConfig
    """Loss, data passes, optimiser."""
    early_epochs: int = 4
    """Data passes after which losses are ranked."""
    batch_size: int = 128
    """Pairs in a batch."""
    folds: int = 4
    """Cross-fitting: parts that the pairs are cut into, captions of an image together."""
    repetitions: int = 2
    """Networks wherever one would do; their similarities are averaged."""
    device: str = "auto"
    """Where to compute."""
    seed: int = 0
    """Seed of weights, order and folds."""


@dataclass(frozen=True, eq=False)
class PlainNetworks:
    """Networks that believed every pair, trained when they are first asked for."""

    pairs: Pairs
    vocabulary: Vocabulary | None
    config: PlainConfig

    @cached_property
    def of_all_pairs(self) -> list[MatchingModel]:
        """Trained on all pairs to the end."""
        return self._trained(self.pairs, 0, self.config.method.epochs)

    @cached_property
    def of_an_early_epoch(self) -> list[MatchingModel]:
        """Trained on all pairs for a few passes of the same schedule."""
        return self._trained(self.pairs, 0, self.config.early_epochs)

    @cached_property
    def of_folds(self) -> list[tuple[Int[Tensor, " fold"], list[MatchingModel]]]:
        """Ids of each fold's pairs, and networks trained on the pairs of the other folds."""
        cut = GroupKFold(self.config.folds, shuffle=True, random_state=self.config.seed)
        found = []
        for number, (others, fold) in enumerate(
            cut.split(self.pairs.captions, groups=self.pairs.image_of_caption), start=1
        ):
            learned = self.pairs.select(torch.from_numpy(others))
            found.append((torch.from_numpy(fold), self._trained(learned, number, self.config.method.epochs)))
        return found

    def _trained(self, learned: Pairs, number: int, epochs: int) -> list[MatchingModel]:
        config = self.config
        fabric = make_fabric(config.device)
        shape = InputShape.of(learned, self.vocabulary)
        make = partial(make_model, config.model, shape, first_word_vectors(config.model, shape, learned))
        models: list[MatchingModel] = []
        for repetition in range(config.repetitions):
            seed = int(np.random.SeedSequence((config.seed, number, repetition)).generate_state(1)[0])
            torch.manual_seed(seed)
            loaders = Loaders(learned, config.batch_size, seed, fabric.device)
            method = build_method(config.method, make, len(learned), fabric)
            for epoch in range(epochs):
                for _ in method.train_epoch(epoch, loaders):
                    pass
            models += [model.eval() for model in method.models]
        return models


# --- The baselines ----------------------------------------------------------------------------------------------------


def own_similarity(networks: PlainNetworks) -> Float[Tensor, " pairs"]:
    """The cosine of image and caption after plain training on all pairs.

    What filters web data with CLIP (Schuhmann et al., LAION-400M, 2021, https://arxiv.org/abs/2111.02114), with a
    network of the corpus's own: it has learned the mismatched pairs, too.
    """
    return similarity_of_pairs(networks.of_all_pairs, networks.pairs)


def cross_fitted_similarity(networks: PlainNetworks) -> Float[Tensor, " pairs"]:
    """The same cosine, by networks that were not trained on the pair.

    Out-of-sample scores as in confident learning (Northcutt, Jiang & Chuang, JAIR 2021,
    https://arxiv.org/abs/1911.00068).
    """
    score = torch.empty(len(networks.pairs))
    for fold, models in networks.of_folds:
        score[fold] = similarity_of_pairs(models, networks.pairs.select(fold))
    return score


def small_loss(networks: PlainNetworks) -> Float[Tensor, " pairs"]:
    """Probability that a pair's loss, early in plain training, belongs to the small ones.

    Li, Socher & Hoi, DivideMix, ICLR 2020, https://arxiv.org/abs/2002.07394; for pairs: Huang et al., Learning with
    Noisy Correspondence, NeurIPS 2021. One judgement, by the mean of the networks, without their co-training.
    """
    config = networks.config
    loss = losses(networks.of_an_early_epoch, networks.pairs, config.batch_size, config.method.temperature, config.seed)
    return small_loss_posterior(loss)


def neighbour_voting(networks: PlainNetworks) -> Float[Tensor, " pairs"]:
    """LEMoN (Zhang et al., ICML 2025, https://arxiv.org/abs/2407.18941) after plain training on all pairs.

    See `disagreement`. The published system reads CLIP, which was trained on other pairs.
    """
    return -disagreement(*embeddings(networks.of_all_pairs, networks.pairs))


def cross_fitted_neighbour_voting(networks: PlainNetworks) -> Float[Tensor, " pairs"]:
    """LEMoN within each fold, in the space of networks that were not trained on it; neighbours are of the fold, too."""
    score = torch.empty(len(networks.pairs))
    for fold, models in networks.of_folds:
        score[fold] = -disagreement(*embeddings(models, networks.pairs.select(fold)))
    return score


BASELINES: Mapping[str, Callable[[PlainNetworks], Tensor]] = {
    "similarity": own_similarity,
    "similarity, cross-fitted": cross_fitted_similarity,
    "small loss": small_loss,
    "LEMoN": neighbour_voting,
    "LEMoN, cross-fitted": cross_fitted_neighbour_voting,
}
GIVE_PROBABILITIES = {"small loss"}
"""Whose scores are confidences that a pair matches, and not only an order."""


# --- Their maths ------------------------------------------------------------------------------------------------------


def losses(
    models: list[MatchingModel], pairs: Pairs, batch_size: int, temperature: float, seed: int
) -> Float[Tensor, " pairs"]:
    """Symmetric InfoNCE of each pair in a random batch, in evaluation mode.

    The last batch is filled up from the first, so that every pair has as many competitors.
    """
    order = np.random.default_rng(seed).permutation(len(pairs))
    full = np.resize(order, -(-len(pairs) // batch_size) * batch_size)
    loss, everyone = torch.empty(len(pairs)), torch.arange(batch_size)
    for ids in torch.from_numpy(full).split(batch_size):
        similarity = Encodings.of(models, pairs, pairs.image_of_caption[ids], ids).matrix(everyone, everyone)
        loss[ids] = matching_loss(*matching_log_probabilities(similarity, temperature))
    return loss


def small_loss_posterior(loss: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """Probability of the component with the smaller mean, of two Gaussians over the losses scaled to [0, 1].

    With the options of DivideMix's released code, which NCR took over: at most ten steps, tolerance 1e-2, and 5e-4
    added to the variances.
    """
    scaled = ((loss - loss.min()) / (loss.max() - loss.min())).double().numpy()[:, None]
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten steps are what was published
        mixture.fit(scaled)
    return torch.from_numpy(mixture.predict_proba(scaled)[:, mixture.means_.argmin()]).float()


def embeddings(
    models: list[MatchingModel], pairs: Pairs
) -> tuple[Float[Tensor, "pairs dim"], Float[Tensor, "pairs dim"]]:
    """Unit vectors of the image and the caption of each pair, whose dot products are means over the models."""
    images, place = pairs.image_of_caption.unique(return_inverse=True)
    encoded = Encodings.of(models, pairs, images, torch.arange(len(pairs)))
    of_images, of_captions = (
        torch.cat([normalize(one.values.cpu()) for one in side], dim=1) for side in (encoded.images, encoded.captions)
    )
    return normalize(of_images)[place], normalize(of_captions)


def disagreement(
    images: Float[Tensor, "pairs dim"],
    captions: Float[Tensor, "pairs dim"],
    *,
    neighbours: int = 30,
    image_weight: float = 5.0,
    caption_weight: float = 5.0,
    nearness: float = 0.1,
    plausibility: float = 5.0,
) -> Float[Tensor, " pairs"]:
    r"""How little an image and its caption fit together and to what is said of their neighbours (LEMoN).

    .. math::
        d(x, y) + \beta s_n + \gamma s_m, \qquad
        s_n = \frac{1}{k} \sum_{n} d(y, y_n) \, e^{-\tau_1 d(x, x_n)} \, e^{-\tau_2 d(x_n, y_n)}

    over the k nearest images x_n of x with their captions y_n, and s_m likewise over the k nearest captions of y with
    their images. d is 1 - cosine. Another pair with the same image is a neighbour like any other.

    Args:
        images: ``[pairs, dim]``, unit vectors.
        captions: ``[pairs, dim]``, unit vectors.
        neighbours: k, at most the number of other pairs (30 where the paper does not tune; so are the next four).
        image_weight: β.
        caption_weight: γ.
        nearness: τ1, on both sides. The released code puts minus the cosine for d there, which changes the votes by a
            common factor of 1.1.
        plausibility: τ2, on both sides.

    Returns:
        ``[pairs]``, at least 0; higher = more suspicious.
    """
    own = 1 - (images * captions).sum(1)
    of_images = _votes(images, captions, own, neighbours, nearness, plausibility)
    of_captions = _votes(captions, images, own, neighbours, nearness, plausibility)
    return own + image_weight * of_images + caption_weight * of_captions


def _votes(
    near: Float[Tensor, "pairs dim"],
    compared: Float[Tensor, "pairs dim"],
    own: Float[Tensor, " pairs"],
    neighbours: int,
    nearness: float,
    plausibility: float,
) -> Float[Tensor, " pairs"]:
    """s of `disagreement`, for neighbours by the vectors `near`; memory is bounded by blocks."""
    votes = torch.empty(len(own))
    for ids in torch.arange(len(own)).split(max(1, min(_PAIRS_AT_A_TIME, _SIMILARITIES // len(own)))):
        similarity = near[ids] @ near.T  # [block, pairs]
        similarity[torch.arange(len(ids)), ids] = -torch.inf
        cosine, nearest = similarity.topk(min(neighbours, len(own) - 1), dim=1)
        weight = torch.exp(-nearness * (1 - cosine) - plausibility * own[nearest])
        distance = 1 - torch.einsum("pd,pnd->pn", compared[ids], compared[nearest])
        votes[ids] = (weight * distance).mean(1)
    return votes
