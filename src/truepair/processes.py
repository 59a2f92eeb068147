"""Several processes that train one model: which one this is, and what they tell each other.

torchrun or SLURM starts them, `training.device` joins them by torch.distributed, and process 0 alone writes. Where
nothing was joined, or `alone`, there is one process, and nothing here communicates.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Bool
from torch import Tensor

from truepair.errors import TrainingError, TruepairError, said_by

PATIENCE = timedelta(minutes=10)
"""How long a process waits in the middle of a step for the others."""
_LONG_PATIENCE = timedelta(days=30)
"""How long the others wait for process 0, which tests alone."""

Returned = TypeVar("Returned")

_alone: ContextVar[bool] = ContextVar("alone", default=False)
_messages: Any = None  # the group of processes for messages from CPU to CPU; None where there is one process
_patient: Any = None  # the same, which waits for long


def join() -> None:
    """After torch.distributed has joined the processes: groups for messages that need no accelerator."""
    global _messages, _patient
    _messages = dist.new_group(backend="gloo", timeout=PATIENCE)
    _patient = dist.new_group(backend="gloo", timeout=_LONG_PATIENCE)


def leave() -> None:
    """End what `join` began; the next run in this process may join anew."""
    global _messages, _patient
    _messages = _patient = None
    if dist.is_initialized():
        dist.destroy_process_group()


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _patient is not None and not _alone.get() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_first() -> bool:
    """Whether this is process 0, which writes; True where there is one process."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Within it, this process counts as the only one."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def share_of(rows: int) -> slice | None:
    """Which of `rows` rows this process takes, in equal shares as far as that goes.

    Returns:
        None where every process takes all of them: there is one process, or are fewer rows than processes.
    """
    return None if count() == 1 or rows < count() else shares(rows, count())[rank()]


def shares(rows: int, processes: int) -> list[slice]:
    """`rows` rows cut into stretches, one a process, whose lengths differ by 1 at most.

    >>> shares(5, 2)
    [slice(0, 2, None), slice(2, 5, None)]
    """
    borders = [rows * process // processes for process in range(processes + 1)]
    return [slice(*border) for border in pairwise(borders)]


@contextmanager
def _talking() -> Iterator[None]:
    """Says in words that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = re.sub(r"^\[\S+\] ", "", said_by(error)).partition(". ")[0][:200]  # without Gloo's line and advice
        raise TrainingError(
            f"process {dist.get_rank()} of {dist.get_world_size()} lost the others ({said}): one of them ended or does "
            "not answer, and its own message says why; the last checkpoint is intact, and the same command goes on "
            "from there"
        ) from error


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes; differentiable, as often as wanted."""
    if count() == 1:
        return tensor
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


def mean(tensor: Tensor) -> Tensor:
    """The mean over all processes; differentiable, as often as wanted."""
    return tensor if count() == 1 else summed(tensor) / count()


def gathered(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all processes, one process after the other; differentiable, as often as wanted.

    Backwards, the gradients that all processes have for a row are added up.

    Args:
        rows: ``[own, …]``, of this process, as wide as those of the others.
        counts: How many rows each process has.

    Returns:
        ``[all, …]``, the same on every process.
    """
    everything: Tensor = _Gather.apply(rows, counts)  # type: ignore[no-untyped-call]
    return everything


def widest(width: int) -> int:
    """The largest of the numbers that all processes have."""
    widths = torch.tensor(width)
    with _talking():
        dist.all_reduce(widths, dist.ReduceOp.MAX, group=_messages)
    return int(widths)


def anywhere(flags: Bool[Tensor, " items"]) -> Bool[Tensor, " items"]:
    """Which of some flags, as many on every process, are set on any of them."""
    if count() == 1:
        return flags
    numbers = flags.to("cpu", torch.uint8)
    with _talking():
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=_messages)
    return numbers.bool()


def mean_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace the gradients that all processes have by their means, in one message for each type of number.

    All must have gradients for the same parameters.
    """
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        alike = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = mean(torch.cat([gradient.flatten() for gradient in alike]))
        for gradient, part in zip(alike, flat.split([gradient.numel() for gradient in alike]), strict=True):
            gradient.copy_(part.view_as(gradient))


def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by those of process 0."""
    with _talking():
        for tensor in tensors:
            dist.broadcast(tensor.data, 0)


def different(values: Mapping[str, bytes | memoryview]) -> dict[str, int]:
    """Which of some named values another process has otherwise than process 0, and the first that does.

    Returns:
        The same on every process.
    """
    if count() == 1 or not values:
        return {}
    digests = [list(hashlib.sha256(value).digest()) for value in values.values()]
    own = torch.tensor(digests, dtype=torch.uint8)
    everybody = [torch.empty_like(own) for _ in range(count())]
    with _talking():
        dist.all_gather(everybody, own, group=_messages)
    is_other = (torch.stack(everybody) != everybody[0]).any(2)  # [processes, values]
    return {
        name: int(column.nonzero()[0]) for name, column in zip(values, is_other.unbind(1), strict=True) if column.any()
    }


def of_first(value: float) -> float:
    """The number that process 0 has, by which all decide alike."""
    if count() == 1:
        return value
    number = torch.tensor(value, dtype=torch.float64)
    with _talking():
        dist.broadcast(number, 0, group=_messages)
    return float(number)


def wait_for_all() -> None:
    """Wait until all processes are here, however long it takes."""
    if count() > 1:
        with _talking():
            dist.barrier(group=_patient)


def on_first(work: Callable[[], Returned]) -> Returned | None:
    """Do something on process 0 while the others wait, however long; what it refuses, all refuse.

    Returns:
        What `work` returned; None on other processes.

    Raises:
        TruepairError: What `work` raised; the others end with the same words.
    """
    if count() == 1:
        return work()
    failure, result = None, None
    if is_first():
        try:
            with alone():
                result = work()
        except TruepairError as error:
            failure = error
    said = f"{type(failure).__name__}:{failure}".encode() if failure else b""
    words = _from_first(said)
    if failure is not None:
        raise failure
    if words:
        raise TrainingError(f"process 0 cannot go on: {words.decode().partition(':')[2]}")
    return result


def _from_first(message: bytes) -> bytes:
    """The message of process 0."""
    length = torch.tensor(len(message))
    with _talking():
        dist.broadcast(length, 0, group=_patient)
        content = torch.zeros(int(length), dtype=torch.uint8)
        if is_first():
            content = torch.tensor(list(message), dtype=torch.uint8)
        dist.broadcast(content, 0, group=_patient)
    return bytes(content.tolist())


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        with _talking():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        own = rows.new_zeros(max(counts), *rows.shape[1:])  # messages of all processes have one size
        own[: len(rows)] = rows
        everybody = [torch.empty_like(own) for _ in counts]
        with _talking():
            dist.all_gather(everybody, own)
        return torch.cat([theirs[:number] for theirs, number in zip(everybody, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return summed(gradient).split(list(ctx.counts))[rank()], None
