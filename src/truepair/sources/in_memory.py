"""Tables in memory as Arrow tables: pandas, Polars, DuckDB, PyArrow, Hugging Face datasets, or a dict of columns."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from truepair.config.source import AUTO, SourceConfig
from truepair.errors import DataError
from truepair.sources.columns import usual_caption, usual_image
from truepair.sources.table_pictures import is_of_pictures

_IMAGE = re.compile(r"^(image|img|picture|photo)s?$|(image|img|picture|photo|vis).*(emb|feat|vec)", re.IGNORECASE)
_CAPTION = re.compile(r"^(caption|text)s?$|(caption|text|txt|sentence|title).*(emb|feat|vec)", re.IGNORECASE)
"""Names of columns of embeddings."""


def is_table(data: object) -> bool:
    """Whether `arrow_table` takes it."""
    return isinstance(data, Mapping) or hasattr(data, "__arrow_c_stream__") or is_from(data, "datasets")


def is_from(data: object, package: str) -> bool:
    """Whether an object's class, or one that it inherits from, is of a package, which is not imported for that.

    >>> is_from(np.zeros(3), "numpy"), is_from([0.0], "numpy")
    (True, False)
    """
    return any(kind.__module__.split(".")[0] == package for kind in type(data).__mro__)


def arrow_table(data: Any) -> pa.Table:
    """A table in memory as an Arrow table, its columns in their order.

    A column may hold pictures: encoded bytes, ``{bytes, path}`` as Hugging Face writes them, paths, or PIL images,
    which become PNG without loss. A column of a dict may be an array ``[rows, dim]``.

    Args:
        data: A dict of columns, a `datasets.Dataset`, or what has ``__arrow_c_stream__``: a DataFrame of pandas or
            Polars, a relation of DuckDB, a table of PyArrow.

    Raises:
        DataError: If it has no rows, two columns have one name, columns differ in length, or a column mixes types.
    """
    if is_from(data, "datasets"):
        table = _of_dataset(data)
    elif is_from(data, "pandas"):
        table = _of_columns([(name, series) for name, series in data.items()])
    elif isinstance(data, Mapping):
        table = _of_columns(list(data.items()))
    else:
        table = pa.table(data)
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise DataError(f"the table has several columns called {', '.join(map(repr, twice))}: rename them")
    if len(table) == 0:
        raise DataError(f"the table has no rows; its columns are {', '.join(map(repr, table.column_names)) or 'none'}")
    return table


def like(table: pa.Table, data: object) -> Any:
    """A result as the caller's kind of table: of pandas or Polars if `data` is, else of PyArrow."""
    if is_from(data, "pandas"):
        return table.to_pandas()
    is_polars = is_from(data, "polars") and hasattr(data, "columns")  # a frame, not a series
    return type(data)(table) if is_polars else table  # type: ignore[call-arg]


def labelled_like(frame: Any, data: Any) -> Any:
    """Rows with the labels of the rows of `data`, where both are of pandas and equally long; else as they are."""
    return frame.set_axis(data.index, axis=0) if is_from(data, "pandas") and len(data) == len(frame) else frame


def found_by_content(table: pa.Table, options: SourceConfig) -> SourceConfig:
    """The options, with the columns that were not named and that types and names tell.

    A column of lists of floating-point numbers holds embeddings if its name says of what: "image_embedding",
    "text_features", "img_emb", or "image" and "caption" alone. A column of bytes or ``{bytes, path}`` holds pictures.
    Where there is none, a column with one of the usual names does (see `truepair.sources.columns`).

    Raises:
        DataError: If several columns may be meant, or vectors have names that say nothing; the message names them.
    """
    vectors = [field.name for field in table.schema if _holds_vectors(field.type)]
    images = options.image_feature_col or _only("image_feature_col", filter(_is_of_images, vectors), "image embeddings")
    captions = options.caption_feature_col
    if images is not None:
        found = filter(_is_of_captions, vectors)
        captions = captions or _only("caption_feature_col", found, "caption embeddings")
    elif captions is not None:
        raise DataError(f"caption_feature_col is {captions!r}, but no column holds image embeddings: image_feature_col")
    others = [name for name in table.column_names if name not in (images, captions)]
    image_col, caption_col = options.image_col, options.caption_col or usual_caption(others) or ()
    if image_col == AUTO:
        stored = [name for name in others if is_of_pictures(table.schema.field(name).type)]
        image_col = _only("image_col", stored, "pictures") or usual_image(others)
    if image_col is None and images is None:
        hint = f"; {', '.join(map(repr, vectors))} may hold embeddings: image_feature_col" if vectors else ""
        raise DataError(
            f"the table has no column of pictures and none of image embeddings; it has "
            f"{', '.join(map(repr, table.column_names))}: name one with image_col or image_feature_col{hint}"
        )
    return replace(
        options,
        image_col=image_col,
        image_feature_col=images,
        caption_feature_col=captions,
        caption_col=(caption_col,) if isinstance(caption_col, str) else caption_col,
    )


def as_numpy(values: Any) -> np.ndarray:
    """An array of NumPy, PyTorch or anything that NumPy takes; bfloat16, which NumPy lacks, becomes float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    if isinstance(values, pa.Array | pa.ChunkedArray):
        values = values.to_pylist()
    array = np.asarray(values)
    if array.dtype == object and array.ndim == 1 and len(array) and hasattr(array[0], "__len__"):
        return np.asarray([as_numpy(value) for value in array])  # a column whose cells are arrays
    return array


def _only(option: str, columns: Iterable[str], of_what: str) -> str | None:
    """The one column that may be meant; None for none."""
    several = list(columns)
    if len(several) > 1:
        raise DataError(
            f"the table has several columns of {of_what}, {' and '.join(map(repr, several))}: say which one is meant "
            f"with {option}"
        )
    return several[0] if several else None


def _is_of_images(name: str) -> bool:
    return _IMAGE.search(name) is not None


def _is_of_captions(name: str) -> bool:
    return _CAPTION.search(name) is not None


def _holds_vectors(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _of_dataset(data: Any) -> pa.Table:
    if isinstance(data, Mapping):
        raise DataError(
            f"{type(data).__name__} has the splits {', '.join(map(repr, data))}: give one of them, as data[name]"
        )
    if not hasattr(data, "__len__"):
        raise DataError(
            f"{type(data).__name__} is read once, and an audit looks at pictures again: give a datasets.Dataset"
        )
    return data.with_format("arrow")[:]  # the stored bytes: decoding them here would end at the first broken one


def _of_columns(columns: Sequence[tuple[Any, Any]]) -> pa.Table:
    arrays = {str(name): _column(str(name), values) for name, values in columns}
    if len(arrays) < len(columns):
        names = [str(name) for name, _ in columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"the table has several columns called {', '.join(map(repr, twice))}: rename them")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name!r} has {length:,}" for name, length in lengths.items())
        raise DataError(f"columns of a table have equally many rows, but {said}")
    return pa.table(arrays)


def _column(name: str, values: Any) -> pa.Array | pa.ChunkedArray:
    """One column, as Arrow."""
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise DataError(f"column {name!r} is {values!r:.60}, not a list or an array of values")
    try:
        if isinstance(values, pa.Array | pa.ChunkedArray):
            return values
        array = as_numpy(values) if hasattr(values, "detach") or isinstance(values, np.ndarray) else None
        if array is not None and array.ndim == 2 and array.size:
            return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
        if array is not None and array.ndim == 1 and array.dtype != object:
            return pa.array(array)
        if is_from(values, "pandas") and str(values.dtype) != "object":
            return pa.array(values, from_pandas=True)
        cells = [_cell(value) for value in values]
        _refuse_text_and_other_things(name, cells)
        return pa.array(cells)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise DataError(
            f"column {name!r} cannot be read as one kind of values ({error}): give all of its cells one type"
        ) from error


def _refuse_text_and_other_things(name: str, cells: Sequence[Any]) -> None:
    kinds = {type(cell) for cell in cells if cell is not None}
    if str in kinds and len(kinds) > 1:
        place = next(place for place, cell in enumerate(cells) if cell is not None and not isinstance(cell, str))
        raise DataError(
            f"column {name!r} is text but for {cells[place]!r:.60} in row {place:,}, and perhaps more rows: make them "
            f"text too, or missing (None), as in frame[{name!r}].astype('string')"
        )


def _cell(value: Any) -> Any:
    """A Python object as Arrow takes it."""
    if isinstance(value, Image.Image):
        return _png(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "detach"):
        return as_numpy(value)
    is_missing = (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    return None if is_missing else value


def _png(picture: Image.Image) -> bytes:
    """A picture's pixels as PNG; of one that cannot be decoded its file, which the reader then lists as broken."""
    written = io.BytesIO()
    try:
        known = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
        (picture if picture.mode in known else picture.convert("RGB")).save(written, "PNG", compress_level=1)
    except Exception:  # broken bytes lead decoders to raise nearly anything
        file = Path(getattr(picture, "filename", None) or "")
        return file.read_bytes() if file.is_file() else b""
    return written.getvalue()
