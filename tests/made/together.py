"""Processes on this machine that train together, as torchrun starts them; forked, so that none has to import torch."""

import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}
    return {name: str(value) for name, value in (numbers | there).items()}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(
    work: Callable[[int], object], folder: Path, count: int, tell: Callable[..., Mapping[str, str]] = environment
) -> list[int]:
    """Fork processes that do `work` with their number; what it returns or raises lies in `folder`.

    Returns:
        Their ids.
    """
    port, children = free_port(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            _work_and_exit(work, folder, rank, tell(rank, count, port))
        children.append(child)
    return children


def _work_and_exit(work: Callable[[int], object], folder: Path, rank: int, told: Mapping[str, str]) -> None:
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # a process that waits for ever ends
        torch.set_num_threads(1)
        os.environ.update(told)
        torch.save(work(rank), folder / f"{rank}.pt")
        code = 0
    except BaseException as error:
        (folder / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        (folder / f"{rank}.trace").write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(code)


def end(children: list[int]) -> list[int]:
    """Exit codes of processes, once they have ended; below 0 that of a signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def together(work: Callable[[int], object], folder: Path, count: int = 2, tell: Callable = environment) -> list[object]:
    """What `work` returned on each process.

    Raises:
        AssertionError: If it failed on any.
    """
    folder.mkdir(exist_ok=True)
    codes = end(start(work, folder, count, tell))
    failed = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.trace"))]
    assert not failed, "\n".join(failed)
    assert codes == [0] * count, f"exit codes {codes}"
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]
