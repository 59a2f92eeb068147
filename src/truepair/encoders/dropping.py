"""CRCL's training-time augmentation: words are altered and regions left out. Like dropout, idle in evaluation mode."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn as nn
from torch import Tensor

from truepair.data.batch import Padded


def keep_positions(items: Padded, keep: Tensor) -> Padded:
    """The kept positions only, in their order, moved to the front and padded with zeros again.

    Args:
        items: Sequences.
        keep: ``[items, positions]``, True where a position stays; padding is never kept.

    Returns:
        Sequences of length ``keep.sum(1)``, as wide as the longest of them. An item that would lose every position
        keeps them all: an empty sequence has no encoding.
    """
    valid = items.mask
    keep = torch.where((keep & valid).any(1, keepdim=True), keep & valid, valid)
    lengths = keep.sum(1)
    order = torch.argsort(~keep, dim=1, stable=True)[:, : int(lengths.max())]
    index = order if items.values.dim() == 2 else order[..., None].expand(-1, -1, items.values.shape[2])
    packed = Padded(items.values.gather(1, index), lengths, items.vectors)
    outside = ~packed.mask if packed.values.dim() == 2 else ~packed.mask[..., None]
    return replace(packed, values=packed.values.masked_fill(outside, 0))


class RegionDropping(nn.Module):
    """Leaves each region out with some probability (CRCL, released code: 0.2).

    Args:
        probability: Of each region.
        keeps_places: Regions that are left out stay as rows of 1e-10, for networks that need the same number of regions
            in all images (SAF and SGR, whose batch normalisation has a channel a region); otherwise sets vary in size.
    """

    def __init__(self, probability: float, keeps_places: bool = False) -> None:
        super().__init__()
        self.probability = probability
        self.keeps_places = keeps_places

    def forward(self, regions: Padded) -> Padded:
        """Region features ``[images, regions, features]`` with some regions gone, in training mode."""
        if not self.training or self.probability == 0:
            return regions
        shape, device = regions.values.shape[:2], regions.values.device
        keep = torch.rand(shape, device=device) >= self.probability
        if not self.keeps_places:
            return keep_positions(regions, keep)
        keep |= ~(keep & regions.mask).any(1, keepdim=True)  # an image that would lose every region keeps them all
        return Padded(regions.values.masked_fill(~keep[..., None], 1e-10), regions.lengths)


class WordDropping(nn.Module):
    """Alters each token with some probability: half become ``<mask>``, a tenth any word, the others are deleted.

    The shares 0.5, 0.1 and 0.4 and the probability 0.2 are those of CRCL's released code; ``<start>`` and ``<end>``
    are altered like words.
    """

    def __init__(self, probability: float, vocabulary_size: int, mask: int) -> None:
        super().__init__()
        self.probability = probability
        self.vocabulary_size = vocabulary_size
        self.mask = mask

    def forward(self, tokens: Padded) -> Padded:
        """Token ids ``[captions, words]`` with some of them altered, in training mode."""
        if not self.training or self.probability == 0:
            return tokens
        ids = tokens.values
        altered = torch.rand(ids.shape, device=ids.device) < self.probability
        kind = torch.rand(ids.shape, device=ids.device)
        any_word = torch.randint(self.vocabulary_size, ids.shape, device=ids.device)
        values = torch.where(altered & (kind < 0.5), self.mask, ids)
        values = torch.where(altered & (kind >= 0.5) & (kind < 0.6), any_word, values)
        return keep_positions(replace(tokens, values=values), ~(altered & (kind >= 0.6)))
