"""Tables that img2dataset writes beside what it downloaded: which pictures it could not get, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.errors import said_by
from truepair.sources.protocol import Skipped
from truepair.sources.stores import StorePath, for_parts, on_disk

_PICTURES = {"image", "jpg", "png", "webp"}


def is_download_log(path: Path | StorePath) -> bool:
    """Whether a table is img2dataset's list of downloads, without the pictures."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return False
    try:
        names = set(pq.read_schema(for_parts(path)).names)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False  # opening it says what is wrong
    return {"status", "key"} <= names and not _PICTURES & names


def failed_downloads(path: Path | StorePath, name: str) -> Iterator[Skipped]:
    """The rows of a list of downloads that say that there is no picture; none if there is no list.

    Args:
        path: The list.
        name: What it is about: the shard.
    """
    if not path.is_file():
        return
    try:
        with pq.ParquetFile(on_disk(path)) as file:
            present = file.schema_arrow.names
            if "status" not in present:
                return
            columns = [column for column in ("key", "status", "error_message") if column in present]
            row = 0
            for batch in file.iter_batches(columns=columns):
                for cells in batch.to_pylist():
                    row += 1
                    if cells["status"] != "success":
                        where = f"{name}/{cells['key']}" if cells.get("key") else f"{path}: row {row}"
                        reason = str(cells["status"] or "no status").replace("_", " ")
                        yield Skipped(where, reason, str(cells.get("error_message") or ""))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        yield Skipped(str(path), "unreadable status table", said_by(error))
