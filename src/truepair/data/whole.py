"""A split corpus as one: an audit looks at every pair that the user has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from truepair.data.joining import JoinedInputs, JoinedPictures
from truepair.data.pairs import Pairs, Splits, Subset
from truepair.data.pictures import ChosenPictures

Part = TypeVar("Part")
_NUMBERS = re.compile(r"([0-9]{1,18})")


def every_pair(splits: Splits) -> Pairs:
    """Training, development and test pairs, in this order, as one.

    Ids stay as they are where they are unique over all splits; otherwise the split's name goes before each.
    """
    parts = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    first_image = dict(zip(parts, accumulate((len(part.images) for part in parts.values()), initial=0), strict=False))
    truths = _all([part.true_image_of_caption for part in parts.values()])
    caption_inputs = _all([part.caption_inputs for part in parts.values()])
    pictures = _all([part.pictures for part in parts.values()])
    return Pairs(
        images=JoinedInputs([part.images for part in parts.values()]),
        captions=[caption for part in parts.values() for caption in part.captions],
        image_of_caption=torch.cat([part.image_of_caption + first_image[name] for name, part in parts.items()]),
        image_ids=_unique({name: part.image_ids for name, part in parts.items()}),
        caption_ids=_unique({name: part.caption_ids for name, part in parts.items()}),
        caption_inputs=None if caption_inputs is None else JoinedInputs(caption_inputs),
        true_image_of_caption=(
            None if truths is None else torch.cat([t + f for t, f in zip(truths, first_image.values(), strict=True)])
        ),
        pictures=None if pictures is None else JoinedPictures(pictures),
        has_texts=splits.train.has_texts,
    )


def in_order_of_names(pairs: Pairs) -> tuple[Pairs, Int[Tensor, " pairs"]]:
    """The same pairs, in an order that does not depend on the one in which they were stored.

    Images come by their names, whose numbers count as such, and an image's captions by their texts, then by their
    names. So what is drawn at random from pairs does not depend on the order of a table's rows, unless the images'
    names were made up from row numbers.

    Args:
        pairs: All of them, with all images.

    Returns:
        The pairs, and ``[pairs]``, of each its place before.
    """
    images = sorted(range(len(pairs.image_ids)), key=[_as_counted(name) for name in pairs.image_ids].__getitem__)
    image = torch.tensor(images)
    rank = image.argsort()  # of each image, its new number
    by_text = sorted(sorted(range(len(pairs)), key=pairs.caption_ids.__getitem__), key=pairs.captions.__getitem__)
    place = torch.tensor(by_text)
    place = place[rank[pairs.image_of_caption[place]].argsort(stable=True)]
    chosen = pairs.select(place)
    truth = chosen.true_image_of_caption
    return replace(
        chosen,
        images=Subset(pairs.images, image),
        image_of_caption=rank[chosen.image_of_caption],
        true_image_of_caption=None if truth is None else rank[truth],
        image_ids=[pairs.image_ids[old] for old in images],
        pictures=None if pairs.pictures is None else ChosenPictures(pairs.pictures, images),
    ), place


def _as_counted(name: str) -> tuple[str | int, ...]:
    """Text and numbers of a name in turn, text first.

    >>> sorted(["b-10", "b-9", "a"], key=_as_counted)
    ['a', 'b-9', 'b-10']
    """
    return tuple(int(part) if number % 2 else part for number, part in enumerate(_NUMBERS.split(name)))


def _all(parts: Sequence[Part | None]) -> list[Part] | None:
    """The parts, or None if one is missing."""
    present = [part for part in parts if part is not None]
    return present if len(present) == len(parts) else None


def _unique(ids: dict[str, Sequence[str]]) -> list[str]:
    plain = [name for names in ids.values() for name in names]
    if len(set(plain)) == len(plain):
        return plain
    return [f"{split}/{name}" for split, names in ids.items() for name in names]
