"""Several inputs, or several collections of pictures, as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from truepair.data.batch import Padded, joined
from truepair.data.pairs import Inputs, Pictures

Part = TypeVar("Part", bound=Inputs | Pictures)


class _Joined(Generic[Part]):
    """Parts whose rows are numbered through."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def starts(self) -> Sequence[int]:
        """The first row of each part."""
        starts: list[int] = self._starts[:-1].tolist()
        return starts

    def _parts_of(self, rows: Int[Tensor, " items"]) -> Int[Tensor, " items"]:
        """The number of the part that each row lies in.

        Raises:
            IndexError: If a row is out of range.
        """
        outside = rows[(rows < 0) | (rows >= len(self))]
        if len(outside):
            raise IndexError(f"row {int(outside[0])} is out of range: there are {len(self):,} rows")
        return torch.from_numpy(np.searchsorted(self._starts, rows.numpy(), side="right") - 1)


class JoinedInputs(_Joined[Inputs]):
    """`Inputs` over several others of one form."""

    def take(self, rows: Int[Tensor, " items"]) -> Padded:
        """See `Inputs.take`.

        Raises:
            IndexError: If a row is out of range.
        """
        part_of_row = self._parts_of(rows)
        order = part_of_row.argsort(stable=True)
        taken = [
            self.parts[part].take(rows[part_of_row == part] - int(self._starts[part]))
            for part in part_of_row.unique().tolist() or [0]  # no rows at all have a width, too
        ]
        return joined(taken).rows(order.argsort())


class JoinedPictures(_Joined[Pictures]):
    """`Pictures` of several others."""

    def __getitem__(self, image: int) -> bytes:
        pictures, place = self._place(image)
        return pictures[place]

    def reference(self, image: int) -> str:
        """See `Pictures.reference`."""
        pictures, place = self._place(image)
        return pictures.reference(place)

    def _place(self, image: int) -> tuple[Pictures, int]:
        part = int(self._parts_of(torch.tensor([image])))
        return self.parts[part], image - int(self._starts[part])
