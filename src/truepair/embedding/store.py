"""A feature store on disk: parts that appear whole or not at all, and their join, in constant memory.

`truepair.data.embeddings` reads what is written here and says what each file holds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float16

from truepair.errors import DataError
from truepair.files.json import read_json, write_json
from truepair.files.npy import npy_header
from truepair.files.parquet import read_parquet
from truepair.files.replacing import put_in_place, replacing
from truepair.sources.facts import PictureFacts
from truepair.sources.protocol import Skipped
from truepair.sources.skipped import SKIPPED, write_skipped

IMAGES, CAPTIONS, IMAGE_ROWS, PAIR_ROWS = ("images.npy", "captions.npy", "images.parquet", "pairs.parquet")
_PART = "part.json"
_COPIED_AT_ONCE = 2**22

_IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("reference", pa.string()),
        ("sha256", pa.string()),
        ("difference_hash", pa.uint64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("is_blank", pa.bool_()),
    ]
)
_PAIR_SCHEMA = pa.schema(
    [("caption_id", pa.string()), ("caption", pa.string()), ("image", pa.int64()), ("image_id", pa.string())]
)


@dataclass(frozen=True)
class ImageRow:
    """An image that has features."""

    image_id: str
    reference: str
    facts: PictureFacts


@dataclass(frozen=True)
class PairRow:
    """A caption whose image has features; `image` counts the images of the part."""

    caption_id: str
    caption: str
    image: int
    image_id: str


@dataclass(frozen=True)
class Part:
    """A part that is done: counts and what was left out; its rows stay in files.

    Attributes:
        folder: Where they are.
        images: Images in it.
        captions: Captions in it.
        cut_captions: Captions that were longer than the text encoder reads.
        seconds: How long it took.
        skipped: What was left out.
    """

    folder: Path
    images: int
    captions: int
    cut_captions: int
    seconds: float
    skipped: tuple[Skipped, ...]


class RowWriter:
    """An ``.npy`` file of rows, float16, that grows by blocks. Without any row, no file is made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._shape: tuple[int, ...] = ()
        self._file: BinaryIO | None = None

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.seek(0)
            _write_header(self._file, (self.rows, *self._shape))  # numpy leaves room for any number of rows
            self._file.close()

    def append(self, rows: Float16[np.ndarray, " rows *row"]) -> None:
        """Write more rows, shaped as those before."""
        if self._file is None:
            self._shape = rows.shape[1:]
            self._file = self.path.open("wb")
            _write_header(self._file, (0, *self._shape))
        self._file.write(np.ascontiguousarray(rows).data)
        self.rows += len(rows)


def temporary_folder(part: Path) -> Path:
    """An empty folder beside `part`, to be filled and handed to `finish_part`; an interrupted run's is emptied."""
    temporary = part.with_name(part.name + ".part")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    return temporary


def finish_part(temporary: Path, done: Part, images: Sequence[ImageRow], pairs: Sequence[PairRow]) -> None:
    """Write what is known of a part beside its features, and move it to its place."""
    rows = [asdict(row.facts) | {"image_id": row.image_id, "reference": row.reference} for row in images]
    pq.write_table(pa.Table.from_pylist(rows, _IMAGE_SCHEMA), temporary / IMAGE_ROWS)
    pq.write_table(pa.Table.from_pylist([asdict(pair) for pair in pairs], _PAIR_SCHEMA), temporary / PAIR_ROWS)
    move_part(temporary, done)


def move_part(temporary: Path, done: Part) -> None:
    """Say what a part holds, beside all its other files, and move it to its place."""
    described = asdict(done)
    del described["folder"]  # where it lies says that
    write_json(temporary / _PART, described)
    put_in_place(temporary, done.folder)


def finished_part(folder: Path) -> Part | None:
    """The part in a folder; None if it is still to be done.

    Raises:
        CheckpointError: If it is damaged.
    """
    described = read_json(folder / _PART)
    if described is None:
        return None
    skipped = tuple(
        Skipped(**entry | {"caption_ids": tuple(entry["caption_ids"])}) for entry in described.pop("skipped")
    )
    return Part(folder=folder, skipped=skipped, **described)


def encoded_rows(file: Path) -> int:
    """Rows of features in a part's file; 0 if there is none."""
    return npy_header(file).shape[0] if file.exists() else 0


def join_parts(folders: Sequence[Path], store: Path) -> None:
    """Make the store's files of its parts, which stay as they are; at no time is more than a part's rows in memory.

    Args:
        folders: The finished parts, in order; at least one has images.
        store: The folder to write to; each file appears whole or not at all.
    """
    _replaced(store / IMAGES, lambda path: _join_rows([folder / IMAGES for folder in folders], path))
    if any((folder / CAPTIONS).exists() for folder in folders):
        _replaced(store / CAPTIONS, lambda path: _join_rows([folder / CAPTIONS for folder in folders], path))
    image_tables = (read_parquet(folder / IMAGE_ROWS) for folder in folders)
    _replaced(store / IMAGE_ROWS, lambda path: _write_tables(image_tables, _IMAGE_SCHEMA, path))
    _replaced(store / PAIR_ROWS, lambda path: _write_tables(_numbered_through(folders), _PAIR_SCHEMA, path))
    write_skipped((skip for part in parts_of(folders) for skip in part.skipped), store / SKIPPED)


def parts_of(folders: Sequence[Path]) -> Iterator[Part]:
    """The finished parts, one after another.

    Raises:
        DataError: If one is missing.
    """
    for folder in folders:
        part = finished_part(folder)
        if part is None:
            raise DataError(f"{folder} is missing: was it deleted while the embedding ran? Run the same command again")
        yield part


def _replaced(path: Path, write: Callable[[Path], None]) -> None:
    with replacing(path) as temporary:
        write(temporary)


def _join_rows(files: Sequence[Path], path: Path) -> None:
    headers = {file: npy_header(file) for file in files if file.exists()}
    rows = sum(header.shape[0] for header in headers.values())
    with path.open("wb") as joined:
        _write_header(joined, (rows, *next(iter(headers.values())).shape[1:]))
        for file, header in headers.items():
            with file.open("rb") as part:
                part.seek(header.offset)
                shutil.copyfileobj(part, joined, _COPIED_AT_ONCE)


def _numbered_through(folders: Sequence[Path]) -> Iterator[pa.Table]:
    """The parts' pairs, with images counted over all parts."""
    first = 0
    for part in parts_of(folders):
        table = read_parquet(part.folder / PAIR_ROWS)
        yield table.set_column(2, _PAIR_SCHEMA.field(2), pc.add(table["image"], first))
        first += part.images


def _write_tables(tables: Iterator[pa.Table], schema: pa.Schema, path: Path) -> None:
    with pq.ParquetWriter(path, schema) as file:
        for table in tables:
            if len(table):
                file.write_table(table)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
