"""A folder of pictures, each with its captions in a file of the same name beside it."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from truepair.config.source import SourceConfig
from truepair.errors import DataError, said_by
from truepair.files.json import parsed_json
from truepair.sources.blocks import block, block_names
from truepair.sources.captions import HUGE_CAPTION, decoded_text
from truepair.sources.downloads import failed_downloads, is_download_log
from truepair.sources.outputs import MARKS, is_output, outside_outputs
from truepair.sources.picture_files import (
    BROKEN_MEMBER,
    LINK,
    Location,
    UnreadablePictureError,
    encoded_picture,
    is_picture_file,
    leads_out,
    size_of,
    utf8_name,
)
from truepair.sources.protocol import Kind, Sample, Skipped
from truepair.sources.store_errors import StoreError
from truepair.sources.stores import StorePath, ahead, pure_path

SIDECARS = (".txt", ".caption", ".json")
"""Extensions of caption files; where a picture has several, the first of these counts."""


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

    The captions of ``beach/dog.jpg`` are the lines of ``beach/dog.txt`` (or ``dog.caption``, or ``dog.jpg.txt``) that
    are not blank, so a caption has no line breaks; or, without these, what ``beach/dog.json`` has as ``"caption"``. A
    picture's id is its path in the folder, a caption's that path and the number of its line: ``beach/dog.jpg/1``.
    Pictures of the same name that differ in their extension share the caption file.

    Links to files that lie outside of the folder are left out, and links to folders passed over, unless
    ``follow_links`` is set. Hidden files and folders, folders that truepair wrote, and files that are neither pictures
    (by extension, see `truepair.sources.picture_files.PICTURE_EXTENSIONS`) nor caption files are passed over. Where
    img2dataset left lists of its downloads, the pictures that it could not get are told, too. The folder is listed
    once, when the source is made.

    Args:
        path: The folder, or the zip archive that it is in.
        root: The folder inside an archive; `path` itself by default.
        options: What may be read.

    Raises:
        DataError: If it is no folder, or holds no picture.
    """

    kind: Kind = "folder"

    def __init__(
        self,
        path: str | Path | StorePath,
        root: Location | None = None,
        options: SourceConfig = SourceConfig(),  # noqa: B008, it is frozen
    ) -> None:
        self.options = options
        self.path = path if isinstance(path, StorePath) else Path(path)
        self.root: Location = self.path if root is None else root
        if not self.root.is_dir():
            raise DataError(f"there is no folder {self.root}")
        listing = _listing(self.root, follow_links=options.follow_links)
        self._entries = _entries(listing)
        if not any(entry.picture for entry in self._entries):
            raise DataError(f"{self.path} holds no pictures (files that end in .jpg, .png, .webp …)")
        self.notes: Sequence[str] = ()

    def shards(self) -> Sequence[str]:
        """Blocks of pictures."""
        return block_names(len(self._entries))

    def read(self, shard: str, *, pictures: bool = True) -> Iterator[Sample | Skipped]:
        """See `truepair.sources.protocol.Source.read`."""
        if shard == self.shards()[0]:
            yield from self.never_downloaded()
        read = partial(self.read_entry, pictures=pictures)
        entries = (self._entries[place] for place in block(shard, len(self._entries)))
        yield from ahead(read, entries) if isinstance(self.root, StorePath) else map(read, entries)

    def picture(self, reference: str) -> bytes:
        """See `truepair.sources.protocol.Source.picture`.

        Args:
            reference: The picture's id.

        Raises:
            DataError: If it is not there any more.
        """
        if not is_picture_file(reference) or ".." in PurePosixPath(reference).parts or reference.startswith("/"):
            raise DataError(f"{reference!r} is not the path of a picture in {self.path}")
        if self.leads_out(reference):
            raise UnreadablePictureError(LINK, f"{self.root / reference} (--follow-links)")
        return encoded_picture(self.root / reference, self.options.largest_file)

    def leads_out(self, name: str) -> bool:
        """Whether a file of the folder is a link out of it, which is not to be read."""
        return not self.options.follow_links and leads_out(self.root / name, self.root)

    def never_downloaded(self) -> Iterator[Skipped]:
        """Pictures that img2dataset could not get, of which there is no entry."""
        logs = [] if isinstance(self.root, zipfile.Path) else [*self.root.glob("*.parquet")]
        for log in sorted(logs, key=pure_path):
            if is_download_log(log):
                yield from failed_downloads(log, log.stem)

    def entries(self) -> Sequence[Entry]:
        """Everything that `read` goes through."""
        return self._entries

    def caption_file(self, entry: Entry) -> bytes | Skipped:
        """The caption file of an entry that has one, or why it is not read."""
        sidecar, longest = str(entry.sidecar), self.options.longest_caption
        picture = entry.picture or sidecar
        link = next((name for name in (picture, sidecar) if self.leads_out(name)), None)
        if link is not None:
            return Skipped(picture, LINK, f"{link} (--follow-links)")
        try:
            size = size_of(self.root / sidecar)
            if size > longest:
                said = f"{sidecar}: {size:,} bytes are more than {longest:,} (--longest-caption)"
                return Skipped(picture, HUGE_CAPTION, said)
            return (self.root / sidecar).read_bytes()
        except (OSError, *BROKEN_MEMBER) as error:
            return Skipped(picture, "unreadable captions", f"{sidecar}: {said_by(error)}")

    def read_entry(self, entry: Entry, *, pictures: bool = True) -> Sample | Skipped:
        """The sample of a picture and its caption file, or why it is none."""
        name = utf8_name(entry.picture or entry.sidecar or "")
        if name not in (entry.picture, entry.sidecar):
            return Skipped(name, "file name is not UTF-8")
        if entry.picture is None:
            return Skipped(str(entry.sidecar), "captions without a picture")
        if entry.sidecar is None:
            return Skipped(entry.picture, "picture without captions", f"{_stem(entry.picture)}.txt is not there")
        try:
            content = self.caption_file(entry)
            if isinstance(content, Skipped):
                return content
            captions = sidecar_captions(entry.sidecar, content)
            "".join(captions.values()).encode()  # JSON can spell half of a surrogate pair
        except UnicodeError as error:
            return Skipped(entry.picture, "caption is not UTF-8", f"{entry.sidecar}: {error}")
        except StoreError:
            raise
        except DataError as error:
            return Skipped(entry.picture, "metadata is not JSON", str(error))
        if not captions:
            return Skipped(entry.picture, "empty caption", entry.sidecar)
        ids = tuple(f"{entry.picture}/{number}" for number in captions)
        try:
            encoded = encoded_picture(self.root / entry.picture, self.options.largest_file) if pictures else b""
        except UnreadablePictureError as error:
            return Skipped(entry.picture, error.reason, str(error), ids)
        return Sample(entry.picture, encoded, tuple(captions.values()), ids, entry.picture)


def sidecar_captions(name: str, content: bytes) -> dict[int, str]:
    """The captions in a caption file: by line number, or by place in the list of a ``.json``, counted from 1.

    Raises:
        UnicodeDecodeError: See `truepair.sources.captions.decoded_text`.
        DataError: If a ``.json`` is no JSON.
    """
    if not name.lower().endswith(".json"):
        return caption_lines(content)
    metadata = parsed_json(content, name)
    caption = metadata.get("caption") if isinstance(metadata, dict) else None
    listed = caption if isinstance(caption, list) else [caption]
    return {place: text for place, text in enumerate(listed, start=1) if isinstance(text, str) and text.strip()}


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


def _listing(root: Location, *, follow_links: bool) -> list[str]:
    """The paths in a folder of all files that are not hidden, nor in a folder that truepair wrote, sorted."""
    if isinstance(root, StorePath):
        names = (name for name in root.files() if not any(part.startswith(".") for part in name.split("/")))
        return list(outside_outputs(names, root))
    if isinstance(root, zipfile.Path):
        members = (member for member in root.root.infolist() if not stat.S_ISLNK(member.external_attr >> 16))
        names = (member.filename.removeprefix(root.at) for member in members if member.filename.startswith(root.at))
        # Names that begin with a slash lead out of any folder that the archive is unpacked to.
        found = [name for name in names if name and not name.endswith("/") and not name.startswith("/")]
        return sorted(name for name in found if not any(part.startswith((".", "__MACOSX")) for part in name.split("/")))
    found = []
    seen = {os.path.realpath(root)}
    for folder, folders, files in os.walk(root, followlinks=follow_links):
        if Path(folder) != root and MARKS.intersection([*folders, *files]) and is_output(Path(folder)):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        if follow_links:  # each folder once, however many links lead to it
            real = {os.path.realpath(Path(folder, name)): name for name in sorted(folders, reverse=True)}
            folders[:] = [name for target, name in real.items() if target not in seen]
            seen |= real.keys()
        inside = Path(folder).relative_to(root)
        found.extend((inside / name).as_posix() for name in files if not name.startswith("."))
    return sorted(found)


def _entries(listing: Sequence[str]) -> list[Entry]:
    sidecars: dict[str, str] = {}
    for name in sorted(listing, key=lambda name: (_sidecar_rank(name), name)):
        if _sidecar_rank(name) < len(SIDECARS):
            sidecars.setdefault(_stem(name), name)
    pictures = [Entry(name, _sidecar_of(name, sidecars)) for name in listing if is_picture_file(name)]
    used = {entry.sidecar for entry in pictures}
    stems = {_stem(entry.picture or "") for entry in pictures}
    texts = [name for name in listing if _sidecar_rank(name) < 2 and name not in used and _stem(name) not in stems]
    alone = [Entry(None, name) for name in texts]
    return sorted([*pictures, *alone], key=lambda entry: entry.picture or entry.sidecar or "")


def _sidecar_of(picture: str, sidecars: Mapping[str, str]) -> str | None:
    """``dog.txt``, or ``dog.jpg.txt``, of ``dog.jpg``; where there are both, the extension that counts first."""
    found = (sidecars[name] for name in (_stem(picture), picture) if name in sidecars)
    return min(found, key=_sidecar_rank, default=None)


def _sidecar_rank(name: str) -> int:
    lower = name.lower()
    return next((rank for rank, extension in enumerate(SIDECARS) if lower.endswith(extension)), len(SIDECARS))


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
