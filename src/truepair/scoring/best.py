"""The best of many items for each of several rows, seen a block at a time: top-k without a full matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

NONE = -1
"""There is no such item."""


@dataclass(frozen=True)
class Best:
    """The best of what was seen so far, best first; -1, with score -∞, where there were fewer that count."""

    best: Float[Tensor, "rows count"]
    where: Int[Tensor, "rows count"]

    @classmethod
    def unfilled(cls, rows: int, count: int) -> Best:
        """Nothing seen yet."""
        return cls(torch.full((rows, count), -torch.inf), torch.full((rows, count), NONE))

    def put(
        self,
        rows: Int[Tensor, " some"],
        scores: Float[Tensor, "some block"],
        block: Int[Tensor, " block"],
        is_hidden: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """See some more for some of the rows; once many were seen, a block has nothing better for most.

        Args:
            rows: The rows.
            scores: Of the items of the block.
            block: What they are.
            is_hidden: Tells for rows which items may not count, ``[rows, block]``.
        """
        is_better = scores.amax(1) > self.best[rows, -1]
        rows, scores = rows[is_better], scores[is_better]
        if not len(rows):
            return
        if is_hidden is not None:
            scores = scores.masked_fill(is_hidden(rows), -torch.inf)
        count = self.best.shape[1]
        scores, places = scores.topk(min(count, scores.shape[1]), dim=1)
        together, order = torch.cat([self.best[rows], scores], dim=1).topk(count, dim=1)
        where = torch.cat([self.where[rows], block[places]], dim=1).gather(1, order)
        self.where[rows] = where.masked_fill(together == -torch.inf, NONE)
        self.best[rows] = together
