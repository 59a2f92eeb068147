"""A process that is killed at one of its events on files, in a fork of the one that tests."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

_EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")


def killed_at(event: int, work: Callable[[], object], below: Path) -> bool:
    """Do some work in a child that is killed just before its event-th one on a file or folder.

    Args:
        event: Which of the openings for writing, renamings, deletions and makings of folders, from 1.
        work: What to do.
        below: Only files in this folder count.

    Returns:
        True if it was killed, False if it had ended before.
    """
    child = os.fork()
    if child == 0:
        _die_at(event, work, str(below))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed; its error is on standard error"
    return False


def _die_at(event: int, work: Callable[[], object], below: str) -> None:
    seen = 0

    def count(name, arguments):
        nonlocal seen
        if name not in _EVENTS and not (name == "open" and _writes(*arguments)):
            return
        path = arguments[0]
        seen += isinstance(path, str | Path) and str(path).startswith(below)
        if seen == event:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        torch.set_num_threads(1)  # others do not outlive a fork
        sys.addaudithook(count)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _writes(path: object, mode: object, flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
