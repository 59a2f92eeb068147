"""Texts of an Arrow file that is mapped into memory: any number of them, of which memory holds none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa
from jaxtyping import Int

_TEXTS_AT_A_TIME = 4096


class Texts(Sequence[str]):
    """A column of texts, or some of its rows, read from the file when they are asked for.

    Indexing costs microseconds; going through all of them reads the file in blocks.
    """

    def __init__(self, column: pa.ChunkedArray, rows: Int[np.ndarray, " rows"] | None = None) -> None:
        """Wrap a column.

        Args:
            column: Texts, none missing.
            rows: Of the column, in the order asked for; all of them if None.
        """
        self._column = column
        self._chunks = column.chunks
        self._ends = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])
        self._rows = rows

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Texts: ...
    def __getitem__(self, place: int | slice) -> str | Texts:
        if isinstance(place, slice):
            return self.chosen(np.arange(*place.indices(len(self))))
        if not -len(self) <= place < len(self):
            raise IndexError(f"text {place} of {len(self):,}")
        row = range(len(self))[place] if self._rows is None else int(self._rows[place])
        chunk = int(np.searchsorted(self._ends, row, side="right")) - 1
        text: str = self._chunks[chunk][row - int(self._ends[chunk])].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _TEXTS_AT_A_TIME):
            yield from self._block(slice(start, start + _TEXTS_AT_A_TIME))

    def chosen(self, places: Int[np.ndarray, " places"]) -> Texts:
        """Some of the texts, in the order asked for."""
        return Texts(self._column, places if self._rows is None else self._rows[places])

    def _block(self, places: slice) -> list[str]:
        """The texts at consecutive places, each chunk of the file looked at once."""
        rows = np.arange(*places.indices(len(self))) if self._rows is None else self._rows[places]
        chunk_of_row = np.searchsorted(self._ends, rows, side="right") - 1
        found = np.empty(len(rows), dtype=object)
        for chunk in np.unique(chunk_of_row).tolist():
            is_here = chunk_of_row == chunk
            found[is_here] = self._chunks[chunk].take(pa.array(rows[is_here] - self._ends[chunk])).to_pylist()
        texts: list[str] = found.tolist()
        return texts


def chosen_texts(texts: Sequence[str], places: Int[np.ndarray, " places"]) -> Sequence[str]:
    """Some texts, in the order asked for: in memory if the others are, and on disk if they are there."""
    if isinstance(texts, Texts):
        return texts.chosen(places)
    return [texts[place] for place in places.tolist()]
