"""Frozen vectors of a space that images and captions share: as they are, or as probabilities of named classes."""

from __future__ import annotations

import torch.nn as nn
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from truepair.data.batch import Padded
from truepair.layers import unit_length


class SharedVectors(nn.Module):
    """Global vectors of a shared space, as they are; of captions that have a vector beside their words, the vector."""

    def forward(self, items: Padded) -> Padded:
        """Vectors ``[items, dim]`` → the same."""
        return Padded(items.values if items.vectors is None else items.vectors)


class ClassesOfImages(nn.Module):
    r"""What a classifier sees in an image: ``softmax((W x + b) / T)`` over its classes.

    Args:
        weight: W, ``[classes, dim]``, of a network's last layer.
        bias: b, ``[classes]``.
        temperature: T; above 1, so that what is seen beside the likeliest class counts too.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight: Float[Tensor, "classes dim"], bias: Float[Tensor, " classes"], temperature: float = 2.0
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.temperature = temperature

    def forward(self, items: Padded) -> Padded:
        """Vectors ``[items, dim]``, or regions ``[items, regions, dim]`` whose mean is taken → ``[items, classes]``."""
        values = items.values if items.values.dim() == 2 else items.values.mean(1)
        return Padded((linear(values, self.weight, self.bias) / self.temperature).softmax(1))


class ClassesOfCaptions(nn.Module):
    r"""Which classes a caption is about: ``softmax(⟨c - m, n_k - m⟩ / T)`` with unit vectors, m the mean of the names.

    Args:
        names: n, ``[classes, dim]``, vectors of the classes' names by the encoder of the captions.
        temperature: T, in units of cosines.
    """

    names: Tensor
    mean: Tensor

    def __init__(self, names: Float[Tensor, "classes dim"], temperature: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("mean", names.mean(0))
        self.register_buffer("names", unit_length(names - names.mean(0)))
        self.temperature = temperature

    def forward(self, items: Padded) -> Padded:
        """Vectors ``[items, dim]``, which may stand beside words → ``[items, classes]``."""
        values = items.values if items.vectors is None else items.vectors
        return Padded((linear(unit_length(values - self.mean), self.names) / self.temperature).softmax(1))


class Centred(nn.Module):
    """Vectors of an encoder, less their mean over a corpus, of length 1.

    Images and captions of a shared space lie in two cones far apart, and all captions of a corpus are somewhat alike
    (Liang et al., "Mind the gap", NeurIPS 2022): cosines of raw vectors mostly measure both.

    Args:
        encoder: Frozen.
        mean: ``[dim]``, of what it gives.
    """

    mean: Tensor

    def __init__(self, encoder: nn.Module, mean: Float[Tensor, " dim"]) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", mean)

    def forward(self, items: Padded) -> Padded:
        """Inputs of the encoder → ``[items, dim]``."""
        encoded: Padded = self.encoder(items)
        return Padded(unit_length(encoded.values - self.mean))
