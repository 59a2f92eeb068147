"""A table of captions and images (CSV, TSV, JSONL, Parquet) as pairs: one row is one caption with its image."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from truepair.config import TableColumns
from truepair.data.features import FeatureFile, Features, check_finite
from truepair.data.pairs import Inputs, Pairs, Pictures, Splits
from truepair.data.pictures import ChosenPictures, PictureFiles, patch_features
from truepair.data.splitting import SPLIT_NAMES, known_split, pairs_and_their_images, random_split, split_by_name
from truepair.errors import ConfigError, DataError
from truepair.sources.table_files import TableFile, ids_of, open_table


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out because its picture cannot be read."""

    row: int
    """Which row, counted from 1 without the header."""
    picture: str
    """The picture's path, or its image id where the table holds the pictures themselves."""
    why: str
    """What went wrong."""


def load_table(
    table: str | Path | TableFile,
    columns: TableColumns = TableColumns(),  # noqa: B008, it is frozen
    *,
    image_root: str | Path | None = None,
    split: str | None = None,
    image_features: str | Path | None = None,
    caption_features: str | Path | None = None,
    patch_file: str | Path | None = None,
    skipped: list[SkippedRow] | None = None,
) -> Pairs:
    """The pairs of a table, in the table's order.

    Rows are captions of one image if they have the same image id; without ids, if they name the same path or hold
    identical bytes; rows with feature vectors only are images of their own.

    The images' inputs are, in this order of preference, the file `image_features`, the column of that name, or patches
    of the pictures themselves (see `truepair.data.pictures.patch_features`). Only in the last case are the pictures
    read here. Otherwise they are read when they are looked at, and one that is missing is an error then.

    Args:
        table: A ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, in UTF-8 (with or without a byte order mark), or
            one that is open already.
        columns: What the columns are called.
        image_root: The folder that relative picture paths start from; the table's own folder by default.
        split: The split to load (train, dev, test or one of their other names); all rows by default.
        image_features: A ``.npy`` file with one row a distinct image of the whole table, in the order in which they
            first appear.
        caption_features: A ``.npy`` file with one row a table row.
        patch_file: Where to write patches (``.npy``) if they are too many for memory.
        skipped: A list to which rows with unreadable pictures are added, and which are then left out. Without such a
            list an unreadable picture is an error, so that nothing is lost unnoticed.

    Raises:
        DataError: If the table cannot be read, a column is missing, a row lacks its caption or image, ids or features
            contradict each other, feature counts differ, or pictures are unreadable.
        ConfigError: If nothing says what an image looks like, or a split is asked for that has no column or an
            unknown name.
    """
    table = _opened(table)
    inputs = _FeatureSources(image_features, caption_features, patch_file)
    pairs, split_of_pair = _load(table, columns, image_root, inputs, skipped)
    if split is None:
        return pairs
    if split_of_pair is None:
        raise ConfigError(f"split {split!r} was asked for but columns.split is None; name the column that says it")
    if known_split(split) is None:
        raise ConfigError(f"there is no split {split!r}; ask for train, dev or test")
    rows = [row for row, name in enumerate(split_of_pair) if name == known_split(split)]
    if not rows:
        present = ", ".join(sorted(set(split_of_pair)))
        raise DataError(f"{table.path} has no rows in split {split!r} (there are: {present})")
    return pairs_and_their_images(pairs, rows)


def load_table_splits(
    table: str | Path | TableFile,
    columns: TableColumns = TableColumns(),  # noqa: B008, it is frozen
    *,
    image_root: str | Path | None = None,
    image_features: str | Path | None = None,
    caption_features: str | Path | None = None,
    patch_file: str | Path | None = None,
    skipped: list[SkippedRow] | None = None,
    development_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
    name: str | None = None,
) -> Splits:
    """A table as training, development and test pairs, none of which share an image.

    The table's split column decides. If there is none, images are drawn at random with all of their captions.

    Args:
        table: See `load_table`.
        columns: See `load_table`.
        image_root: See `load_table`.
        image_features: See `load_table`.
        caption_features: See `load_table`.
        patch_file: See `load_table`.
        skipped: See `load_table`.
        development_share: Share of the images, in (0, 1), for development; unused with a split column.
        test_share: Share of the images, in (0, 1), for the test; unused with a split column.
        seed: The seed of the random split; unused with a split column.
        name: What the corpus is called in reports; the file's name without its extension by default.

    Raises:
        DataError: As `load_table`; also if an image is in two splits, or a split is empty.
        ConfigError: As `load_table`; also if the shares are out of range or leave a split without images.
    """
    table = _opened(table)
    inputs = _FeatureSources(image_features, caption_features, patch_file)
    pairs, split_of_pair = _load(table, columns, image_root, inputs, skipped)
    name = table.path.stem if name is None else name
    if split_of_pair is None:
        split_of_image = random_split(len(pairs.images), development_share, test_share, seed)
        split_of_pair = [split_of_image[image] for image in pairs.image_of_caption.tolist()]
    return split_by_name(pairs, split_of_pair, name)


@dataclass(frozen=True)
class _FeatureSources:
    """Files beside the table that features are read from or written to."""

    images: str | Path | None
    captions: str | Path | None
    patches: str | Path | None


def _opened(table: str | Path | TableFile) -> TableFile:
    return open_table(Path(table)) if isinstance(table, str | Path) else table


def _load(
    table: TableFile,
    columns: TableColumns,
    image_root: str | Path | None,
    sources: _FeatureSources,
    skipped: list[SkippedRow] | None,
) -> tuple[Pairs, list[str] | None]:
    """All pairs of the table whose pictures are readable, and the split of each where a column says it."""
    _check_columns(table, columns)
    named_captions = ids_of(table, columns.caption_id)
    captions = _captions(table, columns.caption, named_captions)
    caption_ids = named_captions or [f"row-{row}" for row in range(1, len(table) + 1)]
    _check_unique(table, columns.caption_id, caption_ids)
    split_of_row = _splits(table, columns.split)

    root = table.path.parent if image_root is None else Path(image_root)
    has_features = sources.images is not None or columns.image_feature is not None
    row_images = _row_images(table, columns, root, has_features)
    number_of_key: dict[str, int] = {}
    image_of_row = [number_of_key.setdefault(key, len(number_of_key)) for key in row_images.keys]
    first_rows: list[int] = np.unique(image_of_row, return_index=True)[1].tolist()  # [images], by first appearance
    pictures = None if row_images.pictures is None else ChosenPictures(row_images.pictures, first_rows)
    images, unreadable = _image_inputs(table, columns, sources, image_of_row, first_rows, pictures)
    pairs = Pairs(
        images=images,
        captions=captions,
        image_of_caption=torch.tensor(image_of_row),
        image_ids=[row_images.names[row] for row in first_rows],
        caption_ids=caption_ids,
        caption_inputs=_caption_inputs(table, columns, sources),
        pictures=pictures,
    )
    if not unreadable:
        return pairs, split_of_row
    lost = [
        SkippedRow(row + 1, row_images.names[row], unreadable[image])
        for row, image in enumerate(image_of_row)
        if image in unreadable
    ]
    _check_loss(table, lost, len(unreadable), root, may_skip=skipped is not None)
    if skipped is not None:
        skipped.extend(lost)
    kept = [row for row, image in enumerate(image_of_row) if image not in unreadable]
    split_of_pair = None if split_of_row is None else [split_of_row[row] for row in kept]
    return pairs_and_their_images(pairs, kept), split_of_pair


def _image_inputs(
    table: TableFile,
    columns: TableColumns,
    sources: _FeatureSources,
    image_of_row: Sequence[int],
    first_rows: Sequence[int],
    pictures: Pictures | None,
) -> tuple[Inputs, dict[int, str]]:
    """What the image encoder reads, one row an image, and why for each image whose picture is unreadable."""
    if sources.images is not None:
        of_what = f"distinct images in {table.path}, by first appearance"
        return _feature_file(sources.images, len(first_rows), of_what), {}
    if columns.image_feature is not None:
        vectors = table.vectors(columns.image_feature)
        _check_one_vector_an_image(table, columns.image_feature, vectors, image_of_row, first_rows)
        return Features(vectors[first_rows]), {}
    if pictures is None:
        raise ConfigError(
            "there is nothing to see an image by: columns.image and columns.image_feature are None and there is no "
            "image_features file; give one of them"
        )
    patched = patch_features(pictures, file=None if sources.patches is None else Path(sources.patches))
    return patched.features, patched.unreadable


def _caption_inputs(table: TableFile, columns: TableColumns, sources: _FeatureSources) -> Inputs | None:
    if sources.captions is not None:
        return _feature_file(sources.captions, len(table), f"rows in {table.path}")
    if columns.caption_feature is not None:
        return Features(table.vectors(columns.caption_feature))
    return None


@dataclass(frozen=True)
class _RowImages:
    """The image side of each row."""

    keys: list[str]
    """Equal for rows with the same image."""
    names: list[str]
    """What the image is called."""
    pictures: Pictures | None
    """One a row."""


def _row_images(table: TableFile, columns: TableColumns, root: Path, has_features: bool) -> _RowImages:
    names = ids_of(table, columns.image_id)
    if columns.image is None:
        keys = names or [f"row-{row}" for row in range(1, len(table) + 1)]
        return _RowImages(keys, keys, None)

    pictures = table.embedded_pictures(columns.image)
    if pictures is None:
        paths = _paths(table, columns.image)
        pictures, contents = PictureFiles([root / path for path in paths]), paths
        names = names or paths
    else:
        # Pictures that are neither told apart by their bytes nor turned into patches need not be read now.
        must_read = names is None or not has_features
        contents = [hashlib.sha256(pictures[row]).hexdigest() for row in range(len(table))] if must_read else []
    if names is None:
        first_row: dict[str, int] = {}
        names = [f"row-{first_row.setdefault(content, row)}" for row, content in enumerate(contents, start=1)]
        return _RowImages(contents, names, pictures)
    if contents and columns.image_id is not None:
        _check_one_picture_an_id(table, columns.image_id, names, contents)
    return _RowImages(names, names, pictures)


def _paths(table: TableFile, column: str) -> list[str]:
    paths = table.values(column)
    for row, path in enumerate(paths, start=1):
        if path is None or path == "":
            raise DataError(f"{table.path}: row {row} has a caption but no image (column {column!r} is empty)")
        if not isinstance(path, str):
            raise DataError(
                f"{table.path}: row {row} of column {column!r} holds {path!r}; an image is a path, or bytes in Parquet"
            )
    return paths


def _captions(table: TableFile, column: str, names: Sequence[str] | None) -> list[str]:
    captions = table.values(column)
    for row, caption in enumerate(captions, start=1):
        if caption is None or caption == "" or (isinstance(caption, str) and not caption.strip()):
            name = "" if names is None else f" ({names[row - 1]!r})"
            raise DataError(
                f"{table.path}: row {row}{name} has an image but no caption (column {column!r} is empty); "
                "write one or leave the row out"
            )
        if not isinstance(caption, str):
            raise DataError(
                f"{table.path}: row {row} of column {column!r} holds {caption!r}, which is not text; "
                f"give each caption a row of its own"
            )
    return captions


def _splits(table: TableFile, column: str | None) -> list[str] | None:
    if column is None:
        return None
    splits = []
    for row, name in enumerate(table.values(column), start=1):
        known = known_split(str(name))
        if known is None:
            raise DataError(
                f"{table.path}: row {row} is in split {name!r} (column {column!r}); known are {', '.join(SPLIT_NAMES)}"
            )
        splits.append(known)
    return splits


def _feature_file(path: str | Path, expected: int, of_what: str) -> FeatureFile:
    features = FeatureFile(Path(path))
    if len(features) != expected:
        raise DataError(f"{path} has {len(features):,} rows but there are {expected:,} {of_what}")
    check_finite(features, str(path))
    return features


def _check_columns(table: TableFile, columns: TableColumns) -> None:
    for role, name in vars(columns).items():
        if name is None or name in table.names:
            continue
        lower = {present.lower(): present for present in table.names}
        close = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"did you mean {lower[close[0]]!r}?" if close else f"say which column holds it (columns.{role})"
        raise DataError(f"{table.path} has no column {name!r}; it has {', '.join(map(repr, table.names))}; {hint}")


def _check_unique(table: TableFile, column: str | None, caption_ids: Iterable[str]) -> None:
    row_of_id: dict[str, int] = {}
    for row, name in enumerate(caption_ids, start=1):
        earlier = row_of_id.setdefault(name, row)
        if earlier != row:
            raise DataError(f"{table.path}: rows {earlier} and {row} have the same caption id {name!r} ({column!r})")


def _check_one_picture_an_id(table: TableFile, column: str, names: Sequence[str], contents: Sequence[str]) -> None:
    row_of_name: dict[str, int] = {}
    for row, (name, content) in enumerate(zip(names, contents, strict=True)):
        earlier = row_of_name.setdefault(name, row)
        if contents[earlier] != content:
            raise DataError(
                f"{table.path}: rows {earlier + 1} and {row + 1} have the same image id {name!r} ({column!r}) but "
                f"different pictures"
            )


def _check_one_vector_an_image(
    table: TableFile,
    column: str,
    vectors: Float[np.ndarray, "rows dim"],
    image_of_row: Sequence[int],
    first_rows: Sequence[int],
) -> None:
    first_row_of_row = np.asarray(first_rows)[image_of_row]
    other = np.flatnonzero((vectors != vectors[first_row_of_row]).any(axis=1))
    if len(other):
        raise DataError(
            f"{table.path}: rows {first_row_of_row[other[0]] + 1} and {other[0] + 1} are of the same image but differ "
            f"in column {column!r}"
        )


def _check_loss(table: TableFile, lost: Sequence[SkippedRow], pictures: int, root: Path, *, may_skip: bool) -> None:
    """Unreadable pictures are an error unless the caller asked to be told of them, and always if all are."""
    all_are = len(lost) == len(table)
    if may_skip and not all_are:
        return
    which = "all" if all_are else f"{pictures:,} of the"
    next_step = "is that where they are?" if all_are else "mend them, or pass a list as `skipped` to leave the rows out"
    raise DataError(
        f"{table.path}: {which} pictures are unreadable, in {len(lost):,} of {len(table):,} rows (first: row "
        f"{lost[0].row}, {lost[0].picture}: {lost[0].why}); image_root is {str(root)!r}; {next_step}"
    )
