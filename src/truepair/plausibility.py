"""How well each pair holds out against competitors, and how well random pairs do, to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair.data.batch import Padded
from truepair.data.pairs import Pairs, Subset
from truepair.encoding import encode_captions, encode_images
from truepair.model import MatchingModel
from truepair.similarity.local import LocalSimilarity

_LOCAL_CANDIDATES = 128
"""Competitors where regions are compared with words: each score costs thousands of times as much as a cosine."""
_PAIRS_AT_A_TIME = 1024
"""Pairs scored in one go: with 4,096 competitors, similarities of 16 MB."""


@dataclass(frozen=True)
class Scores:
    """What the models say about each pair.

    Attributes:
        similarity: ``[pairs]``, mean over the models.
        log_odds: ``[pairs]``, of the pair against its competitors; see `log_odds`. Higher = more plausible.
        random_log_odds: ``[pairs]``, the same of each caption with a random image of its fold: what pairs look like
            that surely do not match.
    """

    similarity: Float[Tensor, " pairs"]
    log_odds: Float[Tensor, " pairs"]
    random_log_odds: Float[Tensor, " pairs"]

    @classmethod
    def unfilled(cls, pairs: int) -> Scores:
        """Room for the scores of so many pairs."""
        return cls(torch.empty(pairs), torch.empty(pairs), torch.empty(pairs))

    def put(self, pairs: Int[Tensor, " block"], block: Scores) -> None:
        """Fill in the scores of some pairs."""
        self.similarity[pairs] = block.similarity
        self.log_odds[pairs] = block.log_odds
        self.random_log_odds[pairs] = block.random_log_odds


@dataclass(frozen=True)
class Encodings:
    """Some images and captions as several models encode them; similarities are means over the models.

    Attributes:
        models: The models.
        images: Of each model, the encoded images.
        captions: Of each model, the encoded captions.
    """

    models: Sequence[MatchingModel]
    images: Sequence[Padded]
    captions: Sequence[Padded]

    @classmethod
    def of(
        cls, models: Sequence[MatchingModel], pairs: Pairs, images: Int[Tensor, " images"], captions: Int[Tensor, " c"]
    ) -> Encodings:
        """Encodings of the chosen rows of `pairs`, numbered anew from 0."""
        chosen = pairs.select(captions)
        return cls(
            models,
            [encode_images(model, Subset(pairs.images, images)) for model in models],
            [encode_captions(model, chosen) for model in models],
        )

    @torch.inference_mode()
    def matrix(self, images: Int[Tensor, " i"], captions: Int[Tensor, " c"]) -> Float[Tensor, "i c"]:
        """Similarity of every chosen image (rows) with every chosen caption (columns), on the CPU."""
        each = zip(self.models, self.images, self.captions, strict=True)
        return torch.stack([m.scores.matrix(i.rows(images), c.rows(captions)).float().cpu() for m, i, c in each]).mean(
            0
        )

    @torch.inference_mode()
    def paired(self, images: Int[Tensor, " p"], captions: Int[Tensor, " p"]) -> Float[Tensor, " p"]:
        """Similarity of image k with caption k, on the CPU."""
        each = zip(self.models, self.images, self.captions, strict=True)
        return torch.stack([m.scores.paired(i.rows(images), c.rows(captions)).float().cpu() for m, i, c in each]).mean(
            0
        )


def affordable_candidates(models: Sequence[MatchingModel], wanted: int) -> int:
    """How many competitors a pair may have in reasonable time: `wanted`, or 128 where SAF or SGR score."""
    is_local = any(isinstance(model.similarity, LocalSimilarity) for model in models)
    return min(wanted, _LOCAL_CANDIDATES) if is_local else wanted


def scores_of(
    models: Sequence[MatchingModel],
    pairs: Pairs,
    chosen: Int[Tensor, " chosen"],
    *,
    candidates: int,
    temperature: float,
    generator: np.random.Generator,
) -> Iterator[tuple[Int[Tensor, " block"], Scores]]:
    """Scores of the chosen pairs by some models, a block at a time.

    Memory grows with the encodings of the chosen pairs and with ``1024 · candidates``, never with pairs × pairs.

    Args:
        models: Who judges; their similarities are averaged.
        pairs: The pairs.
        chosen: Which of them are scored; they also compete with each other.
        candidates: Images (and as many captions) that a pair competes with, drawn from the chosen ones.
        temperature: τ of the log-odds.
        generator: Draws competitors and random pairs.

    Yields:
        Ids of some of the chosen pairs, and their scores.
    """
    images, image = pairs.image_of_caption[chosen].unique(return_inverse=True)
    encodings = Encodings.of(models, pairs, images, chosen)
    rivals = _rivals(image, candidates, generator)
    other = (image + torch.from_numpy(generator.integers(1, len(images), len(image)))) % len(images)
    for rows in torch.arange(len(chosen)).split(_PAIRS_AT_A_TIME):
        yield (
            chosen[rows],
            Scores(
                encodings.paired(image[rows], rows),
                log_odds(encodings, image, image[rows], rows, rivals, temperature),
                log_odds(encodings, image, other[rows], rows, rivals, temperature),
            ),
        )


def log_odds(
    encodings: Encodings,
    image_of_caption: Int[Tensor, " captions"],
    images: Int[Tensor, " pairs"],
    captions: Int[Tensor, " pairs"],
    rivals: Int[Tensor, " rivals"],
    temperature: float,
) -> Float[Tensor, " pairs"]:
    r"""Log-odds of each pair against competitors, the mean of both directions.

    .. math::
        \frac{S_{ic}}{\tau} - \frac{1}{2} \log \sum_{c'} e^{S_{ic'}/\tau} - \frac{1}{2} \log \sum_{i'} e^{S_{i'c}/\tau}

    No competitor is a caption that the image owns, the image that the caption has now, or either side of the pair. This
    is the logarithm of p / (1 - p), p being the matching probability that training raises (`losses.contrastive`),
    which separates mismatched pairs better than the similarity: a vague caption is close to every image.

    Args:
        encodings: Images and captions.
        image_of_caption: ``[captions]``, the image of each caption, as numbered in `encodings`.
        images: ``[pairs]``, the image of each pair, not necessarily the caption's own.
        captions: ``[pairs]``, the caption of each pair.
        rivals: ``[rivals]``, captions of different images: they and their images compete.
        temperature: τ.

    Returns:
        ``[pairs]``, any real number; higher = more plausible.
    """
    rival_images = image_of_caption[rivals]
    distinct, which = images.unique(return_inverse=True)  # captions of one image share its row
    of_image = encodings.matrix(distinct, rivals)[which] / temperature  # [pairs, rivals]
    of_image[(rival_images == images[:, None]) | (rivals == captions[:, None])] = -torch.inf
    of_caption = encodings.matrix(rival_images, captions).T / temperature  # [pairs, rivals]
    taken = (rival_images == images[:, None]) | (rival_images == image_of_caption[captions][:, None])
    of_caption[taken] = -torch.inf
    own = encodings.paired(images, captions) / temperature
    return own - (of_image.logsumexp(1) + of_caption.logsumexp(1)) / 2


def _rivals(image: Int[Tensor, " captions"], most: int, generator: np.random.Generator) -> Int[Tensor, " rivals"]:
    """One random caption of each of at most `most` random images."""
    order = generator.permutation(len(image))
    _, first = np.unique(image.numpy()[order], return_index=True)
    return torch.from_numpy(generator.permutation(order[first])[:most])
