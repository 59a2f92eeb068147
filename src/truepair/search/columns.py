"""Columns that hits can be filtered by: what a feature store knows of pictures, and the columns of the user's table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truepair.data.embeddings import stored_source
from truepair.errors import DataError
from truepair.files.parquet import read_parquet
from truepair.sources.opening import reopened
from truepair.sources.tables import TableSource

_FACTS = ("width", "height", "is_blank")


def columns_to_filter(
    store: Path | None, references: Sequence[str | None], taken: Sequence[str]
) -> dict[str, pa.Array]:
    """Columns with a row an image.

    A table's columns are those of the image's first row, where they hold text, numbers or truth values; of tables in
    several files, and of other sources, there are none.

    Args:
        store: The feature store that the pairs are from; None if they are from none.
        references: What the source finds each picture by.
        taken: Names that other columns have.
    """
    if store is None or not (store / "images.parquet").exists():
        return {}
    facts = read_parquet(store / "images.parquet", [*_FACTS])
    columns = {name: facts.column(name).combine_chunks() for name in _FACTS}
    try:
        description = stored_source(store)
        source = None if description is None else reopened(description)
    except DataError:
        return columns  # the source is gone; the index does without it
    if not isinstance(source, TableSource) or len(source.parts) > 1 or None in references:
        return columns
    rows = [source.row_of(reference) for reference in references if reference is not None]
    read = {source.columns.image, *source.columns.captions, source.options.image_id_col, source.options.caption_id_col}
    names = [name for name in source.parts[0].table.names if name not in {*read, *taken, *columns}]
    for name, values in source.parts[0].table.columns(names).items():
        found = _scalars([values[row] for row in rows])
        if found is not None:
            columns[name] = found
    return columns


def _scalars(values: Sequence[Any]) -> pa.Array | None:
    """A column of text, numbers or truth values; None if it is something else.

    Text that is all numbers becomes numbers, unless they would not say what it says: codes such as 007, and ids of more
    digits than a number keeps, stay text.
    """
    try:
        array = pa.array(values)
    except (pa.ArrowException, TypeError):
        return None
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return _numbers(array)
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return array if any(kind(array.type) for kind in kinds) else None


def _numbers(texts: pa.Array) -> pa.Array:
    """Whole numbers, or others, if all texts are such and none is a code; else the texts."""
    if pc.any(pc.match_substring_regex(texts, r"^[+-]?0\d|^\+")).as_py():
        return texts
    with suppress(pa.ArrowException):
        return texts.cast(pa.int64())
    if pc.any(pc.match_substring_regex(texts, r"^-?\d{16,}$")).as_py():  # more than a float keeps
        return texts
    with suppress(pa.ArrowException):
        return texts.cast(pa.float64())
    return texts
