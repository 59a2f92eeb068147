"""From a similarity vector to a similarity."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from truepair.layers import full_precision


class HeadNetwork(nn.Sequential):
    """One hidden layer of ReLUs: log-odds that what a similarity vector describes belongs together.

    The meta network of MSCN (Han et al., CVPR 2023, https://arxiv.org/abs/2304.06275), in PyTorch's initialisation.

    Args:
        size: Width of similarity vectors.
        hidden: Width of the hidden layer.
    """

    def __init__(self, size: int, hidden: int = 64) -> None:
        super().__init__(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def scored(
    head: Callable[[Float[Tensor, "*pairs size"]], Float[Tensor, "*pairs 1"]], vectors: Float[Tensor, "*pairs size"]
) -> Float[Tensor, "*pairs"]:
    """Similarities in (0, 1), in float32 at least.

    In half precision, scores a temperature of 0.05 apart would be a dozen steps apart.
    """
    return log_odds(head, vectors).sigmoid()


def log_odds(
    head: Callable[[Float[Tensor, "*pairs size"]], Float[Tensor, "*pairs 1"]], vectors: Float[Tensor, "*pairs size"]
) -> Float[Tensor, "*pairs"]:
    """What `scored` makes similarities of: any real number, in float32 at least."""
    with torch.autocast(vectors.device.type, enabled=False):
        return head(full_precision(vectors)).squeeze(-1)
