"""Better partners for pairs that look wrong: another image for the caption, another caption for the image."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.plausibility import Encodings

_PAIRS_AT_A_TIME = 1024
_GALLERY_AT_A_TIME = 4096
"""Similarities in memory at once: 1,024 × 4,096, 16 MB."""

_NEAREST = 10
"""A mutual choice must be among so many most similar images of all: among few suspects, to choose each other says
little."""

NONE = -1
"""No image, or no caption, is better than the present one."""


@dataclass(frozen=True)
class Partners:
    """The best alternatives of some pairs.

    Attributes:
        image: ``[pairs]``, another image for the caption, more similar to it than its present one; -1 where there is
            none. If one of the 10 most similar images and the caption choose each other among the pairs asked for, it
            is that image; otherwise it is the most similar of all.
        image_similarity: ``[pairs]``, its similarity; NaN where there is none.
        is_mutual: ``[pairs]``, True where caption and image choose each other.
        caption: ``[pairs]``, the caption most similar to the image among those that it does not own and that say
            something else, or -1 where the present one is at least as similar.
        caption_similarity: ``[pairs]``, its similarity; NaN where there is none.
    """

    image: Int[Tensor, " pairs"]
    image_similarity: Float[Tensor, " pairs"]
    is_mutual: Bool[Tensor, " pairs"]
    caption: Int[Tensor, " pairs"]
    caption_similarity: Float[Tensor, " pairs"]


def best_partners(models: Sequence[MatchingModel], pairs: Pairs, asked: Int[Tensor, " asked"]) -> Partners:
    """The best alternatives of the pairs `asked` for, among all images and captions; of the others, none.

    Every image and caption is encoded once by every model and stays in memory; similarities are computed in blocks.

    Args:
        models: Their similarities are averaged. They should not have learned from the pairs asked for: the image that a
            mismatched caption belongs to is most likely mismatched itself, and a model that was trained on it has
            learned to give it to another caption.
        pairs: All pairs.
        asked: ``[asked]``, ids of the pairs.
    """
    count = len(pairs)
    image, caption = torch.full((count,), NONE), torch.full((count,), NONE)
    image_similarity, caption_similarity = torch.full((count,), torch.nan), torch.full((count,), torch.nan)
    is_mutual = torch.zeros(count, dtype=torch.bool)
    if not len(asked):
        return Partners(image, image_similarity, is_mutual, caption, caption_similarity)
    number_of_text: dict[str, int] = {}
    texts = torch.tensor([number_of_text.setdefault(text, len(number_of_text)) for text in pairs.captions])
    every_image, every_caption = torch.arange(len(pairs.images)), torch.arange(count)
    encodings = Encodings.of(models, pairs, every_image, every_caption)
    image_of_caption = pairs.image_of_caption
    asked_images = image_of_caption[asked].unique()
    favourite = torch.full((len(pairs.images),), NONE)  # of each image asked for, among the captions asked for
    for images in asked_images.split(_PAIRS_AT_A_TIME):
        no_text = torch.full((len(images),), NONE)
        favourite[images] = _best_captions(encodings, images, no_text, asked, image_of_caption, texts)[1]
    with tqdm(total=len(asked), unit="pair", desc="better partners", disable=None, file=sys.stderr) as bar:
        for ids in asked.split(_PAIRS_AT_A_TIME):
            own = image_of_caption[ids]
            present = encodings.paired(own, ids)
            nearest, nearest_image = _best_images(encodings, ids, own, every_image, _NEAREST)
            chosen, chosen_image = (x[:, 0] for x in _best_images(encodings, ids, own, asked_images, 1))
            mutual = (favourite[chosen_image] == ids) & (chosen >= nearest[:, -1]) & (chosen > present)
            best = torch.where(mutual, chosen, nearest[:, 0])
            where = torch.where(mutual, chosen_image, nearest_image[:, 0])
            better = best > present
            image[ids[better]], image_similarity[ids[better]] = where[better], best[better]
            is_mutual[ids] = mutual
            best, where = _best_captions(encodings, own, texts[ids], every_caption, image_of_caption, texts)
            better = best > present
            caption[ids[better]], caption_similarity[ids[better]] = where[better], best[better]
            bar.update(len(ids))
    return Partners(image, image_similarity, is_mutual, caption, caption_similarity)


def _best_images(
    encodings: Encodings,
    captions: Int[Tensor, " asked"],
    own: Int[Tensor, " asked"],
    gallery: Int[Tensor, " gallery"],
    count: int,
) -> tuple[Float[Tensor, "asked count"], Int[Tensor, "asked count"]]:
    """Of each caption, the most similar images in the gallery but its own, best first; -1 where there are fewer."""
    best, where = torch.full((len(captions), count), -torch.inf), torch.full((len(captions), count), NONE)
    for images in gallery.split(_GALLERY_AT_A_TIME):
        scores = encodings.matrix(images, captions).T  # [asked, block]
        best, where = _better(best, where, scores.masked_fill(images == own[:, None], -torch.inf), images)
    return best, where


def _best_captions(
    encodings: Encodings,
    images: Int[Tensor, " asked"],
    own_text: Int[Tensor, " asked"],
    gallery: Int[Tensor, " gallery"],
    image_of_caption: Int[Tensor, " captions"],
    texts: Int[Tensor, " captions"],
) -> tuple[Float[Tensor, " asked"], Int[Tensor, " asked"]]:
    """Of each image, the most similar caption in the gallery that it does not own and that says something else."""
    best, where = torch.full((len(images), 1), -torch.inf), torch.full((len(images), 1), NONE)
    for captions in gallery.split(_GALLERY_AT_A_TIME):
        scores = encodings.matrix(images, captions)  # [asked, block]
        is_present = (image_of_caption[captions] == images[:, None]) | (texts[captions] == own_text[:, None])
        best, where = _better(best, where, scores.masked_fill(is_present, -torch.inf), captions)
    return best[:, 0], where[:, 0]


def _better(
    best: Float[Tensor, "asked count"],
    where: Int[Tensor, "asked count"],
    scores: Float[Tensor, "asked block"],
    block: Int[Tensor, " block"],
) -> tuple[Float[Tensor, "asked count"], Int[Tensor, "asked count"]]:
    """The best of those so far and those of this block, as many as before, best first."""
    together, order = torch.cat([best, scores], dim=1).topk(best.shape[1], dim=1)
    return together, torch.cat([where, block.expand(len(scores), -1)], dim=1).gather(1, order)
