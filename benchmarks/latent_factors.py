"""Synthetic pairs whose shared and exclusive factors are known, to test what representations hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from truepair.data.features import Features
from truepair.data.pairs import Pairs
from truepair.random_streams import Stream

_REFERENCE_DRAWS = 10_000
"""Draws that the standardisation of a world is measured on."""


@dataclass(frozen=True, eq=False)
class SyntheticPairs:
    """Pairs and the factors that made them.

    Attributes:
        pairs: One caption an image, all of them true; features on both sides.
        shared: ``[pairs, shared]``, c: what image and caption have in common.
        image_only: ``[pairs, exclusive]``, a: what only the image shows.
        caption_only: ``[pairs, exclusive]``, b: what only the caption says.
    """

    pairs: Pairs
    shared: Float[Tensor, "pairs shared"]
    image_only: Float[Tensor, "pairs exclusive"]
    caption_only: Float[Tensor, "pairs exclusive"]


def latent_factor_pairs(
    count: int,
    *,
    world_seed: int,
    draw_seed: int,
    shared: int = 8,
    exclusive: int = 8,
    hidden: int = 64,
    width: int = 64,
) -> SyntheticPairs:
    """Pairs ``V = g_v([c; a])`` and ``T = g_t([c; b])`` of independent standard normal factors c, a and b.

    Each g is Linear, tanh, Linear with random weights, standardised: every feature has mean 0 and variance 1 over the
    world (measured on draws of its own, so that training and test pairs go through the very same g).

    Args:
        count: Number of pairs.
        world_seed: Decides g_v and g_t: the same for training and test pairs.
        draw_seed: Decides the factors: different for training and test pairs.
        shared: Dimensions of c.
        exclusive: Dimensions of a and of b.
        hidden: Units between the two linear maps.
        width: Dimensions of V and of T.
    """
    world = Stream.SYNTHETIC_WORLD.generator(world_seed)
    draw = Stream.SYNTHETIC_FACTORS.generator(draw_seed)
    image_map = _Map.random(world, shared + exclusive, hidden, width)
    caption_map = _Map.random(world, shared + exclusive, hidden, width)
    c, a, b = (draw.standard_normal((count, size)) for size in (shared, exclusive, exclusive))
    rows = torch.arange(count)
    pairs = Pairs(
        images=Features(image_map(np.hstack([c, a])).astype(np.float32)),
        captions=[f"pair {i}" for i in range(count)],
        image_of_caption=rows,
        image_ids=[f"image {i}" for i in range(count)],
        caption_ids=[f"caption {i}" for i in range(count)],
        caption_inputs=Features(caption_map(np.hstack([c, b])).astype(np.float32)),
        true_image_of_caption=rows,
    )
    return SyntheticPairs(pairs, *(torch.from_numpy(factor).float() for factor in (c, a, b)))


@dataclass(frozen=True)
class _Map:
    """g: Linear, tanh, Linear, then standardised."""

    first: _Linear
    second: _Linear
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def random(cls, world: np.random.Generator, inputs: int, hidden: int, outputs: int) -> _Map:
        first, second = _Linear.random(world, inputs, hidden), _Linear.random(world, hidden, outputs)
        raw = second(np.tanh(first(world.standard_normal((_REFERENCE_DRAWS, inputs)))))
        return cls(first, second, raw.mean(axis=0), raw.std(axis=0))

    def __call__(self, factors: np.ndarray) -> np.ndarray:
        result: np.ndarray = (self.second(np.tanh(self.first(factors))) - self.mean) / self.deviation
        return result


@dataclass(frozen=True)
class _Linear:
    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def random(cls, world: np.random.Generator, inputs: int, outputs: int) -> _Linear:
        """Weights and biases from ``U(-1/√inputs, 1/√inputs)``, as PyTorch initialises its linear layers."""
        bound = inputs**-0.5
        return cls(world.uniform(-bound, bound, (outputs, inputs)), world.uniform(-bound, bound, outputs))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        result: np.ndarray = values @ self.weight.T + self.bias
        return result
