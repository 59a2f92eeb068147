"""Files and folders that appear whole or not at all, and are on the disk before they bear their name.

What is written lies beside its place as ``.NAME.truepair.part``. A kill may leave it there; the next writer of that
name writes over it, and the next owner of the folder removes it (`files.locking.alone_in`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PART = ".truepair.part"
_SWAP = ".truepair.swap"
"""A folder beside one that is replaced, with the new one and then the old one in it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends without an error.

    After an error, or a kill, an older file at `path` is as it was.
    """
    temporary = part_of(path)
    try:
        yield temporary
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `path` when the block ends without an error.

    After an error an earlier folder at `path` is as it was; after a kill it is there as well, or the next call puts it
    back first (see `put_back`). The caller holds the lock of `path` (`files.locking.alone_with`).
    """
    put_back(path)
    swap = _swap_of(path)
    written, old = swap / "new", swap / "old"
    try:
        written.mkdir(parents=True)
        yield written
        sync_tree(written)
        if path.exists():
            path.rename(old)
        written.rename(path)
        sync_folder(path.parent)
    finally:
        put_back(path)


def put_back(path: Path) -> None:
    """Undo, or end, what a killed `replacing_folder` had begun; nothing where nothing was."""
    swap = _swap_of(path)
    if not swap.exists():
        return
    if not path.exists() and (swap / "old").exists():
        (swap / "old").rename(path)
        sync_folder(path.parent)
    shutil.rmtree(swap, ignore_errors=True)


def part_of(path: Path) -> Path:
    """Where what will be `path` is written."""
    return path.parent / f".{path.name}{_PART}"


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a file, or a folder with all that is in it, its name, once it is on the disk."""
    if temporary.is_dir():
        sync_tree(temporary)
        temporary.rename(path)
    else:
        sync_file(temporary)
        temporary.replace(path)
    sync_folder(path.parent)


def remove(folder: Path) -> None:
    """Delete a folder that is there whole or not at all, whenever it is killed."""
    gone = part_of(folder)
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder, but not what has a lock of its own beside it."""
    for path in folder.glob(f".*{_PART}"):
        if path.with_name(path.name.removesuffix(_PART) + ".lock").exists():
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def is_leftover(path: Path) -> bool:
    """Whether a file or folder is one that a killed process left half-written."""
    return path.name.startswith(".") and path.name.endswith(_PART)


def sync_tree(folder: Path) -> None:
    """Wait until all that is in a folder is on the disk."""
    for path, _, files in os.walk(folder):
        for name in files:
            sync_file(Path(path) / name)
        sync_folder(Path(path))


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; Windows has no such call."""
    if os.name != "nt":
        sync_file(folder)


def _swap_of(path: Path) -> Path:
    whole = path.absolute()  # "." has a name, too; a link keeps its own
    return whole.parent / f".{whole.name}{_SWAP}"
