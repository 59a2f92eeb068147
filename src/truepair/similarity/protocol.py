"""What a similarity is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from truepair.data.batch import Padded


@runtime_checkable
class Similarity(Protocol):
    """Scores encoded images against encoded captions; `paired` equals the diagonal of `matrix`."""

    def matrix(self, images: Padded, captions: Padded) -> Float[Tensor, "images captions"]:
        """Every image (rows) with every caption (columns)."""
        ...

    def paired(self, images: Padded, captions: Padded) -> Float[Tensor, " pairs"]:
        """Image k with caption k only."""
        ...
