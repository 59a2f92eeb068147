"""Flickr8K as it is distributed: the authors' token file, or the CSV file of the copy on Kaggle."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from truepair.config import TableColumns
from truepair.data.pairs import Splits
from truepair.data.splitting import random_split, split_by_name
from truepair.data.tables import SkippedRow, load_table
from truepair.errors import ConfigError, DataError
from truepair.files.lines import lines_of
from truepair.sources.table_files import TextTable, open_table

_CSV_FILE, _TOKEN_FILE = "captions.txt", "Flickr8k.token.txt"
_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_PICTURE_FOLDERS = ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset")
_MAXIMUM_MISSING = 0.1
"""Share of a list's images that may be without captions: more, and the list is of another corpus, or the file cut."""
_COPY_NUMBER = re.compile(r"(?<=\.jpg)\.\d+$")


def is_flickr8k(folder: Path) -> bool:
    """Whether a folder holds a caption file of either distribution."""
    return (folder / _CSV_FILE).is_file() or (folder / _TOKEN_FILE).is_file()


def load_flickr8k(
    folder: Path,
    *,
    image_root: str | Path | None = None,
    image_features: str | Path | None = None,
    caption_features: str | Path | None = None,
    skipped: list[SkippedRow] | None = None,
    notes: list[str] | None = None,
    development_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Flickr8K by its official split lists, or at random where there are none.

    `folder` holds either ``Flickr8k.token.txt`` (``name.jpg#k``, a tab, a caption) or ``captions.txt`` (CSV with the
    header ``image,caption``), and may hold ``Flickr_8k.{train,dev,test}Images.txt``, one file name a line. Images in no
    list, and names in a list that have no captions, are left out and noted. One image of the token file is
    called ``….jpg.1``; the ending is dropped.

    Args:
        folder: The folder; its name becomes the corpus's.
        image_root: The folder of the pictures; ``Images`` or ``Flicker8k_Dataset`` in `folder` by default.
        image_features: A ``.npy`` file with one row an image of the caption file, in the order in which they first
            appear there, whether or not a split list names them. Without it, pictures become patches.
        caption_features: A ``.npy`` file with one row a caption, in the order of the caption file.
        skipped: See `load_table`; some copies of the token file name an image that has no picture.
        notes: A list to which sentences are added: how many images were left out because of the lists.
        development_share: Share of the images, in (0, 1), for development; unused with split lists.
        test_share: Share of the images, in (0, 1), for the test; unused with split lists.
        seed: Seed of the random split; unused with split lists.

    Raises:
        DataError: If the folder holds both caption files or only some of the lists, a file cannot be parsed, a caption
            is empty, an image is in two lists, more than a tenth of a list has no captions, a split has none; or as
            `load_table`.
        ConfigError: If there are neither features nor pictures; or as `random_split`.
    """
    table = _captions(folder)
    pictures = _picture_folder(folder) if image_root is None else Path(image_root)
    if pictures is None and image_features is None:
        raise ConfigError(
            f"there is nothing to see an image by: {folder} has no folder {' or '.join(_PICTURE_FOLDERS)}; name "
            "data.image_root or data.image_features"
        )
    columns = TableColumns(image=None if pictures is None else "image", image_id="image", caption_id="caption_id")
    pairs = load_table(
        table,
        columns,
        image_root=pictures,
        image_features=image_features,
        caption_features=caption_features,
        skipped=skipped,
    )
    split_of_image = _listed(folder)
    if split_of_image is not None:
        _compare_with_lists(table, split_of_image, [] if notes is None else notes)
    else:
        splits = random_split(len(pairs.images), development_share, test_share, seed)
        split_of_image = dict(zip(pairs.image_ids, splits, strict=True))
    split_of_row = [split_of_image.get(pairs.image_ids[image]) for image in pairs.image_of_caption.tolist()]
    listed = [row for row, split in enumerate(split_of_row) if split is not None]
    return split_by_name(
        pairs.select(torch.tensor(listed, dtype=torch.long)), [s for s in split_of_row if s is not None], folder.name
    )


def _captions(folder: Path) -> TextTable:
    csv_file, token_file = folder / _CSV_FILE, folder / _TOKEN_FILE
    if csv_file.is_file() and token_file.is_file():
        raise DataError(
            f"{folder} has both {_CSV_FILE} and {_TOKEN_FILE}, whose images may be in another order; keep one of them"
        )
    return _from_csv(csv_file) if csv_file.is_file() else _from_tokens(token_file)


def _from_csv(path: Path) -> TextTable:
    table = open_table(path, extension=".csv")
    if table.names != ["image", "caption"]:
        raise DataError(f"{path} begins with {','.join(table.names)!r}, but the header 'image,caption' is expected")
    images = table.values("image")
    caption_ids, captions_so_far = [], Counter[str]()
    for image in images:
        caption_ids.append(f"{image}#{captions_so_far[image]}")
        captions_so_far[image] += 1
    return _table(path, images, caption_ids, table.values("caption"))


def _from_tokens(path: Path) -> TextTable:
    images, caption_ids, captions = [], [], []
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        image, mark, _ = name.partition("#")
        if not tab or not mark or not image:
            raise DataError(f"{path}, line {number:,} is {line[:60]!r}, but 'name.jpg#0', a tab, a caption is expected")
        images.append(_COPY_NUMBER.sub("", image))
        caption_ids.append(name)
        captions.append(caption)
    if not captions:
        raise DataError(f"{path} has no captions")
    return _table(path, images, caption_ids, captions)


def _table(
    path: Path, images: Sequence[str | None], caption_ids: Sequence[str], captions: Sequence[str | None]
) -> TextTable:
    columns: dict[str, list[Any]] = {"image": list(images), "caption_id": list(caption_ids), "caption": list(captions)}
    return TextTable(path, list(columns), columns, rows=len(captions))


def _picture_folder(folder: Path) -> Path | None:
    return next((folder / name for name in _PICTURE_FOLDERS if (folder / name).is_dir()), None)


def _listed(folder: Path) -> dict[str, str] | None:
    """Split of each image that a list names; None if there are no lists."""
    paths = {split: folder / name for split, name in _LISTS.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if len(missing) == len(paths):
        return None
    if missing:
        raise DataError(
            f"{folder} has some of the split lists, but not {', '.join(missing)}; add what is missing, or move the "
            "lists away to split at random"
        )
    split_of_image: dict[str, str] = {}
    for split, path in paths.items():
        for number, line in enumerate(lines_of(path), 1):
            name = line.strip()
            if name and split_of_image.setdefault(name, split) != split:
                raise DataError(
                    f"{path}, line {number:,}: {name!r} is also in {_LISTS[split_of_image[name]]}; an image belongs to "
                    "one split"
                )
    return split_of_image


def _compare_with_lists(table: TextTable, split_of_image: Mapping[str, str], notes: list[str]) -> None:
    """Note what is only in the caption file or only in the lists; refuse a list that is hardly about these captions."""
    has_captions = dict.fromkeys(table.values("image"))
    for split, name in _LISTS.items():
        images = [image for image, its_split in split_of_image.items() if its_split == split]
        missing = [image for image in images if image not in has_captions]
        if len(missing) > _MAXIMUM_MISSING * len(images):
            raise DataError(
                f"{len(missing):,} of the {len(images):,} images of {name} have no captions in {table.path} (the first "
                f"is {missing[0]!r}; the first with captions is {next(iter(has_captions))!r}); are they of the same "
                "corpus, and is the caption file whole?"
            )
        if missing:
            notes.append(f"{len(missing):,} of the {len(images):,} images of {name} have no captions and are left out")
    unlisted = sum(image not in split_of_image for image in has_captions)
    if unlisted:
        notes.append(
            f"{unlisted:,} of the {len(has_captions):,} images of {table.path.name} are in no split list and are left "
            "out"
        )
