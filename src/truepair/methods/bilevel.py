"""The gradient of a head through a virtual step of the network below it (Han et al., CVPR 2023, Sec. 3.3).

A network f with weights W makes vectors, a head with parameters θ scores them. The head is judged by what the network
would be after learning from it for one step:

    Ŵ(θ) = W - step(G),   G(θ) = ∂L/∂W (f(W), θ);        the gradient sought is d/dθ  M(f(Ŵ(θ)), θ)

with L the loss of training pairs and M that of labelled pairs. It has a direct part, ∂M/∂θ, and one through G. That one
asks for a mixed second derivative, once back through the network and once more through that. But θ acts on the vectors
only: with a = ∂M/∂G,

    a · ∂G/∂θ = a · ∂/∂θ (Jᵀ ∂L/∂f) = ∂/∂θ (u · ∂L/∂f),   u = J a,   J = ∂f/∂W

so that all it needs of the network is u, how its vectors change along a: a difference of two forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.processes import mean

Weights = Mapping[str, Tensor]
"""Parameters by name."""
Vectors = Callable[[Weights], Float[Tensor, "*pairs size"]]
"""The vectors that a network with these weights makes; the same random numbers at every call."""
Loss = Callable[[Weights, Float[Tensor, "*pairs size"]], Float[Tensor, ""]]
"""What a head with these parameters makes of vectors."""
LearningRate = float | Mapping[str, float]
"""One of all parameters, or one of each by its name."""
Step = Callable[[Weights, Weights], Weights]
"""Weights and their gradients → the weights after a step; differentiable."""


class MetaGradient(NamedTuple):
    """What `meta_gradient` finds."""

    of_head: dict[str, Tensor]
    """dM/dθ, direct and through the virtual step."""
    loss: Float[Tensor, ""]
    """L, at W."""
    meta_loss: Float[Tensor, ""]
    """M, at Ŵ."""


def meta_gradient(
    weights: Weights,
    head: Weights,
    *,
    vectors: Vectors,
    loss: Loss,
    meta_vectors: Vectors,
    meta_loss: Loss,
    step: Step,
    mixed_derivative: Literal["finite_difference", "backward"] = "finite_difference",
) -> MetaGradient:
    """The head's gradient, through the virtual step and directly; nothing is changed.

    Args:
        weights: W, of the network.
        head: θ.
        vectors: f on training pairs.
        loss: L.
        meta_vectors: f on labelled pairs.
        meta_loss: M.
        step: The virtual step, for instance `sgd_step`.
        mixed_derivative: "backward" differentiates G itself, which asks for second derivatives of `vectors`;
            "finite_difference" takes the difference that the module's text describes.
    """
    weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    head = {name: parameter.detach().requires_grad_() for name, parameter in head.items()}
    is_exact = mixed_derivative == "backward"
    of_pairs = vectors(weights)
    inner = loss(head, of_pairs)
    gradients = _gradients(inner, weights, create_graph=is_exact)
    gradients = {name: mean(gradient) for name, gradient in gradients.items()}  # over processes with a share each
    if not is_exact:
        gradients = {name: gradient.requires_grad_() for name, gradient in gradients.items()}
    outer = meta_loss(head, meta_vectors(step({k: w.detach() for k, w in weights.items()}, gradients)))
    if is_exact:
        return MetaGradient(_gradients(outer, head), inner.detach(), outer.detach())
    direct, along = _gradients(outer, head, retain_graph=True), _gradients(outer, gradients)
    of_pairs = of_pairs.detach().requires_grad_()
    change = directional_derivative(vectors, weights, along, of_pairs)
    (of_vectors,) = torch.autograd.grad(loss(head, of_pairs), of_pairs, create_graph=True)
    indirect = _gradients((of_vectors * change).sum(), head)
    of_head = {name: direct[name] + indirect[name] for name in head}
    return MetaGradient(of_head, inner.detach(), outer.detach())


@torch.no_grad()
def directional_derivative(
    vectors: Vectors, weights: Weights, along: Weights, here: Float[Tensor, "*pairs size"]
) -> Float[Tensor, "*pairs size"]:
    """How `vectors` change when `weights` move along a direction, by a difference.

    How far to move, a first small move tells: so far that vectors change by the root of the precision, relative to
    their norm, where the errors of rounding and of curvature meet (Numerical Recipes, Sec. 5.7).

    Args:
        vectors: What changes.
        weights: Where from.
        along: The direction; its length counts.
        here: ``vectors(weights)``.
    """
    length, precision = _norm(along.values()), torch.finfo(here.dtype).eps ** 0.5
    if not length:
        return torch.zeros_like(here)

    def change(distance: float) -> Tensor:
        return vectors({name: weight.detach() + distance * along[name] for name, weight in weights.items()}) - here

    distance = precision * _norm(weights.values()) / length
    relative = _norm([change(distance)]) / max(_norm([here]), torch.finfo(here.dtype).tiny)
    distance *= min(max(precision / relative, 1e-3), 1e3) if relative else 1e3
    derivative: Tensor = change(distance) / distance
    return derivative


def sgd_step(weights: Weights, gradients: Weights, learning_rate: LearningRate) -> dict[str, Tensor]:
    """``W - lr · G``: what MSCN's released code does, although the network itself is trained by Adam."""
    return {name: weight - _rate(learning_rate, name) * gradients[name] for name, weight in weights.items()}


def _rate(learning_rate: LearningRate, name: str) -> float:
    return learning_rate[name] if isinstance(learning_rate, Mapping) else learning_rate


class AdamState(NamedTuple):
    """What Adam remembers of a parameter: running means of gradients and of their squares, and steps taken."""

    mean: Tensor
    square: Tensor
    steps: float


def adam_step(
    weights: Weights,
    gradients: Weights,
    learning_rate: LearningRate,
    state: Mapping[str, AdamState],
    *,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> dict[str, Tensor]:
    """The step that `torch.optim.AdamW` would take from `state`, differentiable in the gradients.

    Args:
        weights: W.
        gradients: G.
        learning_rate: Of all parameters, or of each by its name.
        state: Of each parameter; one that is missing has not been stepped yet.
        weight_decay: Decoupled decay.
        betas: Decay of the two running means.
        epsilon: Added to the root of the second.
    """
    stepped = {}
    for name, weight in weights.items():
        gradient = gradients[name]
        before = state.get(name, AdamState(torch.zeros_like(weight), torch.zeros_like(weight), 0))
        steps = before.steps + 1
        mean = torch.lerp(before.mean, gradient, 1 - betas[0]) / (1 - betas[0] ** steps)
        square = torch.lerp(before.square, gradient.square(), 1 - betas[1]) / (1 - betas[1] ** steps)
        root = square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()  # at 0, a root has no derivative
        rate = _rate(learning_rate, name)
        stepped[name] = weight * (1 - rate * weight_decay) - rate * mean / (root + epsilon)
    return stepped


def _gradients(
    loss: Tensor, of: Weights, create_graph: bool = False, retain_graph: bool | None = None
) -> dict[str, Tensor]:
    """By name; zeros for what the loss does not depend on."""
    found = torch.autograd.grad(
        loss,
        list(of.values()),
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(of, found, strict=True))


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm())
