"""Tables whose rows name a picture, or hold one, and have one or several captions: a file, or several as one source."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa

from truepair.config.source import SourceConfig
from truepair.errors import ConfigError, DataError, said_by
from truepair.sources.blocks import block, block_names
from truepair.sources.captions import Captions, captions_in
from truepair.sources.columns import Columns
from truepair.sources.picture_files import Location, UnreadablePictureError
from truepair.sources.protocol import Kind, Sample, Skipped, Source
from truepair.sources.rows import row_name, row_of
from truepair.sources.shard_cache import usual_cache
from truepair.sources.stores import StorePath
from truepair.sources.table_files import ArrowTable, Table, ids_of
from truepair.sources.table_pictures import NamedPictures, PathRule, StoredPictures, TablePictures, holds_pictures

DAMAGED_ROW = "damaged row"


@dataclass(frozen=True)
class Part:
    """One table of a source.

    Attributes:
        table: The table.
        name: What the ids of its rows begin with, and a ``/``; nothing for a source of one table.
        root: Where its relative paths start.
        split: The split that all its rows are in; None if it says nothing, or a column does.
    """

    table: Table
    name: str
    root: Location
    split: str | None = None


@dataclass(frozen=True)
class Picture:
    """Rows of one picture, counted from 0 over all parts."""

    image_id: str
    rows: list[int]


@dataclass(frozen=True)
class _Rows:
    """What is kept in memory of one part: one entry a row each."""

    names: list[str]
    captions: dict[str, list[Any]]
    keys: list[str | None]
    splits: list[str | None]
    pictures: TablePictures | None


class TableSource:
    """The pictures and captions of tables. Ids, captions and paths are in memory, pictures never more than a few.

    A row's picture is a file, named by a path from the image root on, or, in Parquet and Arrow only, the bytes in its
    cell. Rows with the same image id are one picture; without ids, so are rows with the same path, or with equal bytes
    in their cells. The picture stands where its first row stands, whose cell is the one that is read.

    Which files may be read, `SourceConfig` says: relative paths stay in the image root (by default the table's folder;
    one with ``..`` starts at the table's folder and must end in the image root), absolute ones too if it is given.
    Links that lead out of the image root are not followed, unless ``follow_links`` or ``allow_outside`` is set.

    Ids: an image's is its image id, else its path as written, else ``row-N``, N counted from 1 without the header; a
    caption's is its caption id or ``row-N``, with more behind it where a row has several captions (see
    `truepair.sources.captions.captions_in`). Where there are several tables, the part's name stands before each.

    Args:
        path: What was opened.
        parts: The tables, at least one.
        options: Columns and paths.
        kind: What kind of source the tables are.
        notes: What a reader should be told, before what the tables themselves give cause for.

    Raises:
        DataError: If a table cannot be read, lacks a column, or its ids are missing, not unique or contradictory.
    """

    def __init__(
        self,
        path: Path | StorePath,
        parts: Sequence[Part],
        options: SourceConfig = SourceConfig(),  # noqa: B008, it is frozen
        *,
        kind: Kind = "table",
        notes: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.parts = tuple(parts)
        self.kind: Kind = kind
        self.options = options
        first = self.parts[0]
        self.columns = Columns.of(str(first.table.path), first.table.names, options)
        self.notes = list(dict.fromkeys([*notes, *(note for part in parts for note in part.table.notes)]))
        self.notes += self.columns.notes
        self._starts: list[int] = []
        self._rows: list[_Rows] = []
        groups: dict[str, Picture] = {}
        for part in self.parts:
            self._starts.append(sum(len(rows.names) for rows in self._rows))
            try:
                self._rows.append(self._read_part(part))
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise DataError(f"{part.table.path} cannot be read ({said_by(error)})") from error
            self._group(groups, self._starts[-1], self._rows[-1])
        self._groups = list(groups.values())
        _check_unique(path, (name for row in range(len(self)) for name in self.captions_of(row).ids))

    def __len__(self) -> int:
        return self._starts[-1] + len(self._rows[-1].names)

    def shards(self) -> Sequence[str]:
        """Blocks of pictures."""
        return block_names(len(self._groups))

    def read(self, shard: str, *, pictures: bool = True) -> Iterator[Sample | Skipped]:
        """See `truepair.sources.protocol.Source.read`."""
        chosen = [self._groups[place] for place in block(shard, len(self._groups))]
        captions = [[self.captions_of(row) for row in picture.rows] for picture in chosen]
        has_caption = [any(of_row.texts for of_row in of_picture) for of_picture in captions]
        found = self._pictures_of([picture.rows[0] for picture in compress(chosen, has_caption)], pictures)
        try:
            for picture, of_picture, is_captioned in zip(chosen, captions, has_caption, strict=True):
                for skip in (skip for of_row in of_picture for skip in of_row.skipped):
                    yield Skipped(f"{self.path}: {skip.where}", skip.reason, skip.detail, skip.caption_ids)
                if is_captioned:
                    yield self._sample(picture, of_picture, next(found))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            yield Skipped(f"{self.path}: shard {shard}", "damaged table", said_by(error))

    def picture(self, reference: str) -> bytes:
        """See `truepair.sources.protocol.Source.picture`.

        Args:
            reference: ``row-N``, with the part's name before it where there are several.

        Raises:
            DataError: If there is no such row, or its picture is not there any more.
        """
        try:
            encoded = next(self._pictures_of([self.row_of(reference)], wanted=True))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} cannot be read ({said_by(error)}); was it moved or changed?") from error
        if isinstance(encoded, UnreadablePictureError):
            raise encoded
        return encoded

    def keep_copies(self) -> None:
        """Keep copies of the row groups of Parquet files whose pictures are asked for, see `ArrowTable.copies`."""
        for part in self.parts:
            if isinstance(part.table, ArrowTable):
                part.table.copies = usual_cache(self.options.cache_size)

    def captions_of(self, row: int) -> Captions:
        """The captions of one row, counted from 0 over all parts."""
        part, place = self.place_of(row)
        name = self._rows[part].names[place]
        fault = self.parts[part].table.faults.get(place)
        if fault is not None:
            return Captions((), (), (Skipped(name, DAMAGED_ROW, fault, (name,)),))
        cells = {column: of_column[place] for column, of_column in self._rows[part].captions.items()}
        return captions_in(cells, name, self.options.longest_caption)

    def cells_of(self, row: int) -> dict[str, object]:
        """The cells of a row's caption columns."""
        part, place = self.place_of(row)
        return {column: cells[place] for column, cells in self._rows[part].captions.items()}

    def name_of(self, row: int) -> str:
        """What a row is called; ids of its captions begin with that."""
        part, place = self.place_of(row)
        return self._rows[part].names[place]

    def split_of(self, row: int) -> str | None:
        """The split that a row is in; None if the source says nothing."""
        part, place = self.place_of(row)
        return self._rows[part].splits[place]

    def reference_of(self, row: int) -> str:
        """What `picture` finds a row's picture by."""
        part, place = self.place_of(row)
        return f"{self.parts[part].name}/{row_name(place)}" if self.parts[part].name else row_name(place)

    def row_of(self, reference: str) -> int:
        """The row, counted from 0 over all parts, that a picture's reference names.

        Raises:
            DataError: If there is none.
        """
        name, _, row = reference.rpartition("/")
        for part, start, rows in zip(self.parts, self._starts, self._rows, strict=True):
            if part.name == name:
                return start + row_of(row, len(rows.names), self.path)
        raise DataError(f"{self.path} has no part {name!r}; it has {', '.join(repr(part.name) for part in self.parts)}")

    def place_of(self, row: int) -> tuple[int, int]:
        """The number of a row's part, and its place in that part."""
        part = bisect_right(self._starts, row) - 1
        return part, row - self._starts[part]

    def pictures(self) -> Sequence[Picture]:
        """Every image id with its rows, in the order of the first of them."""
        return self._groups

    def file_of(self, row: int) -> Location | None:
        """The picture file that a row names; None if pictures lie in cells, or the row names none."""
        part, place = self.place_of(row)
        pictures = self._rows[part].pictures
        try:
            return pictures.file(place) if isinstance(pictures, NamedPictures) else None
        except UnreadablePictureError:
            return None

    def path_of(self, row: int) -> object:
        """What a row's picture is called, as written; None if pictures lie in cells."""
        part, place = self.place_of(row)
        pictures = self._rows[part].pictures
        return pictures.paths[place] if isinstance(pictures, NamedPictures) else None

    def _read_part(self, part: Part) -> _Rows:
        table, options, columns = part.table, self.options, self.columns
        if part is not self.parts[0]:
            found = replace(options, image_col=columns.image, caption_col=columns.captions)
            Columns.of(str(table.path), table.names, found)
        prefix = f"{part.name}/" if part.name else ""
        wanted = [*columns.captions, *([] if options.split_col is None else [options.split_col])]
        cells = table.columns(list(dict.fromkeys(wanted)))
        caption_ids = ids_of(table, options.caption_id_col)
        names = [f"{prefix}{name}" for name in caption_ids or map(row_name, range(len(table)))]
        image_ids = ids_of(table, options.image_id_col)
        pictures: TablePictures | None = None
        keys: list[str | None] | None = None
        if columns.image is not None:
            pictures, keys = _pictures(part, columns.image, options, has_ids=image_ids is not None)
            if image_ids is not None:
                _check_one_path_an_id(table, image_ids, keys)
        splits = cells[options.split_col] if options.split_col is not None else [part.split] * len(table)
        nothing: list[str | None] = [None] * len(table)
        return _Rows(
            names,
            {name: cells[name] for name in columns.captions},
            list(image_ids) if image_ids is not None else keys or nothing,
            [None if split is None else str(split) for split in splits],
            pictures,
        )

    def _group(self, groups: dict[str, Picture], start: int, rows: _Rows) -> None:
        """Rows with the same key together, by first appearance; a row without a key is alone, and named for itself."""
        prefix = f"{self.parts[len(self._rows) - 1].name}/" if self.parts[len(self._rows) - 1].name else ""
        is_stored = isinstance(rows.pictures, StoredPictures) and self.options.image_id_col is None
        for place, key in enumerate(rows.keys):
            alone = f"{prefix}{row_name(place)}"
            group = f"\0{alone}" if key is None else f"{prefix}{key}"
            # Equal bytes are one image, called by its first row; paths and ids are names themselves.
            name = alone if key is None or is_stored else f"{prefix}{key}"
            groups.setdefault(group, Picture(name, [])).rows.append(start + place)

    def _pictures_of(self, rows: Sequence[int], wanted: bool) -> Iterator[bytes | UnreadablePictureError]:
        """The pictures of some rows, in their order, which within a part is increasing."""
        if not wanted:
            yield from (b"" for _ in rows)
            return
        of_part: dict[int, list[int]] = {}
        for row in rows:
            part, place = self.place_of(row)
            of_part.setdefault(part, []).append(place)
        for part, places in of_part.items():
            pictures = self._rows[part].pictures
            if pictures is None:
                yield from (UnreadablePictureError("no picture named", str(self.path)) for _ in places)
            else:
                yield from pictures.of_rows(places)

    def _sample(
        self, picture: Picture, captions: list[Captions], encoded: bytes | UnreadablePictureError
    ) -> Sample | Skipped:
        part, place = self.place_of(picture.rows[0])
        first = self.reference_of(picture.rows[0])
        ids = tuple(name for of_row in captions for name in of_row.ids)
        if isinstance(encoded, UnreadablePictureError):
            has = f"{encoded}, which has {len(ids)} caption{'' if len(ids) == 1 else 's'}"
            return Skipped(f"{self.path}: {first}", encoded.reason, has, ids)
        return Sample(
            image_id=picture.image_id,
            picture=encoded,
            captions=tuple(text for of_row in captions for text in of_row.texts),
            caption_ids=ids,
            reference=first,
            split=self._rows[part].splits[place],
        )


def caption_ids_of(source: Source) -> list[str]:
    """The ids of all captions of a source, also of those that are left out: of tables in the order of their rows."""
    if isinstance(source, TableSource):
        captions = [source.captions_of(row) for row in range(len(source))]
        return [name for row in captions for name in (*row.ids, *(skip.where for skip in row.skipped))]
    items = (item for shard in source.shards() for item in source.read(shard, pictures=False))
    return [name for item in items for name in item.caption_ids]


def _pictures(
    part: Part, column: str, options: SourceConfig, *, has_ids: bool
) -> tuple[TablePictures, list[str | None]]:
    """The rows' pictures and what rows of one picture share; None for a row with a picture of its own."""
    table = part.table
    folder = part.root
    if isinstance(part.root, Path):
        folder = Path(str(table.path)).parent
    elif isinstance(table.path, StorePath):
        folder = table.path.parent
    rule = PathRule(
        part.root,
        folder,
        is_bounded=options.image_root is not None,
        is_free=options.allow_outside,
        follows_links=options.follow_links,
        largest_file=options.largest_file,
    )
    if isinstance(table, ArrowTable) and holds_pictures(table, column):
        stored = StoredPictures(table, column, rule)
        return stored, [None] * len(table) if has_ids else list(stored.digests())
    paths = table.columns([column])[column]
    if not isinstance(part.root, StorePath) and not part.root.is_dir():
        raise DataError(
            f"the image root {part.root} is not a folder; relative paths of {table.path} start there (--image-root)"
        )
    keys = [path if isinstance(path, str) and path else None for path in paths]
    return NamedPictures(paths, rule), keys


def _check_unique(path: Path | StorePath, caption_ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in caption_ids:
        if name in seen:
            raise DataError(f"{path}: two captions have the id {name!r}; ids of captions must be unique")
        seen.add(name)


def _check_one_path_an_id(table: Table, image_ids: Sequence[str], paths: Sequence[str | None]) -> None:
    first_row: dict[str, int] = {}
    for row, name in enumerate(image_ids):
        earlier = first_row.setdefault(name, row)
        if paths[row] != paths[earlier]:
            raise DataError(
                f"{table.path}: rows {earlier + 1} and {row + 1} have the same image id {name!r} but different "
                f"pictures ({paths[earlier]} and {paths[row]})"
            )


def refuse_options(path: Path | StorePath, kind: str, given: Sequence[str]) -> None:
    """Refuse options that a kind of source does not have.

    Raises:
        ConfigError: If there are any.
    """
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ConfigError(f"{path} is {kind}, which has no {flags}; leave that out")
