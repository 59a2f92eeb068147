"""One generation of an audit: its files take the place of an earlier audit's all together, or not at all.

They are written to ``.new`` in the audit's folder, which becomes ``.ready`` once they are on the disk: that is the
moment from which the folder holds the new audit. Then each file is moved to its place, ``summary.json`` last. A process
that is killed before leaves the earlier audit; one that is killed after leaves a switch that the next call ends,
whether it reads or writes. Each file holds the generation's name, so that files of two audits are never read together.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truepair.errors import DataError
from truepair.files.json import parsed_json
from truepair.files.locking import alone_in
from truepair.files.names import AUDIT, FINDINGS, ISSUES, READY, REPORT
from truepair.files.replacing import sync_folder, sync_tree
from truepair.sources.skipped import SKIPPED

if TYPE_CHECKING:  # slow to load, and not needed by those who only read the summary
    import pyarrow

FILES = (FINDINGS, ISSUES, SKIPPED, REPORT, AUDIT)
"""All that an audit may write; the one that says that the others are whole is the last."""

_NEW = ".new"
_KEY = b"truepair.audit"
_HEAD = 4096
"""Bytes of the report in which it says of which audit it is."""
_PATIENCE = 10.0
"""Seconds that a reader waits for another process to end a switch, which takes milliseconds."""


@contextmanager
def next_generation(folder: Path) -> Iterator[Path]:
    """An empty folder whose files take the place of those of an audit when the block ends without an error.

    The caller is alone in the audit's folder (`files.locking.alone_in`). Of `FILES`, those that are not written are
    removed.
    """
    finish_switch(folder)
    new = folder / _NEW
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    new.mkdir()
    try:
        yield new
        sync_tree(new)
        new.rename(folder / READY)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    finish_switch(folder)


def finish_switch(folder: Path) -> None:
    """End a switch to a newer audit that was begun; a folder in which there is none is not written to.

    Raises:
        ConfigError: If it has to be ended, and the folder cannot be written, or another process is at it for long.
        DataError: If a file cannot be moved.
    """
    if not (folder / READY).is_dir():
        return
    with alone_in(folder, _PATIENCE):
        try:
            _move(folder / READY, folder)
        except OSError as error:
            raise DataError(f"{folder} holds a newer audit in {READY}, which cannot be moved ({error})") from error


def _move(ready: Path, folder: Path) -> None:
    """Move what is there, the summary last: it tells whether a file was moved already, or never written."""
    summary = ready / AUDIT
    if summary.exists():
        written = parsed_json(summary.read_bytes(), str(summary))["files"].values()
        for name in FILES[:-1]:
            if (ready / name).exists():
                (ready / name).replace(folder / name)
            elif name not in written:
                (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
        summary.replace(folder / AUDIT)
        sync_folder(folder)
    shutil.rmtree(ready, ignore_errors=True)  # another process may have ended it meanwhile


def generation_of(tables: Sequence[pyarrow.Table], rest: Mapping[str, Any]) -> str:
    """A name that tells audits apart, and is the same for the same results.

    Args:
        tables: What was found.
        rest: What else was found, and how, as JSON can say it.

    Returns:
        32 hexadecimal digits.
    """
    import pyarrow as pa

    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for table in tables:
        whole = table.combine_chunks()
        with pa.ipc.new_stream(pa.PythonFile(_Hashed(digest), mode="w"), whole.schema) as stream:
            stream.write_table(whole)
    return digest.hexdigest()[:32]


def marked(table: pyarrow.Table, generation: str) -> pyarrow.Table:
    """A table that says of which audit it is."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: generation.encode()})


def refuse_mixture(folder: Path, name: str, found: str | None, generation: str | None) -> None:
    """Refuse a file of another audit than the summary beside it.

    Args:
        folder: The audit's folder.
        name: The file.
        found: What it says of itself: `generation_of_table` or `generation_of_page`.
        generation: What the summary says; None in one of an earlier version, where no file says anything.

    Raises:
        DataError: If they are of different audits.
    """
    if found != generation:
        one, other = (known[:12] if known else "of an earlier version" for known in (found, generation))
        raise DataError(
            f"{folder / name} and {AUDIT} are of different audits ({one} and {other}): audit again, or bring back "
            "the files that belong together"
        )


def generation_of_table(table: pyarrow.Table) -> str | None:
    """What a table says of itself; None in one of an earlier version."""
    found = (table.schema.metadata or {}).get(_KEY)
    return None if found is None else str(found.decode())


def generation_of_page(path: Path) -> str | None:
    """What the report says of itself; None in one of an earlier version."""
    with path.open("rb") as file:
        found = re.search(rb'<meta name="truepair-audit" content="([0-9a-f]*)">', file.read(_HEAD))
    return None if found is None else found[1].decode()


class _Hashed(io.RawIOBase):
    """A file that keeps nothing but the digest of what is written to it."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return len(memoryview(data).cast("B"))
