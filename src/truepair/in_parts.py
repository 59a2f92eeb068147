r"""The encodings of a batch, made in parts: by several processes, and a few items at a time.

Every process computes the loss L of the whole batch from gathered encodings, so that all pairs of the batch are
negatives of each other. Backwards, gathering adds up what the losses of all N processes give to an encoding: a process
finds N times the part of :math:`\partial L / \partial W` that its own share of the batch makes. What all compute alike,
a similarity or a head, has the whole :math:`\partial L / \partial W` on each. So the mean over the processes
(`processes.mean_gradients`) is the gradient that a single process with the whole batch finds.

A few items at a time, encodings are made twice: without a graph, for the loss, and again when their gradient is known
(GradCache: Gao et al., RepL4NLP 2021, https://arxiv.org/abs/2101.06983), by torch's activation checkpointing, which
replays dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from truepair import processes
from truepair.data.batch import Batch, Padded, joined
from truepair.layers import full_precision

Encode = Callable[[Padded], Padded]
"""An encoder, or its first part."""

_shares_rows: ContextVar[bool] = ContextVar("shares_rows", default=False)
"""Whether an encoder now reads this process's share of a batch, and not all of it."""


def encoded(encode: Encode, items: Padded, batch: Batch) -> Padded:
    """The encodings of all of a batch's images, or of all of its captions.

    Args:
        encode: Makes encodings of items, each by itself.
        items: The batch's images or captions, as far as this process has them.
        batch: Says which part that is, and how many items are encoded at once.
    """
    if batch.counts is None:
        return _few_at_once(encode, items, batch.encode_at_once)
    with _own_random_numbers(items.values.device), _sharing():
        own = _few_at_once(encode, items, batch.encode_at_once)
    return gathered(own, batch.counts)


def gathered(items: Padded, counts: Sequence[int]) -> Padded:
    """The items of all processes, one process after the other, padded to the longest of all; with gradients.

    Args:
        items: Of this process.
        counts: How many each process has.
    """
    if items.lengths is None:
        return Padded(processes.gathered(items.values, counts))
    width, positions = items.values.shape[1], processes.widest(items.values.shape[1])
    tail = [0, 0] * (items.values.dim() - 2)
    values = pad(items.values, [*tail, 0, positions - width])
    return Padded(processes.gathered(values, counts), processes.gathered(items.lengths, counts))


def _few_at_once(encode: Encode, items: Padded, most: int) -> Padded:
    if not most:
        return encode(items)

    def again(*of_part: Tensor | None) -> Padded:
        return encode(Padded(*of_part))  # type: ignore[arg-type]

    parts = []
    for start in range(0, len(items), most):
        part = items.rows(slice(start, start + most))
        some = (
            part.values,
            part.lengths,
            part.vectors,
            part.places,
        )  # tensors one by one: where they lie, generators are replayed
        parts.append(checkpoint(again, *some, use_reentrant=False) if torch.is_grad_enabled() else again(*some))
    return joined(parts)


@contextmanager
def _sharing() -> Iterator[None]:
    token = _shares_rows.set(True)
    try:
        yield
    finally:
        _shares_rows.reset(token)


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Within it, every process draws other numbers (dropout); afterwards the generators of all agree again.

    What draws nothing leaves them as they were, so that later draws are those of a single process.
    """
    before = _states(device)
    seed = int(torch.randint(2**62, ()))
    after = _states(device)
    torch.manual_seed(seed + processes.rank())
    own = _states(device)
    try:
        yield
        has_drawn = any(not torch.equal(*pair) for pair in zip(own, _states(device), strict=True))
    except BaseException:
        has_drawn = True
        raise
    finally:
        cpu, *cuda = after if has_drawn else before
        torch.set_rng_state(cpu)
        for state in cuda:
            torch.cuda.set_rng_state(state, device)


def _states(device: torch.device) -> list[Tensor]:
    """Of the generators that a computation on `device` draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the rows of all processes, where each has a share of them.

    As torch's SyncBatchNorm, which has no CPU; with the names and numbers of `nn.BatchNorm1d`.
    """

    def forward(self, input: Float[Tensor, "rows channels *places"]) -> Float[Tensor, "rows channels *places"]:
        """Normalise every channel."""
        if not (self.training and _shares_rows.get()):
            normalised: Tensor = super().forward(input)
            return normalised
        values, over = full_precision(input), [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        count = processes.summed(values.new_tensor(float(input.numel() // input.shape[1])))
        mean = processes.summed(values.sum(over)) / count
        centred = values - mean.view(shape)
        variance = processes.summed(centred.square().sum(over)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        unit = centred / (variance + self.eps).sqrt().view(shape)
        return (unit * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Float[Tensor, " channels"], variance: Float[Tensor, " channels"]) -> None:
        """Running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


def share_batch_norms(network: nn.Module) -> None:
    """Let the batch normalisations in a network run over the rows of all processes; the parameters stay the same."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm1d:
                shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
                shared.weight, shared.bias = child.weight, child.bias
                shared._buffers = child._buffers
                shared.train(child.training)
                setattr(module, name, shared)
