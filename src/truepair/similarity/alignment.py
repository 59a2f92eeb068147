"""How an image and a caption relate: one similarity vector a word, and one for the whole (Diao et al., AAAI 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.layers import unit_length

_BYTES_IN_CACHE, _BYTES_ELSEWHERE = 2**21, 2**28
"""Size of an intermediate tensor: on a CPU, it should stay in the cache of a core."""


def slices(rows: int, bytes_a_row: int, device: torch.device) -> Iterator[slice]:
    """Consecutive slices of so many rows that an intermediate tensor of theirs is of the size that suits the device."""
    size = max(1, (_BYTES_IN_CACHE if device.type == "cpu" else _BYTES_ELSEWHERE) // bytes_a_row)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def applied(function: type[torch.autograd.Function], *inputs: Tensor) -> Tensor:
    """What `function` makes of `inputs`, in the precision of autocast, which does not reach into such functions."""
    device = inputs[0].device.type
    if torch.is_autocast_enabled(device):
        inputs = tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in inputs)
    with torch.autocast(device, enabled=False):
        result: Tensor = function.apply(*inputs)
        return result


def differentiable_gradients(
    formula: Callable[..., Tensor], inputs: Sequence[Tensor], needed: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of a function's inputs that can be differentiated again (a virtual optimiser step, as in MSCN).

    Args:
        formula: What the function computes, in operations that autograd knows.
        inputs: The function's inputs.
        needed: Of which a gradient is asked for.
        gradient: That of the result.
    """
    # Views, so that a tensor that another one was made of does not lead to that one's share of the gradient as well.
    views = [tensor.view_as(tensor) for tensor in inputs]
    asked = [view for view, is_needed in zip(views, needed, strict=True) if is_needed]
    given = iter(torch.autograd.grad(formula(*views), asked, gradient, create_graph=True))
    return tuple(next(given) if is_needed else None for is_needed in needed)


class WordVectors(torch.autograd.Function):
    r"""Unit similarity vectors of words and what they attend to, behind those of image and caption.

    With attention p, regions v and words w::

        c_l = l2norm(Σ_r p_lr v_r),   y_l = A (c_l - w_l)² + b,   x_l = l2norm(y_l)

    Nothing as wide as the joint space is kept for each pair: the attended vectors are made again from the attention,
    which costs ``2 · regions · dim`` beside the ``2 · dim · size`` of the map A, and is far smaller. Both passes walk
    over a few images at a time, so that what is made on the way stays in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any, whole: Tensor, attention: Tensor, regions: Tensor, words: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """Nodes ``[images, captions, 1 + words, size]``.

        Args:
            ctx: What the backward pass will need.
            whole: ``[images, captions, size]``, which become node 0.
            attention: ``[images, captions · words, regions]``.
            regions: ``[images, regions, dim]``.
            words: ``[1 or images, captions · words, dim]``.
            weight: ``[size, dim]``, A.
            bias: ``[size]``, b.
        """
        images, captions, size = whole.shape
        dim, length = regions.shape[2], words.shape[1] // captions
        nodes = whole.new_empty(images, captions, 1 + length, size)
        nodes[:, :, 0] = whole
        exact = torch.promote_types(whole.dtype, torch.float32)
        attended_norm = torch.empty(*attention.shape[:2], 1, dtype=exact, device=whole.device)
        norm = torch.empty(images, captions, length, 1, dtype=exact, device=whole.device)
        for rows in slices(images, 4 * words.shape[1] * dim, regions.device):
            difference = torch.bmm(attention[rows], regions[rows])
            torch.linalg.vector_norm(difference, dim=2, keepdim=True, dtype=exact, out=attended_norm[rows])
            attended_norm[rows] += 1e-8
            difference.div_(attended_norm[rows]).sub_(_of(words, rows))
            vectors = torch.mm(difference.square_().flatten(0, 1), weight.T).add_(bias)
            vectors = vectors.view(-1, captions, length, size)
            torch.linalg.vector_norm(vectors, dim=3, keepdim=True, dtype=exact, out=norm[rows])
            norm[rows] += 1e-8
            torch.div(vectors, norm[rows], out=nodes[rows, :, 1:])
        ctx.save_for_backward(attention, regions, words, weight, bias, attended_norm, nodes, norm)
        return nodes

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs."""
        attention, regions, words, weight, bias, attended_norm, nodes, norm = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs, needed = (attention, regions, words, weight, bias), ctx.needs_input_grad[1:]
            of_nodes = gradient[:, :, 1:]
            formula = partial(WordVectors._formula, captions=nodes.shape[1])
            return gradient[:, :, 0], *differentiable_gradients(formula, inputs, needed, of_nodes)
        of_attention, of_regions = torch.empty_like(attention), torch.empty_like(regions)
        of_words, of_weight, of_bias = (
            torch.zeros(shape, dtype=norm.dtype, device=norm.device)
            for shape in (words.shape, weight.shape, weight.shape[:1])
        )
        twice = 2 * weight  # the derivative of a square
        for rows in slices(len(regions), 4 * words.shape[1] * regions.shape[2], regions.device):
            unit = (attention[rows] / attended_norm[rows]).to(words.dtype)  # makes attended vectors of length 1
            difference = torch.baddbmm(_of(words, rows), unit, regions[rows], beta=-1)
            here, g = nodes[rows, :, 1:], gradient[rows, :, 1:]
            along = torch.linalg.vecdot(g, here).unsqueeze(3)
            g = torch.addcmul(g, here, along, value=-1).div_(norm[rows]).flatten(0, 2)  # of y, the map's values
            of_bias += g.sum(0)
            of_weight += torch.mm(g.T, difference.square().flatten(0, 1))
            g = torch.mm(g, twice).view_as(difference).mul_(difference)  # of c - w
            _of(of_words, rows).sub_(g if len(words) > 1 else g.sum(0, keepdim=True))
            # c = u V with u = p / ‖p V‖: the part of g along c does not count. It is found in terms of regions.
            of_unit = torch.bmm(g, regions[rows].mT)
            along = torch.linalg.vecdot(of_unit, unit).unsqueeze(2)
            gram = torch.bmm(regions[rows], regions[rows].mT)
            of_attention[rows] = of_unit.sub_(torch.bmm(unit, gram).mul_(along)).div_(attended_norm[rows])
            torch.bmm(unit.mT, g, out=of_regions[rows])
            of_regions[rows] -= torch.bmm(torch.bmm(unit.mT, unit * along), regions[rows])
        return gradient[:, :, 0], of_attention, of_regions, of_words, of_weight, of_bias

    @staticmethod
    def _formula(
        attention: Tensor, regions: Tensor, words: Tensor, weight: Tensor, bias: Tensor, captions: int
    ) -> Tensor:
        difference = unit_length(attention @ regions) - words
        vectors: Tensor = unit_length(difference.square() @ weight.T + bias).unflatten(1, (captions, -1))
        return vectors


def _of(words: Tensor, rows: slice) -> Tensor:
    """The words that the images of `rows` meet: their own, or everybody's."""
    return words[rows] if len(words) > 1 else words


def whole_vectors(
    images: Float[Tensor, "images dim"],
    captions: Float[Tensor, "one_or_images captions dim"],
    weight: Float[Tensor, "size dim"],
    bias: Float[Tensor, " size"],
) -> Float[Tensor, "images captions size"]:
    """``l2norm(B (v - t)² + b)`` of global vectors: every image with the captions of its row (or the only row)."""
    return unit_length((images[:, None] - captions).square() @ weight.T + bias)
