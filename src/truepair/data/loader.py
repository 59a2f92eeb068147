"""Loaders over chosen pairs, in an order that depends on seed and epoch only: a resumed run sees the same batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from truepair import processes
from truepair.data.batch import Batch
from truepair.data.pairs import Inputs, Pairs
from truepair.errors import ConfigError, DataError, TrainingError, TruepairError


class Loaders:
    """Training batches of one noisy split.

    Holds no state that a checkpoint would need: the order of an epoch is a function of `seed` and the epoch's number.
    """

    def __init__(
        self,
        pairs: Pairs,
        batch_size: int,
        seed: int,
        device: torch.device,
        workers: int = 0,
        trusted: Pairs | None = None,
        encode_at_once: int = 0,
    ) -> None:
        """Check that training on `pairs` is possible.

        Args:
            pairs: Training pairs with `caption_inputs`.
            batch_size: Pairs in a batch, at least 2, because every loss here compares a pair with the others.
            seed: Seed of the order.
            device: Where batches are put.
            workers: Processes that read ahead; 0 reads in the training process.
            trusted: Pairs known to match, for methods that learn from such (see `data.labelled`).
            encode_at_once: Most images, or captions, that are encoded at once; 0 is the whole batch.

        Raises:
            ConfigError: If `batch_size` is below 2.
            DataError: If there are fewer than 2 pairs, or captions have no inputs yet.
        """
        if batch_size < 2:
            raise ConfigError(f"batch_size is {batch_size}, but a pair is learned against the others: use at least 2")
        if len(pairs) < 2:
            raise DataError(f"the training split has {len(pairs)} pair, but at least 2 are needed to learn from")
        self.pairs = pairs
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.workers = workers
        self.trusted = trusted
        self.encode_at_once = encode_at_once
        self._dataset = _BatchDataset(pairs)

    def batches_per_epoch(self, pairs: int | None = None) -> int:
        """How many batches an epoch over `pairs` pairs (all, if None) has; a single pair left over makes none."""
        full, rest = divmod(len(self.pairs) if pairs is None else pairs, self.batch_size)
        return full + (rest > 1)

    def train(
        self, epoch: int, chosen: Int[Tensor, " chosen"] | None = None, batch_size: int | None = None
    ) -> Iterator[Batch]:
        """Shuffled batches of all pairs, or of the `chosen` pair ids, of another size where that is given.

        The last batch may be smaller. If it would hold a single pair, that pair sits this epoch out (as in CRCL's
        released code): alone in a batch it has nothing to be compared with.

        Of several processes, each draws the same batches, and reads its share of their images and captions.

        Raises:
            TrainingError: If another process would draw others.
        """
        size = batch_size or self.batch_size
        ids = np.arange(len(self.pairs)) if chosen is None else chosen.cpu().numpy()
        order = np.random.default_rng((self.seed, epoch)).permutation(ids)
        slices = _Slices(order[:-1] if len(order) % size == 1 else order, size)
        _refuse_another_order(order)
        loader: DataLoader[Batch | TruepairError] = DataLoader(
            self._dataset,
            batch_sampler=slices,
            collate_fn=_as_is,
            num_workers=self.workers,
            pin_memory=False,
            generator=torch.Generator(),  # a loader draws a seed for its workers; not from the one that training uses
        )
        for number, batch in enumerate(loader):
            if isinstance(batch, TruepairError):
                raise batch
            pair = torch.from_numpy(slices.whole(number))
            share = processes.share_of(len(pair))
            yield replace(batch, pair=pair, share=share, encode_at_once=self.encode_at_once).to(self.device)


def _refuse_another_order(order: np.ndarray) -> None:
    """Processes whose state per pair is not the same may choose other pairs, and would wait for each other."""
    other = processes.different({"order": order.data})
    if other:
        raise TrainingError(
            f"process {other['order']} would learn from other pairs than process 0: the numbers of both differ, as on "
            "unlike hardware; the last checkpoint is intact: go on from there with fewer devices, of one kind"
        )


class _Slices(Sampler[list[int]]):
    """Consecutive slices of an order; of each, this process's share."""

    def __init__(self, order: np.ndarray, size: int) -> None:
        self.order = order
        self.size = size

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(len(self)):
            whole = self.whole(number)
            yield whole[processes.share_of(len(whole)) or slice(None)].tolist()

    def whole(self, number: int) -> np.ndarray:
        """The slice of this number, for all processes."""
        return self.order[number * self.size : (number + 1) * self.size]


class _BatchDataset(Dataset[Batch | TruepairError]):
    """Reads a whole batch at once, which turns many small reads into one gather a side.

    An error that says what is wrong is handed over like a batch: raised in a worker process, it would come out as a
    traceback in its message.
    """

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.captions = inputs_of_captions(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, ids: list[int]) -> Batch | TruepairError:
        pair = torch.tensor(ids)
        try:
            return Batch(pair, self.pairs.images.take(self.pairs.image_of_caption[pair]), self.captions.take(pair))
        except TruepairError as error:
            return error


def inputs_of_captions(pairs: Pairs) -> Inputs:
    """What the text encoder reads.

    Raises:
        DataError: If the pairs have neither tokens nor caption features.
    """
    if pairs.caption_inputs is None:
        raise DataError(
            "the captions have no inputs yet: give them tokens (Vocabulary.encode) or a column of caption features"
        )
    return pairs.caption_inputs


def _as_is(batch: Any) -> Any:
    return batch
