"""Text files as they are found: plain or compressed, with or without a byte order mark, wherever they lie."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import pyarrow as pa

from truepair.errors import DataError, said_by
from truepair.files.lines import LONGEST_LINE
from truepair.sources.picture_files import BROKEN_MEMBER, Location, size_of

LARGEST_WHOLE = 4_000_000_000
"""Bytes, unpacked, of a file that has to be read at once, as JSON has to."""
_CHUNK = 1 << 24
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
        DataError: If it cannot be read, is not UTF-8, or has a line longer than `LONGEST_LINE`, also while it is read.
    """
    try:
        with (
            _reading(path),
            opened_bytes(path) as file,
            _Text(file, str(path)) as text,
        ):
            yield text
    except UnicodeDecodeError as error:
        around = error.object[max(0, error.start - 20) : error.end + 20]  # positions count from a chunk's beginning
        raise DataError(f"{path} is not UTF-8 (at {around!r}); save it as UTF-8") from error


def content_of(path: Location) -> bytes:
    """All of a file, decompressed if its name says that it is compressed.

    Raises:
        DataError: If it cannot be read, or is larger than `LARGEST_WHOLE`.
    """
    with _reading(path), opened_bytes(path) as file:
        chunks, size = [], size_of(path)
        while size <= LARGEST_WHOLE and (chunk := file.read(_CHUNK)):
            chunks.append(chunk)
            size = max(size, len(chunks) * _CHUNK)  # of a compressed file it is larger than it looked
    if size > LARGEST_WHOLE:
        raise DataError(f"{path} is larger than {LARGEST_WHOLE:,} bytes, which is too much to be read at once")
    return b"".join(chunks)


class _Text(io.TextIOWrapper):
    """Text of which no line is endless: a file of zeros would be one that fills the memory."""

    def __init__(self, file: Any, where: str) -> None:
        super().__init__(file, encoding="utf-8-sig", newline="")
        self._where = where

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # as TextIOWrapper itself has it
        line = super().readline(LONGEST_LINE if size < 0 else size)
        if len(line) == LONGEST_LINE and line[-1] not in "\r\n":
            raise DataError(f"{self._where} has a line of more than {LONGEST_LINE:,} characters: is it a text file?")
        return line

    def __next__(self) -> str:  # type: ignore[override]  # the same
        line = self.readline()
        if not line:
            raise StopIteration
        return line


@contextmanager
def _reading(path: Location) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, EOFError) as error:
        raise DataError(
            f"{path} cannot be read ({said_by(error)}); is it complete, and is its extension right?"
        ) from error


@contextmanager
def _whole_member(path: Location) -> Iterator[None]:
    """A block that reads a file which may be a member of a zip archive.

    Raises:
        DataError: If the member is damaged, encrypted, or packed in a way that is not known.
    """
    if not isinstance(path, zipfile.Path):
        yield
        return
    try:
        yield
    except BROKEN_MEMBER as error:
        raise DataError(f"{path} cannot be read ({said_by(error)}); is the archive damaged or encrypted?") from error


@contextmanager
def opened_bytes(path: Location) -> Iterator[BinaryIO]:
    """A file's content, decompressed if its name says that it is compressed.

    Raises:
        DataError: If it is a member of a damaged or encrypted archive.
    """
    compression = COMPRESSIONS.get(Path(path.name).suffix.lower())
    with _whole_member(path), path.open("rb") as stored:
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
