"""What a similarity is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch.nn as nn
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


@runtime_checkable
class VectorSimilarity(Similarity, Protocol):
    """A similarity that has a vector for each image and caption before it has a number: the head makes it one."""

    head: nn.Module
    """``[..., size]`` → ``[..., 1]``, log-odds; may be replaced."""

    def vectors(self, images: Padded, captions: Padded) -> Float[Tensor, "images captions size"]:
        """What `matrix` scores."""
        ...

    def paired_vectors(self, images: Padded, captions: Padded) -> Float[Tensor, "pairs size"]:
        """What `paired` scores."""
        ...
