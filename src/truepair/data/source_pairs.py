"""A source of pictures and captions as pairs: with features from columns or files, or with patches of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from truepair.config.source import SourceConfig
from truepair.data.features import FeatureFile, Features, check_finite
from truepair.data.pairs import Inputs, Pairs, Subset
from truepair.data.pictures import SourcePictures, patches
from truepair.data.pixels import Pixels
from truepair.data.splitting import SPLIT_NAMES, known_split, pairs_and_their_images
from truepair.errors import ConfigError, DataError
from truepair.pretrained.pictures import PictureReader
from truepair.sources.first_look import look_first
from truepair.sources.picture_files import UnreadablePictureError, left_out
from truepair.sources.protocol import Sample, Skipped, Source
from truepair.sources.tables import TableSource


@dataclass(frozen=True)
class FeatureFiles:
    """``.npy`` files beside a table.

    Attributes:
        images: One row a distinct image of the whole table, in the order in which they first appear; None for none.
        captions: One row a table row; None for none.
    """

    images: Path | None = None
    captions: Path | None = None


@dataclass(frozen=True)
class SourcePairs:
    """What a source holds.

    Attributes:
        pairs: Its pairs; those of a table in the table's order.
        split_of_pair: The split of each, as the source calls it; None where it says nothing.
        skipped: What could not be read, and was left out.
    """

    pairs: Pairs
    split_of_pair: Sequence[str | None]
    skipped: Sequence[Skipped]

    @property
    def known_splits(self) -> list[str] | None:
        """``train``, ``dev`` or ``test`` of each pair; None if that is not known of every one."""
        known = [None if split is None else known_split(split) for split in self.split_of_pair]
        return None if any(split is None for split in known) else [split for split in known if split is not None]


@dataclass(frozen=True)
class _Entry:
    """A pair to be."""

    image: int
    caption_id: str
    caption: str
    split: str | None


def pairs_of(
    source: Source,
    options: SourceConfig = SourceConfig(),  # noqa: B008, it is frozen
    features: FeatureFiles = FeatureFiles(),
    reader: PictureReader | None = None,
) -> SourcePairs:
    """The pairs of a source.

    An image's inputs are, in this order of preference, the rows of the file ``features.images``, the column
    ``options.image_feature_col``, or patches of its picture (see `truepair.data.pictures.patches`). Only in the last
    case are pictures read here: those that cannot be are left out. Otherwise they are read when they are looked at.

    Args:
        source: Pictures and captions.
        options: Those that it was opened with.
        features: Files of features, for tables.
        reader: What makes pixels of pictures, to be read instead of patches; every picture is looked at here as well.

    Raises:
        DataError: If nothing can be read, features contradict each other, or their counts differ.
        ConfigError: If nothing says what an image looks like, or features are named of a source that is no table.
    """
    has_image_features = features.images is not None or options.image_feature_col is not None
    has_caption_features = features.captions is not None or options.caption_feature_col is not None
    if (has_image_features or has_caption_features) and not isinstance(source, TableSource):
        raise ConfigError(f"{source.path} is no table, and only a table has features: leave them out")
    if isinstance(source, TableSource) and source.columns.image is None and not has_image_features:
        raise ConfigError(
            f"there is nothing to see an image by: {source.path} has no column of pictures (--image-col) and none of "
            "features (--image-feature-col, --image-features)"
        )
    if not has_image_features:
        look_first(source, options.largest_pixels)
    read = _Read(source, options, with_pictures=not has_image_features, keeps_patches=reader is None)
    if not read.entries:
        first = f"; the first is {read.skipped[0].where}: {read.skipped[0].reason}" if read.skipped else ""
        raise DataError(f"{source.path} has no pair that can be read ({len(read.skipped):,} left out{first})")
    row_of = _row_of_caption(source) if isinstance(source, TableSource) else {}
    entries = read.entries
    if isinstance(source, TableSource):  # in the order of the table's rows
        entries = sorted(entries, key=lambda entry: row_of[entry.caption_id])
    has_pictures = not isinstance(source, TableSource) or source.columns.image is not None
    pictures = SourcePictures(read.references, lambda: source) if has_pictures else None
    image_inputs: Inputs = Features(np.stack(read.patches)) if read.patches else Features(np.zeros((1, 1), np.float32))
    if isinstance(source, TableSource) and has_image_features:
        image_inputs = _image_features(source, options, features.images, read.image_ids)
    elif reader is not None and pictures is not None:
        image_inputs = Pixels(pictures, reader, options.largest_pixels)
    pairs = Pairs(
        images=image_inputs,
        captions=[entry.caption for entry in entries],
        image_of_caption=torch.tensor([entry.image for entry in entries]),
        image_ids=read.image_ids,
        caption_ids=[entry.caption_id for entry in entries],
        caption_inputs=_caption_features(source, options, features.captions, [row_of[e.caption_id] for e in entries])
        if isinstance(source, TableSource) and has_caption_features
        else None,
        pictures=pictures,
    )
    splits = [entry.split for entry in entries]
    if isinstance(source, TableSource):  # rows of one image may contradict each other, which a sample does not show
        splits = [source.split_of(row_of[entry.caption_id]) for entry in entries]
    if options.split_col is not None:
        _check_splits(source.path, options.split_col, splits)
    return SourcePairs(pairs, splits, read.skipped)


def first_captions(found: SourcePairs, most: int) -> SourcePairs:
    """At most `most` captions of each image, the first ones: of MS-COCO, SCAN and its heirs keep 5 of 6 or 7.

    Raises:
        ConfigError: If that is none.
    """
    if most < 1:
        raise ConfigError(f"captions_per_image is {most}, but each image keeps at least 1 caption")
    so_far: dict[int, int] = {}
    kept = []
    for pair, image in enumerate(found.pairs.image_of_caption.tolist()):
        so_far[image] = so_far.get(image, 0) + 1
        if so_far[image] <= most:
            kept.append(pair)
    return SourcePairs(
        pairs_and_their_images(found.pairs, kept), [found.split_of_pair[pair] for pair in kept], found.skipped
    )


class _Read:
    """All samples of a source, pictures turned into patches one by one, which may be to see that they can be read."""

    def __init__(self, source: Source, options: SourceConfig, *, with_pictures: bool, keeps_patches: bool) -> None:
        self.entries: list[_Entry] = []
        self.image_ids: list[str] = []
        self.references: list[str] = []
        self.patches: list[np.ndarray] = []
        self.skipped: list[Skipped] = []
        for shard in source.shards():
            for item in source.read(shard, pictures=with_pictures):
                if isinstance(item, Skipped):
                    self.skipped.append(item)
                    continue
                if with_pictures:
                    try:
                        made = patches(item.picture, most_pixels=options.largest_pixels)
                    except UnreadablePictureError as error:
                        self.skipped.append(left_out(item, error))
                        continue
                    if keeps_patches:
                        self.patches.append(made.astype(np.float16))
                self._add(item)

    def _add(self, sample: Sample) -> None:
        for name, caption in zip(sample.caption_ids, sample.captions, strict=True):
            self.entries.append(_Entry(len(self.image_ids), name, caption, sample.split))
        self.image_ids.append(sample.image_id)
        self.references.append(sample.reference)


def _row_of_caption(source: TableSource) -> Mapping[str, int]:
    return {name: row for row in range(len(source)) for name in source.captions_of(row).ids}


def _image_features(source: TableSource, options: SourceConfig, file: Path | None, image_ids: Sequence[str]) -> Inputs:
    """One row an image that is kept: of a file's rows, or of the vectors of the images' first rows."""
    number = {picture.image_id: number for number, picture in enumerate(source.pictures())}
    chosen = torch.tensor([number[name] for name in image_ids])
    if file is not None:
        of_what = f"distinct images in {source.path}, by first appearance"
        return _feature_file(file, len(number), of_what, chosen)
    column = options.image_feature_col or ""
    vectors = np.concatenate([part.table.vectors(column) for part in source.parts])
    first_rows = np.array([picture.rows[0] for picture in source.pictures()])
    _check_one_vector_an_image(source, column, vectors, first_rows)
    return Features(vectors[first_rows[chosen.numpy()]])


def _caption_features(source: TableSource, options: SourceConfig, file: Path | None, rows: Sequence[int]) -> Inputs:
    """One row a caption that is kept."""
    chosen = torch.tensor(rows)
    if len(chosen.unique()) < len(chosen):
        raise ConfigError(
            f"{source.path} has rows with several captions, and features of captions are one a row: give each "
            "caption a row of its own"
        )
    if file is not None:
        return _feature_file(file, len(source), f"rows in {source.path}", chosen)
    column = options.caption_feature_col or ""
    vectors = np.concatenate([part.table.vectors(column) for part in source.parts])
    return Features(vectors[chosen.numpy()])


def _feature_file(path: Path, expected: int, of_what: str, chosen: torch.Tensor) -> Inputs:
    features = FeatureFile(path)
    if len(features) != expected:
        raise DataError(f"{path} has {len(features):,} rows but there are {expected:,} {of_what}")
    check_finite(features, str(path))
    is_all = len(chosen) == expected and bool((chosen == torch.arange(expected)).all())
    return features if is_all else Subset(features, chosen)


def _check_one_vector_an_image(
    source: TableSource, column: str, vectors: Float[np.ndarray, "rows dim"], first_rows: np.ndarray
) -> None:
    for picture, first in zip(source.pictures(), first_rows.tolist(), strict=True):
        for row in picture.rows[1:]:
            if (vectors[row] != vectors[first]).any():
                raise DataError(
                    f"{source.path}: rows {first + 1} and {row + 1} are of the same image but differ in column "
                    f"{column!r}"
                )


def _check_splits(path: object, column: str, splits: Sequence[str | None]) -> None:
    unknown = next((split for split in splits if split is None or known_split(split) is None), "")
    if unknown != "":
        raise DataError(
            f"{path}: a row is in split {unknown!r} (column {column!r}); known are {', '.join(SPLIT_NAMES)}"
        )
