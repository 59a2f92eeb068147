"""Unit length, the way every backbone of this field writes it."""

from jaxtyping import Float
from torch import Tensor


def unit_length(vectors: Float[Tensor, "*items dim"]) -> Float[Tensor, "*items dim"]:
    """The vectors divided by their Euclidean length.

    ``x / (‖x‖₂ + 1e-8)``: the constant protects all-zero vectors, which stay zero; it costs others one part in 10⁸.

    Args:
        vectors: ``[..., dim]``.

    Returns:
        The same shape; lengths 1 (or 0).
    """
    unit: Tensor = vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-8)
    return unit
