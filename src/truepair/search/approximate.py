"""Approximate search by faiss: some of the vectors are looked at, and what it finds is scored again exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16
from torch import Tensor

from truepair.config.search import IndexConfig
from truepair.errors import ConfigError, DataError
from truepair.files.replacing import replacing
from truepair.scoring.best import Best
from truepair.search.exact import nearest
from truepair.search.layout import Rows, Segment

_FEWEST = 1_000
"""Vectors below which there is nothing to save."""
_SPARE = 190
"""Candidates beyond those asked for, which are scored again exactly: codes of 4 bits put the right ones among them."""
_TRAINED_ON = 64
"""Vectors a cell that cells are learned from, at most."""
_ROWS_AT_A_TIME = 65_536
_LINKS = 32
_PARAMETERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def faiss() -> Any:
    """The library.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import faiss as library
    except ImportError as error:
        raise ConfigError(
            f"approximate search needs faiss ({error}): pip install 'truepair[search]', or leave --approximate out"
        ) from error
    return library


class ApproximateFile:
    """The approximate index of one side of a segment, to be made."""

    def __init__(self, path: Path, config: IndexConfig) -> None:
        self.path = path
        self.config = config

    def build(self, vectors: Float16[Tensor, "rows dim"], queries: Float[Tensor, "queries dim"]) -> dict[str, Any]:
        """Write it, with the smallest parameter that reaches the recall asked for.

        Args:
            vectors: What to find.
            queries: Vectors of the other side, by which recall@10 against exact search is measured.

        Returns:
            Kind, parameter (cells or links that a query visits) and recall@10.

        Raises:
            ConfigError: If there are too few vectors, or no parameter reaches the recall.
        """
        if len(vectors) < _FEWEST:
            raise ConfigError(
                f"approximate is {self.config.approximate!r}, but {len(vectors):,} vectors are searched at once "
                "exactly: leave it out"
            )
        index = self._ivf(vectors) if self.config.approximate == "ivf" else self._hnsw(vectors)
        truth = nearest(queries, [vectors], 10).where
        for parameter in _PARAMETERS:
            _set(index, parameter)
            found = _scored_again(index, queries, vectors, 10).where
            recall = float((truth[:, :, None] == found[:, None]).any(2).double().mean())
            if recall >= self.config.recall:
                with replacing(self.path) as temporary:
                    faiss().write_index(index, str(temporary))
                return {"kind": self.config.approximate, "parameter": parameter, "recall": recall}
        raise ConfigError(
            f"recall is {self.config.recall}, but {self.config.approximate} reaches {recall:.3f} at most here: ask "
            "for less, or search exactly"
        )

    def _ivf(self, vectors: Float16[Tensor, "rows dim"]) -> Any:
        """Cells around centres (inverted lists), with 4 bits for two values (a product quantiser).

        Against 8 bits a value, a query takes a fifth of the time at the same recall: its tables stay in registers.
        """
        library = faiss()
        rows, width = vectors.shape
        cells, parts = int(2 * rows**0.5), width // 2 if width % 2 == 0 else width
        index = library.index_factory(width, f"IVF{cells},PQ{parts}x4fs", library.METRIC_INNER_PRODUCT)
        generator = np.random.default_rng(self.config.seed)
        some = torch.from_numpy(np.sort(generator.permutation(rows)[: _TRAINED_ON * cells]))
        index.train(vectors[some].float().numpy())
        return _filled(index, vectors)

    def _hnsw(self, vectors: Float16[Tensor, "rows dim"]) -> Any:
        """A graph of neighbours, with 8 bits a value."""
        library = faiss()
        index = library.index_factory(vectors.shape[1], f"HNSW{_LINKS}_SQ8", library.METRIC_INNER_PRODUCT)
        index.train(vectors[:_ROWS_AT_A_TIME].float().numpy())
        return _filled(index, vectors)


class ApproximateSide:
    """One side of an open index: approximate where a segment has an approximate index, exact elsewhere."""

    def __init__(self, folder: Path, segments: Sequence[Segment], rows: Rows) -> None:
        """Open the files.

        Raises:
            ConfigError: If faiss is missing.
            DataError: If a file is damaged.
        """
        self.rows = rows
        self.indexes: list[Any] = []
        for segment in segments:
            made = segment.approximate.get(rows.side)
            self.indexes.append(None if made is None else _read(folder / segment.name / f"{rows.side}.faiss", made))

    def nearest(
        self, queries: Float[Tensor, "queries dim"], count: int, allowed: Bool[Tensor, " rows"] | None
    ) -> Best | None:
        """As `exact.nearest`; None where so few rows are allowed that exact search is the better one."""
        if allowed is not None and allowed.double().mean() < 0.5:
            return None
        best, every = Best.unfilled(len(queries), count), torch.arange(len(queries))
        for start, vectors, index in zip(self.rows.starts, self.rows.vectors, self.indexes, strict=False):
            wanted = min(count, len(vectors))
            here = None if allowed is None else allowed[start : start + len(vectors)]
            found = (
                nearest(queries, [vectors], wanted, here)
                if index is None
                else _scored_again(index, queries, vectors, wanted, here)
            )
            for query in range(len(queries)):
                some = found.where[query] >= 0
                if some.any():
                    best.put(every[query : query + 1], found.best[query][some][None], found.where[query][some] + start)
        if (best.where < 0).any():
            return None
        return best


def _filled(index: Any, vectors: Float16[Tensor, "rows dim"]) -> Any:
    for block in vectors.split(_ROWS_AT_A_TIME):
        index.add(block.float().numpy())
    return index


def _set(index: Any, parameter: int) -> None:
    if hasattr(index, "nprobe"):
        index.nprobe = min(parameter, index.nlist)
    else:
        index.hnsw.efSearch = max(parameter, 16)


def _read(path: Path, made: dict[str, Any]) -> Any:
    try:
        index = faiss().read_index(str(path))
    except RuntimeError as error:
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}): copy the index again") from error
    _set(index, made["parameter"])
    return index


def _scored_again(
    index: Any,
    queries: Float[Tensor, "queries dim"],
    vectors: Float16[Tensor, "rows dim"],
    count: int,
    allowed: Bool[Tensor, " rows"] | None = None,
) -> Best:
    """What faiss finds, by the vectors themselves."""
    _, rows = index.search(queries.numpy(), min(count + _SPARE, len(vectors)))
    best = Best.unfilled(len(queries), count)
    for query, found in enumerate(torch.from_numpy(rows)):
        found = found[found >= 0]
        found = found if allowed is None else found[allowed[found]]
        if len(found):
            best.put(torch.tensor([query]), (vectors[found].float() @ queries[query])[None], found)
    return best
