"""CSV, TSV, JSONL and Parquet files as named columns; what the columns mean is said in `truepair.data.tables`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float

from truepair.data.pairs import Pictures
from truepair.data.pictures import PictureColumn
from truepair.errors import DataError


@runtime_checkable
class TableFile(Protocol):
    """A table on disk. Rows are counted from 1 in messages, the header not counted."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def names(self) -> list[str]:
        """The columns."""
        ...

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def values(self, name: str) -> list[Any]:
        """One column, None where a row has no value."""
        ...

    def vectors(self, name: str) -> Float[np.ndarray, "rows dim"]:
        """One column of equally long lists of numbers."""
        ...

    def embedded_pictures(self, name: str) -> Pictures | None:
        """The pictures stored in a column, one a row; None if the column holds paths."""
        ...


@dataclass(frozen=True)
class TextTable:
    """The columns of a text file (CSV, TSV, JSONL or a corpus's own format), in memory."""

    path: Path
    names: list[str]
    columns: dict[str, list[Any]]
    rows: int

    def __len__(self) -> int:
        return self.rows

    def values(self, name: str) -> list[Any]:
        """See `TableFile.values`."""
        return self.columns[name]

    def vectors(self, name: str) -> Float[np.ndarray, "rows dim"]:
        """See `TableFile.vectors`."""
        lists = self.columns[name]
        for row, cell in enumerate(lists, start=1):
            if not isinstance(cell, list):
                raise DataError(
                    f"{self.path}: row {row} of column {name!r} holds {_shortened(cell)}, not a list of numbers; "
                    f"features come from JSONL or Parquet lists, or from a .npy file beside the table"
                )
        _check_widths(self.path, name, [len(cell) for cell in lists])
        try:
            with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is refused below
                array = np.array(lists, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: column {name!r} holds lists of something else than numbers") from error
        return _finite(self.path, name, array)

    def embedded_pictures(self, name: str) -> None:
        """None: a text file names its pictures."""
        return


class ParquetTable:
    """The columns of a Parquet file, each read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} cannot be read as Parquet ({error})") from error
        self.names: list[str] = self._file.schema_arrow.names

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def values(self, name: str) -> list[Any]:
        """See `TableFile.values`; of a ``{bytes, path}`` column only the paths."""
        if self._is_struct(name):
            return [cell and cell["path"] for cell in self._read(f"{name}.path", name).to_pylist()]
        values: list[Any] = self._read(name, name).to_pylist()
        return values

    def vectors(self, name: str) -> Float[np.ndarray, "rows dim"]:
        """See `TableFile.vectors`; float16 stays float16, everything else becomes float32."""
        kind = self._file.schema_arrow.field(name).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
            raise DataError(f"{self.path}: column {name!r} is of type {kind}, not lists of numbers")
        column = self._read(name, name)
        missing = np.flatnonzero(column.is_null().to_numpy())
        if len(missing):
            raise DataError(f"{self.path}: row {missing[0] + 1} has no value in column {name!r}")
        widths = pc.list_value_length(column).to_numpy()
        _check_widths(self.path, name, widths)
        dtype = np.float16 if pa.types.is_float16(kind.value_type) else np.float32
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is refused below
            chunks = [chunk.flatten().to_numpy(zero_copy_only=False).astype(dtype) for chunk in column.chunks]
        return _finite(self.path, name, np.concatenate(chunks).reshape(len(self), int(widths[0])))

    def embedded_pictures(self, name: str) -> Pictures | None:
        """See `TableFile.embedded_pictures`: a binary column, or ``{bytes, path}`` whose first row has bytes."""
        kind = self._file.schema_arrow.field(name).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return PictureColumn(self.path, name)
        if self._is_struct(name) and self._first_cell(name).get("bytes"):
            return PictureColumn(self.path, name)
        return None

    def _is_struct(self, name: str) -> bool:
        kind = self._file.schema_arrow.field(name).type
        if pa.types.is_struct(kind) and {field.name for field in kind} != {"bytes", "path"}:
            raise DataError(f"{self.path}: column {name!r} is of type {kind}; a picture is a struct of bytes and path")
        return bool(pa.types.is_struct(kind))

    def _first_cell(self, name: str) -> dict[str, Any]:
        batch = next(self._file.iter_batches(batch_size=1, columns=[name]))
        return batch[name][0].as_py() or {}

    def _read(self, leaf: str, name: str) -> pa.ChunkedArray:
        return self._file.read(columns=[leaf])[name]


def ids_of(table: TableFile, column: str | None) -> list[str] | None:
    """A column of names, as text; None for no column.

    Raises:
        DataError: If a row has none.
    """
    if column is None:
        return None
    ids = table.values(column)
    for row, name in enumerate(ids, start=1):
        if name is None or name == "":
            raise DataError(f"{table.path}: row {row} has no value in column {column!r}")
    return [str(name) for name in ids]


def is_table(path: Path) -> bool:
    """Whether a file name has the extension of a table.

    >>> is_table(Path("captions.CSV")), is_table(Path("dataset_coco.json"))
    (True, False)
    """
    return path.suffix.lower() in _readers()


def open_table(path: Path, extension: str | None = None) -> TableFile:
    """The table behind a file name.

    Args:
        path: The file.
        extension: What says the format (``".csv"`` …), where the file name does not.

    Raises:
        DataError: If the file is missing, is of an unknown kind, cannot be parsed, or has no rows.
    """
    extension, readers = (extension or path.suffix).lower(), _readers()
    if extension not in readers:
        raise DataError(f"{path} ends in {path.suffix!r}; tables are read from {', '.join(readers)}")
    if not path.is_file():
        raise DataError(f"there is no table {path}")
    try:
        table = readers[extension](path)
    except UnicodeDecodeError as error:
        around = error.object[max(0, error.start - 20) : error.end + 20]  # positions count from a chunk's beginning
        raise DataError(f"{path} is not UTF-8 (at {around!r}); save it as UTF-8") from error
    if len(table) == 0:
        raise DataError(f"{path} has no rows")
    return table


def _readers() -> dict[str, Callable[[Path], TableFile]]:
    return {
        ".csv": partial(_delimited, delimiter=","),
        ".tsv": partial(_delimited, delimiter="\t"),
        ".jsonl": _json_lines,
        ".parquet": ParquetTable,
    }


def _delimited(path: Path, delimiter: str) -> TextTable:
    # utf-8-sig drops the byte order mark that spreadsheets write, which would become part of the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        # strict: an unclosed quote is an error; otherwise it would silently swallow the rest of the file.
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        rows = _numbered_rows(path, reader)
        _, names = next(rows, (0, []))
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"{path}: the header names {', '.join(map(repr, twice))} more than once")
        columns: dict[str, list[Any]] = {name: [] for name in names}
        number = 0
        for number, fields in rows:
            if len(fields) != len(names):
                raise DataError(
                    f"{path}: row {number} has {len(fields)} fields but the header names {len(names)} "
                    f"({', '.join(names)}); captions that contain the delimiter or a line break need quotes"
                )
            for name, field in zip(names, fields, strict=True):
                columns[name].append(field or None)
    return TextTable(path, names, columns, rows=number)


def _numbered_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows with their number, the header being row 0; blank lines are not rows."""
    number = 0
    try:
        for fields in reader:
            if fields:
                yield number, fields
                number += 1
    except csv.Error as error:
        raise DataError(f"{path}: row {number} (ending in line {reader.line_num}) cannot be parsed: {error}") from error


def _json_lines(path: Path) -> TextTable:
    records: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}: line {line_number} is not JSON ({error})") from error
            if not isinstance(record, dict):
                raise DataError(f"{path}: line {line_number} is not a JSON object but {_shortened(record)}")
            records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {name: [record.get(name) for record in records] for name in names}
    return TextTable(path, names, columns, rows=len(records))


def _check_widths(path: Path, name: str, widths: Sequence[int] | np.ndarray) -> None:
    other = np.flatnonzero(np.asarray(widths) != widths[0])
    if len(other):
        raise DataError(
            f"{path}: column {name!r} has {widths[0]} numbers in row 1 but {widths[other[0]]} in row {other[0] + 1}"
        )
    if widths[0] == 0:
        raise DataError(f"{path}: the lists of column {name!r} are empty")


def _finite(path: Path, name: str, vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataError(
            f"{path}: column {name!r} has NaN, an infinite or a missing number in {len(bad):,} of {len(vectors):,} "
            f"rows (first: row {bad[0] + 1}); compute these features again or leave the rows out"
        )
    return vectors


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
