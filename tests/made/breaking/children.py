"""Functions in forked children: a start takes milliseconds, and what ends a child ends nothing else."""

import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

HEAVY = (
    *("fastapi.testclient", "matplotlib.backends.backend_svg", "pyarrow.dataset", "sklearn.metrics", "sqlite3"),
    *("transformers.models.clip.modeling_clip", "transformers.models.clip.image_processing_pil_clip"),
    *("truepair.audit.given", "truepair.audit.run", "truepair.embedding.joining", "truepair.figures.page"),
    *("truepair.inspection.run", "truepair.review.app", "truepair.training.run", "latent_factors"),
    *(f"truepair.cli.{name}" for name in ("audit", "embed", "evaluate", "figures", "fix", "noise", "review", "train")),
)
"""What commands import: once here, before any fork."""
TRACEBACK = "Traceback (most recent call last)"
_SAID = 20_000
"""Characters of output that are kept."""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: Its exit status; minus the signal's number if one ended it.
        value: What the function returned; None if it did not come to that.
        said: Standard output and standard error, the last of it.
        hung: Whether it was ended here because it took too long.
        seconds: How long it took.
    """

    code: int
    value: Any
    said: str
    hung: bool
    seconds: float

    @property
    def has_traceback(self) -> bool:
        """Whether it showed one."""
        return TRACEBACK in self.said

    @property
    def error(self) -> str:
        """The last line that it said."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def prepare() -> None:
    """Import what commands import, on one thread: to be called before the first child."""
    import torch

    torch.set_num_threads(1)
    for name in HEAVY:
        import_module(name)


class Child:
    """A function that runs in a child of its own from the moment that this is made."""

    def __init__(self, function: Callable[[], Any]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._started = time.monotonic()
        self._pipes = {name: os.pipe() for name in ("said", "value")}
        self.pid = os.fork()
        if self.pid == 0:
            _run(function, self._pipes["said"][1], self._pipes["value"][1])
        for _, write in self._pipes.values():
            os.close(write)

    def end(self, limit: float = 120.0) -> Ended:
        """Wait until it has ended, or end it after so many seconds."""
        read = {self._pipes[name][0]: bytearray() for name in ("said", "value")}
        hung = _read_all(read, self._started + limit)
        if hung:
            os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        for pipe in read:
            os.close(pipe)
        said, value = read.values()
        return Ended(
            code=os.waitstatus_to_exitcode(status),
            value=pickle.loads(value) if value else None,
            said=said.decode(errors="replace")[-_SAID:],
            hung=hung,
            seconds=time.monotonic() - self._started,
        )


def in_child(function: Callable[[], Any], limit: float = 120.0) -> Ended:
    """Run a function in a child; what it returns must be picklable."""
    return Child(function).end(limit)


def value_of(function: Callable[[], Any], limit: float = 120.0) -> Any:
    """What a function returns that must not fail, computed in a child.

    Raises:
        RuntimeError: If it fails all the same.
    """
    ended = in_child(function, limit)
    if ended.code:
        raise RuntimeError(f"a check ended with {ended.code}:\n{ended.said}")
    return ended.value


def _read_all(read: dict[int, bytearray], deadline: float) -> bool:
    """Read pipes until their writers are gone; True if the deadline came first."""
    open_pipes = set(read)
    while open_pipes:
        left = deadline - time.monotonic()
        ready = select.select(list(open_pipes), [], [], max(0.0, left))[0]
        if not ready:
            return True
        for pipe in ready:
            content = os.read(pipe, 1 << 16)
            read[pipe] += content
            if not content:
                open_pipes.discard(pipe)
    return False


def _run(function: Callable[[], Any], said: int, value: int) -> None:
    """What a child does; it never returns."""
    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.close(said)  # so that the pipe ends with this process, not with a copy of it
        try:
            returned = function()
            code = returned if isinstance(returned, int) else 0
            with os.fdopen(value, "wb") as pipe:
                pickle.dump(returned, pipe)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
