"""How well each pair holds out against competitors, and how well random pairs do, to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truepair.data.batch import Padded
from truepair.data.pairs import Pairs, Subset
from truepair.data.splitting import one_of_each_image
from truepair.model import MatchingModel
from truepair.scoring.encoding import encode_captions, encode_images
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
        random_log_odds: ``[random]``, the same of captions with random images: what pairs look like that surely do not
            match.
    """

    similarity: Float[Tensor, " pairs"]
    log_odds: Float[Tensor, " pairs"]
    random_log_odds: Float[Tensor, " random"]

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


def similarity_of_pairs(models: Sequence[MatchingModel], pairs: Pairs) -> Float[Tensor, " pairs"]:
    """Similarity of each image with its own caption, in evaluation mode, without competitors.

    Memory grows with the encodings of 1,024 pairs, never with their number. The models' modes are left as they were.
    """
    was_training = [model.training for model in models]
    similarity = torch.empty(len(pairs))
    # Captions of one image stand together, so that hardly an image is encoded twice.
    for block in pairs.image_of_caption.argsort(stable=True).split(_PAIRS_AT_A_TIME):
        images, image = pairs.image_of_caption[block].unique(return_inverse=True)
        similarity[block] = Encodings.of(models, pairs, images, block).paired(image, torch.arange(len(block)))
    for model, training in zip(models, was_training, strict=True):
        model.train(training)
    return similarity


def affordable_candidates(models: Sequence[MatchingModel], wanted: int) -> int:
    """How many competitors a pair may have in reasonable time: `wanted`, or 128 where SAF or SGR score."""
    return min(wanted, _LOCAL_CANDIDATES) if are_local(models) else wanted


def are_local(models: Sequence[MatchingModel]) -> bool:
    """Whether a model compares regions with words (SAF, SGR): too dear to compare everything with everything."""
    return any(isinstance(model.similarity, LocalSimilarity) for model in models)


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

    Memory grows with the encodings of 1,024 pairs and of the competitors and with ``1024 · candidates``, never with the
    number of pairs. The images of random pairs are those of competitors, whose scores are known.

    Args:
        models: Who judges; their similarities are averaged.
        pairs: The pairs, of at least two images.
        chosen: Which of them are scored; they also compete with each other.
        candidates: Images (and as many captions) that a pair competes with, drawn from the chosen ones.
        temperature: τ of the log-odds.
        generator: Draws competitors and random pairs.

    Yields:
        Ids of some of the chosen pairs, and their scores.
    """
    image = pairs.image_of_caption[chosen]
    rivals = chosen[_rivals(image, candidates, generator)]
    rival_images = pairs.image_of_caption[rivals]
    of_rivals = Encodings.of(models, pairs, rival_images, rivals)
    everyone = torch.arange(len(rivals))
    of_rival_images = of_rivals.matrix(everyone, everyone)
    for ids in chosen[image.argsort(stable=True)].split(_PAIRS_AT_A_TIME):  # so that an image is encoded once
        own, place = pairs.image_of_caption[ids].unique(return_inverse=True)
        encodings = Encodings.of(models, pairs, own, ids)
        rows = torch.arange(len(ids))
        of_images = between(encodings, torch.arange(len(own)), of_rivals, everyone)[place]  # [pairs, rivals]
        of_captions = between(of_rivals, everyone, encodings, rows).T  # [pairs, rivals]
        own, is_self = own[place], rivals == ids[:, None]
        is_own = rival_images == own[:, None]
        similarity = encodings.paired(place, rows)
        other = _others(is_own, generator)
        is_other = rival_images == rival_images[other][:, None]
        yield (
            ids,
            Scores(
                similarity,
                log_odds(similarity, of_images, of_captions, is_own | is_self, is_own, temperature),
                log_odds(
                    of_captions[rows, other],
                    of_rival_images[other],
                    of_captions,
                    is_other | is_self,
                    is_other | is_own,
                    temperature,
                ),
            ),
        )


def log_odds(
    similarity: Float[Tensor, " pairs"],
    of_images: Float[Tensor, "pairs rivals"],
    of_captions: Float[Tensor, "pairs rivals"],
    no_caption: Bool[Tensor, "pairs rivals"],
    no_image: Bool[Tensor, "pairs rivals"],
    temperature: float,
) -> Float[Tensor, " pairs"]:
    r"""Log-odds of each pair against competitors, the mean of both directions.

    .. math::
        \frac{S_{ic}}{\tau} - \frac{1}{2} \log \sum_{c'} e^{S_{ic'}/\tau} - \frac{1}{2} \log \sum_{i'} e^{S_{i'c}/\tau}

    No competitor may be a caption that the image owns, the image that the caption has now, or either side of the pair.
    This is the logarithm of p / (1 - p), p being the matching probability that training raises
    (`losses.contrastive`), which separates mismatched pairs better than the similarity: a vague caption is close to
    every image.

    Args:
        similarity: ``[pairs]``, of each pair.
        of_images: ``[pairs, rivals]``, of each pair's image with the competing captions.
        of_captions: ``[pairs, rivals]``, of each pair's caption with the competing images.
        no_caption: True where a caption may not compete.
        no_image: True where an image may not compete.
        temperature: τ.

    Returns:
        ``[pairs]``, any real number; higher = more plausible.

    Example:
        At τ 1, against one caption and one image that score 0.

        >>> one, zero, none = torch.ones(1), torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool)
        >>> log_odds(one, zero, zero, none, none, 1.0).tolist()
        [1.0]
    """
    captions = (of_images / temperature).masked_fill(no_caption, -torch.inf)
    images = (of_captions / temperature).masked_fill(no_image, -torch.inf)
    return similarity / temperature - (captions.logsumexp(1) + images.logsumexp(1)) / 2


def against(
    similarity: Float[Tensor, " pairs"],
    others: Float[Tensor, "pairs rivals"],
    excluded: Bool[Tensor, "pairs rivals"],
    temperature: float,
) -> Float[Tensor, " pairs"]:
    r"""One direction of `log_odds`, with the mean over competitors for their sum: their number is no matter.

    .. math::
        \frac{S}{\tau} - \log \frac{1}{n} \sum_{j=1}^n e^{S_j/\tau}

    Args:
        similarity: ``[pairs]``, S, of each pair.
        others: ``[pairs, rivals]``, of one side of each pair with the competitors.
        excluded: True where somebody may not compete.
        temperature: τ.

    Returns:
        ``[pairs]``, any real number; higher = more plausible. Infinite without competitors.
    """
    competing = (others / temperature).masked_fill(excluded, -torch.inf).logsumexp(1)
    return similarity / temperature - competing + (~excluded).sum(1).clamp(min=1).log()


def between(
    images: Encodings, rows: Int[Tensor, " i"], captions: Encodings, columns: Int[Tensor, " c"]
) -> Float[Tensor, "i c"]:
    """Similarity of images encoded here with captions encoded there."""
    return Encodings(images.models, images.images, captions.captions).matrix(rows, columns)


def _others(is_own: Bool[Tensor, "pairs rivals"], generator: np.random.Generator) -> Int[Tensor, " pairs"]:
    """For each pair, a random competitor whose image is not its own."""
    chance = torch.from_numpy(generator.random(is_own.shape, dtype=np.float32))
    return chance.masked_fill(is_own, -1.0).argmax(1)


def _rivals(image: Int[Tensor, " captions"], most: int, generator: np.random.Generator) -> Int[Tensor, " rivals"]:
    """One random caption of each of at most `most` random images."""
    order = torch.from_numpy(generator.permutation(len(image)))
    return torch.from_numpy(generator.permutation(one_of_each_image(image, order).numpy())[:most])
