"""Similarities of large galleries, a few images at a time, so that the whole matrix never exists."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
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
