"""Copies on this machine of files that lie in a store, or of parts of files, up to a total size."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from truepair.errors import ConfigError, DataError, said_by
from truepair.files.cache import FOLDER_VARIABLE, cache_folder
from truepair.files.locking import alone_with, lock_beside
from truepair.files.replacing import put_in_place

_OWN = "shards"
"""The folder in it, of which every file may be deleted."""
_IN_USE = 60.0
"""Seconds for which a copy that was just asked for, or is just being written, stays."""
_LONGEST_WAIT = 600.0
"""Seconds to wait for another thread or process that is fetching the same copy."""


def usual_folder() -> Path:
    """Where copies are kept: ``shards`` in the folder for caches, of which other files stay."""
    return cache_folder() / _OWN


@dataclass(frozen=True)
class ShardCache:
    """A folder of copies, which several threads and processes may share.

    A copy is fetched by one of those that ask for it, while the others wait. It appears whole or not at all. What was
    asked for longest ago is deleted first; a copy that is open stays readable until it is closed (on Windows, it is not
    deleted).

    Attributes:
        folder: Where they are; made if needed.
        most_bytes: How much they take together. A single larger file is kept until the next one is fetched.
    """

    folder: Path
    most_bytes: int

    def has(self, name: str) -> bool:
        """Whether there is a copy of that name."""
        return (self.folder / name).is_file()

    def copy(self, name: str, size: int, fetch: Callable[[BinaryIO], None]) -> Path:
        """The copy of that name, made if it is not there.

        Args:
            name: Of the copy; files that differ have different names.
            size: About how large it will be, in bytes.
            fetch: Writes it to an empty file.

        Raises:
            DataError: If there is no room for it.
            OSError: What `fetch` raises, where it is no error of the disk.
        """
        path = self.folder / name
        if _touched(path):
            return path
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _in_turn(path):
                if not _touched(path):
                    self._make_room(size)
                    self._write(path, fetch)
        except OSError as error:
            if error.errno is None:  # not of the disk, but of what is copied, which Arrow cannot read
                raise
            raise DataError(
                f"no copy of {size / 1e9:,.2f} GB can be kept in {self.folder} ({said_by(error)}): make room, lower "
                f"--cache-size, or name another folder in {FOLDER_VARIABLE}"
            ) from error
        return path

    def _write(self, path: Path, fetch: Callable[[BinaryIO], None]) -> None:
        """A name of its own until it is whole: where there are no locks, two processes may fetch the same file."""
        number, name = tempfile.mkstemp(suffix=".part", dir=self.folder)
        try:
            with os.fdopen(number, "wb") as file:
                fetch(file)
            put_in_place(Path(name), path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _make_room(self, size: int) -> None:
        """Delete what was asked for longest ago, also what a killed process left half-written."""
        found = []
        for path in self.folder.iterdir():
            if path.suffix == lock_beside(path).suffix:
                continue
            try:
                found.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:  # another process deleted it
                continue
        total = size + sum(length for _, length, _ in found)
        for used, length, path in sorted(found):
            if total <= self.most_bytes or used > time.time() - _IN_USE:
                return
            try:
                path.unlink(missing_ok=True)
                total -= length
            except OSError:  # open, on Windows
                continue


def _touched(path: Path) -> bool:
    """Whether a copy is there; it is then the one that was asked for last."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


@contextmanager
def _in_turn(path: Path) -> Iterator[None]:
    """Wait while another thread or process has this copy to itself; where there are no locks, or for too long, not."""
    with ExitStack() as stack:
        with suppress(ConfigError):
            stack.enter_context(alone_with(path, _LONGEST_WAIT))
        yield


def usual_cache(size: float) -> ShardCache:
    """The copies in `usual_folder`, up to `size` GB."""
    return ShardCache(usual_folder(), round(size * 1e9))
