"""Tar shards of pictures and captions, as img2dataset and WebDataset write them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.errors import DataError
from truepair.sources.captions import Captions, captions_in, decoded_text
from truepair.sources.picture_files import PICTURE_EXTENSIONS, utf8_name
from truepair.sources.protocol import Sample, Skipped
from truepair.sources.tar_index import Member, tar_index
from truepair.sources.tar_names import TarShard, tar_shards

TarSample = Mapping[str, Member]
"""The members of one sample, by extension."""


class WebDatasetSource:
    """Samples of tar shards: files with the same key, one of them a picture, and ``.txt`` or ``.json``.

    The caption is the text of ``.txt``, without the line end behind it; if that is missing or blank, it is what the
    ``.json`` has as ``"caption"``, which may be a list. A sample need not lie in one piece in its tar file. Ids are
    ``shard/key``, for captions from a list with ``/1``, ``/2`` … behind it.

    What is missing is told, not passed over: files between the first and the last number; the rest of a damaged tar
    file; and, where img2dataset left a ``.parquet`` of the same name beside the tar file, the pictures that it could
    not get, with its ``status`` as the reason. These come before the samples of the (next) shard, damage behind them.

    Args:
        path: A folder with ``.tar`` files, one such file, or a pattern such as ``shards/{00000..00010}.tar``.

    Raises:
        DataError: If there is no tar file.
    """

    kind = "webdataset"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._shards = {shard.name: shard for shard in tar_shards(self.path)}

    def shards(self) -> Sequence[str]:
        """The tar files' names without ``.tar``."""
        return list(self._shards)

    def read(self, shard: str) -> Iterator[Sample | Skipped]:
        """See `truepair.sources.protocol.Source.read`."""
        tar = self._shard(shard)
        for name in tar.missing:
            yield Skipped(f"{name}.tar", "missing shard")
        yield from _not_downloaded(tar)
        index = tar_index(tar.path)
        samples, twice = by_key(index.members)
        for member in twice:
            yield Skipped(utf8_name(f"{shard}/{member.info.name}"), "the same file twice", "the first one counts")
        try:
            with tar.path.open("rb") as file:
                for key, members in samples.items():
                    yield from _read(tar, key, members, file)
        except OSError as error:
            yield Skipped(str(tar.path), "unreadable shard", str(error.strerror))
            return
        if index.damage is not None:
            yield Skipped(str(tar.path), "damaged shard", index.damage)

    def picture(self, reference: str) -> bytes:
        """See `truepair.sources.protocol.Source.picture`.

        Args:
            reference: ``shard.tar:offset:size``, in bytes.

        Raises:
            DataError: If the tar file is not there any more, or ends before.
        """
        name, *numbers = reference.rsplit(":", 2)
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers) or not name.endswith(".tar"):
            raise DataError(f"{reference!r} is no reference to a picture: it should read 'shard.tar:offset:size'")
        path, (offset, size) = self._shard(name.removesuffix(".tar")).path, map(int, numbers)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                encoded = file.read(size)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); was it moved or renamed?") from error
        if len(encoded) < size:
            raise DataError(f"{path} ends before byte {offset + size:,}, where a picture was; was it changed?")
        return encoded

    def file_of(self, shard: str) -> Path:
        """The tar file of a shard."""
        return self._shard(shard).path

    def pictures_of(self, image_ids: Collection[str]) -> dict[str, tuple[str, str]]:
        """Reference and extension of the pictures of some images; reads the headers of their tar files once each.

        Raises:
            DataError: If there is no such image.
        """
        found: dict[str, tuple[str, str]] = {}
        for name, tar in self._shards.items():
            wanted = {image_id for image_id in image_ids if image_id.startswith(f"{name}/")} - found.keys()
            samples = by_key(tar_index(tar.path).members)[0] if wanted else {}
            for image_id in wanted:
                member = picture_member(samples.get(image_id.removeprefix(f"{name}/"), {}))
                if member is not None:
                    found[image_id] = (_reference(name, member), member.extension)
        missing = sorted(set(image_ids) - found.keys())
        if missing:
            raise DataError(f"{self.path} has no image {missing[0]!r} ({len(missing):,} of them are missing)")
        return found

    def _shard(self, name: str) -> TarShard:
        if name not in self._shards:
            raise DataError(f"{self.path} has no shard {name!r}")
        return self._shards[name]


def by_key(members: Sequence[Member]) -> tuple[dict[str, dict[str, Member]], list[Member]]:
    """Samples by key, members of each by extension; and members that are there a second time."""
    samples: dict[str, dict[str, Member]] = {}
    twice = []
    for member in members:
        if samples.setdefault(member.key, {}).setdefault(member.extension, member) is not member:
            twice.append(member)
    return samples, twice


def picture_member(members: TarSample) -> Member | None:
    """The picture of a sample, the first of `PICTURE_EXTENSIONS` if it has several; None if it has none."""
    return next((members[extension] for extension in PICTURE_EXTENSIONS if extension in members), None)


def content(member: Member, file: BinaryIO) -> bytes:
    """The content of a member of an open tar file."""
    file.seek(member.info.offset_data)
    return file.read(member.info.size)


def _read(tar: TarShard, key: str, members: TarSample, file: BinaryIO) -> Iterator[Sample | Skipped]:
    """The sample of one key, if it is one, after what its captions lack."""
    where = f"{tar.name}/{key}"
    if utf8_name(where) != where:
        yield Skipped(utf8_name(where), "file name is not UTF-8")
        return
    picture = picture_member(members)
    if picture is None:
        yield Skipped(where, "missing picture", _what_there_is(members))
        return
    captions = _captions(where, members, file)
    if isinstance(captions, Skipped):
        yield captions
        return
    yield from captions.skipped
    if not captions.texts:
        return
    if picture.info.size == 0:
        yield Skipped(where, "empty picture", picture.info.name)
        return
    yield Sample(where, content(picture, file), captions.texts, captions.ids, _reference(tar.name, picture))


def _captions(where: str, members: TarSample, file: BinaryIO) -> Captions | Skipped:
    if "txt" in members:
        try:
            text = decoded_text(content(members["txt"], file)).rstrip("\r\n")
        except UnicodeDecodeError as error:
            return Skipped(where, "caption is not UTF-8", str(error))
        if text.strip() or "json" not in members:
            return captions_in({"txt": text}, where)
    if "json" not in members:
        return Skipped(where, "missing caption", _what_there_is(members))
    try:
        metadata = json.loads(content(members["json"], file))
    except (ValueError, RecursionError) as error:
        return Skipped(where, "metadata is not JSON", str(error))
    if not isinstance(metadata, dict) or "caption" not in metadata:
        return Skipped(where, "missing caption", f"{members['json'].info.name} says none")
    return captions_in({"caption": metadata["caption"]}, where)


def _what_there_is(members: TarSample) -> str:
    return f"there is {utf8_name(', '.join(members))}"


def _reference(shard: str, picture: Member) -> str:
    return f"{shard}.tar:{picture.info.offset_data}:{picture.info.size}"


def _not_downloaded(tar: TarShard) -> Iterator[Skipped]:
    """What img2dataset's table beside a tar file says that it could not get."""
    path = tar.path.with_suffix(".parquet")
    if not path.is_file():
        return
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            if "status" not in present:
                return
            columns = [name for name in ("key", "status", "error_message") if name in present]
            row = 0
            for batch in file.iter_batches(columns=columns):
                for cells in batch.to_pylist():
                    row += 1
                    if cells["status"] != "success":
                        where = f"{tar.name}/{cells['key']}" if cells.get("key") else f"{path}: row {row}"
                        reason = str(cells["status"] or "no status").replace("_", " ")
                        yield Skipped(where, reason, str(cells.get("error_message") or ""))
    except (pa.ArrowException, OSError) as error:
        yield Skipped(str(path), "unreadable status table", str(error))
