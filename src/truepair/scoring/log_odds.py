"""Log-odds of each pair against negatives, and the same for random pairs (the null distribution)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truepair.data.pairs import Pairs
from truepair.data.splitting import one_of_each_image
from truepair.model import MatchingModel
from truepair.scoring.encodings import Encodings, are_local, evaluating, similarity_between

_LOCAL_NEGATIVES = 128
"""Negatives where regions are compared with words: each score costs thousands of times as much as a cosine."""
_PAIRS_AT_A_TIME = 1024
"""Pairs scored in one go: with 4,096 negatives, similarities of 16 MB."""


@dataclass(frozen=True)
class Scores:
    """What the models say about each pair.

    Attributes:
        similarity: ``[pairs]``, mean over the models.
        log_odds: ``[pairs]``, of the pair against negatives; see `log_odds`. Higher = more plausible.
        random_log_odds: ``[random]``, the same of captions with random images, which surely do not match.
    """

    similarity: Float[Tensor, " pairs"]
    log_odds: Float[Tensor, " pairs"]
    random_log_odds: Float[Tensor, " random"]


def log_odds(
    similarity: Float[Tensor, " pairs"],
    to_captions: Float[Tensor, "pairs negatives"],
    to_images: Float[Tensor, "pairs negatives"],
    no_caption: Bool[Tensor, "pairs negatives"],
    no_image: Bool[Tensor, "pairs negatives"],
    temperature: float,
) -> Float[Tensor, " pairs"]:
    r"""Log-odds of each pair against negatives, the mean of both directions.

    .. math::
        \frac{S_{ic}}{\tau} - \frac{1}{2} \log \frac{1}{n} \sum_{c'} e^{S_{ic'}/\tau}
        - \frac{1}{2} \log \frac{1}{m} \sum_{i'} e^{S_{i'c}/\tau}

    No negative may be a caption that the image owns, the image that the caption has now, or either side of the pair.
    With sums for the means this is the logarithm of p / (1 - p), p being the matching probability that training raises
    (`losses.contrastive`), which separates mismatched pairs better than the similarity: a vague caption is close to
    every image. The means add a constant, (log n + log m) / 2, and make the number of negatives irrelevant.

    Args:
        similarity: ``[pairs]``, of each pair.
        to_captions: ``[pairs, negatives]``, of each pair's image with the negative captions.
        to_images: ``[pairs, negatives]``, of each pair's caption with the negative images.
        no_caption: True where a caption may not be a negative.
        no_image: True where an image may not be a negative.
        temperature: τ.

    Returns:
        ``[pairs]``, any real number; higher = more plausible. Infinite without negatives.

    Example:
        At τ 1, against one caption and one image that score 0.

        >>> one, zero, none = torch.ones(1), torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool)
        >>> log_odds(one, zero, zero, none, none, 1.0).tolist()
        [1.0]
    """
    against_captions = log_odds_one_way(similarity, to_captions, no_caption, temperature)
    against_images = log_odds_one_way(similarity, to_images, no_image, temperature)
    return (against_captions + against_images) / 2


def log_odds_one_way(
    similarity: Float[Tensor, " pairs"],
    to_negatives: Float[Tensor, "pairs negatives"],
    excluded: Bool[Tensor, "pairs negatives"],
    temperature: float,
) -> Float[Tensor, " pairs"]:
    r"""Log-odds of each pair against negatives of one modality.

    .. math::
        \frac{S}{\tau} - \log \frac{1}{n} \sum_{j=1}^n e^{S_j/\tau}

    Args:
        similarity: ``[pairs]``, S, of each pair.
        to_negatives: ``[pairs, negatives]``, of one side of each pair with the negatives.
        excluded: True where an item may not be a negative.
        temperature: τ.

    Returns:
        ``[pairs]``, any real number; higher = more plausible. Infinite without negatives.

    Example:
        Twice as many equal negatives change nothing.

        >>> one, none = torch.ones(1), torch.zeros(1, 4, dtype=torch.bool)
        >>> [log_odds_one_way(one, torch.zeros(1, n), none[:, :n], 1.0).item() for n in (2, 4)]
        [1.0, 1.0]
    """
    of_all = (to_negatives / temperature).masked_fill_(excluded, -torch.inf).logsumexp(1)  # [pairs]
    return similarity / temperature - of_all + (~excluded).sum(1).clamp(min=1).log()


def affordable_negatives(models: Sequence[MatchingModel], wanted: int) -> int:
    """How many negatives a pair may have in reasonable time: `wanted`, or at most 128 where SAF or SGR score."""
    return min(wanted, _LOCAL_NEGATIVES) if are_local(models) else wanted


def scores_of_all_pairs(
    models: Sequence[MatchingModel],
    pairs: Pairs,
    *,
    negatives: int,
    temperature: float,
    generator: np.random.Generator,
    progress: Callable[[int], object] = lambda pairs: None,
) -> Scores:
    """Similarity and log-odds of all pairs, and of as many random pairs, in evaluation mode.

    Memory grows with the encodings of 1,024 pairs and of the negatives and with ``1024 · negatives``, beside three
    numbers a pair. The images of random pairs are those of negatives, whose similarities are known. The models' modes
    are left as they were, and torch's global generators are not touched.

    Args:
        models: Their similarities are averaged.
        pairs: The pairs, of at least three images: a random pair needs a negative that is neither of its sides.
        negatives: Images, and as many captions, that a pair is compared with; fewer where there are fewer images.
        temperature: τ of the log-odds.
        generator: Draws negatives and random pairs.
        progress: Told how many pairs a block had.
    """
    image = pairs.image_of_caption
    of_pairs, of_random, similarity = torch.empty(len(pairs)), torch.empty(len(pairs)), torch.empty(len(pairs))
    with evaluating(models):
        # The negatives, encoded once.
        chosen = _one_caption_each(image, negatives, generator)
        chosen_image = image[chosen]
        of_negatives, columns = Encodings.of(models, pairs, chosen_image, chosen), torch.arange(len(chosen))
        among_negatives = of_negatives.matrix(columns, columns)  # [negatives, negatives]

        for ids in image.argsort(stable=True).split(_PAIRS_AT_A_TIME):  # so that an image is encoded once
            # A block against the negatives.
            images, place = image[ids].unique(return_inverse=True)
            block, rows = Encodings.of(models, pairs, images, ids), torch.arange(len(ids))
            to_captions = similarity_between(block, torch.arange(len(images)), of_negatives, columns)[place]
            to_images = similarity_between(of_negatives, columns, block, rows).T  # [pairs, negatives], like to_captions
            is_self, is_own = chosen == ids[:, None], chosen_image == image[ids][:, None]  # [pairs, negatives]

            # The pairs of the block.
            similarity[ids] = block.paired(place, rows)
            of_pairs[ids] = log_odds(similarity[ids], to_captions, to_images, is_own | is_self, is_own, temperature)

            # Their captions with the image of a random negative: random pairs.
            other = _random_column(~is_own, generator)
            is_other = chosen_image == chosen_image[other][:, None]
            of_random[ids] = log_odds(
                to_images[rows, other],
                among_negatives[other],
                to_images,
                is_other | is_self,
                is_other | is_own,
                temperature,
            )
            progress(len(ids))
    return Scores(similarity, of_pairs, of_random)


def _random_column(allowed: Bool[Tensor, "pairs negatives"], generator: np.random.Generator) -> Int[Tensor, " pairs"]:
    """For each pair, a random column that is allowed."""
    chance = torch.from_numpy(generator.random(allowed.shape, dtype=np.float32))
    return chance.masked_fill(~allowed, -1.0).argmax(1)


def _one_caption_each(
    image: Int[Tensor, " captions"], most: int, generator: np.random.Generator
) -> Int[Tensor, " negatives"]:
    """One random caption of each of at most `most` random images."""
    order = torch.from_numpy(generator.permutation(len(image)))
    return torch.from_numpy(generator.permutation(one_of_each_image(image, order).numpy())[:most])
