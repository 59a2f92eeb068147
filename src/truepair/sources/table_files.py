"""CSV, TSV, JSON, JSONL, Parquet and Arrow files as named columns; `truepair.sources.tables` says what these mean."""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float

from truepair.errors import DataError, said_by
from truepair.files.json import parsed_json
from truepair.sources.delimited import DELIMITERS, detected_delimiter, records, stated_delimiter
from truepair.sources.picture_files import Location, utf8_name
from truepair.sources.shard_cache import ShardCache
from truepair.sources.stores import StorePath, for_parts, on_disk
from truepair.sources.text_files import content_of, extension_of, opened_text

_BUFFER = 1 << 20
_LARGEST_KEPT = 1 << 26
"""Bytes of a row group whose column of pictures is kept in memory for the next picture."""
_MOST_MAPPED = 256
"""Copies of row groups that are open together."""
CELLS_AT_A_TIME = 64
"""Pictures of a column that is read in order."""
_MOST_COLUMNS = 100_000
_LOOKED_AT = 21
"""Lines by which a delimiter is detected: a header and twenty rows."""


@runtime_checkable
class Table(Protocol):
    """A table on disk. Rows are counted from 0 here and from 1 in messages, the header not counted.

    Attributes:
        path: The file.
        names: The columns.
        notes: What a reader should be told of how it was read.
        faults: Rows that cannot be read, and why; known once a column was read, and `ids_of` adds to them.
    """

    @property
    def path(self) -> Location: ...  # noqa: D102
    @property
    def names(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def notes(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def faults(self) -> dict[int, str]: ...  # noqa: D102

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Some columns, None where a row has no value; the file is gone through once, the others are not kept."""
        ...

    def vectors(self, name: str) -> Float[np.ndarray, "rows dim"]:
        """One column of equally long lists of numbers."""
        ...


@dataclass
class RowsTable:
    """Columns in memory: those of a small file, or rows that a corpus's own format stands for."""

    path: Location
    cells: dict[str, list[Any]]
    notes: Sequence[str] = ()
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """See `Table`."""
        return list(self.cells)

    def __len__(self) -> int:
        return len(next(iter(self.cells.values()), []))

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """See `Table.columns`."""
        return {name: self.cells[name] for name in names}

    def vectors(self, name: str) -> Float[np.ndarray, "rows dim"]:
        """See `Table.vectors`."""
        return _vectors(str(self.path), name, self.cells[name])


class DelimitedTable:
    """A CSV or TSV file, plain or compressed; a row with more or fewer cells than the header is a fault of its own."""

    def __init__(self, path: Location, wanted: Sequence[str] = (), delimiter: str | None = None) -> None:
        r"""Look at the header and the first rows.

        Args:
            path: The file.
            wanted: Columns that the user named, by which the delimiter is detected.
            delimiter: What stands between cells; by default what a first line ``sep=;`` states, or else detected.

        Raises:
            DataError: If it cannot be read, is no table, or the header names a column twice.
        """
        self.path = path
        usual = "\t" if extension_of(path.name) == ".tsv" else ","
        with opened_text(path) as file:
            first = list(itertools.islice(file, _LOOKED_AT))
        given = None if delimiter is None else delimiter.replace("\\t", "\t")  # as it is typed on a command line
        stated = stated_delimiter(first[0]) if first else None
        self.delimiter = given or stated or detected_delimiter(first, usual, wanted)
        self.notes: list[str] = []
        if self.delimiter != usual:
            called = DELIMITERS.get(self.delimiter, repr(self.delimiter))
            self.notes.append(f"{path} has {called} between its cells (--delimiter for another)")
        with opened_text(path) as file:
            header = next(records(file, self.delimiter, str(path)), None)
        self.names: list[str] = [] if header is None else [name.strip() for name in header.cells]
        if len(self.names) > _MOST_COLUMNS:
            raise DataError(f"{path}: the header names {len(self.names):,} columns, more than {_MOST_COLUMNS:,}")
        twice = sorted(name for name, times in Counter(self.names).items() if name and times > 1)
        if twice:
            raise DataError(f"{path}: the header names {', '.join(map(repr, twice))} more than once")
        self.faults: dict[int, str] = {}

    @cached_property
    def _rows(self) -> int:
        return sum(1 for _ in self.records())

    def __len__(self) -> int:
        return self._rows

    def records(self) -> Iterator[tuple[str, list[str]]]:
        """Each row as it stands in the file, with its line end, and as cells; the header is not among them."""
        with opened_text(self.path) as file:
            rows = records(file, self.delimiter, str(self.path))
            next(rows, None)
            for record in rows:
                yield record.text, record.cells

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """See `Table.columns`."""
        places = {name: self.names.index(name) for name in names}
        columns: dict[str, list[Any]] = {name: [] for name in names}
        width, row = len(self.names), -1
        for row, (_, cells) in enumerate(self.records()):
            is_whole = len(cells) == width
            if not is_whole:
                self.faults[row] = f"{len(cells)} cells where the header names {width} ({', '.join(self.names)})"
            for name, place in places.items():
                columns[name].append(cells[place] or None if is_whole else None)
        self.__dict__["_rows"] = row + 1
        if len(self.faults) > (row + 1) / 2:
            number, fault = next(iter(self.faults.items()))
            raise DataError(
                f"{self.path}: {len(self.faults):,} of {row + 1:,} rows have more or fewer cells than the header "
                f"(first: row {number + 1}, {fault}); captions that contain the delimiter or a line break "
                f"need quotes, and --delimiter names another one than {self.delimiter!r}"
            )
        return columns

    def vectors(self, name: str) -> Float[np.ndarray, "rows dim"]:
        """Refuse: a CSV file holds no lists."""
        return _vectors(str(self.path), name, self.columns([name])[name])


class ArrowTable:
    """The columns of Parquet and Arrow files, each read when asked for; Arrow files are mapped, not loaded.

    Attributes:
        copies: Where the column of a Parquet file's row group is copied to, as an Arrow file, when one of its cells is
            asked for: for who reads cells in no order. None for nowhere.
    """

    def __init__(self, path: Location, files: Sequence[Location] | None = None) -> None:
        """Read the schema.

        Args:
            path: What the table is called.
            files: Its files, one after another, where there are several.

        Raises:
            DataError: If one cannot be read.
        """
        self.path = path
        self.files = [path] if files is None else list(files)
        self.notes: Sequence[str] = ()
        self.faults: dict[int, str] = {}
        self.is_parquet = all(extension_of(file.name) == ".parquet" for file in self.files)
        with self._reading():
            self.schema: pa.Schema = self._schema()
            self._rows_of_file = self.rows_of_file()
        self.copies: ShardCache | None = None
        self._groups: dict[int, list[int]] = {}
        self._kept: tuple[tuple[int, int, str], pa.ChunkedArray] | None = None
        self._mapped: OrderedDict[tuple[int, int, str], pa.ChunkedArray] = OrderedDict()
        self.names: list[str] = self.schema.names

    def __getstate__(self) -> dict[str, Any]:
        """For another process: without the cells that are kept or mapped here."""
        return {**self.__dict__, "_kept": None, "_mapped": OrderedDict()}

    def __len__(self) -> int:
        return sum(self._rows_of_file)

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """See `Table.columns`; of a ``{bytes, path}`` column only the paths."""
        with self._reading():
            return {name: self._read(name, of_struct="path").to_pylist() for name in names}

    def vectors(self, name: str) -> Float[np.ndarray, "rows dim"]:
        """See `Table.vectors`, and `vectors_in`."""
        _check_holds_vectors(str(self.path), name, self.schema.field(name).type)
        with self._reading():
            column = self._read(name)
        return vectors_in(str(self.path), name, column)

    def rows_of_file(self) -> list[int]:
        """How many rows each file has."""
        if self.is_parquet:
            return [pq.ParquetFile(_source(file)).metadata.num_rows for file in self.files]
        return [len(mapped(file)) for file in self.files]

    def batches(self, column: str, rows: range, size: int) -> Iterator[tuple[int, pa.Array]]:
        """One column of some consecutive rows (and of some around them), with the number of the first of each batch.

        Of a Parquet file whole row groups are read, `size` cells at a time.
        """
        first = 0
        for file in self.files:
            if self.is_parquet:
                # Pages are read, not the whole column of a row group at once.
                with pq.ParquetFile(_whole(file), buffer_size=_BUFFER, pre_buffer=False) as parquet:
                    for group in range(parquet.num_row_groups):
                        count = parquet.metadata.row_group(group).num_rows
                        if rows.start < first + count and rows.stop > first:
                            row = first
                            for batch in parquet.iter_batches(size, row_groups=[group], columns=[column]):
                                yield row, batch.column(0)
                                row += len(batch)
                        first += count
            else:
                cells = mapped(file)[column]
                low, high = max(rows.start - first, 0), min(rows.stop - first, len(cells))
                for start in range(low, high, size):
                    part = cells.slice(start, min(size, high - start)).combine_chunks()
                    yield first + start, part
                first += len(cells)

    def cell(self, column: str, row: int) -> Any:
        """One cell; of Parquet its row group's column is kept for the next one, unless it is large, or copied."""
        file, place = 0, row
        while place >= self._rows_of_file[file]:
            place -= self._rows_of_file[file]
            file += 1
        if not self.is_parquet:
            return mapped(self.files[file])[column][place].as_py()
        starts = self._starts_of_groups(file)
        group = bisect_right(starts, place) - 1
        key, place = (file, group, column), place - starts[group]
        if self.copies is not None:
            return self._copied(self.copies, key)[place].as_py()
        if self._kept is None or self._kept[0] != key:
            with self._parquet(file) as parquet:
                if parquet.metadata.row_group(group).total_byte_size > _LARGEST_KEPT:
                    first = row - place
                    batches = self.batches(column, range(row, row + 1), CELLS_AT_A_TIME)
                    return next(
                        cells[row - start].as_py() for start, cells in batches if start + len(cells) > row >= first
                    )
                self._kept = key, parquet.read_row_group(group, columns=[column])[column]
        return self._kept[1][place].as_py()

    def _starts_of_groups(self, file: int) -> list[int]:
        """The number of the first row of each row group of a Parquet file."""
        if file not in self._groups:
            with self._parquet(file) as parquet:
                counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            self._groups[file] = [0, *itertools.accumulate(counts[:-1])]
        return self._groups[file]

    def _copied(self, copies: ShardCache, key: tuple[int, int, str]) -> pa.ChunkedArray:
        """The column of a row group, mapped into memory from its copy."""
        if key in self._mapped:
            self._mapped.move_to_end(key)
            return self._mapped[key]
        file, group, column = key

        def fetch(copy: BinaryIO) -> None:
            with self._parquet(file) as parquet:
                batches = parquet.iter_batches(CELLS_AT_A_TIME, row_groups=[group], columns=[column])
                first = next(batches)
                with pa.ipc.new_file(copy, first.schema) as writer:
                    for batch in itertools.chain([first], batches):
                        writer.write_batch(batch)

        with self._parquet(file) as parquet:
            size = parquet.metadata.row_group(group).total_byte_size
        where = f"{_identity(self.files[file])} {group} {column}"
        path = copies.copy(f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.arrow", size, fetch)
        self._mapped[key] = mapped(path)[column]
        if len(self._mapped) > _MOST_MAPPED:
            self._mapped.popitem(last=False)
        return self._mapped[key]

    def _parquet(self, file: int) -> pq.ParquetFile:
        return pq.ParquetFile(_source(self.files[file]), buffer_size=_BUFFER, pre_buffer=False)

    def _schema(self) -> pa.Schema:
        schemas = [pq.read_schema(_source(file)) if self.is_parquet else mapped(file).schema for file in self.files]
        for file, schema in zip(self.files, schemas, strict=True):
            if schema.names != schemas[0].names:
                raise DataError(
                    f"{file} has the columns {', '.join(schema.names)}, but {self.files[0]} has "
                    f"{', '.join(schemas[0].names)}: files of one table have the same"
                )
        twice = [name for name, count in Counter(schemas[0].names).items() if count > 1]
        if twice:
            raise DataError(f"{self.path} has {twice[0]!r} as the name of several columns: rename all but one")
        return schemas[0]

    def _read(self, name: str, of_struct: str | None = None) -> pa.ChunkedArray:
        """A column of all files; of a struct only one field, which in Parquet leaves the others unread."""
        is_struct = pa.types.is_struct(self.schema.field(name).type) and of_struct is not None
        parts = []
        for file in self.files:
            if self.is_parquet:
                leaf = f"{name}.{of_struct}" if is_struct else name
                column = pq.ParquetFile(_source(file)).read(columns=[leaf])[name]
            else:
                column = mapped(file)[name]
            parts.append(pc.struct_field(column, of_struct) if is_struct else column)
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)

    def _reading(self) -> Any:
        return _said(self.path)


def mapped(path: Location) -> pa.Table:
    """An Arrow file (also called Feather), or a stream as Hugging Face writes it, mapped into memory.

    Raises:
        pa.ArrowException: If it is neither.
    """
    whole = _whole(path)
    source = pa.memory_map(str(whole)) if isinstance(whole, Path) else whole
    try:
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()


def vectors_in(where: str, name: str, column: pa.ChunkedArray) -> Float[np.ndarray, "rows dim"]:
    """A column of equally long lists of numbers; float16 stays float16, everything else becomes float32.

    Args:
        where: What the table is called in messages.
        name: The column's name.
        column: Its values.

    Raises:
        DataError: If it holds something else, a row has none, lists differ in length, or numbers are not finite.
    """
    _check_holds_vectors(where, name, column.type)
    missing = np.flatnonzero(column.is_null().to_numpy())
    if len(missing):
        raise DataError(f"{where}: row {missing[0] + 1} has no value in column {name!r}")
    widths = pc.list_value_length(column).to_numpy()
    _check_widths(where, name, widths)
    dtype = np.float16 if pa.types.is_float16(column.type.value_type) else np.float32
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is refused below
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False).astype(dtype, copy=False) for chunk in column.chunks]
    return _finite(where, name, np.concatenate(chunks).reshape(len(column), int(widths[0])))


def ids_of(table: Table, column: str | None) -> list[str] | None:
    """A column of names, as text; None for no column. A row whose name is not UTF-8 becomes one of the table's faults.

    Raises:
        DataError: If a row has none.
    """
    if column is None:
        return None
    cells = table.columns([column])[column]
    for row, name in enumerate(cells):
        if not _is_utf8(name):
            table.faults[row] = f"{name!r:.80} in column {column!r} is not UTF-8"
    return ids_in(str(table.path), column, cells, table.faults)


def ids_in(where: str, column: str, cells: Sequence[object], faults: Container[int] = ()) -> list[str]:
    """Cells of a column of names, as text; `where`, `column` and `faults` (broken rows) as in `ids_of`.

    A broken row whose cell holds no name is called ``row-N``.

    Raises:
        DataError: If a row has none.
    """
    for row, name in enumerate(cells):
        if (name is None or name == "") and row not in faults:
            raise DataError(f"{where}: row {row + 1} has no value in column {column!r}")
    return [str(name) if name is not None and _is_utf8(name) else f"row-{row + 1}" for row, name in enumerate(cells)]


def _is_utf8(name: object) -> bool:
    """Whether a name can be written to a table; half of a surrogate pair, which JSON can spell, cannot."""
    return not isinstance(name, str) or utf8_name(name) == name


def is_table(path: Location) -> bool:
    """Whether a file name has the extension of a table.

    >>> is_table(Path("captions.CSV.gz")), is_table(Path("dataset_coco.json"))
    (True, False)
    """
    return extension_of(path.name) in _READERS


def open_table(path: Location, wanted: Sequence[str] = (), delimiter: str | None = None) -> Table:
    """The table behind a file name.

    Args:
        path: The file.
        wanted: Columns that the user named, by which a delimiter is detected.
        delimiter: What stands between cells of a CSV or TSV file; detected by default.

    Raises:
        DataError: If the file is missing, is of an unknown kind, cannot be parsed, or has no rows.
    """
    table = table_at(path, wanted, delimiter)
    if len(table) == 0:
        raise DataError(f"{path} has no rows")
    return table


def table_at(path: Location, wanted: Sequence[str] = (), delimiter: str | None = None) -> Table:
    """As `open_table`, but the table may be without rows."""
    extension = extension_of(path.name)
    if extension not in _READERS:
        raise DataError(f"{path} ends in {extension!r}; tables are read from {', '.join(_READERS)}")
    if not path.is_file():
        raise DataError(f"there is no table {path}")
    is_delimited = extension in (".csv", ".tsv")
    return DelimitedTable(path, wanted, delimiter) if is_delimited else _READERS[extension](path)


def table_of_objects(path: Location, objects: Sequence[Any], where: Callable[[int], str]) -> RowsTable:
    """Rows that are JSON objects, as columns; a row without a key has no value there.

    Raises:
        DataError: If one is no object.
    """
    for place, item in enumerate(objects):
        if not isinstance(item, dict):
            raise DataError(f"{path}: {where(place)} is not a JSON object but {_shortened(item)}")
    names = list(dict.fromkeys(name for item in objects for name in item))
    return RowsTable(path, {name: [item.get(name) for item in objects] for name in names})


class JsonLinesTable:
    """A JSONL file, plain or compressed: an object a line."""

    def __init__(self, path: Location) -> None:
        """Go through the file for the names of all columns.

        Raises:
            DataError: If a line is no JSON object.
        """
        self.path = path
        self.notes: Sequence[str] = ()
        self.faults: dict[int, str] = {}
        names: dict[str, None] = {}
        self._count = 0
        for _, item in self.objects():
            names |= dict.fromkeys(item)
            self._count += 1
        self.names = list(names)

    def __len__(self) -> int:
        return self._count

    def objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each row as it stands in the file, and what it says."""
        with opened_text(self.path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                item = parsed_json(line, f"{self.path}: line {number}")
                if not isinstance(item, dict):
                    raise DataError(f"{self.path}: line {number} is not a JSON object but {_shortened(item)}")
                yield line, item

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """See `Table.columns`."""
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for _, item in self.objects():
            for name, column in columns.items():
                column.append(item.get(name))
        return columns

    def vectors(self, name: str) -> Float[np.ndarray, "rows dim"]:
        """See `Table.vectors`."""
        return _vectors(str(self.path), name, self.columns([name])[name])


_READERS: dict[str, Callable[[Location], Table]] = {
    ".csv": DelimitedTable,
    ".tsv": DelimitedTable,
    ".jsonl": JsonLinesTable,
    ".ndjson": JsonLinesTable,
    ".parquet": ArrowTable,
    ".arrow": ArrowTable,
    ".feather": ArrowTable,
}


class _said:  # noqa: N801, used like a function
    """Errors of Arrow and of the disk as one of ours."""

    def __init__(self, path: Location) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, pa.ArrowException | OSError | UnicodeDecodeError):
            raise DataError(f"{self.path} cannot be read ({said_by(error)}); is it damaged?") from error


def _check_holds_vectors(where: str, name: str, kind: pa.DataType) -> None:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise DataError(f"{where}: column {name!r} is of type {kind}, not lists of numbers")


def _source(path: Location) -> Any:
    """What Arrow reads a few parts of a file from."""
    return for_parts(path) if isinstance(path, StorePath) else _whole(path)


def _identity(path: Location) -> str:
    """What changes when a file does."""
    if not isinstance(path, Path):
        return f"{path} {path.version if isinstance(path, StorePath) else ''}"
    found = path.stat()
    return f"{path.absolute()} {found.st_size} {found.st_mtime_ns}"


def _whole(path: Location) -> Any:
    """What Arrow reads all of a file from."""
    return on_disk(path) if isinstance(path, Path | StorePath) else pa.BufferReader(content_of(path))


def _vectors(where: str, name: str, lists: Sequence[Any]) -> Float[np.ndarray, "rows dim"]:
    for row, cell in enumerate(lists, start=1):
        if not isinstance(cell, list):
            raise DataError(
                f"{where}: row {row} of column {name!r} holds {_shortened(cell)}, not a list of numbers; features come "
                "from lists in JSONL, Parquet or Arrow, or from a .npy file beside the table"
            )
    _check_widths(where, name, [len(cell) for cell in lists])
    try:
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is refused below
            array = np.array(lists, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: column {name!r} holds lists of something else than numbers") from error
    return _finite(where, name, array)


def _check_widths(where: str, name: str, widths: Sequence[int] | np.ndarray) -> None:
    other = np.flatnonzero(np.asarray(widths) != widths[0])
    if len(other):
        raise DataError(
            f"{where}: column {name!r} has {widths[0]} numbers in row 1 but {widths[other[0]]} in row {other[0] + 1}"
        )
    if widths[0] == 0:
        raise DataError(f"{where}: the lists of column {name!r} are empty")


def _finite(where: str, name: str, vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataError(
            f"{where}: column {name!r} has NaN, an infinite or a missing number in {len(bad):,} of {len(vectors):,} "
            f"rows (first: row {bad[0] + 1}); compute these features again or leave the rows out"
        )
    return vectors


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
