"""The pictures of a table's rows: files that the rows name, or cells of a Parquet or Arrow column."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from truepair.config.source import SourceConfig
from truepair.errors import DataError
from truepair.sources.picture_files import (
    LINK,
    Location,
    UnreadablePictureError,
    checked_picture,
    encoded_picture,
    leads_out,
    utf8_name,
)
from truepair.sources.rows import row_name
from truepair.sources.stores import StorePath, ahead, is_address, protocol_of
from truepair.sources.table_files import CELLS_AT_A_TIME, ArrowTable

_NOT_FETCHED = ("http", "https", "ftp")
"""Protocols of addresses that are never fetched from cells, also below an image root: what they give changes."""
_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda written: written.replace("\\", "/"),
    lambda written: unicodedata.normalize("NFC", written),
    lambda written: unicodedata.normalize("NFD", written),
    lambda written: written.strip() or written,
)
"""How else a path may be written: on Windows, with composed or decomposed letters, and with blanks around its cell."""


@runtime_checkable
class TablePictures(Protocol):
    """One picture a row, rows counted from 0."""

    def of_rows(self, rows: Sequence[int]) -> Iterator[bytes | UnreadablePictureError]:
        """The encoded pictures of some rows, in increasing order, one in memory at a time; or why there is none."""
        ...


@dataclass(frozen=True)
class PathRule:
    """Which files the paths in a table lead to, and which of them may be read.

    Attributes:
        root: Where relative paths start.
        folder: The table's own folder, where paths with ``..`` start.
        is_bounded: Whether absolute paths must lie in `root` as well. Relative ones always must.
        is_free: Whether paths may lead anywhere.
        follows_links: Whether links in the root may lead out of it.
        largest_file: Bytes of a picture; a larger one is not read.
    """

    root: Location
    folder: Location
    is_bounded: bool
    is_free: bool = False
    follows_links: bool = False
    largest_file: int = SourceConfig.largest_file

    def file(self, written: object) -> Location:
        """The file that a cell names; it need not be there.

        Raises:
            UnreadablePictureError: If the cell names no file, or one that may not be read.
        """
        path = self._file(written)
        if not (self.is_free or self.follows_links) and leads_out(path, self.root):
            raise UnreadablePictureError(LINK, f"{path} (--follow-links)")
        return path

    def _file(self, written: object) -> Location:
        if written is None or written == "":
            raise UnreadablePictureError("no picture named", "the cell is empty")
        if not isinstance(written, str):
            raise UnreadablePictureError("picture is not a path", f"{written!r:.80}")
        if "\0" in written or utf8_name(written) != written:
            raise UnreadablePictureError("picture is not a path", f"{written!r:.80}")
        if is_address(written) and not self._is_of_store(written):
            raise UnreadablePictureError("picture is an address, which is not fetched", written)
        path = self._place(written)
        if isinstance(path, StorePath) or _is_there(path):
            return path
        others = (self._place(spelled(written)) for spelled in _SPELLINGS if spelled(written) != written)
        return next((other for other in others if _is_there(other)), path)

    def _is_of_store(self, address: str) -> bool:
        """Whether an address is of the store that the image root lies in."""
        protocol = protocol_of(address)
        return (
            isinstance(self.root, StorePath)
            and protocol == protocol_of(str(self.root))
            and protocol not in _NOT_FETCHED
        )

    def _in_store(self, root: StorePath, written: str) -> StorePath:
        path = root.led(written)
        if path is not None and (self.is_free or path.is_below(root)):
            return path
        from_table = self.folder.led(written) if isinstance(self.folder, StorePath) else None
        if from_table is not None and from_table.is_below(root):
            return from_table
        raise UnreadablePictureError("outside the image root", f"{written} (root {root})")

    def _place(self, written: str) -> Location:
        if isinstance(self.root, StorePath):
            return self._in_store(self.root, written)
        if isinstance(self.root, zipfile.Path):
            inside = os.path.normpath((PurePosixPath(self.root.at) / written).as_posix())
            if inside.startswith((".." + os.sep, os.sep)) or inside == "..":
                raise UnreadablePictureError("outside the archive", written)
            return zipfile.Path(self.root.root, inside)
        # abspath, not resolve(): what a link may lead to is looked at when it is known which file is meant.
        root = os.path.abspath(self.root)  # noqa: PTH100
        path = os.path.abspath(os.path.join(root, written))  # noqa: PTH100, PTH118
        is_free = self.is_free or (os.path.isabs(written) and not self.is_bounded)  # noqa: PTH117
        if not is_free and not Path(path).is_relative_to(root):
            from_table = os.path.abspath(os.path.join(str(self.folder), written))  # noqa: PTH100, PTH118
            if Path(from_table).is_relative_to(root):
                return Path(from_table)
            raise UnreadablePictureError("outside the image root", f"{written} (root {root})")
        return Path(path)


class NamedPictures:
    """Pictures whose paths are the cells of a column.

    Attributes:
        paths: One a row, as written; None or something else than text where the row names no picture.
        rule: Where they lead.
    """

    def __init__(self, paths: Sequence[object], rule: PathRule) -> None:
        self.paths = paths
        self.rule = rule

    def of_rows(self, rows: Sequence[int]) -> Iterator[bytes | UnreadablePictureError]:
        """See `TablePictures.of_rows`."""
        yield from ahead(self._encoded, rows) if isinstance(self.rule.root, StorePath) else map(self._encoded, rows)

    def _encoded(self, row: int) -> bytes | UnreadablePictureError:
        try:
            return encoded_picture(self.file(row), self.rule.largest_file)
        except UnreadablePictureError as error:
            return error

    def file(self, row: int) -> Location:
        """The file that a row names, see `PathRule.file`."""
        return self.rule.file(self.paths[row])


class StoredPictures:
    """Pictures that are the cells of a column: bytes, or ``{bytes, path}`` as Hugging Face writes them.

    Cells are read a few at a time, whatever the size of the row groups; one at random reads its row group up to it. A
    cell without bytes may have the path of a file.
    """

    def __init__(self, table: ArrowTable, column: str, rule: PathRule) -> None:
        self.table = table
        self.column = column
        self.rule = rule

    def of_rows(self, rows: Sequence[int]) -> Iterator[bytes | UnreadablePictureError]:
        """See `TablePictures.of_rows`."""
        if not rows:
            return
        if len(rows) == 1:
            yield self._encoded(self.table.cell(self.column, rows[0]), rows[0])
            return
        wanted = iter(rows)
        next_row = next(wanted, None)
        for first, cells in self.table.batches(self.column, range(rows[0], rows[-1] + 1), CELLS_AT_A_TIME):
            while next_row is not None and first <= next_row < first + len(cells):
                yield self._encoded(cells[next_row - first].as_py(), next_row)
                next_row = next(wanted, None)
            if next_row is None:
                return

    def digests(self) -> Iterator[str | None]:
        """SHA-256 of each row's picture, None where there is none; the column is read once.

        Also None behind damage, of which reading the rows tells.
        """
        done = 0
        try:
            for picture in self.of_rows(range(len(self.table))):
                yield None if isinstance(picture, UnreadablePictureError) else hashlib.sha256(picture).hexdigest()
                done += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            yield from repeat(None, len(self.table) - done)

    def _encoded(self, cell: Any, row: int) -> bytes | UnreadablePictureError:
        where = f"{self.table.path}: {row_name(row)}"
        encoded, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        try:
            if encoded is None and path:
                return encoded_picture(self.rule.file(path), self.rule.largest_file)
            if encoded is None:
                return UnreadablePictureError("missing picture", where)
            return checked_picture(bytes(encoded), where, self.rule.largest_file)
        except UnreadablePictureError as error:
            return error


def holds_pictures(table: ArrowTable, column: str) -> bool:
    """Whether a column holds encoded pictures; False if it holds paths.

    Raises:
        DataError: If it can hold neither.
    """
    kind = table.schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_bytes(kind):
        return True
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_null(kind)
        or _is(kind, "is_string_view")
    ):
        return False
    if not is_of_pictures(kind):
        raise DataError(
            f"{table.path}: column {column!r} is of type {kind}; a picture is bytes, {{bytes, path}} or a path"
        )
    # The first cells may be of pictures that were never had: look for one with bytes.
    leaf = f"{column}.bytes" if table.is_parquet else column
    batches = table.batches(leaf, range(len(table)), CELLS_AT_A_TIME)
    return any(batch.field("bytes").null_count < len(batch) for _, batch in batches)


def is_of_pictures(kind: pa.DataType) -> bool:
    """Whether a type of column is one of encoded pictures: bytes, or ``{bytes, path}``."""
    return _is_bytes(kind) or (pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"})


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is(kind, "is_binary_view"))


def _is(kind: pa.DataType, name: str) -> bool:
    """A test of `pyarrow.types` that older versions lack."""
    return bool(getattr(pa.types, name, lambda _: False)(kind))


def _is_there(path: Location) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for the file system
        return False
