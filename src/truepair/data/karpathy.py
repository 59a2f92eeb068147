"""Karpathy's splits: ``dataset_flickr8k.json``, ``dataset_flickr30k.json``, ``dataset_coco.json``."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from truepair.config import TableColumns
from truepair.data.pairs import Splits
from truepair.data.tables import SkippedRow, load_table_splits
from truepair.errors import DataError
from truepair.sources.table_files import TextTable


def load_karpathy(
    path: Path,
    *,
    captions_per_image: int | None = None,
    image_root: str | Path | None = None,
    image_features: str | Path | None = None,
    caption_features: str | Path | None = None,
    skipped: list[SkippedRow] | None = None,
) -> Splits:
    """The splits of a JSON file ``{"images": [{filename, filepath, split, sentences: [{raw, sentid}]}]}``.

    Images of ``restval`` count as training images, as in every MS-COCO table of the field (113,287 in all). Captions
    are the ``raw`` ones and are called by their ``sentid``; images are called ``filepath/filename``. Other keys, and
    those in which the three files differ (``imgid``, ``cocoid``, ``tokens``), are not looked at.

    Args:
        path: The file; its name becomes the corpus's.
        captions_per_image: Keep the first so many captions of each image; None keeps all. Of MS-COCO, in which some
            images have 6 or 7, SCAN and its heirs keep 5.
        image_root: The folder that ``filepath/filename`` starts from; the file's own folder by default. Without it,
            and with `image_features`, pictures are not looked for.
        image_features: A ``.npy`` file with one row an image, all splits together, in the file's order. Without it,
            pictures become patches.
        caption_features: A ``.npy`` file with one row a caption that is kept, in the file's order.
        skipped: See `load_table`.

    Raises:
        DataError: If the file is not of this form, an image occurs twice or has no sentences, a caption is empty, an
            id occurs twice, or a split is unknown or empty; or as `load_table`.
    """
    has_pictures = image_root is not None or image_features is None
    return load_table_splits(
        _table(path, captions_per_image),
        TableColumns(
            image="filename" if has_pictures else None,
            image_id="filename",
            caption="raw",
            caption_id="sentid",
            split="split",
        ),
        image_root=image_root,
        image_features=image_features,
        caption_features=caption_features,
        skipped=skipped,
    )


def _table(path: Path, captions_per_image: int | None) -> TextTable:
    """One row a caption."""
    if captions_per_image is not None and captions_per_image < 1:
        raise DataError(f"captions_per_image is {captions_per_image}, but each image keeps at least 1 caption")
    columns: dict[str, list[Any]] = {"filename": [], "split": [], "raw": [], "sentid": []}
    seen = set()
    for number, image in enumerate(_images(path)):
        try:
            name = str(PurePosixPath(image.get("filepath", ""), image["filename"]))
            sentences = [(sentence["raw"], sentence["sentid"]) for sentence in image["sentences"]]
            split = image["split"]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: image {number:,} (counted from 0) is not as expected ({error!r}); it needs filename, split "
                "and sentences, each with raw and sentid"
            ) from error
        if name in seen:
            raise DataError(f"{path}: two images are called {name!r}; names must be unique")
        if not sentences:
            raise DataError(f"{path}: image {number:,} ({name!r}) has no sentences; leave it out of the file")
        seen.add(name)
        for raw, sentid in sentences[:captions_per_image]:
            columns["filename"].append(name)
            columns["split"].append(split)
            columns["raw"].append(raw)
            columns["sentid"].append(sentid)
    if not seen:
        raise DataError(f"{path} lists no images")
    return TextTable(path, list(columns), columns, rows=len(columns["raw"]))


def _images(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); download it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{path} is not a Karpathy split file: a JSON object with a list of 'images'")
    images: list[Any] = content["images"]
    return images
