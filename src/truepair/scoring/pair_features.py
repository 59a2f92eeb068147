"""Features of a pair: similarity, log-odds in both directions, and neighbour agreement on both sides.

The same features of random pairs are the null distribution: what a pair looks like that surely does not match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.scoring.encodings import Encodings, evaluating, item_vectors, similarity_between
from truepair.scoring.log_odds import affordable_negatives, log_odds_one_way

FEATURES = (
    "similarity",
    "log-odds against captions",
    "log-odds against images",
    "agreement with captions of similar images",
    "agreement with images of similar captions",
)
"""Features of a pair, all in units of cosines."""
OF_FROZEN = tuple(f"{name}, untrained" for name in FEATURES)
"""The same features by a model that was trained on other data (zero-shot), where there is one."""
NEIGHBOURS = 10
"""Nearest reference pairs that neighbour agreement is measured with."""
RANDOM_PAIRS = 4096
"""Random pairs to compare with, about, if there are as many pairs."""
_PAIRS_AT_A_TIME = 1024


@dataclass(frozen=True)
class PairFeatures:
    """Features of pairs and of random pairs.

    Attributes:
        pairs: ``[pairs, features]``, of each pair.
        random: ``[random, features]``, of some captions with random images, which surely do not match.
        names: Of the columns: `FEATURES`, or `OF_FROZEN`, or both.
    """

    pairs: Float[Tensor, "pairs features"]
    random: Float[Tensor, "random features"]
    names: tuple[str, ...] = FEATURES

    @property
    def log_odds(self) -> Float[Tensor, " pairs"]:
        """τ times the log-odds of each pair against negatives, the mean of both directions (`log_odds.log_odds`).

        Of both kinds of models, the sum, each weighed by how far it tells pairs from random pairs: the shift of the
        mean over the variance of random pairs, the slope that a likelihood ratio of Gaussians has.
        """
        return self._weighed[0]

    @property
    def random_log_odds(self) -> Float[Tensor, " random"]:
        """`log_odds` of the random pairs."""
        return self._weighed[1]

    @property
    def _weighed(self) -> tuple[Tensor, Tensor]:
        starts = range(0, len(self.names), len(FEATURES))
        of_pairs, of_random = (  # [rows, kinds of models]
            torch.stack([rows[:, start + 1 : start + 3].mean(1) for start in starts], 1)
            for rows in (self.pairs, self.random)
        )
        if len(starts) == 1:
            return of_pairs[:, 0], of_random[:, 0]
        slope = (of_pairs.mean(0) - of_random.mean(0)).clamp(min=0) / of_random.var(0)
        weight = slope / slope.sum().clamp(min=1e-12)
        return of_pairs @ weight, of_random @ weight

    def columns(self, names: Sequence[str]) -> PairFeatures:
        """Some of the features."""
        chosen = [self.names.index(name) for name in names]
        return PairFeatures(self.pairs[:, chosen], self.random[:, chosen], tuple(names))

    def beside(self, other: PairFeatures) -> PairFeatures:
        """These columns, and those of other models for the same pairs and random pairs."""
        return PairFeatures(
            torch.cat([self.pairs, other.pairs], 1),
            torch.cat([self.random, other.random], 1),
            (*self.names, *other.names),
        )

    @property
    def agreement(self) -> Float[Tensor, " pairs"]:
        """Neighbour agreement of each pair, the sum of both sides; in [-2, 2]."""
        return self.pairs[:, 3:5].sum(1)

    @property
    def random_agreement(self) -> Float[Tensor, " random"]:
        """`agreement` of the random pairs."""
        return self.random[:, 3:5].sum(1)


def pair_features(
    models: Sequence[MatchingModel],
    pairs: Pairs,
    chosen: Int[Tensor, " chosen"],
    reference: Int[Tensor, " reference"],
    random_images: Int[Tensor, " images"],
    temperature: float,
    generator: np.random.Generator,
    *,
    random_pairs_each: int = 1,
    frozen: MatchingModel | None = None,
    progress: Callable[[int], object] = lambda pairs: None,
) -> PairFeatures:
    """Features of the chosen pairs, in their order, and of random pairs of their captions, a block at a time.

    Every pair is encoded once. Memory grows with the encodings of the reference pairs, with those of 1,024 pairs and
    with 1,024 · reference pairs. The models' modes are left as they were.

    Args:
        models: Their similarities are averaged.
        pairs: The pairs.
        chosen: Ids of the pairs whose features are wanted.
        reference: Ids of pairs of different images that probably match, at least 3; they are the negatives too.
        random_images: Images of random pairs, drawn from all: those of reference pairs would be too good.
        temperature: τ of the log-odds.
        generator: Draws random pairs.
        random_pairs_each: Random pairs of a caption that has any.
        frozen: A model that was trained on other data; what it says of the same pairs and random pairs are further
            features.
        progress: Told how many pairs a block had.
    """
    if frozen is not None:
        same, of_both = deepcopy(generator), partial(pair_features, random_pairs_each=random_pairs_each)
        at = (pairs, chosen, reference, random_images, temperature)
        untrained = of_both([frozen], *at, same)  # draws the same random pairs
        return of_both(models, *at, generator, progress=progress).beside(replace(untrained, names=OF_FROZEN))
    of_pairs, of_random = torch.empty(len(chosen), len(FEATURES)), list[Tensor]()
    every = max(1, len(chosen) // RANDOM_PAIRS)
    with evaluating(models):
        against = _Reference.encoded(models, pairs, reference)
        strange = _RandomImages.encoded(models, pairs, random_images, against)
        places_done = 0
        for places in pairs.image_of_caption[chosen].argsort(stable=True).split(_PAIRS_AT_A_TIME):
            block = _Block.encoded(models, pairs, chosen[places], against)  # an image is encoded once
            of_pairs[places] = _features_of_block(block, against, temperature)
            some = torch.arange(-places_done % every, len(places), every)
            places_done += len(places)
            for _ in range(random_pairs_each if len(some) else 0):
                other = strange.drawn(block.image[some], generator)
                of_random.append(_features_of_random_pairs(block, some, strange, other, against, temperature))
            progress(len(places))
    return PairFeatures(of_pairs, torch.cat(of_random))


@dataclass(frozen=True)
class _Reference:
    """Reference pairs, encoded: neighbours, and the first of them negatives."""

    image: Int[Tensor, " reference"]
    encodings: Encodings
    negatives: Int[Tensor, " negatives"]
    """Rows of the reference pairs that are negatives; fewer than all where SAF or SGR score."""
    vectors: tuple[list[Tensor], list[Tensor]]
    """Of each model, unit vectors of the images, and of the captions."""

    @classmethod
    def encoded(cls, models: Sequence[MatchingModel], pairs: Pairs, reference: Int[Tensor, " reference"]) -> _Reference:
        image = pairs.image_of_caption[reference]
        encodings = Encodings.of(models, pairs, image, reference)
        vectors = [item_vectors(i) for i in encodings.images], [item_vectors(c) for c in encodings.captions]
        return cls(image, encodings, torch.arange(affordable_negatives(models, len(reference))), vectors)


@dataclass(frozen=True)
class _RandomImages:
    """Images of random pairs, encoded."""

    image: Int[Tensor, " images"]
    encodings: Encodings
    to_captions: Float[Tensor, "images negatives"]
    """Similarity of each with the negative captions."""

    @classmethod
    def encoded(
        cls, models: Sequence[MatchingModel], pairs: Pairs, images: Int[Tensor, " images"], against: _Reference
    ) -> _RandomImages:
        encodings = Encodings.of(models, pairs, images, torch.zeros(1, dtype=torch.int64))  # no caption of it is used
        rows = torch.arange(len(images))
        return cls(images, encodings, similarity_between(encodings, rows, against.encodings, against.negatives))

    def drawn(self, own: Int[Tensor, " pairs"], generator: np.random.Generator) -> Int[Tensor, " pairs"]:
        """For each pair, the row of a random image that is not its own."""
        other = torch.from_numpy(generator.integers(len(self.image), size=len(own)))
        return torch.where(self.image[other] == own, (other + 1) % len(self.image), other)


@dataclass(frozen=True)
class _Block:
    """Some pairs, encoded, and their similarities with the negatives."""

    image: Int[Tensor, " pairs"]
    encodings: Encodings
    place: Int[Tensor, " pairs"]
    """Of each pair, the row of its image in the encodings."""
    to_captions: Float[Tensor, "pairs negatives"]
    to_images: Float[Tensor, "pairs negatives"]
    is_own: Bool[Tensor, "pairs reference"]
    """True where a reference pair has the pair's own image."""
    captions: list[Tensor]
    """Of each model, unit vectors of the captions."""

    @classmethod
    def encoded(
        cls, models: Sequence[MatchingModel], pairs: Pairs, ids: Int[Tensor, " pairs"], against: _Reference
    ) -> _Block:
        images, place = pairs.image_of_caption[ids].unique(return_inverse=True)
        block, known, negatives = Encodings.of(models, pairs, images, ids), against.encodings, against.negatives
        to_captions = similarity_between(block, torch.arange(len(images)), known, negatives)
        return cls(
            image=images[place],
            encodings=block,
            place=place,
            to_captions=to_captions if len(images) == len(ids) else to_captions[place],  # one caption each, in order
            to_images=similarity_between(known, negatives, block, torch.arange(len(ids))).T,
            is_own=against.image == images[place][:, None],
            captions=[item_vectors(each) for each in block.captions],
        )


def _features_of_block(block: _Block, against: _Reference, temperature: float) -> Float[Tensor, "pairs features"]:
    """Features of the pairs of a block."""
    return torch.stack(
        [
            *_similarity_and_log_odds(
                block.encodings.paired(block.place, torch.arange(len(block.place))),
                block.to_captions,
                block.to_images,
                block.is_own[:, against.negatives],
                temperature,
            ),
            *neighbour_agreement(
                [item_vectors(each)[block.place] for each in block.encodings.images],
                block.captions,
                against.vectors,
                block.is_own,
            ),
        ],
        dim=1,
    )


def _features_of_random_pairs(
    block: _Block,
    some: Int[Tensor, " some"],
    strange: _RandomImages,
    other: Int[Tensor, " some"],
    against: _Reference,
    temperature: float,
) -> Float[Tensor, "some features"]:
    """Features of some captions of a block, each with another random image (a row of `strange`)."""
    images = [each.rows(other) for each in strange.encodings.images]
    both = Encodings(block.encodings.models, images, block.encodings.captions)
    is_either = block.is_own[some] | (against.image == strange.image[other][:, None])  # [some, reference]
    return torch.stack(
        [
            *_similarity_and_log_odds(
                both.paired(torch.arange(len(some)), some),
                strange.to_captions[other],
                block.to_images[some],
                is_either[:, against.negatives],
                temperature,
            ),
            *neighbour_agreement(
                [item_vectors(each) for each in images],
                [each[some] for each in block.captions],
                against.vectors,
                is_either,
            ),
        ],
        dim=1,
    )


def _similarity_and_log_odds(
    similarity: Float[Tensor, " pairs"],
    to_captions: Float[Tensor, "pairs negatives"],
    to_images: Float[Tensor, "pairs negatives"],
    excluded: Bool[Tensor, "pairs negatives"],
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The first three features; log-odds times τ, so that they are in units of cosines."""
    against_captions = temperature * log_odds_one_way(similarity, to_captions, excluded, temperature)
    return similarity, against_captions, temperature * log_odds_one_way(similarity, to_images, excluded, temperature)


def neighbour_agreement(
    images: Sequence[Float[Tensor, "pairs _"]],
    captions: Sequence[Float[Tensor, "pairs _"]],
    reference: tuple[Sequence[Float[Tensor, "reference _"]], Sequence[Float[Tensor, "reference _"]]],
    excluded: Bool[Tensor, "pairs reference"],
    neighbours: int = NEIGHBOURS,
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    r"""How well each caption fits captions of similar images, and each image the images of similar captions.

    .. math::
        \frac{1}{k} \sum_{r \in N_k(i)} \langle c_r, c \rangle, \quad
        \frac{1}{k} \sum_{r \in M_k(c)} \langle i_r, i \rangle

    with the k reference pairs N whose images are most similar to the pair's image, and M whose captions are most
    similar to its caption. This is how LEMoN weighs neighbours (Zhang et al., ICML 2025,
    https://arxiv.org/abs/2407.18941), less its distances.

    Args:
        images: Of each model, unit vectors ``[pairs, size]`` of the pairs' images; agreement is the mean over models.
        captions: Of each model, those of their captions.
        reference: Of each model, unit vectors of the reference pairs' images, and of their captions.
        excluded: ``[pairs, reference]``, True where a reference pair may not be a neighbour.
        neighbours: k; fewer where there are fewer reference pairs.

    Returns:
        ``[pairs]`` each, in [-1, 1]; 0 where every reference pair is excluded.
    """
    with_captions, with_images = torch.zeros(len(excluded)), torch.zeros(len(excluded))
    for image, caption, of_image, of_caption in zip(images, captions, *reference, strict=True):
        k = min(neighbours, len(of_image))
        # Cosines with the reference pairs, [pairs, reference]: each side finds neighbours, the other weighs them.
        of_images = (image @ of_image.T).masked_fill_(excluded, -torch.inf)
        of_captions = (caption @ of_caption.T).masked_fill_(excluded, -torch.inf)
        near_image, near_caption = of_images.topk(k, 1), of_captions.topk(k, 1)  # [pairs, k]
        fits = of_captions.gather(1, near_image.indices)
        with_captions += _mean_of_neighbours(fits, near_image.values) / len(images)
        fits = of_images.gather(1, near_caption.indices)
        with_images += _mean_of_neighbours(fits, near_caption.values) / len(images)
    return with_captions, with_images


def _mean_of_neighbours(fits: Tensor, nearness: Tensor) -> Tensor:
    """Mean over the neighbours that are not excluded; 0 if there is none."""
    is_neighbour = nearness > -torch.inf
    return fits.masked_fill(~is_neighbour, 0).sum(1) / is_neighbour.sum(1).clamp(min=1)
