"""Loaders over chosen pairs, in an order that depends on seed and epoch only: a resumed run sees the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from truepair.data.pixels import LostPictures, unreadable
from truepair.errors import ConfigError, DataError, TrainingError, TruepairError


class Loaders:
    """Training batches of one noisy split.

    Holds no state that a checkpoint would need: the order of an epoch is a function of `seed` and the epoch's number.

    Attributes:
        position: Batches of the epoch that were begun so far, over all calls of `train`.
        lost: Of pairs whose picture could not be decoded, why; they are in no batch.
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
        shards_at_once: int = 1,
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
            shards_at_once: Where `pairs` lie in shards, batches are drawn from so many at a time.

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
        self.shards_at_once = shards_at_once
        self.lost: dict[int, str] = {}
        self._lost_lately = LostPictures()
        self.position, self._done = 0, 0
        self._on_rest: Callable[[], None]
        self._dataset = _BatchDataset(pairs)

    def over(self, pairs: Pairs, trusted: Pairs | None) -> Loaders:
        """Loaders of the same batches over other inputs of the same pairs, which lie in memory."""
        return Loaders(
            pairs,
            self.batch_size,
            self.seed,
            self.device,
            trusted=trusted,
            encode_at_once=self.encode_at_once,
            shards_at_once=self.shards_at_once,
        )

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
        order = self._order(ids, np.random.default_rng((self.seed, epoch)))
        _refuse_another_order(order)
        slices = _Slices(order[:-1] if len(order) % size == 1 else order, size)
        slices.first = min(self._done - self.position, len(slices)) if self.position < self._done else 0
        self.position += slices.first
        loader: DataLoader[Batch | TruepairError] = DataLoader(
            self._dataset,
            batch_sampler=slices,
            collate_fn=_as_is,
            num_workers=self.workers,
            pin_memory=False,
            generator=torch.Generator(),  # a loader draws a seed for its workers; not from the one that training uses
        )
        for number, batch in enumerate(loader, slices.first):
            if isinstance(batch, TruepairError):
                raise batch
            if self._done and self.position == self._done:
                self._on_rest()
            self.position += 1
            whole = self._whole(torch.from_numpy(slices.whole(number)), batch)
            if whole is not None:
                yield replace(whole, number=number, encode_at_once=self.encode_at_once).to(self.device)

    def begin_epoch(self, done: int, on_rest: Callable[[], None]) -> None:
        """What `train` gives from now on is of another epoch, or of the rest of one that was begun before.

        Args:
            done: Batches of the epoch that are left out.
            on_rest: Called before the first batch of a rest: what the start of an epoch draws has been drawn then.
        """
        self.position, self._done, self._on_rest = 0, done, on_rest

    def _order(self, ids: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Pairs in random order; where they lie in shards, all pairs of a few shards before those of the next few."""
        order = random.permutation(ids)
        if self.pairs.shard_of_image is None:
            return order
        shard = self.pairs.shard_of_image[self.pairs.image_of_caption[torch.from_numpy(order)]].numpy()
        group = random.permutation(int(self.pairs.shard_of_image.max()) + 1) // self.shards_at_once
        in_groups: np.ndarray = order[np.argsort(group[shard], kind="stable")]
        return in_groups

    def _whole(self, pair: Int[Tensor, " pairs"], batch: Batch) -> Batch | None:
        """The batch of all processes, without the pairs that any of them lost; None if too few are left.

        That is fewer than two, or none of a process's share.

        Args:
            pair: All pairs that were to be in it.
            batch: What this process has read; with all of its pairs where all were lost.

        Raises:
            DataError: If more than half of the pairs were lost lately, on all processes alike.
        """
        is_shared = processes.share_of(len(pair)) is not None
        shares = processes.shares(len(pair), processes.count()) if is_shared else [slice(0, len(pair))]
        kept = torch.ones(len(pair), dtype=torch.bool)
        if self.pairs.shard_of_image is not None:
            kept = ~processes.anywhere(torch.isin(pair, torch.tensor([*batch.lost], dtype=torch.int64)))
            why = {**dict.fromkeys(pair[~kept].tolist(), "as another process found"), **batch.lost}
            first = next(iter(why), None)
            said = "" if first is None else f" (one is that of {self.pairs.caption_ids[first]}: {why[first]})"
            self._lost_lately.refuse_most(len(why), len(pair), f"of the last batches{said}")
            self.lost |= why
        counts = [int(kept[share].sum()) for share in shares]
        if min(counts) == 0 or sum(counts) < 2:
            return None
        return replace(batch, pair=pair[kept], counts=counts if is_shared else None)


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
        self.first = 0  # batches before it are left out

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self.first, len(self)):
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
            return self._batch(pair)
        except TruepairError as error:
            return error

    def _batch(self, pair: Int[Tensor, " pairs"]) -> Batch:
        rows = self.pairs.image_of_caption[pair]
        images = self.pairs.images.take(rows)
        lost = unreadable(self.pairs.images, rows)
        why_lost = {int(pair[place]): why for place, why in lost.items()}
        if 0 < len(lost) < len(pair):
            kept = torch.ones(len(pair), dtype=torch.bool)
            kept[[*lost]] = False
            pair, images = pair[kept], images.rows(kept.nonzero().flatten())
        return Batch(pair, images, self.captions.take(pair), lost=why_lost)


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
