"""One process at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from truepair.errors import ConfigError

LOCK = "lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder that is made if missing; a killed process lets them in.

    Raises:
        ConfigError: If another process is in it, or its file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)  # the system's: it goes with the process
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"another process is writing {folder}: wait for it to end, or stop it") from None
    except NotImplementedError as error:
        raise ConfigError(
            f"the file system of {folder} has no locks ({error}): choose a folder on another file system"
        ) from error
    try:
        yield
    finally:
        lock.release()
