"""The first rows of a source, looked at before an encoder is loaded: what is wrong with all of them is said at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from truepair.errors import DataError
from truepair.sources.captions import HUGE_CAPTION
from truepair.sources.datasets import METADATA
from truepair.sources.decoding import HUGE, decoded
from truepair.sources.picture_files import HUGE_FILE, LINK, UnreadablePictureError, left_out
from truepair.sources.protocol import Kind, Sample, Skipped, Source
from truepair.sources.stores import StorePath
from truepair.sources.tables import TableSource

_ROWS = 20
_LONGEST = 400
"""Characters of what was found that are shown; a cell may hold anything in place of a path."""
_CAPTIONS: dict[Kind, str] = {
    "folder": "captions are the lines of the .txt or .caption file of a picture's name, or what its .json has as "
    '"caption"',
    "webdataset": 'captions are what the .txt of a picture\'s key holds, or what its .json has as "caption"',
    **dict.fromkeys(("coco", "karpathy", "tokens"), "is it the right file, and is it complete?"),
}
"""Where captions are read from, of sources without columns that could be named."""
_MOST_SEARCHED = 20_000
"""Files among which a picture is sought whose root is wrong."""


def look_first(source: Source, most_pixels: int) -> None:
    """Read the first twenty pictures of a source, until one can be decoded.

    Args:
        source: What is to be read.
        most_pixels: See `truepair.sources.decoding.decoded`.

    Raises:
        DataError: If there are some and none can be read; it says why, and the next step.
    """
    faults: list[Skipped] = []
    for item in islice(_items(source), _ROWS):
        if isinstance(item, Sample):
            try:
                decoded(item.picture, largest_side=64, most_pixels=most_pixels)
            except UnreadablePictureError as error:
                faults.append(left_out(item, error))
                continue
            return
        faults.append(item)
    if not faults:
        return
    reason = Counter(fault.reason for fault in faults).most_common(1)[0][0]
    first = next(fault for fault in faults if fault.reason == reason)
    number = len(faults)
    which = "its only row" if number == 1 else f"all of its first {number} rows"
    what = "caption" if all("caption" in fault.reason for fault in faults) else "picture"
    raise DataError(
        f"{source.path}: no {what} can be read of {which}: {reason} ({_detail(first)}); {_next_step(source, first)}"
    )


def _items(source: Source) -> Iterator[Sample | Skipped]:
    return chain.from_iterable(source.read(shard) for shard in source.shards())


def _detail(first: Skipped) -> str:
    """What was found, without the reason, which is said already."""
    said = first.detail.partition(f": {first.reason}")[0] or first.where
    return said if len(said) <= _LONGEST else said[: _LONGEST - 1] + "…"


def _next_step(source: Source, first: Skipped) -> str:
    """What the user can do about a kind of fault."""
    known = {
        "Git LFS pointer, not a picture": "fetch the pictures with 'git lfs pull' in their folder",
        "picture is an address, which is not fetched": "download the pictures first, for instance with img2dataset, "
        "and name the column of their files with --image-col; addresses of a store (s3://, gs://, hf://) are read if "
        "--image-root names the folder there that they lie in",
        "outside the image root": "name a folder above them with --image-root, or read them all the same with "
        "--allow-outside",
        "picture without captions": "captions are read from .txt, .caption or .json files of the same name, or from a "
        "table (metadata.csv, metadata.jsonl)",
        "empty caption": _CAPTIONS.get(source.kind, "name the column of captions with --caption-col"),
        "caption is not text": _CAPTIONS.get(source.kind, "name the column of captions with --caption-col"),
        "no picture named": "name the column of pictures with --image-col",
        HUGE: "raise --largest-pixels, or make them smaller",
        HUGE_FILE: "raise --largest-file, or make them smaller",
        HUGE_CAPTION: "raise --longest-caption, if that is a caption",
        LINK: "read what links lead to with --follow-links, or copy the files into the folder",
    }
    if first.reason in known:
        return known[first.reason]
    if first.reason == "missing picture" and isinstance(source, TableSource):
        return _root_hint(source)
    return "is it the right file, and are the pictures complete?"


def _root_hint(source: TableSource) -> str:
    """Where the first picture of a table lies instead of where it should."""
    part = source.parts[0]
    written = next((path for picture in source.pictures() if (path := source.path_of(picture.rows[0]))), "")
    name = PurePosixPath(str(written).strip().replace("\\", "/"))
    if source.kind == "imagefolder" and isinstance(part.root, Path):
        inside = part.root / name.name
        if inside.is_file():
            return (
                f"in {' and '.join(METADATA)} file_name starts at the folder that the file lies in: write "
                f"{name.name!r} for {str(written)!r}"
            )
    root = None if isinstance(part.root, StorePath) else _root_that_has(Path(str(part.root)), name)
    if root is not None:
        return f"it is there from another folder on: --image-root {root}"
    return f"relative paths start at {part.root}: name the right folder with --image-root"


def _root_that_has(root: Path, name: PurePosixPath) -> Path | None:
    """A folder above, beside or below the root that a relative path starts from."""
    if name.is_absolute() or not name.name:
        return None
    above = [parent for parent in list(root.resolve().parents)[:3] if (parent / name).is_file()]
    if above:
        return above[0]
    for searched, path in enumerate(root.rglob(name.name) if root.is_dir() else []):
        if searched > _MOST_SEARCHED:
            break
        if path.is_file() and path.as_posix().endswith(name.as_posix()):
            return Path(path.as_posix().removesuffix(name.as_posix()).rstrip("/") or "/")
    return None
