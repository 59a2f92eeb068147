"""CSV, TSV, JSONL and Parquet files whose rows name a picture, or hold one, and have one or several captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa

from truepair.errors import ConfigError, DataError
from truepair.sources.blocks import block, block_names
from truepair.sources.captions import Captions, captions_in
from truepair.sources.columns import check_columns
from truepair.sources.picture_files import UnreadablePictureError
from truepair.sources.protocol import Sample, Skipped
from truepair.sources.rows import row_name, row_of
from truepair.sources.table_files import TableFile, ids_of, open_table
from truepair.sources.table_pictures import NamedPictures, StoredPictures, TablePictures, holds_pictures


@dataclass(frozen=True)
class _Picture:
    """Rows of one picture, counted from 0."""

    image_id: str
    rows: list[int]


class TableSource:
    """The pictures and captions of a table. Ids, captions and paths are in memory, pictures never more than a few.

    A row's picture is a file, named by a path from `image_root` on, or, in Parquet only, the bytes in its cell. Rows
    with the same image id are one picture, and so are, without ids, rows with the same path; the picture stands where
    its first row stands, whose cell is the one that is read. Pictures that lie in cells and have no ids are one a row,
    because a ``path`` beside the bytes is often the same for different pictures.

    Nothing outside `image_root` is read. Only if it is None, absolute paths may lead anywhere; relative ones then must
    stay in the table's folder. Links are followed.

    Ids: an image's is its image id, else its path as written, else ``row-N``, N counted from 1 without the header; a
    caption's is its caption id or ``row-N``, with more behind it where a row has several captions (see
    `truepair.sources.captions.captions_in`).

    Args:
        path: A ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, in UTF-8.
        image_col: The column of paths or pictures.
        caption_cols: The columns of captions; a cell may be a list of texts (JSONL, Parquet).
        image_root: Where relative paths start; the table's own folder by default.
        image_id_col: A column that says which rows are of one picture.
        caption_id_col: A column with a name for each row's captions.

    Raises:
        DataError: If the table cannot be read, lacks a column, or its ids are missing, not unique or contradictory.
        ConfigError: If there is no caption column.
    """

    kind = "table"

    def __init__(
        self,
        path: str | Path,
        image_col: str = "image",
        caption_cols: Sequence[str] = ("caption",),
        image_root: str | Path | None = None,
        image_id_col: str | None = None,
        caption_id_col: str | None = None,
    ) -> None:
        if not caption_cols:
            raise ConfigError("caption_cols is empty; name the columns that hold captions")
        self.path = Path(path)
        self.image_col = image_col
        self.caption_cols = tuple(caption_cols)
        self.image_id_col = image_id_col
        try:
            table = open_table(self.path)
            named = [image_col, *caption_cols, *(name for name in (image_id_col, caption_id_col) if name is not None)]
            check_columns(self.path, table.names, named)
            self._cells: dict[str, list[Any]] = {name: table.values(name) for name in self.caption_cols}
            caption_ids = ids_of(table, caption_id_col)
            self._pictures, keys = _pictures(table, image_col, image_root)
            image_ids = ids_of(table, image_id_col)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read ({error})") from error
        self._row_names = caption_ids or [row_name(row) for row in range(len(table))]
        several = (name for row in range(len(table)) for name in self.captions_of(row).ids)
        _check_unique(self.path, self._row_names if self.has_one_caption_a_row else several)
        if image_ids is not None:
            _check_one_path_an_id(self.path, image_ids, keys)
        self._groups = _grouped(image_ids or keys)

    def shards(self) -> Sequence[str]:
        """Blocks of pictures."""
        return block_names(len(self._groups))

    def read(self, shard: str) -> Iterator[Sample | Skipped]:
        """See `truepair.sources.protocol.Source.read`."""
        pictures = [self._groups[place] for place in block(shard, len(self._groups))]
        captions = [[self.captions_of(row) for row in picture.rows] for picture in pictures]
        has_caption = [any(of_row.texts for of_row in of_picture) for of_picture in captions]
        found = self._pictures.of_rows([picture.rows[0] for picture in compress(pictures, has_caption)])
        try:
            for picture, of_picture, is_captioned in zip(pictures, captions, has_caption, strict=True):
                for skip in (skip for of_row in of_picture for skip in of_row.skipped):
                    yield Skipped(f"{self.path}: {skip.where}", skip.reason, skip.detail)
                if is_captioned:
                    yield self._sample(picture, of_picture, next(found))
        except (pa.ArrowException, OSError) as error:
            yield Skipped(f"{self.path}: shard {shard}", "damaged table", str(error))

    def picture(self, reference: str) -> bytes:
        """See `truepair.sources.protocol.Source.picture`.

        Args:
            reference: ``row-N``.

        Raises:
            DataError: If there is no such row, or its picture is not there any more.
        """
        row = row_of(reference, len(self._row_names), self.path)
        try:
            encoded = next(self._pictures.of_rows([row]))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read ({error}); was it moved or changed?") from error
        if isinstance(encoded, UnreadablePictureError):
            raise encoded
        return encoded

    def captions_of(self, row: int) -> Captions:
        """The captions of one row, counted from 0."""
        return captions_in({name: cells[row] for name, cells in self._cells.items()}, self._row_names[row])

    @property
    def has_one_caption_a_row(self) -> bool:
        """Whether there is one column of captions, without lists in it."""
        return len(self._cells) == 1 and not any(isinstance(cell, list) for cell in self._cells[self.caption_cols[0]])

    def pictures(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Every image id with its rows, counted from 0, in the order of the first of them."""
        return ((picture.image_id, picture.rows) for picture in self._groups)

    def _sample(
        self, picture: _Picture, captions: list[Captions], encoded: bytes | UnreadablePictureError
    ) -> Sample | Skipped:
        first = row_name(picture.rows[0])
        if isinstance(encoded, UnreadablePictureError):
            count = sum(len(of_row.texts) for of_row in captions)
            return Skipped(f"{self.path}: {first}", encoded.reason, f"{encoded}, which has {count} captions")
        return Sample(
            image_id=picture.image_id,
            picture=encoded,
            captions=tuple(text for of_row in captions for text in of_row.texts),
            caption_ids=tuple(name for of_row in captions for name in of_row.ids),
            reference=first,
        )


def _pictures(table: TableFile, column: str, root: str | Path | None) -> tuple[TablePictures, list[str | None]]:
    """The rows' pictures and the paths that rows share; None for a row with a picture of its own."""
    if table.path.suffix.lower() == ".parquet" and holds_pictures(table.path, column):
        return StoredPictures(table.path, column), [None] * len(table)
    paths = table.values(column)
    folder = table.path.parent if root is None else Path(root)
    if not folder.is_dir():
        raise DataError(f"the image root {folder} is not a folder; relative paths of {table.path} start there")
    keys = [path if isinstance(path, str) and path else None for path in paths]
    return NamedPictures(paths, folder, is_bounded=root is not None), keys


def _grouped(keys: Sequence[str | None]) -> list[_Picture]:
    """Rows with the same key together, by first appearance; a row without a key is alone, and named for its number."""
    pictures: dict[str | int, _Picture] = {}
    for row, key in enumerate(keys):
        picture = pictures.setdefault(row if key is None else key, _Picture(key or row_name(row), []))
        picture.rows.append(row)
    return list(pictures.values())


def _check_unique(path: Path, caption_ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in caption_ids:
        if name in seen:
            raise DataError(f"{path}: two captions have the id {name!r}; ids of captions must be unique")
        seen.add(name)


def _check_one_path_an_id(path: Path, image_ids: Sequence[str], paths: Sequence[str | None]) -> None:
    first_row: dict[str, int] = {}
    for row, name in enumerate(image_ids):
        earlier = first_row.setdefault(name, row)
        if paths[row] != paths[earlier]:
            raise DataError(
                f"{path}: rows {earlier + 1} and {row + 1} have the same image id {name!r} but different pictures "
                f"({paths[earlier]} and {paths[row]})"
            )
