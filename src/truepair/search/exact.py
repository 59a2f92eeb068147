"""Exact search: every vector is compared, a block at a time, and no full matrix exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Float16, Int
from torch import Tensor

from truepair.scoring.best import Best

_FEW = 4
"""Queries up to which half-precision products, one query at a time, are faster than converting every block."""
_ROWS_AT_A_TIME = 65_536
_CONVERTED_AT_A_TIME = 4_096
"""Rows in float32 at once: at 512 values 8 MB, which stay in the processor's cache."""
_SPARE = 200
"""Candidates of the half-precision pass beyond those asked for, which are scored again in float32."""
_HALF_ROUNDING = 2.0**-11
"""Relative error of a number in half precision."""
_SUM_ERROR = 1e-5
"""Most that the order of additions changes a product of unit vectors of a thousand values; sums are kept in float32."""


def nearest(
    queries: Float[Tensor, "queries dim"],
    vectors: Sequence[Float16[Tensor, "_ dim"]],
    count: int,
    allowed: Bool[Tensor, " rows"] | None = None,
    hidden: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Best:
    """The `count` rows with the largest products with each query, exactly, best first.

    One query reads the vectors as they lie on disk, by half-precision products, and scores the best few hundred again
    in float32. Where these are too close to say that no other row belongs to them, and for many queries, blocks are
    converted to float32.

    Args:
        queries: Unit vectors.
        vectors: Unit vectors in parts, whose rows are numbered through.
        count: How many.
        allowed: ``[rows]``, rows that may be found; None for all.
        hidden: Given queries and rows by number, tells which may not be found together, ``[queries, rows]``.

    Returns:
        ``[queries, count]``; where fewer rows are allowed, the last have row -1 and score -∞.
    """
    if len(queries) <= _FEW and hidden is None:
        found = _in_half_precision(queries, vectors, count, allowed)
        if found is not None:
            return found
    best = Best.unfilled(len(queries), count)
    every = torch.arange(len(queries))
    for rows, block in _blocks(vectors, _CONVERTED_AT_A_TIME):
        scores = _without(queries @ block.float().T, rows, allowed)
        is_hidden = None if hidden is None else _bound(hidden, rows)
        best.put(every, scores, rows, is_hidden)
    return best


def _in_half_precision(
    queries: Float[Tensor, "queries dim"],
    vectors: Sequence[Float16[Tensor, "_ dim"]],
    count: int,
    allowed: Bool[Tensor, " rows"] | None,
) -> Best | None:
    """As `nearest`; None where half precision cannot tell the rows asked for from others."""
    rough, every = Best.unfilled(len(queries), count + _SPARE), torch.arange(len(queries))
    half = queries.half()
    for rows, block in _blocks(vectors, _ROWS_AT_A_TIME):
        for query, of_query in enumerate(half):
            scores = _without(torch.mv(block, of_query)[None].float(), rows, allowed)[0]
            better = (scores > rough.best[query, -1]).nonzero().flatten()  # soon few: their order costs nothing
            if len(better):
                rough.put(every[query : query + 1], scores[better][None], rows[better])
    best = Best.unfilled(len(queries), count)
    for query, (rows, scores) in enumerate(zip(rough.where, rough.best, strict=True)):
        rows = rows[scores > -torch.inf]
        if not len(rows):
            continue
        exact = _taken(vectors, rows).float() @ queries[query]
        best.put(every[query : query + 1], exact[None], rows)
        # No row that was left out can score more than this.
        error = (queries[query] - half[query].float()).norm() + scores[-1].abs() * _HALF_ROUNDING + _SUM_ERROR
        if len(rows) == count + _SPARE and scores[-1] + error > best.best[query, -1]:
            return None
    return best


def _blocks(
    vectors: Sequence[Float16[Tensor, "_ dim"]], size: int
) -> Iterator[tuple[Int[Tensor, " block"], Float16[Tensor, "block dim"]]]:
    """Blocks of rows, with their numbers."""
    start = 0
    for part in vectors:
        for block in part.split(size):
            yield torch.arange(start, start + len(block)), block
            start += len(block)


def _taken(vectors: Sequence[Float16[Tensor, "_ dim"]], rows: Int[Tensor, " some"]) -> Float16[Tensor, "some dim"]:
    taken, start = torch.empty(len(rows), vectors[0].shape[1], dtype=torch.float16), 0
    for part in vectors:
        here = (rows >= start) & (rows < start + len(part))
        taken[here] = part[rows[here] - start]
        start += len(part)
    return taken


def _without(scores: Tensor, rows: Tensor, allowed: Tensor | None) -> Tensor:
    if allowed is None or not len(rows):
        return scores
    first = int(rows[0])  # a block is of consecutive rows
    return scores.masked_fill_(~allowed[first : first + len(rows)], -torch.inf)


def _bound(hidden: Callable[[Tensor, Tensor], Tensor], rows: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda queries: hidden(queries, rows)
