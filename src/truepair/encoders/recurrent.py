"""A bidirectional GRU over sequences of different length, with a backward pass made of few large products."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from truepair.data.batch import Padded


class BidirectionalGru(nn.Module):
    """One-layer bidirectional GRU; a position is the mean of its two directions, as in VSE++ and all its heirs.

    Holds the parameters of an `nn.GRU`. On a GPU, and where no gradient is asked for, that module does the work. For
    training on a CPU its backward pass makes four small products a time step; `_BothDirections` computes the same
    gradients with the weights' products taken once over all steps, in little more than half the time.

    Attributes:
        twice_differentiable: Use `nn.GRU` in training too, whose gradient can itself be differentiated on a CPU (a
            virtual optimiser step, as in MSCN).
    """

    twice_differentiable = False

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True, bidirectional=True)

    def forward(self, items: Padded) -> Padded:
        """Sequences ``[items, positions, features]`` → ``[items, positions, hidden]``, zeros past an item's length."""
        assert items.lengths is not None  # vectors have no positions to walk over
        packed = pack_padded_sequence(items.values, items.lengths.cpu(), batch_first=True, enforce_sorted=False)
        if items.values.device.type != "cpu" or self.twice_differentiable or not torch.is_grad_enabled():
            forwards, backwards = self.gru(packed)[0].data.chunk(2, dim=-1)
            mean = (forwards + backwards) / 2
        else:
            sizes = packed.batch_sizes
            mean = _BothDirections.apply(  # type: ignore[no-untyped-call]
                packed.data, sizes.tolist(), _reversal(sizes), *self.gru.parameters()
            )
        packed = PackedSequence(mean, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        states, _ = pad_packed_sequence(packed, batch_first=True, total_length=items.values.shape[1])
        return Padded(states, items.lengths)


@contextmanager
def twice_differentiable(network: nn.Module) -> Iterator[None]:
    """Inside, gradients of `network` can be differentiated again.

    `nn.GRU` does the work of our own GRU, on a GPU without cuDNN, and attention is computed in single steps.
    """
    grus = [module for module in network.modules() if isinstance(module, BidirectionalGru)]
    before = [gru.twice_differentiable for gru in grus]
    for gru in grus:
        gru.twice_differentiable = True
    try:
        with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for gru, value in zip(grus, before, strict=True):
            gru.twice_differentiable = value


class _BothDirections(torch.autograd.Function):
    """The mean of both directions over packed sequences.

    Packed means: the positions of time 0 of all sequences, longest sequence first, then those of time 1, and so on;
    `sizes` says how many sequences reach each time. With gates r, z and candidate n (PyTorch's nn.GRU)::

        r, z = σ(W_rz x + U_rz h),   u = U_n h,   n = tanh(W_n x + r · u),   h' = n + z · (h - n)

    The second direction reads each sequence from its own end, so that both have the same sizes at the same time: they
    stand side by side in the leading dimension, and a time step is one product for both.
    """

    # Under autocast too, states are summed over time in full precision.
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, sizes: list[int], reversal: Tensor, *parameters: Tensor) -> Tensor:
        w, u, w_bias, u_bias = (torch.stack(pair) for pair in zip(parameters[:4], parameters[4:], strict=True))
        hidden = u.shape[2]
        both = torch.stack([x, x[reversal]])
        inputs = torch.baddbmm(w_bias[:, None], both, w.mT)  # [2, positions, 3 hidden], every time at once
        recurrent, states = torch.empty_like(inputs), inputs.new_empty(2, len(x), hidden)
        h = inputs.new_zeros(2, sizes[0], hidden)
        for at in _steps(sizes):
            h = h[:, : at.stop - at.start]  # sequences that have ended drop out, and the longest come first
            torch.baddbmm(u_bias[:, None], h, u.mT, out=recurrent[:, at])
            gates = recurrent[:, at, : 2 * hidden].add_(inputs[:, at, : 2 * hidden]).sigmoid_()
            r, z = gates.chunk(2, dim=2)
            n = inputs[:, at, 2 * hidden :].addcmul_(r, recurrent[:, at, 2 * hidden :]).tanh_()
            h = torch.lerp(n, h, z, out=states[:, at])
        # What the loop left in place: gates and u in `recurrent`, candidates in the last third of `inputs`.
        ctx.save_for_backward(both, reversal, w, u, recurrent, inputs[..., 2 * hidden :], states)
        ctx.sizes = sizes
        return (states[0] + states[1][reversal]).div_(2)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        both, reversal, w, u, recurrent, candidate, states = ctx.saved_tensors
        hidden, steps = u.shape[2], _steps(ctx.sizes)
        before = torch.zeros_like(states)
        for at, earlier in zip(steps[1:], steps, strict=False):
            before[:, at] = states[:, earlier][:, : at.stop - at.start]
        # Everything that does not depend on the gradient of a later step is computed for all positions at once.
        r, z, from_state = recurrent.chunk(3, dim=2)
        to_n = (1 - z) * (1 - candidate * candidate)
        to_z = (before - candidate) * z * (1 - z)
        to_r = from_state * r * (1 - r)
        of_inputs, of_recurrent = torch.empty_like(recurrent), torch.empty_like(recurrent)
        of_states = torch.stack([gradient, gradient[reversal]]).div_(2)
        for at, earlier in zip(reversed(steps), [*reversed(steps[:-1]), None], strict=True):
            d, step = of_states[:, at], of_recurrent[:, at]
            of_n = torch.mul(d, to_n[:, at], out=of_inputs[:, at, 2 * hidden :])
            torch.mul(of_n, to_r[:, at], out=step[..., :hidden])
            torch.mul(d, to_z[:, at], out=step[..., hidden : 2 * hidden])
            torch.mul(of_n, r[:, at], out=step[..., 2 * hidden :])
            if earlier is not None:
                of_states[:, earlier][:, : d.shape[1]] += torch.baddbmm(d.mul_(z[:, at]), step, u)
        of_inputs[..., : 2 * hidden] = of_recurrent[..., : 2 * hidden]
        of_x = None
        if ctx.needs_input_grad[0]:
            forwards, backwards = of_inputs @ w
            of_x = forwards + backwards[reversal]
        of_parameters = (of_inputs.mT @ both, of_recurrent.mT @ before, of_inputs.sum(1), of_recurrent.sum(1))
        return of_x, None, None, *(of[0] for of in of_parameters), *(of[1] for of in of_parameters)


def _steps(sizes: list[int]) -> list[slice]:
    """Where the positions of each time are packed."""
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _reversal(sizes: Tensor) -> Tensor:
    """For each packed position, where the position stands that is as far from its sequence's other end.

    >>> _reversal(torch.tensor([2, 1, 1]))  # a b | a | a
    tensor([3, 1, 2, 0])
    """
    start = sizes.cumsum(0) - sizes
    time = torch.arange(len(sizes)).repeat_interleave(sizes)
    sequence = torch.arange(len(time)) - start[time]
    return start[sequence.bincount()[sequence] - 1 - time] + sequence
