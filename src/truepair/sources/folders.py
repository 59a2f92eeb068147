"""A folder of pictures, each with its captions in a text file of the same name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from truepair.errors import DataError
from truepair.sources.blocks import block, block_names
from truepair.sources.captions import decoded_text
from truepair.sources.picture_files import UnreadablePictureError, encoded_picture, is_picture_file, utf8_name
from truepair.sources.protocol import Sample, Skipped


@dataclass(frozen=True)
class Entry:
    """A picture, a caption file, or both.

    Attributes:
        picture: The picture's path in the folder, with ``/``; None for a caption file without a picture.
        sidecar: The path of the caption file; None for a picture without one.
    """

    picture: str | None
    sidecar: str | None


class FolderSource:
    """Pictures in a folder and the folders in it, in the order of their paths.

    The captions of ``beach/dog.jpg`` are the lines of ``beach/dog.txt`` that are not blank, so a caption has no line
    breaks. A picture's id is its path in the folder, a caption's that path and the number of its line:
    ``beach/dog.jpg/1``. Pictures of the same name that differ in their extension share the text file.

    Hidden files and folders, links to folders, and files that are neither pictures (by extension, see
    `truepair.sources.picture_files.PICTURE_EXTENSIONS`) nor ``.txt`` are passed over. The folder is listed once, when
    the source is made.

    Args:
        root: The folder.

    Raises:
        DataError: If it is no folder, or holds no picture.
    """

    kind = "folder"

    def __init__(self, root: str | Path) -> None:
        self.path = Path(root)
        if not self.path.is_dir():
            raise DataError(f"there is no folder {self.path}")
        self._entries = _entries(_listing(self.path))
        if not any(entry.picture for entry in self._entries):
            raise DataError(f"{self.path} holds no pictures (files that end in .jpg, .png, .webp …)")

    def shards(self) -> Sequence[str]:
        """Blocks of pictures."""
        return block_names(len(self._entries))

    def read(self, shard: str) -> Iterator[Sample | Skipped]:
        """See `truepair.sources.protocol.Source.read`."""
        for place in block(shard, len(self._entries)):
            entry = self._entries[place]
            name = utf8_name(entry.picture or entry.sidecar or "")
            is_utf8 = name in (entry.picture, entry.sidecar)
            yield self._read(entry) if is_utf8 else Skipped(name, "file name is not UTF-8")

    def picture(self, reference: str) -> bytes:
        """See `truepair.sources.protocol.Source.picture`.

        Args:
            reference: The picture's id.

        Raises:
            DataError: If it is not there any more.
        """
        if not is_picture_file(reference) or ".." in PurePosixPath(reference).parts or reference.startswith("/"):
            raise DataError(f"{reference!r} is not the path of a picture in {self.path}")
        return encoded_picture(self.path / reference)

    def entries(self) -> Sequence[Entry]:
        """Everything that `read` goes through."""
        return self._entries

    def _read(self, entry: Entry) -> Sample | Skipped:
        if entry.picture is None:
            return Skipped(str(entry.sidecar), "captions without a picture")
        if entry.sidecar is None:
            return Skipped(entry.picture, "picture without captions")
        try:
            captions = caption_lines((self.path / entry.sidecar).read_bytes())
            encoded = encoded_picture(self.path / entry.picture)
        except UnicodeDecodeError as error:
            return Skipped(entry.picture, "caption is not UTF-8", f"{entry.sidecar}: {error}")
        except UnreadablePictureError as error:
            return Skipped(entry.picture, error.reason, str(error))
        except OSError as error:
            return Skipped(entry.picture, "unreadable captions", f"{entry.sidecar}: {error.strerror}")
        if not captions:
            return Skipped(entry.picture, "empty caption", entry.sidecar)
        ids = tuple(f"{entry.picture}/{number}" for number in captions)
        return Sample(entry.picture, encoded, tuple(captions.values()), ids, entry.picture)


def caption_lines(content: bytes) -> dict[int, str]:
    r"""The captions in a text file, by line number, counted from 1.

    Only a line feed, alone or after a carriage return, ends a line. Blank lines are counted but hold no caption.

    >>> caption_lines(b"a dog\r\n\n  a wet dog")
    {1: 'a dog', 3: '  a wet dog'}

    Raises:
        UnicodeDecodeError: See `truepair.sources.captions.decoded_text`.
    """
    lines = (line.removesuffix("\r") for line in decoded_text(content).split("\n"))
    return {number: line for number, line in enumerate(lines, start=1) if line.strip()}


def _listing(root: Path) -> list[str]:
    """The paths in a folder of all files that are not hidden, sorted."""
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(folder).relative_to(root)
        found.extend((inside / name).as_posix() for name in files if not name.startswith("."))
    return sorted(found)


def _entries(listing: Sequence[str]) -> list[Entry]:
    sidecar_of_stem: dict[str, str] = {}
    for name in listing:
        if name.lower().endswith(".txt"):
            sidecar_of_stem.setdefault(_stem(name), name)
    pictures = [Entry(name, sidecar_of_stem.get(_stem(name))) for name in listing if is_picture_file(name)]
    used = {entry.sidecar for entry in pictures}
    alone = [Entry(None, name) for name in listing if name.lower().endswith(".txt") and name not in used]
    return sorted([*pictures, *alone], key=lambda entry: entry.picture or entry.sidecar or "")


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
