"""Picture files as they are found on disk, in a zip archive or in a store."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import TypeAlias

from truepair.config.source import SourceConfig
from truepair.errors import DataError, said_by
from truepair.sources.protocol import Sample, Skipped
from truepair.sources.stores import StorePath

PICTURE_EXTENSIONS = (
    *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"),
    *("jfif", "jpe", "avif", "heic", "heif"),
)
HUGE_FILE = "huge file"
LINK = "link out of the folder"
"""Reasons to leave a picture out."""
BROKEN_MEMBER = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
"""What zipfile raises for members that are damaged, packed in a way that it does not know, or encrypted."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""What a file begins with that Git LFS has not fetched."""

Location: TypeAlias = Path | zipfile.Path | StorePath
"""A file or folder, on disk, in a zip archive or in a store."""


def folder_of(location: Location) -> Location:
    """The folder that a file or folder is in."""
    if isinstance(location, Path | StorePath):
        return location.parent
    inside = location.at.rstrip("/").rpartition("/")[0]
    return zipfile.Path(location.root, f"{inside}/" if inside else "")


class UnreadablePictureError(DataError):
    """A picture that is not where it should be, or cannot be had from there.

    Attributes:
        reason: A few words that are the same for the same kind of fault.
    """

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.reason = reason


def left_out(sample: Sample, error: UnreadablePictureError) -> Skipped:
    """What is said of a sample whose picture cannot be read."""
    return Skipped(sample.reference, error.reason, f"image {sample.image_id!r}: {error}", sample.caption_ids)


def is_picture_file(name: str) -> bool:
    """Whether a file name has the extension of a picture.

    >>> is_picture_file("holiday.JPG"), is_picture_file("holiday.txt")
    (True, False)
    """
    stem, _, extension = name.rpartition(".")
    return bool(stem) and extension.lower() in PICTURE_EXTENSIONS


def utf8_name(name: str) -> str:
    r"""A file's name; what of it is not UTF-8, and so could not be written to a table, is spelled out.

    >>> utf8_name("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def size_of(location: Location) -> int:
    """Bytes of a file, unpacked; 0 where a store does not say.

    Raises:
        OSError: If it is not there.
    """
    if isinstance(location, Path):
        return location.stat().st_size
    if isinstance(location, StorePath):
        entry = location.store.entry(location.address)
        return 0 if entry is None else entry.size or 0
    return location.root.getinfo(location.at).file_size


def leads_out(path: Location, folder: Location) -> bool:
    """Whether a file in a folder is a link, or lies behind one, that leads out of the folder."""
    if not isinstance(path, Path) or not isinstance(folder, Path):
        return False
    at, whole = os.path.abspath(folder), os.path.abspath(path)  # noqa: PTH100, not resolve(): links are what counts
    inside = Path(whole).relative_to(at).parts if Path(whole).is_relative_to(at) else ()
    for part in inside:
        at = os.path.join(at, part)  # noqa: PTH118, a path a part would take longer than the reading
        if os.path.islink(at):  # noqa: PTH114
            return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    return False


def check_size(size: int, where: str, largest: int) -> None:
    """Refuse a picture of more bytes than may be read.

    Raises:
        UnreadablePictureError: If it is.
    """
    if size > largest:
        raise UnreadablePictureError(HUGE_FILE, f"{where}: {size:,} bytes are more than {largest:,} (--largest-file)")


def checked_picture(encoded: bytes, where: str, largest: int = SourceConfig.largest_file) -> bytes:
    """The bytes of a picture, which are looked at only as far as to tell that they are none.

    Raises:
        UnreadablePictureError: If they are empty, more than `largest`, or a pointer of Git LFS.
    """
    check_size(len(encoded), where, largest)
    if not encoded:
        raise UnreadablePictureError("empty picture", where)
    if encoded.startswith(LFS_POINTER):
        raise UnreadablePictureError("Git LFS pointer, not a picture", where)
    return encoded


def encoded_picture(path: Location, largest: int = SourceConfig.largest_file) -> bytes:
    """The bytes of a picture file (see `checked_picture`), of which a larger one is not read.

    Raises:
        UnreadablePictureError: If it is missing, no file, empty, larger than `largest`, a pointer of Git LFS,
            or cannot be read.
        StoreError: If a store refuses or fails, of which a later run may have the picture.
    """
    if isinstance(path, StorePath):
        try:
            check_size(size_of(path), str(path), largest)
            return checked_picture(path.read_bytes(), str(path), largest)
        except FileNotFoundError as error:
            raise UnreadablePictureError("missing picture", str(path)) from error
    try:
        if path.is_dir():
            raise UnreadablePictureError("a folder, not a picture", str(path))
        if not path.is_file():  # a device or a pipe is no file either: reading it may never end
            raise UnreadablePictureError("missing picture", str(path))
        check_size(size_of(path), str(path), largest)
        encoded = path.read_bytes()
    except (OSError, *BROKEN_MEMBER) as error:
        why = error.strerror if isinstance(error, OSError) else said_by(error)
        raise UnreadablePictureError("unreadable picture", f"{path} ({why})") from error
    return checked_picture(encoded, str(path), largest)
