"""Tar shards of pictures and captions, as img2dataset and WebDataset write them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from truepair.config.source import SourceConfig
from truepair.errors import DataError
from truepair.files.json import parsed_json
from truepair.sources.captions import HUGE_CAPTION, Captions, captions_in, decoded_text
from truepair.sources.downloads import failed_downloads
from truepair.sources.picture_files import (
    LINK,
    PICTURE_EXTENSIONS,
    UnreadablePictureError,
    check_size,
    checked_picture,
    leads_out,
    utf8_name,
)
from truepair.sources.protocol import Kind, Sample, Skipped
from truepair.sources.stores import StorePath, for_parts, on_disk
from truepair.sources.tar_index import Member, tar_index
from truepair.sources.tar_names import TarShard, tar_shards

TarSample = Mapping[str, Member]
"""The members of one sample, by extension."""

UNREADABLE_SHARD = "unreadable shard"
"""Why the rows of a tar file are left out whose disk or network failed."""


class WebDatasetSource:
    """Samples of tar shards: files with the same key, one of them a picture, and ``.txt`` or ``.json``.

    The caption is the text of ``.txt``, without the line end behind it; if that is missing or blank, it is what the
    ``.json`` has as ``"caption"``, which may be a list. A sample need not lie in one piece in its tar file. Ids are
    ``shard/key``, for captions from a list with ``/1``, ``/2`` … behind it.

    What is missing is told, not passed over: files between the first and the last number; the rest of a damaged tar
    file; and, where img2dataset left a ``.parquet`` of the same name beside the tar file, the pictures that it could
    not get, with its ``status`` as the reason. These come before the samples of the (next) shard, damage behind them.

    Args:
        path: A folder with ``.tar`` files, one such file, or a pattern such as ``shards/{00000..00010}.tar``. Files
            of a store are fetched whole when they are read, see `truepair.sources.stores`.
        options: What may be read.

    Raises:
        DataError: If there is no tar file.
    """

    kind: Kind = "webdataset"
    notes: Sequence[str] = ()

    def __init__(
        self,
        path: str | Path | StorePath,
        options: SourceConfig = SourceConfig(),  # noqa: B008, it is frozen
    ) -> None:
        self.options = options
        self.path = path if isinstance(path, StorePath) else Path(path)
        self._shards = {shard.name: shard for shard in tar_shards(self.path)}

    def shards(self) -> Sequence[str]:
        """The tar files' names without ``.tar``."""
        return list(self._shards)

    def read(self, shard: str, *, pictures: bool = True) -> Iterator[Sample | Skipped]:
        """See `truepair.sources.protocol.Source.read`."""
        tar = self._shard(shard)
        for name in tar.missing:
            yield Skipped(f"{name}.tar", "missing shard")
        if not self.options.follow_links and leads_out(tar.path, self.path):
            yield Skipped(str(tar.path), LINK, "--follow-links reads it")
            return
        yield from failed_downloads(tar.path.with_suffix(".parquet"), tar.name)
        stored = on_disk(tar.path)
        index = tar_index(stored, self.options.most_members)
        samples, twice = by_key(index.members)
        for member in twice:
            yield Skipped(utf8_name(f"{shard}/{member.info.name}"), "the same file twice", "the first one counts")
        try:
            with stored.open("rb") as file:
                for key, members in samples.items():
                    yield from _read(tar, key, members, file, self.options, pictures=pictures)
        except OSError as error:
            yield Skipped(str(tar.path), UNREADABLE_SHARD, str(error.strerror))
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
            stored = for_parts(path)
            with stored.open("rb") if isinstance(stored, Path) else stored as file:
                file.seek(offset)
                encoded = file.read(size)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); was it moved or renamed?") from error
        if len(encoded) < size:
            raise DataError(f"{path} ends before byte {offset + size:,}, where a picture was; was it changed?")
        return encoded

    def file_of(self, shard: str) -> Path:
        """The tar file of a shard, on this machine."""
        return on_disk(self._shard(shard).path)

    def version_of(self, shard: str) -> str | None:
        """What tells whether the tar file was changed, for one of a store; None for one on this machine."""
        path = self._shard(shard).path
        return path.version if isinstance(path, StorePath) else None

    def pictures_of(self, image_ids: Collection[str]) -> dict[str, tuple[str, str]]:
        """Reference and extension of the pictures of some images; reads the headers of their tar files once each.

        Raises:
            DataError: If there is no such image.
        """
        found: dict[str, tuple[str, str]] = {}
        for name in self._shards:
            wanted = {image_id for image_id in image_ids if image_id.startswith(f"{name}/")} - found.keys()
            samples = by_key(tar_index(self.file_of(name), self.options.most_members).members)[0] if wanted else {}
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
    """The picture of a sample, the first of `picture_members`; None if it has none."""
    return next(iter(picture_members(members)), None)


def picture_members(members: TarSample) -> list[Member]:
    """All pictures of a sample, in the order of `PICTURE_EXTENSIONS`; ``s1.input.jpg`` is one as ``s1.jpg`` is."""
    kind = {extension: extension.rpartition(".")[2] for extension in members}
    found = [extension for extension in members if kind[extension] in PICTURE_EXTENSIONS]
    order = sorted(found, key=lambda extension: (PICTURE_EXTENSIONS.index(kind[extension]), "." in extension))
    return [members[extension] for extension in order]


def text_member(members: TarSample, extension: str) -> Member | None:
    """The ``.txt`` or ``.json`` of a sample, under its plain name or, without that, as ``s1.output.txt``."""
    inner = (member for name, member in members.items() if name.rpartition(".")[2] == extension)
    return members.get(extension) or next(inner, None)


def content(member: Member, file: BinaryIO) -> bytes:
    """The content of a member of an open tar file."""
    file.seek(member.info.offset_data)
    return file.read(member.info.size)


def _read(
    tar: TarShard, key: str, members: TarSample, file: BinaryIO, options: SourceConfig, *, pictures: bool
) -> Iterator[Sample | Skipped]:
    """The sample of one key, if it is one, after what its captions lack."""
    where = f"{tar.name}/{key}"
    if utf8_name(where) != where:
        yield Skipped(utf8_name(where), "file name is not UTF-8")
        return
    picture = picture_member(members)
    if picture is None:
        yield Skipped(where, "missing picture", _what_there_is(members))
        return
    captions = _captions(where, members, file, options.longest_caption)
    if isinstance(captions, Skipped):
        yield captions
        return
    yield from captions.skipped
    if not captions.texts:
        return
    for member in picture_members(members)[1:]:
        yield Skipped(f"{tar.name}/{member.info.name}", "further picture of a sample", f"{picture.info.name} counts")
    try:
        check_size(picture.info.size, picture.info.name, options.largest_file)
        encoded = checked_picture(content(picture, file), picture.info.name, options.largest_file) if pictures else b""
    except UnreadablePictureError as error:
        yield Skipped(where, error.reason, str(error), captions.ids)
        return
    yield Sample(where, encoded, captions.texts, captions.ids, _reference(tar.name, picture))


def _captions(where: str, members: TarSample, file: BinaryIO, longest: int) -> Captions | Skipped:
    plain, metadata_file = text_member(members, "txt"), text_member(members, "json")
    for member in (plain, metadata_file):
        if member is not None and member.info.size > longest:
            said = f"{member.info.name}: {member.info.size:,} bytes are more than {longest:,} (--longest-caption)"
            return Skipped(where, HUGE_CAPTION, said)
    if plain is not None:
        try:
            text = decoded_text(content(plain, file)).rstrip("\r\n")
        except UnicodeDecodeError as error:
            return Skipped(where, "caption is not UTF-8", str(error))
        if text.strip() or metadata_file is None:
            return captions_in({"txt": text}, where, longest)
    if metadata_file is None:
        return Skipped(where, "missing caption", _what_there_is(members))
    try:
        metadata = parsed_json(content(metadata_file, file), metadata_file.info.name)
    except DataError as error:
        return Skipped(where, "metadata is not JSON", str(error))
    if not isinstance(metadata, dict) or "caption" not in metadata:
        return Skipped(where, "missing caption", f"{metadata_file.info.name} says none")
    return captions_in({"caption": metadata["caption"]}, where, longest)


def _what_there_is(members: TarSample) -> str:
    return f"there is {utf8_name(', '.join(members))}"


def _reference(shard: str, picture: Member) -> str:
    return f"{shard}.tar:{picture.info.offset_data}:{picture.info.size}"
