"""What lies in an index: ``index.json``, the space, and segments that are written once and never changed.

A segment, ``00000`` and so on, holds ``images.npy`` and ``captions.npy`` (unit vectors ``[rows, dim]``, float16),
``images.arrow`` (a row an image: ``image_id``, ``reference``, by which the source finds the picture, ``is_learned``,
and columns to filter by) and ``captions.arrow`` (a row a caption: ``caption_id``, ``caption``, ``image``, the row of
its image). Arrow files are mapped: a hit is read without reading the others.

Additions are new segments, and what is dropped is listed in ``index.json``, which is replaced atomically: a reader sees
the index before a change or after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import dacite
import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float16, Int
from torch import Tensor

from truepair import __version__
from truepair.errors import CheckpointError, DataError
from truepair.files.json import read_json, write_json
from truepair.files.names import INDEX
from truepair.files.npy import npy_header

Side = Literal["images", "captions"]
SIDES: tuple[Side, Side] = ("images", "captions")
ID_OF: dict[Side, str] = {"images": "image_id", "captions": "caption_id"}
"""The column with the name of a row."""

SEGMENT_FILES = tuple(f"{side}{suffix}" for side in SIDES for suffix in (".npy", ".arrow", ".faiss"))
FORMAT = 1


@dataclass(frozen=True)
class Segment:
    """Rows that were added together.

    Attributes:
        name: Its folder's.
        images: Number of images.
        captions: Number of captions.
        store: The feature store that its vectors were made of; None for the corpus of the run itself.
        split: Which pairs of that corpus.
        dropped_images: Rows of images that are gone.
        dropped_captions: Rows of captions that are gone.
        approximate: By side, the parameter of its approximate index; empty without one.
    """

    name: str
    images: int
    captions: int
    store: str | None
    split: str
    dropped_images: tuple[int, ...] = ()
    dropped_captions: tuple[int, ...] = ()
    approximate: dict[str, Any] = field(default_factory=dict)

    def count(self, side: Side) -> int:
        """Rows of one side, dropped ones included."""
        return self.images if side == "images" else self.captions

    def dropped(self, side: Side) -> tuple[int, ...]:
        """Rows of one side that are gone."""
        return self.dropped_images if side == "images" else self.dropped_captions


@dataclass(frozen=True)
class Manifest:
    """What ``index.json`` holds.

    Attributes:
        space: What encodes queries (see `truepair.search.spaces`).
        width: Values of a vector.
        config: The options that the index was made with.
        segments: In order; rows are counted through.
        references: Row of the image, and of the caption, of each reference pair.
        calibration: By side of the hits, what `truepair.search.calibration.Calibration` holds; None where unknown.
        calibrated_images: Number of images when that was measured.
    """

    space: dict[str, Any]
    width: int
    config: dict[str, Any]
    segments: tuple[Segment, ...]
    references: tuple[tuple[int, int], ...] = ()
    calibration: dict[str, Any] = field(default_factory=dict)
    calibrated_images: int = 0

    def count(self, side: Side) -> int:
        """Rows of one side that are there."""
        return sum(segment.count(side) - len(segment.dropped(side)) for segment in self.segments)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace ``index.json``, which makes a change visible."""
    write_json(folder / INDEX, {"format": FORMAT, "truepair": __version__, **asdict(manifest)})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an index.

    Raises:
        DataError: If the folder holds no index, one of another version, or a damaged one.
    """
    try:
        described = read_json(folder / INDEX, holds={"format": int})
        if described is None:
            raise DataError(
                f"{folder} holds no index (no {INDEX}): make one with 'truepair index SOURCE --out {folder}'"
            )
        if described["format"] != FORMAT:
            raise DataError(
                f"{folder} is an index of format {described['format']}, but this version of truepair reads {FORMAT}: "
                "update truepair, or make the index again"
            )
        values = {name: value for name, value in described.items() if name not in ("format", "truepair")}
        return dacite.from_dict(Manifest, values, dacite.Config(cast=[tuple]))
    except (CheckpointError, dacite.DaciteError, TypeError) as error:
        raise DataError(f"{folder / INDEX} is damaged ({error}): copy the index again, or make it again") from error


class Rows:
    """One side of an index: vectors and tables of all segments, mapped, numbered through.

    Attributes:
        side: Which.
        vectors: Of each segment, ``[rows, dim]``, float16.
        starts: The first row of each segment, and the number of all rows.
        is_there: ``[rows]``, False where a row was dropped.
    """

    def __init__(self, folder: Path, manifest: Manifest, side: Side) -> None:
        """Map the files; nothing is read but their headers.

        Raises:
            DataError: If a file is missing, damaged, or does not hold what the manifest says.
        """
        self.side: Side = side
        counts = [segment.count(side) for segment in manifest.segments]
        self.starts = [*accumulate(counts, initial=0)]
        self.vectors = [
            mapped_vectors(folder / segment.name / f"{side}.npy", segment.count(side), manifest.width)
            for segment in manifest.segments
        ]
        self.table = one_table(
            [
                _mapped_table(folder / segment.name / f"{side}.arrow", segment.count(side))
                for segment in manifest.segments
            ]
        )
        self.is_there: Bool[Tensor, " rows"] = torch.ones(self.starts[-1], dtype=torch.bool)
        for start, segment in zip(self.starts, manifest.segments, strict=False):
            self.is_there[torch.tensor(segment.dropped(side), dtype=torch.int64) + start] = False

    def __len__(self) -> int:
        return self.starts[-1]

    def take(self, rows: Int[Tensor, " some"]) -> Float16[Tensor, "some dim"]:
        """The vectors of some rows."""
        segment = torch.searchsorted(torch.tensor(self.starts[1:]), rows.contiguous(), right=True)
        taken = torch.empty(len(rows), self.vectors[0].shape[1], dtype=torch.float16)
        for number in segment.unique().tolist():
            here = segment == number
            taken[here] = self.vectors[number][rows[here] - self.starts[number]]
        return taken

    def column(self, name: str, rows: Sequence[int | None]) -> list[Any]:
        """A column at some rows; None where there is no row."""
        values: list[Any] = self.table.column(name).take(pa.array(rows, pa.int64())).to_pylist()
        return values

    def found(self, ids: Sequence[str]) -> dict[str, int]:
        """The row of each of these names that is there."""
        import pyarrow.compute as pc

        found = pc.index_in(self.table.column(ID_OF[self.side]), pa.array(ids, pa.string())).combine_chunks()
        places = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
        return {ids[found[place].as_py()]: int(place) for place in places.tolist() if self.is_there[place]}

    def rows_of(self, ids: Sequence[str]) -> list[int]:
        """The rows that are there with these names.

        Raises:
            DataError: If there is none.
        """
        row_of = self.found(ids)
        missing = [name for name in ids if name not in row_of]
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(ids):,} ids are not among the {self.side} of the index (first: "
                f"{missing[0]!r})"
            )
        return [row_of[name] for name in ids]


def one_table(tables: Sequence[pa.Table]) -> pa.Table:
    """The tables of all segments as one.

    A column that has unlike types in them is of the type that holds all, or of text where there is none: the columns
    of tables that are added later may hold anything.
    """
    for name in dict.fromkeys(name for table in tables for name in table.column_names):
        schemas = [pa.schema([table.schema.field(name)]) for table in tables if name in table.column_names]
        try:
            pa.unify_schemas(schemas, promote_options="permissive")
        except pa.ArrowException:
            tables = [_as_text(table, name) if name in table.column_names else table for table in tables]
    return pa.concat_tables(tables, promote_options="permissive")


def _as_text(table: pa.Table, name: str) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, table.column(name).cast(pa.large_string()))


def mapped_vectors(path: Path, rows: int, width: int) -> Float16[Tensor, "rows dim"]:
    """A file of vectors, mapped.

    Raises:
        DataError: If it is missing, damaged, or of another shape.
    """
    header = npy_header(path)
    if header.shape != (rows, width) or header.dtype != np.float16:
        raise DataError(
            f"{path} holds {header.shape} {header.dtype}, but {INDEX} says {(rows, width)} float16: the index is "
            "damaged or half-copied; copy it again, or make it again"
        )
    # "c": nothing can be written to the file, and torch takes the array.
    return torch.from_numpy(np.memmap(path, np.float16, "c", header.offset, (rows, width)))


def write_table(path: Path, table: pa.Table) -> None:
    """An Arrow file that can be mapped; its caller moves it into place."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2**16)


def _mapped_table(path: Path, rows: int) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}): copy the index again, or make it again") from error
    if len(table) != rows:
        raise DataError(f"{path} has {len(table):,} rows, but {INDEX} says {rows:,}: copy the index again")
    return table
