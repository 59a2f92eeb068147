"""The plain facts of a corpus's pictures: from the feature store that knows them, or from the pictures themselves."""

from __future__ import annotations

from pathlib import Path

from truepair.data.pairs import Pairs
from truepair.errors import DataError
from truepair.files.parquet import read_parquet
from truepair.progress import progress
from truepair.sources.decoding import decoded
from truepair.sources.facts import PictureFacts, facts_of

_COLUMNS = ("image_id", "sha256", "difference_hash", "width", "height", "is_blank")
_SIDE = 64
"""Pixels that a picture is decoded to at least, where its format can decode less than all."""


def image_facts(pairs: Pairs, folder: Path | None, most: int) -> list[PictureFacts | None] | None:
    """The facts of each image, None where its picture cannot be read; or None if no picture was examined.

    Args:
        pairs: The pairs.
        folder: The feature store that they are from, if they are from one.
        most: Largest number of images to examine where no store knows their facts.
    """
    if folder is not None and (folder / "images.parquet").exists():
        return _from_store(pairs, folder / "images.parquet")
    if pairs.pictures is None or len(pairs.images) > most:
        return None
    facts: list[PictureFacts | None] = []
    with progress("checking pictures", "images", len(pairs.images)) as shown:
        for image in range(len(pairs.images)):
            try:
                data = pairs.pictures[image]
                facts.append(facts_of(data, decoded(data, largest_side=_SIDE)))
            except DataError:
                facts.append(None)
            shown.advance()
    return facts


def _from_store(pairs: Pairs, path: Path) -> list[PictureFacts | None]:
    table = read_parquet(path, _COLUMNS, is_full=True)
    place = {name: row for row, name in enumerate(table["image_id"].to_pylist())}
    columns = [table[name].to_pylist() for name in table.column_names[1:]]
    rows = [place.get(name) for name in pairs.image_ids]
    return [None if row is None else PictureFacts(*(column[row] for column in columns)) for row in rows]
