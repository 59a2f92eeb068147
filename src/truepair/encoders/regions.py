"""Region features → one vector a region."""

from __future__ import annotations

from typing import Literal

import torch.nn as nn

from truepair.data.batch import Padded
from truepair.encoders.codes import mean_of_positions
from truepair.encoders.dropping import RegionDropping
from truepair.encoders.projection import FeatureScaling, Projection, Scaling, projection


class RegionEncoder(nn.Module):
    """Regions ``[images, regions, features]`` → ``[images, regions, embedding]``, VSE∞'s projection on each.

    Args:
        features: Width of a region's features.
        embedding: Width of the joint space.
        input_dropout: Probability that an input value is zeroed, in training mode.
        dropping: Probability that a region is left out, in training mode.
        kind: ``model.projection``.
        scaling: ``model.feature_scaling``.
        batch_norm_rows: Over which rows batch statistics run when sets differ in size: "padded" (all, zero rows
            included: CRCL's released code) or "valid" (the regions that are there; also the cheaper one).
    """

    def __init__(
        self,
        features: int,
        embedding: int,
        input_dropout: float = 0.0,
        dropping: float = 0.0,
        kind: Projection = "batch_norm",
        scaling: Scaling = "none",
        batch_norm_rows: Literal["padded", "valid"] = "padded",
    ) -> None:
        super().__init__()
        self.input_width = features
        self.dropping = RegionDropping(dropping)
        self.dropout = nn.Dropout(input_dropout)
        self.scaling = FeatureScaling(scaling)
        self.projection = projection(kind, features, embedding)
        self.batch_norm_rows = batch_norm_rows

    def inputs(self, items: Padded) -> Padded:
        """The mean of an image's regions, scaled."""
        return mean_of_positions(self.scaling(items.values), items)

    def forward(self, items: Padded) -> Padded:
        """One vector a region; rows past an image's length are meaningless and masked in pooling."""
        items = self.dropping(items)
        values = self.dropout(self.scaling(items.values))
        if self.batch_norm_rows == "padded":
            return Padded(self.projection(values), items.lengths)
        rows = self.projection(values[items.mask])
        projected = rows.new_zeros(*values.shape[:2], rows.shape[-1])
        return Padded(projected.masked_scatter(items.mask[..., None], rows), items.lengths)
