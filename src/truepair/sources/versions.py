"""What tells whether a source was changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from truepair.sources.blocks import block
from truepair.sources.folders import Entry, FolderSource
from truepair.sources.outputs import outside_outputs
from truepair.sources.protocol import Sample, Skipped, Source
from truepair.sources.stores import StorePath
from truepair.sources.table_files import ArrowTable
from truepair.sources.tables import TableSource
from truepair.sources.webdataset import WebDatasetSource


def versioned_shards(source: Source) -> list[str]:
    """The names of a source's shards, those of a store with what would change if they were changed.

    Behind a tar file's name stand its size and its checksum, version or time, as the store calls it; behind a block of
    a table or a folder a digest of these, of all tables or of all files. Names on this machine stay as they are.

    Raises:
        StoreError: If the store fails.
    """
    names = list(source.shards())
    if isinstance(source, WebDatasetSource):
        versions = [source.version_of(name) for name in names]
        pairs = zip(names, versions, strict=True)
        return [name if version is None else f"{name} ({version})" for name, version in pairs]
    stored = _versions(source)
    if not stored:
        return names
    digest = hashlib.sha256("\n".join(stored).encode()).hexdigest()[:16]
    return [f"{name} ({digest})" for name in names]


def contents_of(source: Source, *, with_times: bool = False) -> list[str]:
    """A digest of each shard, which changes when the shard does: of names and captions where these are in memory.

    Of a folder the names count, and what is in its caption files; of a tar file its size: more would be to read all
    pictures once more.

    Args:
        source: The source.
        with_times: Of tar files on this machine the time of the last change counts, too: members that were mended or
            sorted leave the size as it was. A copy of the file has another time.
    """
    shards = source.shards()
    if isinstance(source, WebDatasetSource):
        files = {shard: source.file_of(shard) for shard in shards if source.version_of(shard) is None}
        times = {shard: file.stat().st_mtime_ns for shard, file in files.items() if with_times and file.exists()}
        return [
            _digest([source.version_of(shard) or _bytes_in(files[shard]), *([times[shard]] if shard in times else [])])
            for shard in shards
        ]
    if isinstance(source, FolderSource):
        entries = source.entries()
        return [_digest(_named(source, entries[place]) for place in block(shard, len(entries))) for shard in shards]
    return [_digest(map(_identity, source.read(shard, pictures=False))) for shard in shards]


def _versions(source: Source) -> Sequence[str]:
    """Of the files that lie in a store; none if they do not."""
    if isinstance(source, TableSource):
        tables = [part.table for part in source.parts]
        files = [file for table in tables for file in (table.files if isinstance(table, ArrowTable) else [table.path])]
        stored = [f"{file} {file.version}" for file in files if isinstance(file, StorePath)]
        if stored:
            return stored
    if isinstance(source, FolderSource) and isinstance(source.root, StorePath):
        listing = source.root.store.listing(source.root.address)
        addresses = (f"{source.root}/{name}" for name in outside_outputs(source.root.files(), source.root))
        return [f"{address} {listing[address]}" for address in addresses]
    return [source.path.version] if isinstance(source.path, StorePath) else []  # an archive


def _named(source: FolderSource, entry: Entry) -> Sequence[object]:
    if entry.sidecar is None or not isinstance(source.path, Path) or not source.path.is_dir():
        return (entry,)
    return (entry, source.caption_file(entry))


def _identity(item: Sample | Skipped) -> Sequence[object]:
    if isinstance(item, Skipped):
        return (item.reason, item.caption_ids)
    return (item.image_id, item.captions, item.caption_ids, item.reference)


def _digest(things: Iterable[object]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for thing in things:
        digest.update(repr(thing).encode())
    return digest.hexdigest()


def _bytes_in(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
