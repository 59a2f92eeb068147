"""Parquet files of a run's, an audit's or a feature store's folder: replaced atomically, checked when read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.errors import DataError, said_by
from truepair.files.replacing import replacing


def write_parquet(table: pa.Table, path: Path) -> None:
    """A Parquet file, replaced atomically."""
    write_parquet_in_parts([table], path)


def write_parquet_in_parts(tables: Iterable[pa.Table], path: Path) -> None:
    """A Parquet file of tables with the same columns, at least one, which are written one after the other."""
    parts = iter(tables)
    first = next(parts)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, first.schema) as file:
        file.write_table(first)
        for part in parts:
            file.write_table(part)


def parquet_columns(path: Path) -> list[str]:
    """The names of a Parquet file's columns.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({said_by(error)}): is it damaged?") from error


def read_parquet(
    path: Path, columns: Sequence[str] | None = None, *, is_full: bool = False, hint: str = "is it damaged?"
) -> pa.Table:
    """A Parquet file, or some columns of it, whose values were looked at: text is UTF-8, offsets lie in their buffers.

    Args:
        path: The file.
        columns: Names; all columns by default.
        is_full: Whether no cell may be missing.
        hint: What an error ends with: what to do about it.

    Raises:
        DataError: If the file cannot be read, is damaged, or has no such column.
    """
    try:
        table = pq.read_table(path, columns=None if columns is None else list(columns))
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        wanted = "" if columns is None else f" with the columns {', '.join(columns)}"
        raise DataError(f"{path} cannot be read as Parquet{wanted} ({said_by(error)}): {hint}") from error
    for name in table.column_names if is_full else ():
        missing = table[name].null_count
        if missing:
            raise DataError(f"{path} has no {name} in {missing:,} of {len(table):,} rows: {hint}")
    return table


def parquet_batches(path: Path, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Some columns of a Parquet file, in which no cell is missing, so many rows at a time.

    Raises:
        DataError: As `read_parquet`.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(rows, columns=list(columns)):
                batch.validate(full=True)
                for name in columns:
                    if batch[name].null_count:
                        raise DataError(f"{path} has rows without {name}: is it damaged?")
                yield batch
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet with the columns {', '.join(columns)} ({said_by(error)}): is it damaged?"
        ) from error
