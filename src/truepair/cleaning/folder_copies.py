"""A folder of pictures and caption files without the captions that were dropped, on disk or in an archive."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Collection, Iterable
from itertools import chain, count
from pathlib import Path, PurePosixPath

from truepair.cleaning.provenance import Provenance
from truepair.cleaning.row_edits import why_not_audited
from truepair.errors import DataError
from truepair.files.json import json_text, parsed_json
from truepair.sources.folders import Entry, FolderSource, sidecar_captions
from truepair.sources.picture_files import UnreadablePictureError, encoded_picture
from truepair.sources.protocol import Skipped


def copy_folder(source: FolderSource, provenance: Provenance, folder: Path) -> list[Path]:
    """The pictures that keep captions, each with a caption file of those, at the paths that they had.

    Where captions of one picture part ways, the second and further get a picture of their own, with ``~2``, ``~3`` …
    behind the name. Other files of the same name, such as img2dataset's ``.json``, go with the picture.
    """
    if isinstance(source.root, zipfile.Path):
        inside = folder / ".unpacked"
        _Copy(source, provenance, inside).make()
        archive = folder / source.path.name
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in sorted(path for path in inside.rglob("*") if path.is_file()):
                packed.write(file, source.root.at + file.relative_to(inside).as_posix())
        shutil.rmtree(inside, ignore_errors=True)
        return [archive]
    return _Copy(source, provenance, folder).make()


class _Copy:
    """A copy in the making."""

    def __init__(self, source: FolderSource, provenance: Provenance, folder: Path) -> None:
        self.source = source
        self.provenance = provenance
        self.folder = folder
        self.written: dict[Path, None] = {}
        self._stems = {_stem(entry.picture or entry.sidecar or "") for entry in source.entries()}
        self._captions_of_stem: dict[str, bytes] = {}

    def make(self) -> list[Path]:
        """Write it; the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for skipped in self.source.never_downloaded():
            self.provenance.skip(skipped)
        for entry in self.source.entries():
            item = self.source.read_entry(entry)
            if isinstance(item, Skipped):
                if self.provenance.skip(item):
                    self._keep(entry)
                continue
            why = why_not_audited(item, self.provenance)
            images = self.provenance.images_of(item.image_id, item.captions, item.caption_ids, why)
            for image_id, kept in images.items():
                self._add(entry, item.image_id, image_id, item.picture, {_number(name) for name in kept})
        return list(self.written)

    def _add(self, entry: Entry, own: str, image_id: str, encoded: bytes, kept: Collection[int]) -> None:
        """A picture with some of the captions of an entry."""
        if image_id != own:
            encoded = self.source.picture(image_id)
        sidecar_name = str(entry.sidecar)  # a sample always has one
        sidecar = (self.source.root / sidecar_name).read_bytes()
        captions = _without(sidecar_name, sidecar, kept)
        extension = PurePosixPath(image_id).suffix
        stem = next(
            stem
            for stem in _names(_stem(own), self._stems)
            if self._captions_of_stem.get(stem, captions) == captions
            and self.folder / f"{stem}{extension}" not in self.written
        )
        self._captions_of_stem[stem] = captions
        self._write(f"{stem}{extension}", encoded)
        of_picture = sidecar_name == f"{own}{PurePosixPath(sidecar_name).suffix}"  # dog.jpg.txt
        self._write(f"{stem}{extension if of_picture else ''}{PurePosixPath(sidecar_name).suffix}", captions)
        metadata = f"{_stem(own)}.json"
        is_other = metadata != sidecar_name and not self.source.leads_out(metadata)
        if is_other and (self.source.root / metadata).is_file():
            self._write(f"{stem}.json", (self.source.root / metadata).read_bytes())

    def _keep(self, entry: Entry) -> None:
        """What was not audited, as it is."""
        for name in (entry.picture, entry.sidecar):
            if name is None or self.source.leads_out(name):
                continue
            try:
                self._write(name, encoded_picture(self.source.root / name, self.source.options.largest_file))
            except UnreadablePictureError:
                continue  # there is nothing to copy

    def _write(self, name: str, content: bytes) -> None:
        target = self.folder / name
        if ".." in PurePosixPath(name).parts or not target.is_relative_to(self.folder):
            raise DataError(f"{self.source.path} names a file {name!r}, which leads out of the copy")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.written[target] = None


def _names(stem: str, taken: Collection[str]) -> Iterable[str]:
    """A file's own name, and others that no file of the source has."""
    return chain([stem], (name for name in (f"{stem}~{number}" for number in count(2)) if name not in taken))


def _without(name: str, sidecar: bytes, kept: Collection[int]) -> bytes:
    """A caption file without the captions that are not kept; as it is, if all are.

    What is no caption stays, and so do blank lines and line ends.
    """
    dropped = sidecar_captions(name, sidecar).keys() - set(kept)
    if not dropped:
        return sidecar
    if name.lower().endswith(".json"):
        metadata = parsed_json(sidecar, name, keep_numbers=True)
        metadata["caption"] = [text for place, text in enumerate(metadata["caption"], 1) if place not in dropped]
        return json_text(metadata).encode("utf-8")
    lines = sidecar.split(b"\n")
    left = [line for number, line in enumerate(lines, start=1) if number not in dropped]
    if left and len(lines) in dropped:  # which had no line end, as the last line of the copy has none
        left[-1] = left[-1].removesuffix(b"\r")
    return b"\n".join(left)


def _number(caption_id: str) -> int:
    return int(caption_id.rpartition("/")[2])


def _stem(path: str) -> str:
    return path.rpartition(".")[0]
