"""The pictures of a table's rows: files that the rows name, or cells of a Parquet column."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.errors import DataError
from truepair.sources.picture_files import UnreadablePictureError, encoded_picture
from truepair.sources.rows import row_name

_CELLS_AT_A_TIME = 64
_BUFFER = 1 << 20


@runtime_checkable
class TablePictures(Protocol):
    """One picture a row, rows counted from 0."""

    def of_rows(self, rows: Sequence[int]) -> Iterator[bytes | UnreadablePictureError]:
        """The encoded pictures of some rows, in increasing order, one in memory at a time; or why there is none."""
        ...


class NamedPictures:
    """Pictures whose paths are the cells of a column.

    Attributes:
        paths: One a row, as written; None or something else than text where the row names no picture.
        root: Where relative paths start.
        is_bounded: Whether absolute paths must lie in `root` as well. Relative ones always must.
    """

    def __init__(self, paths: Sequence[object], root: Path, *, is_bounded: bool) -> None:
        self.paths = paths
        self.root = root
        self.is_bounded = is_bounded

    def of_rows(self, rows: Sequence[int]) -> Iterator[bytes | UnreadablePictureError]:
        """See `TablePictures.of_rows`."""
        for row in rows:
            try:
                yield encoded_picture(self._file(self.paths[row]))
            except UnreadablePictureError as error:
                yield error

    def _file(self, written: object) -> Path:
        if written is None or written == "":
            raise UnreadablePictureError("no picture named", "the cell is empty")
        if not isinstance(written, str):
            raise UnreadablePictureError("picture is not a path", f"{written!r:.80}")
        if written.startswith(("http://", "https://", "s3://", "gs://")):
            raise UnreadablePictureError("picture is a URL, not a file", written)
        root = os.path.abspath(self.root)  # noqa: PTH100, resolve() would follow links, which are the user's own
        path = os.path.abspath(os.path.join(root, written))  # noqa: PTH100, PTH118
        is_free = os.path.isabs(written) and not self.is_bounded  # noqa: PTH117
        if not is_free and not Path(path).is_relative_to(root):
            raise UnreadablePictureError("outside the image root", f"{written} (root {root})")
        return Path(path)


class StoredPictures:
    """Pictures that are the cells of a Parquet column: bytes, or ``{bytes, path}`` as Hugging Face writes them.

    Cells are read a few at a time, whatever the size of the row groups; one at random reads its row group up to it.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.path = path
        self.column = column

    def of_rows(self, rows: Sequence[int]) -> Iterator[bytes | UnreadablePictureError]:
        """See `TablePictures.of_rows`."""
        wanted = iter(rows)
        next_row = next(wanted, None)
        for first, cells in self._batches(rows):
            while next_row is not None and next_row < first + len(cells):
                yield self._encoded(cells[next_row - first].as_py(), next_row)
                next_row = next(wanted, None)
            if next_row is None:
                return

    def _batches(self, rows: Sequence[int]) -> Iterator[tuple[int, pa.Array]]:
        """Cells of the row groups that the rows are in, with the number of their first row."""
        if not rows:
            return
        with _opened(self.path) as file:
            first = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if rows[0] < first + size and rows[-1] >= first:
                    row = first
                    for batch in file.iter_batches(_CELLS_AT_A_TIME, row_groups=[group], columns=[self.column]):
                        yield row, batch.column(0)
                        row += len(batch)
                first += size

    def _encoded(self, cell: Any, row: int) -> bytes | UnreadablePictureError:
        encoded = cell.get("bytes") if isinstance(cell, dict) else cell
        if encoded is None:
            return UnreadablePictureError("missing picture", f"{self.path}: {row_name(row)}")
        if not encoded:
            return UnreadablePictureError("empty picture", f"{self.path}: {row_name(row)}")
        return bytes(encoded)


def holds_pictures(path: Path, column: str) -> bool:
    """Whether a Parquet column holds encoded pictures; False if it holds paths.

    Raises:
        DataError: If it can hold neither.
    """
    with _opened(path) as file:
        kind = file.schema_arrow.field(column).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return True
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
            return False
        if not pa.types.is_struct(kind) or {field.name for field in kind} != {"bytes", "path"}:
            raise DataError(
                f"{path}: column {column!r} is of type {kind}; a picture is bytes, {{bytes, path}} or a path"
            )
        # The first cells may be of pictures that were never had: look for one with bytes.
        batches = file.iter_batches(_CELLS_AT_A_TIME, columns=[f"{column}.bytes"])
        return any(batch.column(0).field("bytes").null_count < len(batch) for batch in batches)


def _opened(path: Path) -> pq.ParquetFile:
    """A Parquet file of which pages are read, not the whole column of a row group at once."""
    return pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
