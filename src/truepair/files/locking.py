"""Who owns a folder or a file that is being written: one thread of one process, by a lock of the operating system.

The lock goes with the process, so what a killed one leaves behind hinders no other. The lock file says who holds it;
only messages read that.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from truepair.errors import ConfigError
from truepair.files.json import parsed_json
from truepair.files.replacing import remove_leftovers

LOCK = ".lock"
"""The lock file in a folder; that of a file or folder NAME, beside it, is ``.NAME.lock``."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_LONGEST_COMMAND = 200
"""Characters of a command line that a message shows."""
_SECONDS_BETWEEN_TRIES = 0.05
_MOST_TRIES = 1000

_held: dict[tuple[int, Path], int] = {}
"""By process (a forked one holds nothing) and lock file: the thread that holds it."""


def lock_beside(path: Path) -> Path:
    """The lock file of a file, or of a folder that is replaced as a whole."""
    whole = path.absolute()  # "." has a name, too; a link keeps its own
    return whole.parent / f".{whole.name}.lock"


def make_folder(folder: Path) -> None:
    """Make a folder to write to, and those above it, where missing.

    Raises:
        ConfigError: If that is not possible, for instance because a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder} ({error.strerror}): choose another one") from error


@contextmanager
def alone_in(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep others out of a folder, which is made if missing; what a killed process left half-written is removed.

    The thread that is in may come in again. A folder that is made here and holds nothing in the end is removed.

    Args:
        folder: The folder.
        patience: Seconds to wait for another process.

    Raises:
        ConfigError: If another process or thread is in it, it cannot be made or written, or its file system has no
            locks.
    """
    with _owned(folder, folder / LOCK, patience):
        remove_leftovers(folder)
        yield


@contextmanager
def alone_with(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep others away from a file, or from a folder that is replaced as a whole: the lock lies beside it.

    As `alone_in` otherwise.
    """
    with _owned(path, lock_beside(path), patience):
        yield


@contextmanager
def _owned(what: Path, lock: Path, patience: float) -> Iterator[None]:
    """Hold a lock, or go on holding it where this thread has it."""
    key = os.getpid(), lock.parent.resolve() / lock.name
    held = _held.get(key)
    if held == threading.get_ident():
        yield
        return
    made = [path for path in lock.parents if not os.path.exists(path)]  # noqa: PTH110  Path.exists may raise
    try:
        with _locked(what, lock, patience):
            _held[key] = threading.get_ident()
            try:
                yield
            finally:
                del _held[key]
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


@contextmanager
def _locked(what: Path, path: Path, patience: float) -> Iterator[None]:
    """Hold the lock file, say in it who does, and delete it in the end."""
    lock = _acquired(what, path, patience)
    try:
        _say_who(path)
        yield
    finally:
        with suppress(OSError):  # an open file stays, on Windows
            path.unlink()  # while it is locked: see `_acquired`
        lock.release()


def _acquired(what: Path, path: Path, patience: float) -> FileLock:
    """A lock on the very file that bears the name.

    An owner deletes its lock file before it lets go. A process that had opened the file by then would come to hold a
    lock that nobody else meets. So a lock counts only if the file that bore the name before still does; it is kept open
    in between, so that its number is not given to another one.
    """
    until = time.monotonic() + patience
    for _ in range(_MOST_TRIES + int(patience / _SECONDS_BETWEEN_TRIES)):
        make_folder(path.parent)
        lock = FileLock(path, fallback_to_soft=False)  # a kill would leave a soft one locked
        try:
            with path.open("ab") as file:
                lock.acquire(timeout=0)
                if _bears(path, file.fileno()):
                    return lock
            lock.release()
        except Timeout:
            if time.monotonic() >= until:
                raise ConfigError(_refusal(what, path)) from None
            time.sleep(_SECONDS_BETWEEN_TRIES)
        except FileNotFoundError:  # the folder was empty, and was removed by the process that had made it
            continue
        except (NotImplementedError, OSError) as error:
            lock.release()
            raise _unlockable(what, error) from error
    raise ConfigError(_refusal(what, path))


def _bears(path: Path, file: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False


def _say_who(path: Path) -> None:
    who = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    with suppress(OSError):  # a full disk, or a file that Windows locks
        path.write_text(json.dumps(who), encoding="utf-8")


def _refusal(what: Path, path: Path) -> str:
    """Which folder, and who is in it since when, as far as the lock file says."""
    said = f"another process is writing {what}: wait for it to end, or stop it"
    try:
        who = parsed_json(path.read_bytes(), str(path))
        command = who["command"]
        if len(command) > _LONGEST_COMMAND:
            command = command[: _LONGEST_COMMAND - 1] + "…"
        return f"{said} (process {who['process']} on {who['host']} since {who['since']}: {command})"
    except (OSError, ValueError, KeyError, TypeError):  # a DataError is a ValueError
        return said


def _unlockable(what: Path, error: Exception) -> ConfigError:
    number = getattr(error, "errno", None)
    if isinstance(error, NotImplementedError) or number in _NO_LOCKS:
        return ConfigError(f"the file system of {what} has no locks ({error}): choose a folder on another file system")
    return ConfigError(
        f"cannot write to {what} ({getattr(error, 'strerror', None) or error}): make room, see that it is a folder and "
        "writable, or choose another one"
    )
