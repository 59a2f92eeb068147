"""Embeddings in memory as pairs: arrays, or columns of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair.config.source import SourceConfig
from truepair.data.features import Features, check_finite
from truepair.data.pairs import Pairs
from truepair.data.splitting import one_of_each_image
from truepair.data.text import Vocabulary, tokenised
from truepair.errors import DataError
from truepair.sources.columns import Columns
from truepair.sources.in_memory import as_numpy
from truepair.sources.table_files import ids_in, vectors_in

TABLE = "the table"
"""What messages call a table in memory."""


@dataclass(frozen=True)
class PairsInMemory:
    """Pairs, and what made the tokens of their captions.

    Attributes:
        pairs: The pairs.
        vocabulary: None where captions are not read as words.
    """

    pairs: Pairs
    vocabulary: Vocabulary | None = None


def pairs_of_arrays(
    images: Any,
    captions: Any = None,
    *,
    image_of_caption: Any = None,
    image_ids: Any = None,
    caption_ids: Any = None,
    caption_texts: Any = None,
) -> PairsInMemory:
    """Embeddings as pairs.

    Without `image_of_caption`, caption k is paired with image row k; rows with the same image id, or, without ids, with
    equal vectors, are then one image, so that none of its captions is judged by a model that saw it.

    Args:
        images: ``[images, dim]``, of NumPy, PyTorch or nested lists; floating point.
        captions: ``[captions, dim]``, of any width of its own; None where `caption_texts` are to be read.
        image_of_caption: ``[captions]``, whole numbers: the row of `images` that each caption is paired with.
        image_ids: ``[images]``, the images' names; "image-0", "image-1" … by default.
        caption_ids: ``[captions]``, the captions' names, unique; "caption-0", "caption-1" … by default.
        caption_texts: ``[captions]``, the captions, which are read as words, beside their embeddings if they have some.

    Raises:
        DataError: If arrays are empty, not ``[rows, dim]``, of whole numbers, hold NaN or infinite values, or their
            rows do not agree with each other, with the ids or with the texts.
    """
    image_vectors = _vectors(images, "images")
    caption_vectors = None if captions is None else _vectors(captions, "captions")
    texts = None if caption_texts is None else _texts(list(caption_texts), "caption_texts")
    if caption_vectors is None and texts is None:
        raise DataError("there are images but no captions: give their embeddings, or their texts (caption_texts)")
    count = len(texts or ()) if caption_vectors is None else len(caption_vectors)
    if texts is not None and len(texts) != count:
        raise DataError(f"caption_texts has {len(texts):,} entries, but captions has {count:,} rows")
    names = _ids(image_ids, len(image_vectors), "image_ids", "images")
    image_of, firsts = _paired(image_vectors, count, image_of_caption, names)
    own_ids = _ids(caption_ids, count, "caption_ids", "captions")
    _check_unique(own_ids, "caption_ids")
    rows = firsts.tolist()
    is_all = len(rows) == len(image_vectors)
    pairs = Pairs(
        images=Features(image_vectors if is_all else image_vectors[rows]),
        captions=[f"caption {row}" for row in range(count)] if texts is None else texts,
        image_of_caption=image_of,
        image_ids=[f"image-{row}" if names is None else names[row] for row in rows],
        caption_ids=own_ids or [f"caption-{row}" for row in range(count)],
        caption_inputs=None if caption_vectors is None else Features(caption_vectors),
        has_texts=texts is not None,
    )
    return PairsInMemory(pairs) if texts is None else _with_words(pairs)


def pairs_of_table(table: pa.Table, options: SourceConfig) -> PairsInMemory:
    """The pairs of a table with a column of image embeddings: one a row, and ids, captions and their embeddings.

    Args:
        table: With a column ``options.image_feature_col`` of lists of numbers.
        options: Its columns, all that are there (see `sources.in_memory.found_by_content`).

    Raises:
        DataError: If a column is missing, or does not hold what it should; the message names the column and a row.
    """
    only_vectors = not options.caption_col and options.caption_feature_col is not None
    captions = (str(options.caption_feature_col),) if only_vectors else options.caption_col
    found = Columns.of(TABLE, table.column_names, replace(options, caption_col=captions)).captions
    if len(found) > 1:
        raise DataError(
            f"caption_col names the columns {', '.join(map(repr, found))}, but of a table of embeddings one caption a "
            "row is read: name one"
        )
    texts = None if only_vectors else _texts(table[found[0]].to_pylist(), f"column {found[0]!r}", 1)
    vectors = {
        name: None if column is None else vectors_in(TABLE, column, table[column])
        for name, column in (("images", options.image_feature_col), ("captions", options.caption_feature_col))
    }
    ids = {
        name: None if column is None else ids_in(TABLE, column, table[column].to_pylist())
        for name, column in (("image_ids", options.image_id_col), ("caption_ids", options.caption_id_col))
    }
    return pairs_of_arrays(vectors["images"], vectors["captions"], caption_texts=texts, **ids)


def _paired(
    images: Float[np.ndarray, "rows dim"], captions: int, image_of_caption: Any, names: Sequence[str] | None
) -> tuple[Int[Tensor, " captions"], Int[Tensor, " images"]]:
    """The image of each caption, and the row of each image's vector."""
    if image_of_caption is not None:
        _check_unique(names, "image_ids")
        return _indices(image_of_caption, captions), torch.arange(len(images))
    _check_row_by_row(len(images), captions)
    keys: Sequence[Hashable] = names or [blake2b(row.tobytes(), digest_size=16).digest() for row in images]
    image_of, firsts = _numbered(keys)
    if names is not None:
        _check_one_vector_an_id(names, images, firsts[image_of].numpy())
    return image_of, firsts


def _with_words(pairs: Pairs) -> PairsInMemory:
    """The pairs with words, as a corpus on disk is read; only with vectors where no word is frequent enough."""
    try:
        vocabulary = Vocabulary.build(pairs.captions)
    except DataError as error:
        if pairs.caption_inputs is None:
            raise DataError(
                f"{str(error).partition(';')[0]}: give more pairs, or embeddings of the captions"
            ) from error
        return PairsInMemory(pairs)
    return PairsInMemory(tokenised(pairs, vocabulary, beside_features=True), vocabulary)


def _vectors(values: Any, name: str) -> Float[np.ndarray, "rows dim"]:
    """An array ``[rows, dim]`` of finite floating-point numbers, as it is; float64 becomes float32."""
    try:
        array = as_numpy(values)
    except ValueError as error:  # nested lists of unequal length
        raise DataError(f"{name} cannot be read as an array [rows, dim] ({error}); rows have one length") from error
    if array.size == 0:
        raise DataError(f"{name} is empty (shape {array.shape}): give one embedding a row, [rows, dim]")
    if array.dtype.kind in "biu":
        raise DataError(
            f"{name} holds whole numbers ({array.dtype}), but embeddings are floating point: if these are vectors, "
            "convert them with .astype('float32'); row numbers of images go to image_of_caption"
        )
    if array.dtype.kind != "f":
        raise DataError(f"{name} holds {array.dtype} values (first: {array.flat[0]!r:.60}), not embeddings")
    if array.ndim != 2:
        raise DataError(
            f"{name} has shape {array.shape}, but embeddings are [rows, dim], one vector a row"
            + ("; a single vector is array[None, :]" if array.ndim == 1 else "; average the positions of each row")
        )
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite and is refused below
        array = array if array.dtype in (np.float16, np.float32) else array.astype(np.float32)
    check_finite(Features(array), name)
    return array


def _texts(values: Sequence[object], name: str, first_row: int = 0) -> list[str]:
    """A text a row; numbers, lists and missing values are refused, rows counted from `first_row`."""
    bad = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if bad:
        first = f"row {bad[0] + first_row}, {values[bad[0]]!r:.60}"
        raise DataError(
            f"{name} has something else than a text in {len(bad):,} of {len(values):,} rows (first: {first}); give one "
            "text a row, or leave these rows out"
        )
    return [str(value) for value in values]


def _ids(ids: Any, count: int, name: str, of_what: str) -> list[str] | None:
    """Names as text."""
    if ids is None:
        return None
    if len(ids) != count:
        raise DataError(f"{name} has {len(ids):,} entries, but {of_what} has {count:,} rows")
    return [str(own) for own in ids]


def _check_unique(ids: Sequence[str] | None, name: str) -> None:
    if ids is not None and len(set(ids)) < len(ids):
        twice, times = Counter(ids).most_common(1)[0]
        raise DataError(f"{name} are unique, but {twice!r} is there {times:,} times")


def _check_row_by_row(images: int, captions: int) -> None:
    if images == captions:
        return
    each = captions // images
    example = f"; for {each} captions an image in order, numpy.repeat(numpy.arange({images}), {each})"
    raise DataError(
        f"images has {images:,} rows and captions {captions:,}, but without image_of_caption row k is paired with row "
        f"k: give image_of_caption, the row of the image of each caption{example if captions == images * each else ''}"
    )


def _numbered(keys: Sequence[Hashable]) -> tuple[Int[Tensor, " rows"], Int[Tensor, " distinct"]]:
    """The number of each row's key, by first appearance, and the first row of each."""
    numbers: dict[Hashable, int] = {}
    number = torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])
    return number, one_of_each_image(number, torch.arange(len(keys)))


def _check_one_vector_an_id(names: Sequence[str], vectors: Float[np.ndarray, "rows dim"], firsts: np.ndarray) -> None:
    """Refuse rows of one image whose vectors differ."""
    other = np.flatnonzero((vectors != vectors[firsts]).any(axis=1))
    if len(other):
        row = int(other[0])
        raise DataError(
            f"rows {int(firsts[row])} and {row} of images have the id {names[row]!r} but different vectors: rows of "
            "one image have the same vector"
        )


def _indices(values: Any, count: int) -> Int[Tensor, " captions"]:
    """The row of each caption's image; its range is checked by `Pairs`."""
    array = as_numpy(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"image_of_caption is {array.dtype} of shape {array.shape}, but it is one whole number a caption: the row "
            "of its image, counted from 0"
        )
    if len(array) != count:
        raise DataError(f"image_of_caption has {len(array):,} entries, but captions has {count:,} rows")
    return torch.from_numpy(array.astype(np.int64))
