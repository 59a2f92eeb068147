"""Caption files of published corpora as tables: COCO captions, Karpathy's splits, token files of Flickr8K and 30K.

Each becomes a `RowsTable` with the columns of `COLUMNS`: a row a caption.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from truepair.errors import DataError
from truepair.files.json import parsed_json
from truepair.sources.picture_files import Location, folder_of
from truepair.sources.table_files import RowsTable, table_of_objects
from truepair.sources.text_files import content_of, opened_text

COLUMNS: dict[str, Any] = {
    "caption_col": ("caption",),
    "image_id_col": "image",
    "caption_id_col": "caption_id",
    "split_col": "split",
}
"""What the columns of these tables are called, beside "image"."""

_PICTURE_FOLDERS = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", "flickr30k_images")
_COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017")
_COPY_NUMBER = re.compile(r"(?<=\.jpg)\.\d+$")
_TOKEN_LINE = re.compile(r"(?P<name>[^\t#]+\.[A-Za-z]+(?:\.\d+)?)#(?P<number>\d+)\t(?P<caption>.*)", re.DOTALL)


def is_token_file(path: Location) -> bool:
    r"""Whether a file's first line reads ``name.jpg#0``, a tab, a caption."""
    try:
        with opened_text(path) as file:
            return _TOKEN_LINE.match(file.readline()) is not None
    except DataError:
        return False


def token_table(path: Location) -> RowsTable:
    """A token file as a table; a line of another form is a fault. ``….jpg.1`` is called ``….jpg``.

    Raises:
        DataError: If no line is of the form.
    """
    cells: dict[str, list[Any]] = {"image": [], "caption": [], "caption_id": [], "split": []}
    faults: dict[int, str] = {}
    with opened_text(path) as file:
        for line in token_lines(file):
            said = line.rstrip("\r\n")
            found = _TOKEN_LINE.match(said)
            if found is None:
                faults[len(cells["image"])] = f"{said[:60]!r}, but 'name.jpg#0', a tab, a caption is expected"
            name = None if found is None else found["name"]
            cells["image"].append(name and _COPY_NUMBER.sub("", name))
            cells["caption"].append(found and found["caption"])
            cells["caption_id"].append(found and f"{name}#{found['number']}")
            cells["split"].append(None)
    if len(faults) == len(cells["image"]):
        raise DataError(f"{path} has no line of the form 'name.jpg#0', a tab, a caption")
    return RowsTable(path, cells, faults=faults)


def token_lines(file: Any) -> list[str]:
    """The lines of a token file that are not blank, with their ends: one a row of `token_table`."""
    return [line for line in file if line.strip()]


def json_document(path: Location) -> Any:
    """A JSON file, plain or compressed.

    Raises:
        DataError: If it cannot be read, or is no JSON.
    """
    content = content_of(path)
    try:
        return parsed_json(content, str(path))
    except DataError:
        first, *others = content.strip().split(b"\n", 1)
        if others and isinstance(parsed_json(first, str(path)), dict):
            raise DataError(f"{path} has a JSON object a line: rename it to .jsonl") from None
        raise


def is_coco(document: Any) -> bool:
    """Whether a JSON document is of the form of COCO's captions."""
    return isinstance(document, dict) and isinstance(document.get("annotations"), list)


def is_karpathy(document: Any) -> bool:
    """Whether a JSON document is of the form of Karpathy's splits."""
    return isinstance(document, dict) and isinstance(document.get("images"), list) and not is_coco(document)


def coco_table(path: Location, document: Any) -> RowsTable:
    """COCO captions, ``{"images": [{id, file_name}], "annotations": [{id, image_id, caption}]}``, as a table.

    Raises:
        DataError: If something of this is missing.
    """
    names: dict[Any, str] = {}
    for number, image in enumerate(document.get("images") or []):
        if not isinstance(image, dict) or "id" not in image or not isinstance(image.get("file_name"), str):
            raise DataError(f"{path}: image {number:,} (counted from 0) needs an id and a file_name")
        _check_id(path, f"image {number:,}", image["id"])
        names[image["id"]] = image["file_name"]
    cells: dict[str, list[Any]] = {"image": [], "caption": [], "caption_id": [], "split": []}
    faults: dict[int, str] = {}
    for row, annotation in enumerate(document["annotations"]):
        if not isinstance(annotation, dict) or "image_id" not in annotation or "caption" not in annotation:
            raise DataError(
                f"{path}: annotation {row:,} (counted from 0) needs image_id and caption; boxes and keypoints are not "
                "captions"
            )
        _check_id(path, f"annotation {row:,}", annotation["image_id"])
        name = names.get(annotation["image_id"])
        if name is None:
            faults[row] = f"image_id {annotation['image_id']!r} is not among the images"
        cells["image"].append(name)
        cells["caption"].append(annotation["caption"])
        cells["caption_id"].append(str(annotation.get("id", f"row-{row + 1}")))
        cells["split"].append(None)
    return RowsTable(path, cells, faults=faults)


def _check_id(path: Location, of_what: str, name: object) -> None:
    if isinstance(name, list | dict):
        raise DataError(f"{path}: {of_what} (counted from 0) has {name!r:.60} as an id, which is a number or a text")


def karpathy_table(path: Location, document: Any) -> RowsTable:
    """Karpathy's splits, ``{"images": [{filename, filepath, split, sentences: [{raw, sentid}]}]}``, as a table.

    Images are called ``filepath/filename``; captions are the ``raw`` ones and are called by their ``sentid``. Other
    keys, and those in which the three files differ (``imgid``, ``cocoid``, ``tokens``), are not looked at.

    Raises:
        DataError: If something of this is missing, or an image occurs twice.
    """
    cells: dict[str, list[Any]] = {"image": [], "caption": [], "caption_id": [], "split": []}
    seen = set()
    for number, image in enumerate(document["images"]):
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
        seen.add(name)
        for raw, sentid in sentences:
            cells["image"].append(name)
            cells["caption"].append(raw)
            cells["caption_id"].append(str(sentid))
            cells["split"].append(split)
    if not cells["image"]:
        raise DataError(f"{path} lists no images with sentences")
    return RowsTable(path, cells)


def object_table(path: Location, document: Any) -> RowsTable:
    """A JSON list of objects as a table.

    Raises:
        DataError: If it is something else.
    """
    if not isinstance(document, list):
        keys = f"an object with {', '.join(map(repr, list(document)[:5]))}" if isinstance(document, dict) else "no list"
        raise DataError(
            f"{path} is {keys}; a JSON file is read as a list of objects, as COCO captions (images and annotations) or "
            "as Karpathy's splits (images with sentences)"
        )
    return table_of_objects(path, document, lambda place: f"item {place + 1}")


def folder_of_pictures(folder: Location, names: Sequence[str]) -> Location:
    """Where the pictures of a caption file lie: in its folder, or in the usual one below or beside it."""
    name, above = next(iter(names), ""), folder_of(folder)
    beside = [parent / usual for parent in (folder, above) for usual in _PICTURE_FOLDERS]
    places = [folder, *beside, above, *(above / split for split in _COCO_FOLDERS)]
    return next((place for place in places if name and (place / name).is_file()), folder)
