"""When a process is killed: at its nth file event, when a file outgrows a size, or after some time. It kills itself."""

import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree", "sqlite3.connect"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Moment:
    """A moment of a command.

    Attributes:
        kind: "event": right before the nth change of a file; "size": when a file grows beyond n bytes, whoever writes
            it; "time": after n seconds.
        at: The n.
    """

    kind: Literal["event", "size", "time"]
    at: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.at:g}"

    @staticmethod
    def parsed(text: str) -> "Moment":
        """What `str` of a moment gave."""
        kind, _, at = text.partition(":")
        return Moment(kind, float(at))  # type: ignore[arg-type]


class FileEvents:
    """An audit hook that counts changes of files below a folder; at the nth, the process is killed."""

    def __init__(self, folder: Path, fatal: int | None = None) -> None:
        self.below = f"{folder.resolve()}{os.sep}"
        self.fatal = fatal
        self.seen: list[str] = []

    def install(self) -> None:
        """Count from now on, ``os.fsync`` included, which audit hooks do not hear of."""
        sys.addaudithook(self)
        fsync = os.fsync

        def counted(file: Any) -> None:
            self("os.fsync", (_path_of_descriptor(file if isinstance(file, int) else file.fileno()),))
            fsync(file)

        os.fsync = counted

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS and event != "os.fsync":
            return
        if event == "open" and not _writes(arguments):
            return
        path = _path_of(event, arguments)
        if path is None or not path.startswith(self.below):
            return
        self.seen.append(f"{event} {path.removeprefix(self.below)}")
        if len(self.seen) == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def await_moment(moment: Moment, folder: Path) -> None:
    """Have this process killed at a moment.

    Args:
        moment: When.
        folder: Where file events count.
    """
    if moment.kind == "event":
        FileEvents(folder, fatal=int(moment.at)).install()
    elif moment.kind == "size":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(moment.at), int(moment.at)))
    else:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(moment.at, 1e-4))


def chosen(events: int, sizes: Sequence[int], seconds: float, count: int, seed: int) -> list[Moment]:
    """Moments of a command: every event if there are few, else some spread over all, with sizes and times between.

    Args:
        events: File events of a command that is left in peace.
        sizes: Sizes of the files that it leaves.
        seconds: How long it takes.
        count: How many moments at most.
        seed: Of the moments that are drawn.
    """
    random = np.random.default_rng(seed)
    others = count // 4
    wanted = min(events, count - others)
    found = [Moment("event", place) for place in spread(events, wanted)]
    large = sorted({size for size in sizes if size > 1})
    if large:
        picked = random.choice(large, size=min(len(large), (others + 1) // 2), replace=False)
        found += [Moment("size", int(random.integers(1, size))) for size in picked]
    found += [Moment("time", round(float(random.uniform(0, seconds)), 4)) for _ in range(others // 2)]
    return found


def spread(most: int, count: int) -> list[int]:
    """`count` of the numbers from 1 to `most`, each in the middle of as long a stretch of them.

    >>> spread(9, 3), spread(3, 3)
    ([2, 5, 8], [1, 2, 3])
    """
    return [-(-(2 * place + 1) * most // (2 * count)) for place in range(count)]


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(flags & _WRITING)


def _path_of(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The absolute path that an event is about; for a renaming the new one."""
    path = arguments[1] if event == "os.rename" else arguments[0]
    if isinstance(path, int):
        return _path_of_descriptor(path)
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    name = os.fsdecode(path).removeprefix("file://").partition("?")[0]
    descriptor = arguments[-1]
    inside = event in ("os.remove", "os.rmdir", "os.mkdir") and isinstance(descriptor, int) and descriptor >= 0
    if inside and not Path(name).is_absolute():
        return f"{_path_of_descriptor(descriptor)}{os.sep}{name}"
    return os.path.abspath(name)  # noqa: PTH100, links stay


def _path_of_descriptor(descriptor: int) -> str | None:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return None
