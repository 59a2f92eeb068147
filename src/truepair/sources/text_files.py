"""Text files as they are found: plain or compressed, with or without a byte order mark, wherever they lie."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import pyarrow as pa

from truepair.errors import DataError
from truepair.sources.picture_files import Location

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
"""By the last extension of a file name, what Arrow calls its compression."""


def extension_of(name: str) -> str:
    """What a file name says of its format, in lower case, without the extension of a compression.

    >>> extension_of("captions.CSV.gz"), extension_of("pairs.parquet")
    ('.csv', '.parquet')
    """
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


@contextmanager
def opened_text(path: Location) -> Iterator[TextIO]:
    """A text file in UTF-8, whose lines keep their ends; a byte order mark is no part of it.

    Raises:
        DataError: If it cannot be read, or is not UTF-8, also while it is read.
    """
    try:
        with (
            _reading(path),
            opened_bytes(path) as file,
            io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
        ):
            yield text
    except UnicodeDecodeError as error:
        around = error.object[max(0, error.start - 20) : error.end + 20]  # positions count from a chunk's beginning
        raise DataError(f"{path} is not UTF-8 (at {around!r}); save it as UTF-8") from error


def content_of(path: Location) -> bytes:
    """All of a file, decompressed if its name says that it is compressed.

    Raises:
        DataError: If it cannot be read.
    """
    with _reading(path), opened_bytes(path) as file:
        return file.read()


@contextmanager
def _reading(path: Location) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); is it complete, and is its extension right?") from error


@contextmanager
def opened_bytes(path: Location) -> Iterator[BinaryIO]:
    """A file's content, decompressed if its name says that it is compressed."""
    compression = COMPRESSIONS.get(Path(path.name).suffix.lower())
    with path.open("rb") as stored:
        if compression is None:
            yield cast(BinaryIO, stored)
        else:
            with pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), compression) as plain:
                yield io.BufferedReader(plain)


@contextmanager
def written_bytes(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, compressed if its name says so."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    with path.open("wb") as stored:
        if compression is None:
            yield stored
        else:
            with pa.CompressedOutputStream(pa.PythonFile(stored, mode="w"), compression) as packed:
                yield packed
