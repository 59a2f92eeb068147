"""Shared and exclusive codes of an image or a caption, on top of any backbone: DisNCL's representation.

A backbone is an encoder in two steps: ``features`` (pooled vectors, or one vector a region or word) and ``encoding``
(what the similarity compares). The shared head stands between them, so that similarity is computed from shared codes
alone. The exclusive head and the decoder stand beside, and only training and inspection need them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from truepair.data.batch import Padded
from truepair.layers import Code, full_precision, gaussian, xavier_linear

_NARROWEST = 1e-3
"""Smallest standard deviation of a code's coordinate."""
_FOLLOWS = 0.1
"""How fast the scale of features follows that of a batch (as batch normalisation does it)."""
_AT_THE_START = -1.0
"""Added to what the standard deviation is the softplus of: about 0.3 for a fresh head."""


@runtime_checkable
class Backbone(Protocol):
    """An encoder that can be taken apart; ``forward`` is one step after the other.

    Attributes:
        input_width: Of `inputs`.
    """

    input_width: int

    def inputs(self, items: Padded) -> Padded:
        """What it reads, one vector an item ``[items, input_width]``, whatever it has learned, without gradient."""
        ...

    def features(self, items: Padded) -> Padded:
        """Inputs → pooled vectors ``[items, width]``, or regions or words ``[items, positions, width]``."""
        ...

    def encoding(self, features: Padded) -> Padded:
        """Features, or codes in their place → what the similarity compares."""
        ...


@torch.no_grad()
def mean_of_positions(values: Float[Tensor, "items positions width"], items: Padded) -> Padded:
    """One vector an item: the mean of what stands for its regions or words, or that of a single one as it is."""
    return Padded(pooled(Padded(values, items.lengths)))


def pooled(features: Padded) -> Float[Tensor, "items width"]:
    """One vector an item: the vector, or the mean of regions or words."""
    if features.lengths is None:
        return features.values
    total: Tensor = (features.values * features.mask[..., None]).sum(1)
    return total / features.lengths[:, None]


class GaussianHead(nn.Module):
    """Features → a Gaussian with independent coordinates.

    The features are divided by their root mean square first: cosines do not notice, and deviations of about 0.3 at the
    start mean the same for every backbone. Linear → ReLU → Linear makes means and deviations, these as
    ``softplus(· - 1) + 1e-3``. The mean may be ``h + network(h)``, and is h itself at the start: the geometry of the
    backbone is kept. Of a code narrower than the features it is ``Wh + network(h)``, with rows of W that begin
    orthonormal.

    Args:
        features: Width of the features.
        hidden: Width of the hidden layer.
        size: Width of the code.
        residual: Add the features, or what W makes of them, to the mean.
    """

    def __init__(self, features: int, hidden: int, size: int, *, residual: bool = False) -> None:
        super().__init__()
        self.size = size
        last = xavier_linear(hidden, 2 * size)
        self.kept: nn.Linear | nn.Identity | None = None
        if residual:
            nn.init.zeros_(last.weight[:size])
            self.kept = nn.Identity() if size == features else nn.Linear(features, size, bias=False)
            if isinstance(self.kept, nn.Linear):
                nn.init.orthogonal_(self.kept.weight)
        self.network = nn.Sequential(xavier_linear(features, hidden), nn.ReLU(), last)
        self.mean_square: Tensor
        self.register_buffer("mean_square", torch.zeros(()))

    def _scaled(self, features: Float[Tensor, "*items features"]) -> Float[Tensor, "*items features"]:
        """The features by their root mean square, one number for all, which follows in training mode."""
        if self.training:
            now = features.detach().square().mean()
            first = (self.mean_square == 0).to(now)
            self.mean_square.lerp_(now, _FOLLOWS + (1 - _FOLLOWS) * first)
        return features / (self.mean_square + 1e-12).sqrt()

    def forward(self, features: Float[Tensor, "*items features"]) -> Code:
        """One Gaussian an item (or position)."""
        scaled = self._scaled(full_precision(features))
        mean, raw = full_precision(self.network(scaled)).split(self.size, -1)
        if self.kept is not None:
            mean = mean + self.kept(scaled)
        return gaussian(mean, softplus(raw + _AT_THE_START) + _NARROWEST)


class SharedCodes(NamedTuple):
    """What the shared head makes of some images or captions in training.

    Attributes:
        features: ``[items, features]``, h: pooled features of the backbone.
        code: One Gaussian an item, ``[items, size]``.
        sample: ``[items, size]``, one draw of it, reparameterised.
        encoding: What the similarity compares, made of the draw (or, of regions and words, of a draw for each).
    """

    features: Float[Tensor, "items features"]
    code: Code
    sample: Float[Tensor, "items size"]
    encoding: Padded


class SharedEncoder(nn.Module):
    """A backbone whose encodings are made of shared codes: their means, except in `codes`.

    Args:
        backbone: See `Backbone`.
        head: Of vectors, or of each region or word and of their mean.
    """

    def __init__(self, backbone: nn.Module, head: GaussianHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, items: Padded) -> Padded:
        """Inputs → encodings of the codes' means: what evaluation, audit and search compare."""
        backbone = cast(Backbone, self.backbone)
        features = backbone.features(items)
        return backbone.encoding(Padded(self.head(features.values).mean, features.lengths))

    def codes(self, items: Padded) -> SharedCodes:
        """The codes of some items and a draw of them; random numbers are torch's global ones."""
        return self.codes_of(self.features(items))

    def features(self, items: Padded) -> Padded:
        """See `Backbone.features`."""
        return cast(Backbone, self.backbone).features(items)

    def inputs(self, items: Padded) -> Padded:
        """See `Backbone.inputs`."""
        return cast(Backbone, self.backbone).inputs(items)

    def codes_of(self, features: Padded) -> SharedCodes:
        """As `codes`, of the backbone's features."""
        backbone = cast(Backbone, self.backbone)
        of_values: Code = self.head(features.values)
        sample: Tensor = of_values.rsample()
        encoding = backbone.encoding(Padded(sample, features.lengths))
        vector = pooled(features)
        if features.lengths is None:
            return SharedCodes(vector, of_values, sample, encoding)
        code: Code = self.head(vector)
        return SharedCodes(vector, code, code.rsample(), encoding)


class ExclusiveBranch(nn.Module):
    """Of one modality: the head of the exclusive code, and the decoder that puts together what both codes are of.

    Args:
        features: Width of the features.
        hidden: Width of hidden layers.
        shared: Width of the shared code.
        exclusive: Width of the exclusive code.
        inputs: Width of the backbone's inputs, if these are put together; by default the features are.
    """

    def __init__(self, features: int, hidden: int, shared: int, exclusive: int, inputs: int | None = None) -> None:
        super().__init__()
        self.of_inputs = inputs is not None
        self.head = GaussianHead(features, hidden, exclusive)
        self.decoder = nn.Sequential(
            xavier_linear(shared + exclusive, hidden), nn.ReLU(), xavier_linear(hidden, inputs or features)
        )

    def forward(self, features: Float[Tensor, "items features"]) -> Code:
        """The exclusive code of each item."""
        code: Code = self.head(features)
        return code

    def decoded(
        self, shared: Float[Tensor, "items shared"], exclusive: Float[Tensor, "items exclusive"]
    ) -> Float[Tensor, "items target"]:
        """Layer-normalised features or inputs, from both codes."""
        made: Tensor = full_precision(self.decoder(torch.cat([shared, exclusive], 1)))
        return made
