"""Features of images or captions, in memory or on disk: ``[rows, dim]`` vectors or ``[rows, regions, dim]`` sets."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from truepair.data.batch import Padded
from truepair.data.pairs import Inputs, Pairs, Subset
from truepair.errors import DataError
from truepair.files.npy import npy_header

_BYTES_PER_BLOCK = 2**22


class Features:
    """`Inputs` over an array in memory, which keeps its own type: half precision takes half the memory.

    Attributes:
        array: ``[rows, dim]`` or ``[rows, regions, dim]``, float16, float32 or float64.
    """

    def __init__(self, array: np.ndarray) -> None:
        """Wrap an array, without a copy.

        Raises:
            DataError: If its shape or type is none of the above, or an axis is empty.
        """
        _check_form(array.shape, array.dtype, "the feature array")
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: Int[Tensor, " items"]) -> Padded:
        """See `Inputs.take`."""
        return _padded(self.array[rows.numpy()])


class FeatureFile:
    """`Inputs` over an ``.npy`` file of any size, of which no more than the rows asked for is ever in memory.

    Rows are read, not mapped: a mapped file counts as resident memory as far as it was touched, and one that shrinks
    while in use ends the process. The file is opened for each `take`, so that worker processes share nothing.

    Attributes:
        path: The file.
        header: What it says about itself.
    """

    def __init__(self, path: Path) -> None:
        """Check the file's header and size; values are not looked at (see `check_finite`).

        Raises:
            DataError: If the file is damaged (see `npy_header`), or does not hold what `Features` accepts.
        """
        self.path = path
        self.header = npy_header(path)
        _check_form(self.header.shape, self.header.dtype, str(path))

    def __len__(self) -> int:
        return self.header.shape[0]

    def take(self, rows: Int[Tensor, " items"]) -> Padded:
        """See `Inputs.take`.

        Raises:
            DataError: If the file is gone or has become shorter.
            IndexError: If a row is out of range.
        """
        outside = rows[(rows < 0) | (rows >= len(self))]
        if len(outside):  # without this, a negative row would be read from the header
            raise IndexError(f"row {int(outside[0])} is out of range: {self.path} has {len(self):,} rows")
        values = np.empty((len(rows), *self.header.shape[1:]), self.header.dtype)
        wanted, row_bytes = rows.numpy(), values.itemsize * prod(values.shape[1:])
        starts = np.flatnonzero(np.diff(wanted, prepend=-2) != 1)  # rows that follow each other are read at once
        try:
            with self.path.open("rb") as file:
                for start, stop in pairwise([*starts.tolist(), len(wanted)]):
                    target = values[start:stop]
                    file.seek(self.header.offset + int(wanted[start]) * row_bytes)
                    if file.readinto(target.data) != target.nbytes:
                        raise DataError(
                            f"{self.path} ends before row {wanted[stop - 1]:,}: it became shorter while in use"
                        )
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}; it was there when it was opened") from error
        return _padded(values)


def check_finite(inputs: Inputs, name: str) -> None:
    """Refuse features that hold NaN or infinite values; reads all rows once, 4 MiB at a time.

    Args:
        inputs: The features, as training will see them: what overflows float32 counts as infinite.
        name: What to call them in the message, for instance the file.

    Raises:
        DataError: Naming how many rows are bad and the first of them, as the row of the array or file that
            `inputs` may be a subset of.
    """
    rows_per_block = max(1, _BYTES_PER_BLOCK // inputs.take(torch.tensor([0])).values[0].nbytes)
    # One tensor for all counts: small ones that outlive their block would keep the memory between them from reuse.
    bad_values = torch.zeros(len(inputs), dtype=torch.int64)
    for rows in torch.arange(len(inputs)).split(rows_per_block):
        bad_values[rows] = (~inputs.take(rows).values.isfinite()).flatten(1).sum(1)
    bad = bad_values.nonzero().flatten()
    if len(bad):
        first = bad[0]
        row = inputs.rows[first] if isinstance(inputs, Subset) else first
        raise DataError(
            f"{name} holds NaN or infinite values in {len(bad):,} of {len(inputs):,} rows (first: row {int(row):,} of "
            f"the array, {int(bad_values[first]):,} values; {int(bad_values.sum()):,} in all); extract these features "
            "again or leave the rows out"
        )


def check_same_form(splits: Mapping[str, Pairs]) -> None:
    """Refuse splits whose features cannot go through one model.

    The number of regions counts, too: SAF and SGR normalise each region position on its own.

    Args:
        splits: Name of a split → its pairs.

    Raises:
        DataError: If features of one modality differ between two splits in width or number of regions, or are vectors
            in one and regions (or words) in the other.
    """
    for side in ("images", "caption_inputs"):
        first: tuple[str, str] | None = None
        for split, pairs in splits.items():
            inputs: Inputs | None = getattr(pairs, side)
            if inputs is None:
                continue
            form = _form(inputs)
            first = first or (split, form)
            if form != first[1]:
                raise DataError(
                    f"{side} of {split!r} are {form}, but those of {first[0]!r} are {first[1]}; "
                    "extract the features of all splits in the same way"
                )


def _form(inputs: Inputs) -> str:
    items = inputs.take(torch.tensor([0]))
    values = items.values
    if not values.is_floating_point():
        return "words" if items.vectors is None else f"words beside vectors of {items.vectors.shape[1]}"
    return f"vectors of {values.shape[1]}" if values.dim() == 2 else f"regions of {values.shape[1]} × {values.shape[2]}"


def _check_form(shape: tuple[int, ...], dtype: np.dtype[np.generic], name: str) -> None:
    if dtype not in (np.float16, np.float32, np.float64):
        raise DataError(
            f"{name} holds {dtype.str}, but features are float16, float32 or float64 in this machine's byte order; "
            "convert it with array.astype('float32')"
        )
    if len(shape) not in (2, 3):
        raise DataError(f"{name} has shape {shape}, but features are [rows, dim] or [rows, regions, dim]")
    if 0 in shape:
        raise DataError(f"{name} has shape {shape}, which holds no values; was the extraction interrupted?")


def _padded(values: np.ndarray) -> Padded:
    tensor = torch.from_numpy(values).float()
    lengths = None if tensor.dim() == 2 else torch.full((tensor.shape[0],), tensor.shape[1])
    return Padded(tensor, lengths)
