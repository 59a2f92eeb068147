"""Labelled pairs: trusted ones, and as many that are known not to match."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.data.batch import Batch, Padded, joined
from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Pairs
from truepair.data.pixels import LostPictures, unreadable
from truepair.errors import DataError
from truepair.random_streams import Stream


@dataclass(frozen=True, eq=False)
class LabelledDraw:
    """Matched and mismatched pairs, as many of each.

    Attributes:
        matched: The trusted pairs, label 1.
        mismatched: Captions with images that are not theirs, label 0.
        key: Of the order.
        seed: Of the order.
        device: Where batches are put.
    """

    matched: Pairs
    mismatched: Pairs
    seed: int
    key: int
    device: torch.device

    def endless(self, batch_size: int, done: int = 0) -> Iterator[tuple[Batch, Float[Tensor, " pairs"]]]:
        """Batches of both kinds with their labels, shuffled; again and again, in another order.

        The last batch of a round may be smaller; a pair left alone sits the round out, and so do pairs of pictures that
        cannot be decoded. `Batch.pair` is -1. The first `done` batches are left out.
        """
        count, generator = len(self.matched), Stream.LABELLED_PAIRS.generator(self.seed, self.key, 1)
        lost = LostPictures()
        while True:
            for rows in torch.from_numpy(generator.permutation(2 * count)).split(batch_size):
                if len(rows) > 1:
                    done -= 1
                    if done >= 0:
                        continue
                    batch = self._batch(rows[rows < count], rows[rows >= count] - count, lost)
                    if batch is not None:
                        yield batch

    def _batch(
        self, matched: Tensor, mismatched: Tensor, lost_pictures: LostPictures
    ) -> tuple[Batch, Float[Tensor, " pairs"]] | None:
        """Both kinds with their labels, without pictures that cannot be decoded; None if fewer than two are left."""
        images, captions, labels = list[Padded](), list[Padded](), list[Tensor]()
        for pairs, rows, label in ((self.matched, matched, 1.0), (self.mismatched, mismatched, 0.0)):
            if not len(rows):
                continue
            image = pairs.image_of_caption[rows]
            taken, lost = pairs.images.take(image), unreadable(pairs.images, image)
            kept = torch.tensor([place for place in range(len(rows)) if place not in lost], dtype=torch.int64)
            if len(kept):
                images.append(taken.rows(kept) if lost else taken)
                captions.append(inputs_of_captions(pairs).take(rows[kept]))
                labels.append(torch.full((len(kept),), label))
        count, asked = sum(map(len, labels)), len(matched) + len(mismatched)
        lost_pictures.refuse_most(asked - count, asked, "of trusted and mismatched pairs")
        if count < 2:
            return None
        batch = Batch(torch.full((count,), -1), joined(images), joined(captions))
        return batch.to(self.device), torch.cat(labels).to(self.device)


class LabelledPairs:
    """Trusted pairs and, drawn anew for every key, mismatched ones (the meta set of MSCN: Han et al., CVPR 2023).

    A mismatched pair is a caption of the training split, each at most once, with a random image of it. As in the
    released code, which makes them of clean data, none is a true pair; where the truth is not known, only what the
    corpus pairs is ruled out, and one in as many as there are images matches by accident.
    """

    def __init__(self, trusted: Pairs, train: Pairs, seed: int, device: torch.device) -> None:
        """Check that so many mismatched pairs can be drawn.

        Args:
            trusted: Pairs known to match.
            train: What mismatched pairs are made of.
            seed: Of all draws.
            device: Where batches are put.

        Raises:
            DataError: If there are fewer than 2 trusted pairs, more than captions to draw from, or too few images.
        """
        if len(trusted) < 2 or len(trusted) > len(train) or len(train.images) < 3:
            raise DataError(
                f"{len(trusted):,} trusted pairs need as many captions of the training split with images that are not "
                f"theirs, but it has {len(train):,} captions and {len(train.images):,} images; at least 2 pairs and 3 "
                "images are needed"
            )
        self.trusted = trusted
        self.train = train
        self.seed = seed
        self.device = device

    def draw(self, key: int) -> LabelledDraw:
        """The trusted pairs with mismatched ones; the same for the same `key`."""
        generator = Stream.LABELLED_PAIRS.generator(self.seed, key, 0)
        captions = torch.from_numpy(generator.choice(len(self.train), len(self.trusted), replace=False))
        chosen = self.train.select(captions)
        images = torch.full_like(captions, -1)
        is_open = torch.ones(len(captions), dtype=torch.bool)
        while is_open.any():
            images[is_open] = torch.from_numpy(generator.integers(len(self.train.images), size=int(is_open.sum())))
            is_open = images == chosen.image_of_caption
            if chosen.true_image_of_caption is not None:
                is_open |= images == chosen.true_image_of_caption
        mismatched = replace(chosen, image_of_caption=images)
        return LabelledDraw(self.trusted, mismatched, self.seed, key, self.device)
