"""What tells whether a source in a store was changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from truepair.sources.folders import FolderSource
from truepair.sources.protocol import Source
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


def _versions(source: Source) -> Sequence[str]:
    """Of the files that lie in a store; none if they do not."""
    if isinstance(source, TableSource):
        tables = [part.table for part in source.parts]
        files = [file for table in tables for file in (table.files if isinstance(table, ArrowTable) else [table.path])]
        stored = [f"{file} {file.version}" for file in files if isinstance(file, StorePath)]
        if stored:
            return stored
    if isinstance(source, FolderSource) and isinstance(source.root, StorePath):
        return [f"{address} {entry}" for address, entry in source.root.store.listing(source.root.address).items()]
    return [source.path.version] if isinstance(source.path, StorePath) else []  # an archive
