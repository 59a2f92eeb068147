"""Pairs into training, development and test splits that share no image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from truepair.data.pairs import Pairs, Splits, Subset
from truepair.data.pictures import ChosenPictures
from truepair.errors import ConfigError, DataError, TooFewImagesError
from truepair.files.texts import chosen_texts
from truepair.random_streams import Stream

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "restval": "train",  # Karpathy's name for the images of MS-COCO's validation set that are left over
    "dev": "dev",
    "development": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
}
_SPLITS = ("train", "dev", "test")


def one_of_each_image(
    image_of_caption: Int[Tensor, " captions"], order: Int[Tensor, " captions"]
) -> Int[Tensor, " images"]:
    """Of every image with captions, the one that comes first in `order`; images in ascending order.

    >>> one_of_each_image(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 3, 0, 2]))
    tensor([1, 3])
    """
    _, first = np.unique(image_of_caption[order].numpy(), return_index=True)
    return order[torch.from_numpy(first)]


def known_split(name: str) -> str | None:
    """``train``, ``dev`` or ``test``, whichever of its usual names is given; None if it is none of them.

    >>> known_split(" Validation ")
    'dev'
    """
    return SPLIT_NAMES.get(name.strip().lower())


def random_split(images: int, development_share: float, test_share: float, seed: int) -> list[str]:
    """The split of each image, drawn at random; development and test have exactly their rounded shares.

    Raises:
        ConfigError: If a share is out of range or leaves a split without images.
    """
    if not (0 < development_share < 1 and 0 < test_share < 1 and development_share + test_share < 1):
        raise ConfigError(
            f"development_share ({development_share}) and test_share ({test_share}) must be above 0, "
            f"and below 1 together"
        )
    development, test = round(development_share * images), round(test_share * images)
    if min(development, test, images - development - test) < 1:
        raise TooFewImagesError(
            images,
            f"{images:,} {'image is' if images == 1 else 'images are'} too few to be split into training, development "
            f"and test (--development-share {development_share}, --test-share {test_share}): give more images, other "
            "shares, or a column of splits (--split-col)",
        )
    order = Stream.SPLITS.generator(seed).permutation(images)
    split_of_image = ["train"] * images
    for image in order[:test].tolist():
        split_of_image[image] = "test"
    for image in order[test : test + development].tolist():
        split_of_image[image] = "dev"
    return split_of_image


def randomly_split(pairs: Pairs, development_share: float, test_share: float, seed: int, name: str) -> Splits:
    """Images drawn at random, with all of their captions; see `random_split` and `split_by_name`."""
    split_of_image = random_split(len(pairs.images), development_share, test_share, seed)
    of_pairs = np.array(split_of_image, dtype=object)[pairs.image_of_caption.numpy()]
    return split_by_name(pairs, of_pairs.tolist(), name)


def split_by_name(pairs: Pairs, split_of_pair: Sequence[str], name: str) -> Splits:
    """The pairs of each split with the images of that split only.

    Args:
        pairs: All pairs.
        split_of_pair: train, dev or test, for each pair.
        name: What the corpus is called.

    Raises:
        DataError: If an image is in two splits, or a split is empty.
    """
    number = {split: place for place, split in enumerate(_SPLITS)}
    split = np.fromiter((number[each] for each in split_of_pair), np.int8, len(pairs))
    image_of = pairs.image_of_caption.numpy()
    _, firsts, place = np.unique(image_of, return_index=True, return_inverse=True)
    differs = (split[firsts][place] != split).nonzero()[0]
    if len(differs):
        pair = int(differs[0])
        earlier = int(firsts[place[pair]])
        raise DataError(
            f"{name}: image {pairs.image_ids[int(image_of[pair])]!r} is in split {split_of_pair[earlier]!r} (caption "
            f"{pairs.caption_ids[earlier]!r}) and in {split_of_pair[pair]!r} (caption "
            f"{pairs.caption_ids[pair]!r}); give all of its rows one split, or split at random by image"
        )
    rows = {each: torch.from_numpy((split == number[each]).nonzero()[0]) for each in _SPLITS}
    empty = [each for each, chosen in rows.items() if not len(chosen)]
    if empty:
        present = ", ".join(each for each in rows if each not in empty)
        raise DataError(f"{name} has no pairs in split {', '.join(empty)} (there are: {present}); split at random?")
    return Splits(**{each: pairs_and_their_images(pairs, chosen) for each, chosen in rows.items()}, name=name)


def pairs_and_their_images(pairs: Pairs, rows: Sequence[int] | Int[Tensor, " rows"]) -> Pairs:
    """The chosen pairs, with their images renumbered and the others left out: a gallery holds its own split only."""
    chosen = pairs.select(torch.as_tensor(rows))
    truth = chosen.true_image_of_caption
    used = chosen.image_of_caption if truth is None else torch.cat([chosen.image_of_caption, truth])
    kept, renumbered = torch.unique(used, return_inverse=True)
    return replace(
        chosen,
        images=Subset(pairs.images, kept),
        image_of_caption=renumbered[: len(chosen)],
        true_image_of_caption=None if truth is None else renumbered[len(chosen) :],
        image_ids=chosen_texts(pairs.image_ids, kept.numpy()),
        pictures=None if pairs.pictures is None else ChosenPictures(pairs.pictures, kept.numpy()),
        shard_of_image=None if pairs.shard_of_image is None else pairs.shard_of_image[kept],
    )
