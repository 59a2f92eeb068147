"""Which items are close to which, by their codes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize


def nearest(
    codes: Float[Tensor, "items size"], asked: Int[Tensor, " asked"], count: int
) -> Int[Tensor, "asked neighbours"]:
    """The `count` items closest to each item asked for, the closest first, without itself; all others if fewer.

    Args:
        codes: One row an item.
        asked: Which items.
        count: Neighbours of each.

    Example:
        >>> nearest(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([1]), 1).tolist()
        [[0]]
    """
    distance = torch.cdist(codes[asked], codes, compute_mode="donot_use_mm_for_euclid_dist")
    distance[torch.arange(len(asked)), asked] = torch.inf
    return distance.argsort(dim=1, stable=True)[:, : min(count, len(codes) - 1)]


def directions(codes: Float[Tensor, "items size"]) -> Float[Tensor, "items size"]:
    """Codes of length 1: distances between them rank as cosines do."""
    return normalize(codes)
