"""Similarity of regions with words: SAF and SGR, each a way to reason about the same similarity vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn as nn
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truepair.data.batch import Padded
from truepair.layers import xavier_linear
from truepair.similarity.alignment import WordVectors, applied, whole_vectors
from truepair.similarity.attention import word_attention
from truepair.similarity.head import scored

_NODE_BYTES = 2**26
"""Where nothing is kept for a gradient, similarity vectors of one block of captions take at most this much."""
_PAIRS_AT_A_TIME = 1024
"""Pairs whose regions are gathered at once, 150 KB each at 36 × 1,024."""


class LocalSimilarity(nn.Module):
    """Words attend to regions; what they find is compared with them, reasoned about, and scored in (0, 1).

    Images and captions are encoded as `LocalEncoder` does it: position 0 is the whole. Captions of the same length are
    processed together, so that nothing is padded and any length goes; everything that depends on one side only is
    computed once an item.

    Args:
        embedding: Width of the joint space.
        size: Width of similarity vectors.
        reasoning: Nodes ``[images, captions, nodes, size]`` → ``[images, captions, size]``.
        head: ``[..., size]`` → log-odds ``[..., 1]``; a linear map if None.
    """

    def __init__(self, embedding: int, size: int, reasoning: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.local_map = xavier_linear(embedding, size)
        self.global_map = xavier_linear(embedding, size)
        self.reasoning = reasoning
        self.head = head or xavier_linear(size, 1)

    def matrix(self, images: Padded, captions: Padded) -> Float[Tensor, "images captions"]:
        """Every image (rows) with every caption (columns), in (0, 1)."""
        if not len(images) or not len(captions):
            return images.values.new_zeros(len(images), len(captions))
        order, blocks = self._vectors(images, captions)
        return torch.cat([scored(self.head, block) for block in blocks], 1)[:, order.argsort()]

    def vectors(self, images: Padded, captions: Padded) -> Float[Tensor, "images captions size"]:
        """The similarity vectors that `matrix` scores, before the last map."""
        order, blocks = self._vectors(images, captions)
        return torch.cat(list(blocks), 1)[:, order.argsort()]

    def _vectors(
        self, images: Padded, captions: Padded
    ) -> tuple[Int[Tensor, " captions"], Iterator[Float[Tensor, "images block size"]]]:
        """Similarity vectors of every image with some captions at a time, and the order in which captions come."""
        everyone = _Images.of(images)
        order, blocks = self._equally_long(captions, len(images))
        return order, (self.reasoning(self._nodes(everyone, block[None])) for block in blocks)

    def paired(self, images: Padded, captions: Padded) -> Float[Tensor, " pairs"]:
        """Image k with caption k only: the diagonal of `matrix`, in evaluation mode.

        In training mode, SAF normalises a caption's gate over what it is compared with: many images there, one here.
        """
        if not len(images):
            return images.values.new_zeros(0)
        return scored(self.head, self.paired_vectors(images, captions))

    def paired_vectors(self, images: Padded, captions: Padded) -> Float[Tensor, "pairs size"]:
        """The diagonal of `vectors`."""
        order, blocks = self._equally_long(captions, 1, most=_PAIRS_AT_A_TIME)
        parts, start = [], 0
        for block in blocks:
            own = _Images.of(images.rows(order[start : start + len(block)]))
            nodes = self._nodes(own, block[:, None])
            parts.append(self.reasoning(nodes.transpose(0, 1))[0])  # each caption with one image, as in `matrix`
            start += len(block)
        return torch.cat(parts)[order.argsort()]

    def _nodes(
        self, images: _Images, captions: Float[Tensor, "one_or_images captions nodes dim"]
    ) -> Float[Tensor, "images captions nodes size"]:
        """Similarity vectors of whole and words: every image with the captions of its row (or the only row)."""
        words = captions[:, :, 1:].flatten(1, 2)
        attention = word_attention(images.regions, words, captions.shape[1], images.mask)
        whole = whole_vectors(images.whole, captions[:, :, 0], self.global_map.weight, self.global_map.bias)
        maps = (self.local_map.weight, self.local_map.bias)
        return applied(WordVectors, whole, attention, images.regions, words, *maps)

    def _equally_long(
        self, captions: Padded, images: int, most: int | None = None
    ) -> tuple[Int[Tensor, " captions"], list[Float[Tensor, "block nodes dim"]]]:
        """The captions by length, as an order and in blocks of one length each, without padding."""
        assert captions.lengths is not None
        order = captions.lengths.argsort(stable=True)
        lengths, counts = (column.tolist() for column in captions.lengths.unique(return_counts=True))
        blocks = []
        for length, equally_long in zip(lengths, captions.values[order].split(counts), strict=True):
            bytes_a_caption = 4 * images * length * self.local_map.out_features
            affordable = max(1, _NODE_BYTES // bytes_a_caption)
            blocks += equally_long[:, :length].split(min(affordable, most or affordable))
        return order, blocks


class _Images(NamedTuple):
    """Encoded images, taken apart once: a slice made for every block would cost a pass over all of them."""

    whole: Float[Tensor, "images dim"]
    regions: Float[Tensor, "images regions dim"]
    mask: Bool[Tensor, "images regions"] | None

    @classmethod
    def of(cls, images: Padded) -> _Images:
        mask = images.mask[:, 1:]
        regions = images.values[:, 1:].contiguous()  # or every product would copy them, and keep the copy
        return cls(images.values[:, 0], regions, None if mask.all() else mask)
