"""Picture files as they are found on disk."""

from __future__ import annotations

from pathlib import Path

from truepair.errors import DataError

PICTURE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


class UnreadablePictureError(DataError):
    """A picture that is not where it should be, or cannot be had from there.

    Attributes:
        reason: A few words that are the same for the same kind of fault.
    """

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.reason = reason


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


def encoded_picture(path: Path) -> bytes:
    """The bytes of a picture file, which are not looked at.

    Raises:
        UnreadablePictureError: If it is missing, no file, empty, or cannot be read.
    """
    try:
        if path.is_dir():
            raise UnreadablePictureError("a folder, not a picture", str(path))
        if not path.is_file():  # a device or a pipe is no file either: reading it may never end
            raise UnreadablePictureError("missing picture", str(path))
        encoded = path.read_bytes()
    except OSError as error:
        raise UnreadablePictureError("unreadable picture", f"{path} ({error.strerror})") from error
    if not encoded:
        raise UnreadablePictureError("empty picture", str(path))
    return encoded
