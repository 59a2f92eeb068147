"""Regions or words one by one, and a vector of the whole before them: what SAF and SGR compare (Diao et al., 2021)."""

from __future__ import annotations

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from truepair.data.batch import Padded
from truepair.encoders.codes import mean_of_positions
from truepair.encoders.dropping import RegionDropping
from truepair.errors import DataError
from truepair.layers import full_precision, unit_length, xavier_linear


class LinearEncoder(nn.Module):
    """Features ``[items, positions, features]`` → ``[items, positions, embedding]``, one linear map for all.

    A single vector an item, ``[items, features]``, is taken as the only region of an image (or word of a caption).

    Args:
        features: Width of the features.
        embedding: Width of the joint space.
        input_dropout: Probability that an input value is zeroed, in training mode.
        dropping: Probability that a position is left out, in training mode; its place is kept.
    """

    def __init__(self, features: int, embedding: int, input_dropout: float = 0.0, dropping: float = 0.0) -> None:
        super().__init__()
        self.input_width = features
        self.dropping = RegionDropping(dropping, keeps_places=True)
        self.dropout = nn.Dropout(input_dropout)
        self.linear = xavier_linear(features, embedding)

    def inputs(self, items: Padded) -> Padded:
        """The mean of an item's positions."""
        return mean_of_positions(items.values, items)

    def forward(self, items: Padded) -> Padded:
        """One vector a position."""
        if items.lengths is None:
            ones = torch.ones(len(items), dtype=torch.int64, device=items.values.device)
            items = Padded(items.values[:, None], ones)
        items = self.dropping(items)
        return Padded(self.linear(self.dropout(items.values)), items.lengths)


class WholeVector(nn.Module):
    """One unit vector of an item, from its positions and their mean: attention that knows what the item is about.

    With positions x and their mean m, ``tanh(local(x)) · tanh(global(m))`` is scored by a linear map; the softmax of
    the scores over positions weighs the positions. Images have batch normalisation before each tanh, captions do not.

    Args:
        embedding: Width of the joint space.
        dropout: After each tanh, in training mode (released code: 0.4).
        places: Regions of every image, for batch normalisation with a channel a region; None for captions.
    """

    def __init__(self, embedding: int, dropout: float, places: int | None = None) -> None:
        super().__init__()
        self.places = places
        self.local = xavier_linear(embedding, embedding)
        self.global_ = xavier_linear(embedding, embedding)
        self.score = xavier_linear(embedding, 1, bias=False)  # which the softmax would not notice
        self.local_norm = nn.Identity() if places is None else nn.BatchNorm1d(places)
        self.global_norm = nn.Identity() if places is None else nn.BatchNorm1d(embedding)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: Padded) -> Float[Tensor, "items embedding"]:
        """Unit vectors ``[items, positions, embedding]`` → one an item.

        Raises:
            DataError: If images do not have the number of regions that the normalisation was made for.
        """
        assert items.lengths is not None  # a single vector is its own whole
        if self.places not in (None, items.values.shape[1]):
            raise DataError(
                f"images have {items.values.shape[1]} regions, but this model normalises {self.places} an image: SAF "
                "and SGR need the number that they were trained with; extract the features again, or use similarity "
                "cosine"
            )
        mean = (items.values * items.mask[..., None]).sum(1) / items.lengths[:, None]
        local = self.dropout(self.local_norm(self.local(items.values)).tanh())
        of_all = self.dropout(self.global_norm(self.global_(mean)).tanh())
        scores = full_precision(self.score(local * of_all[:, None]).squeeze(2)).masked_fill(~items.mask, -torch.inf)
        weights = scores.softmax(1).to(items.values.dtype)
        return unit_length(torch.einsum("ip,ipd->id", weights, items.values))


class LocalEncoder(nn.Module):
    """An encoder of regions or words → the vector of the whole, then the unit vectors of all positions."""

    def __init__(self, encoder: nn.Module, whole: WholeVector) -> None:
        super().__init__()
        self.encoder = encoder
        self.whole = whole

    @property
    def input_width(self) -> int:
        """See `Backbone.input_width`."""
        return int(self.encoder.input_width)  # type: ignore[arg-type]

    def inputs(self, items: Padded) -> Padded:
        """See `Backbone.inputs`."""
        return self.encoder.inputs(items)  # type: ignore[operator,no-any-return]

    def forward(self, items: Padded) -> Padded:
        """Inputs → ``[items, 1 + positions, embedding]``; lengths count the whole too."""
        return self.encoding(self.features(items))

    def features(self, items: Padded) -> Padded:
        """Inputs → regions or words ``[items, positions, embedding]``."""
        encoded: Padded = self.encoder(items)
        return encoded

    def encoding(self, features: Padded) -> Padded:
        """Regions or words of any length → the whole and them, of length 1."""
        assert features.lengths is not None
        positions = Padded(unit_length(features.values), features.lengths)
        values = torch.cat([self.whole(positions)[:, None], positions.values], 1)
        return Padded(values, features.lengths + 1)
