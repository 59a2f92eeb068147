"""A bidirectional GRU over sequences of different length, with a backward pass made of few large products."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from truepair.data.batch import Padded


class BidirectionalGru(nn.Module):
    """One-layer bidirectional GRU; a position is the mean of its two directions, as in VSE++ and all its heirs.

    Holds the parameters of an `nn.GRU`. On a GPU, and where no gradient is asked for, that module does the work. For
    training on a CPU its backward pass makes four small products a time step; `_Direction` computes the same gradients
    with the weights' products taken once over all steps, in less than half the time.

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
        else:
            sizes = packed.batch_sizes.tolist()
            parameters = [getattr(self.gru, name) for name in _PARAMETERS]
            forwards = _Direction.apply(packed.data, sizes, False, *parameters)  # type: ignore[no-untyped-call]
            parameters = [getattr(self.gru, f"{name}_reverse") for name in _PARAMETERS]
            backwards = _Direction.apply(packed.data, sizes, True, *parameters)  # type: ignore[no-untyped-call]
        mean = PackedSequence(
            (forwards + backwards) / 2, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
        states, _ = pad_packed_sequence(mean, batch_first=True, total_length=items.values.shape[1])
        return Padded(states, items.lengths)


_PARAMETERS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class _Direction(torch.autograd.Function):
    """One direction over packed sequences.

    Packed means: the positions of time 0 of all sequences, longest sequence first, then those of time 1, and so on;
    `sizes` says how many sequences reach each time. With gates r, z and candidate n (PyTorch's nn.GRU)::

        r, z = σ(W_rz x + U_rz h),   u = U_n h,   n = tanh(W_n x + r · u),   h' = n + z · (h - n)
    """

    # Under autocast too, states are summed over time in full precision.
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, x: Tensor, sizes: list[int], backwards: bool, w: Tensor, u: Tensor, w_bias: Tensor, u_bias: Tensor
    ) -> Tensor:
        hidden = u.shape[1]
        steps = _steps(sizes, backwards)
        inputs = torch.addmm(w_bias, x, w.T)  # [positions, 3 hidden], every time at once
        state = inputs.new_zeros(sizes[0], hidden)
        before, after, candidate, from_state = (inputs.new_empty(len(x), hidden) for _ in range(4))
        gates = inputs.new_empty(len(x), 2 * hidden)
        for at, active in steps:
            h = before[at].copy_(state[:active])
            recurrent = torch.addmm(u_bias, h, u.T)
            gate = torch.add(inputs[at, : 2 * hidden], recurrent[:, : 2 * hidden], out=gates[at]).sigmoid_()
            r, z = gate.chunk(2, dim=1)
            part = from_state[at].copy_(recurrent[:, 2 * hidden :])
            n = torch.addcmul(inputs[at, 2 * hidden :], r, part, out=candidate[at]).tanh_()
            state[:active] = torch.lerp(n, h, z, out=after[at])
        ctx.save_for_backward(x, w, u, gates, candidate, from_state, before)
        ctx.steps = steps
        return after

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, w, u, gates, candidate, from_state, before = ctx.saved_tensors
        hidden = u.shape[1]
        r_all, z_all = gates.chunk(2, dim=1)
        # Everything that does not depend on the gradient of a later step is computed for all positions at once.
        to_n = (1 - z_all) * (1 - candidate * candidate)
        to_z = (before - candidate) * z_all * (1 - z_all)
        to_r = from_state * r_all * (1 - r_all)
        of_inputs, of_recurrent = gradient.new_empty(len(x), 3 * hidden), gradient.new_empty(len(x), 3 * hidden)
        of_state = gradient.new_zeros(max(active for _, active in ctx.steps), hidden)
        for at, active in reversed(ctx.steps):
            d = of_state[:active] + gradient[at]
            of_n = torch.mul(d, to_n[at], out=of_inputs[at, 2 * hidden :])
            torch.mul(of_n, to_r[at], out=of_recurrent[at, :hidden])
            torch.mul(d, to_z[at], out=of_recurrent[at, hidden : 2 * hidden])
            torch.mul(of_n, r_all[at], out=of_recurrent[at, 2 * hidden :])
            of_state[:active] = torch.addmm(d.mul_(z_all[at]), of_recurrent[at], u)
        of_inputs[:, : 2 * hidden] = of_recurrent[:, : 2 * hidden]
        of_x = of_inputs @ w if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_inputs.T @ x, of_recurrent.T @ before, of_inputs.sum(0), of_recurrent.sum(0)


def _steps(sizes: list[int], backwards: bool) -> list[tuple[slice, int]]:
    """For each time step, in the order of computation: where its positions are packed, and how many there are."""
    steps, start = [], 0
    for active in sizes:
        steps.append((slice(start, start + active), active))
        start += active
    return steps[::-1] if backwards else steps
