"""Similarities of large galleries, a few images at a time, so that the whole matrix never exists."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair.data.batch import Padded
from truepair.similarity.protocol import Similarity


def similarity_blocks(
    similarity: Similarity, images: Padded, captions: Padded, block: int = 256
) -> Iterator[Float[Tensor, "block captions"]]:
    """The rows of ``similarity.matrix(images, captions)``, in order, `block` images at a time.

    Args:
        similarity: Scores encodings.
        images: Encoded images.
        captions: Encoded captions.
        block: Images in a block; memory grows with ``block × captions``.

    Yields:
        Consecutive rows of the matrix.
    """
    for start in range(0, len(images), block):
        yield similarity.matrix(images.rows(slice(start, start + block)), captions)


def best_images(
    similarity: Similarity, images: Padded, captions: Padded, count: int, block: int = 256
) -> tuple[Float[Tensor, "captions count"], Int[Tensor, "captions count"]]:
    """For each caption the `count` most similar images, best first: their similarities and their rows."""
    count = min(count, len(images))
    best = torch.empty(len(captions), 0, device=captions.values.device)
    where = torch.empty(len(captions), 0, dtype=torch.int64, device=captions.values.device)
    start = 0
    for scores in similarity_blocks(similarity, images, captions, block):
        here = torch.arange(start, start + len(scores), device=where.device).expand(len(captions), -1)
        best, order = torch.cat([best, scores.T], dim=1).topk(min(count, start + len(scores)), dim=1)
        where = torch.cat([where, here], dim=1).gather(1, order)
        start += len(scores)
    return best, where
