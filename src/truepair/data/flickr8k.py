"""The official split lists of Flickr8K, ``Flickr_8k.{train,dev,test}Images.txt``, one file name a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from truepair.data.pairs import Pairs
from truepair.errors import DataError
from truepair.files.lines import lines_of
from truepair.sources.stores import StorePath, on_disk

_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_MAXIMUM_MISSING = 0.1
"""Share of a list's images that may be without captions: more, and the list is of another corpus, or the file cut."""


def split_lists(folder: Path | StorePath) -> dict[str, str] | None:
    """Split of each image that a list in the folder names; None if there are no lists.

    Raises:
        DataError: If only some of the lists are there, or an image is in two of them.
    """
    paths = {split: folder / name for split, name in _LISTS.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if len(missing) == len(paths):
        return None
    if missing:
        raise DataError(
            f"{folder} has some of the split lists, but not {', '.join(missing)}; add what is missing, or move the "
            "lists away to split at random"
        )
    split_of_image: dict[str, str] = {}
    for split, path in paths.items():
        for number, line in enumerate(lines_of(on_disk(path)), 1):
            name = line.strip()
            if name and split_of_image.setdefault(name, split) != split:
                raise DataError(
                    f"{path}, line {number:,}: {name!r} is also in {_LISTS[split_of_image[name]]}; an image belongs to "
                    "one split"
                )
    return split_of_image


def listed_pairs(
    pairs: Pairs, images: Sequence[str], split_of_image: dict[str, str], notes: list[str], path: Path | StorePath
) -> tuple[Pairs, Sequence[str]]:
    """The pairs of images that a list names, and the split of each; what is left out is noted.

    Args:
        pairs: All pairs.
        images: All images that have captions, also those that could not be read.
        split_of_image: What `split_lists` gave.
        notes: Sentences are added: how many images are only in the caption file, or only in a list.
        path: What the pairs are from, for messages.

    Raises:
        DataError: If more than a tenth of a list has no captions.
    """
    has_captions = dict.fromkeys(images)
    for split, name in _LISTS.items():
        listed = [image for image, its_split in split_of_image.items() if its_split == split]
        missing = [image for image in listed if image not in has_captions]
        if len(missing) > _MAXIMUM_MISSING * len(listed):
            raise DataError(
                f"{len(missing):,} of the {len(listed):,} images of {name} have no captions in {path} (the first is "
                f"{missing[0]!r}; the first with captions is {next(iter(has_captions))!r}); are they of the same "
                "corpus, and is the caption file whole?"
            )
        if missing:
            notes.append(f"{len(missing):,} of the {len(listed):,} images of {name} have no captions and are left out")
    unlisted = sum(image not in split_of_image for image in has_captions)
    if unlisted:
        notes.append(
            f"{unlisted:,} of the {len(has_captions):,} images of {path} are in no split list and are left out"
        )
    splits = [split_of_image.get(pairs.image_ids[image]) for image in pairs.image_of_caption.tolist()]
    rows = torch.tensor([row for row, split in enumerate(splits) if split is not None], dtype=torch.long)
    return pairs.select(rows), [split for split in splits if split is not None]
