"""SGR: similarity graph reasoning (Diao et al., AAAI 2021)."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, relu

from truepair.layers import xavier_linear
from truepair.similarity.alignment import applied, differentiable_gradients, slices


class GraphStep(nn.Module):
    r"""One round of reasoning over the similarity vectors of an image and a caption, all connected with all.

    .. math::
        x \leftarrow \mathrm{ReLU}(\mathrm{graph}(\mathrm{softmax}(Q K^\top)\, x)), \qquad
        Q = \mathrm{query}(x),\quad K = \mathrm{key}(x)

    The softmax does not change if a row gets a constant. So keys need no bias, and with weights :math:`W` the edge from
    i to j is a function of :math:`(W_k^\top W_q x_i + W_k^\top b_q) \cdot x_j`: one map of the nodes instead of two,
    and x itself takes the place of the keys.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = xavier_linear(size, size)
        self.key = xavier_linear(size, size, bias=False)
        self.graph = xavier_linear(size, size)

    def forward(self, nodes: Float[Tensor, "pairs nodes size"]) -> Float[Tensor, "pairs nodes size"]:
        """All nodes after the round."""
        return applied(_Round, nodes, *self._folded(), self.graph.weight, self.graph.bias)

    def first(self, nodes: Float[Tensor, "pairs nodes size"]) -> Float[Tensor, "pairs size"]:
        """Node 0 after the round, without the others."""
        return relu(self.graph(applied(_FirstMixed, nodes, *self._folded())))

    def _folded(self) -> tuple[Float[Tensor, "size size"], Float[Tensor, " size"]]:
        """Weight and bias of the one map that edges need."""
        return self.key.weight.T @ self.query.weight, self.query.bias @ self.key.weight


class GraphReasoning(nn.Module):
    """Rounds of `GraphStep`, each with weights of its own; what the whole pair's node has become is the result."""

    def __init__(self, size: int, steps: int = 3) -> None:
        super().__init__()
        self.steps = nn.ModuleList(GraphStep(size) for _ in range(steps))

    def forward(self, nodes: Float[Tensor, "images captions nodes size"]) -> Float[Tensor, "images captions size"]:
        """One vector a pair. Of the last round only node 0 is computed."""
        *earlier, last = self.steps
        pairs = nodes.flatten(0, 1)
        for step in earlier:
            pairs = step(pairs)
        vectors: Tensor = cast(GraphStep, last).first(pairs).unflatten(0, nodes.shape[:2])
        return vectors


class _Round(torch.autograd.Function):
    """``ReLU(W (softmax((A x + a) xᵀ) x) + b)`` of the nodes x of every pair.

    Kept for the backward pass: x, the edges and the result. ``A x + a`` is made again: a small part of the work, but
    two fifths of what would be kept. Both passes walk over some pairs at a time, so that what is made on the way stays
    in the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a_weight: Tensor, a_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        pairs, nodes, size = x.shape
        result, edges = torch.empty_like(x), x.new_empty(pairs, nodes, nodes)
        for rows in slices(pairs, 4 * nodes * size, x.device):
            queries = torch.mm(x[rows].flatten(0, 1), a_weight.T).add_(a_bias).view_as(x[rows])
            _softmax(torch.bmm(queries, x[rows].mT), edges[rows])
            mixed = torch.bmm(edges[rows], x[rows]).flatten(0, 1)
            torch.mm(mixed, weight.T, out=result[rows].view(-1, size)).add_(bias).relu_()
        ctx.save_for_backward(x, a_weight, a_bias, weight, bias, edges, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, a_weight, a_bias, weight, bias, edges, result = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (x, a_weight, a_bias, weight, bias)
            return differentiable_gradients(_Round._formula, inputs, ctx.needs_input_grad, gradient)
        pairs, nodes, size = x.shape
        of_x = torch.empty_like(x)
        exact = torch.promote_types(x.dtype, torch.float32)
        of_a_weight, of_weight = torch.zeros(2, size, size, dtype=exact, device=x.device)
        of_a_bias, of_bias = torch.zeros(2, size, dtype=exact, device=x.device)
        for rows in slices(pairs, 4 * nodes * size, x.device):
            here, edge = x[rows], edges[rows]
            g = torch.ops.aten.threshold_backward(gradient[rows], result[rows], 0).view(-1, size)
            of_bias += g.sum(0)
            of_weight += torch.mm(g.T, torch.bmm(edge, here).view(-1, size))
            g = torch.mm(g, weight).view_as(here)  # of edges @ x
            of_edge = _through_softmax(torch.bmm(g, here.mT), edge)
            of_queries = torch.bmm(of_edge, here).view(-1, size)
            of_a_bias += of_queries.sum(0)
            of_a_weight += torch.mm(of_queries.T, here.view(-1, size))
            queries = torch.mm(here.view(-1, size), a_weight.T).add_(a_bias).view_as(here)
            target = torch.mm(of_queries, a_weight, out=of_x[rows].view(-1, size)).view_as(here)
            target.baddbmm_(edge.mT, g).baddbmm_(of_edge.mT, queries)
        return of_x, of_a_weight, of_a_bias, of_weight, of_bias

    @staticmethod
    def _formula(x: Tensor, a_weight: Tensor, a_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        edges = (linear(x, a_weight, a_bias) @ x.mT).softmax(2)
        return relu(linear(edges @ x, weight, bias))


class _FirstMixed(torch.autograd.Function):
    """``softmax((A x₀ + a) xᵀ) x``: what node 0 of every pair gets from all nodes x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a_weight: Tensor, a_bias: Tensor) -> Tensor:
        queries = torch.addmm(a_bias, x[:, 0], a_weight.T)
        edges = torch.bmm(queries[:, None], x.mT).softmax(2)
        ctx.save_for_backward(x, a_weight, a_bias, queries, edges)
        return torch.bmm(edges, x).squeeze(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, a_weight, a_bias, queries, edges = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (x, a_weight, a_bias)
            return differentiable_gradients(_FirstMixed._formula, inputs, ctx.needs_input_grad, gradient)
        of_edges = _through_softmax(torch.bmm(gradient[:, None], x.mT), edges)
        of_queries = torch.bmm(of_edges, x).squeeze(1)
        # Node j gets edge_j · gradient from what was mixed, and of_edge_j · query from how it was weighed.
        of_x = torch.bmm(torch.cat([edges, of_edges], 1).mT, torch.stack([gradient, queries], 1))
        of_x[:, 0].addmm_(of_queries, a_weight)
        return of_x, of_queries.T @ x[:, 0], of_queries.sum(0)

    @staticmethod
    def _formula(x: Tensor, a_weight: Tensor, a_bias: Tensor) -> Tensor:
        edges = (linear(x[:, :1], a_weight, a_bias) @ x.mT).softmax(2)
        return (edges @ x).squeeze(1)


def _softmax(scores: Tensor, result: Tensor) -> None:
    """Softmax over the last dimension, into `result`; overwrites `scores`."""
    if scores.shape[-1] >= 16 or scores.dtype in (torch.float16, torch.bfloat16):
        torch.softmax(scores, -1, out=result)
        return
    # PyTorch's own takes six times as long on a CPU for rows of fewer than 16.
    scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    torch.div(scores, scores.sum(-1, keepdim=True), out=result)


def _through_softmax(gradient: Tensor, weights: Tensor) -> Tensor:
    """The gradient of what a softmax over the last dimension was taken of, from that of the `weights` it gave."""
    through: Tensor = weights * (gradient - torch.linalg.vecdot(gradient, weights).unsqueeze(-1))
    return through
