"""Tar shards without the samples that were dropped."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

from truepair.cleaning.provenance import Provenance
from truepair.cleaning.row_edits import why_not_audited
from truepair.files.json import json_text, parsed_json
from truepair.sources.protocol import Sample, Skipped
from truepair.sources.tar_index import Member, tar_index
from truepair.sources.webdataset import (
    TarSample,
    WebDatasetSource,
    by_key,
    content,
    picture_member,
    picture_members,
    text_member,
)


@dataclass(frozen=True)
class _OtherPicture:
    encoded: bytes
    extension: str


def copy_tars(source: WebDatasetSource, provenance: Provenance, folder: Path) -> list[Path]:
    """One tar file a shard, with the same name; the files of kept samples stay as they are, and in their order.

    Returns:
        The tar files.
    """
    places = source.pictures_of(provenance.new_images())
    written = []
    for shard in source.shards():
        written.append(folder / f"{shard}.tar")
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        samples, _ = by_key(tar_index(source.file_of(shard), source.options.most_members).members)
        keys = set(samples)
        unread: dict[str, list[str]] = {}  # by key, the ids of what its list holds beside captions
        waiting: str | None = None  # the key of a sample that stays as it is, unless captions of it follow
        with tarfile.open(written[-1], "w") as archive, source.file_of(shard).open("rb") as file:
            for item in chain(source.read(shard), [None]):
                key = None if item is None else _key(item, shard, samples)
                if waiting is not None and (item is None or key not in (None, waiting)):
                    _add(archive, file, samples[waiting], waiting, None, None)
                    waiting = None
                if isinstance(item, Skipped):
                    is_kept = provenance.skip(item)
                    if key is not None and item.where != f"{shard}/{key}":
                        unread.setdefault(key, []).extend(item.caption_ids)
                    waiting = key if key is not None and is_kept else waiting
                if not isinstance(item, Sample) or key is None:
                    continue
                waiting = None
                why = why_not_audited(item, provenance)
                images = provenance.images_of(item.image_id, item.captions, item.caption_ids, why)
                listed = len(item.caption_ids) + len(unread.get(key, ()))
                if key in unread and provenance.keep_unaudited:
                    images.setdefault(item.image_id, []).extend(unread[key])
                for place, (image_id, caption_ids) in enumerate(images.items()):
                    other = None
                    if image_id != item.image_id:
                        reference, extension = places[image_id]
                        other = _OtherPicture(source.picture(reference), extension)
                    new_key = key if place == 0 else _free_key(key, keys)
                    chosen = None if len(caption_ids) == listed else _places(caption_ids)
                    _add(archive, file, samples[key], new_key, other, chosen)
    return written


def _key(item: Sample | Skipped, shard: str, samples: Container[str]) -> str | None:
    """The key of the sample that something is, or that has it in its list of captions; None if it is another file."""
    name = (item.where if isinstance(item, Skipped) else item.image_id).removeprefix(f"{shard}/")
    owner = name.rpartition("/")[0]
    if name not in samples and item.caption_ids and owner in samples:
        return owner
    return name if name in samples else None


def _free_key(key: str, keys: set[str]) -> str:
    free = next(name for name in (f"{key}~{number}" for number in count(2)) if name not in keys)
    keys.add(free)
    return free


def _places(caption_ids: Sequence[str]) -> list[int]:
    """The places of captions in their list, counted from 0."""
    return sorted(int(caption_id.rpartition("/")[2]) - 1 for caption_id in caption_ids)


def _add(
    archive: tarfile.TarFile,
    file: BinaryIO,
    members: TarSample,
    key: str,
    other: _OtherPicture | None,
    chosen: Collection[int] | None,
) -> None:
    """Add the files of a sample, perhaps under another key, with another picture, or with some of its captions."""
    picture, pictures, metadata_file = picture_member(members), picture_members(members), text_member(members, "json")
    for member in members.values():
        name = f"{key}{member.info.name[len(member.key) :]}"
        if other is not None and member in pictures:
            if member is picture:  # any further pictures show the former image and go with it
                _add_changed(archive, member, f"{key}.{other.extension}", other.encoded)
        elif chosen is not None and member is metadata_file:
            metadata = parsed_json(content(member, file), member.info.name, keep_numbers=True)
            metadata["caption"] = [metadata["caption"][place] for place in chosen]
            _add_changed(archive, member, name, json_text(metadata).encode())
        elif key != member.key:
            _add_changed(archive, member, name, content(member, file))
        else:
            file.seek(member.info.offset_data)
            archive.addfile(member.info, file)


def _add_changed(archive: tarfile.TarFile, member: Member, name: str, encoded: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(encoded), member.info.mtime, member.info.mode
    archive.addfile(info, io.BytesIO(encoded))
