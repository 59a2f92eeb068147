"""How the similarities of a gallery are cut into blocks, so that the whole matrix never exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Block:
    """A rectangle of the similarity matrix.

    Attributes:
        images: Its rows, consecutive.
        captions: ``[captions]``, its columns: captions of about the same length, so that little is padding.
        group: The number of this set of columns, from 0; blocks that share it differ in their images.
    """

    images: slice
    captions: Int[Tensor, " captions"]
    group: int

    @property
    def pairs(self) -> int:
        """How many similarities the block holds."""
        rows: int = self.images.stop - self.images.start
        return rows * len(self.captions)


def similarity_blocks(
    image_of_caption: Int[Tensor, " captions"],
    caption_lengths: Int[Tensor, " captions"],
    folds: Sequence[slice],
    images_in_block: int,
    captions_in_block: int,
) -> list[Block]:
    """Blocks that cover every image of a fold with every caption of that fold exactly once.

    Args:
        image_of_caption: ``[captions]``, the row of each caption's own image; a caption is in its image's fold.
        caption_lengths: ``[captions]``, in words or characters: only their order counts.
        folds: Runs of consecutive images; one run if all images and captions compete.
        images_in_block: At most so many rows.
        captions_in_block: At most so many columns.

    Returns:
        The blocks fold by fold, longest captions first: what needs the most memory comes at once.

    Example:
        Two folds of two images each: 8 similarities, of the 16 of the whole matrix.

        >>> import torch
        >>> blocks = similarity_blocks(torch.arange(4), torch.tensor([9, 5, 2, 7]), [slice(0, 2), slice(2, 4)], 8, 8)
        >>> [(block.images.start, block.images.stop, block.captions.tolist()) for block in blocks]
        [(0, 2, [0, 1]), (2, 4, [3, 2])]
    """
    blocks = []
    group = 0
    for fold in folds:
        captions = ((image_of_caption >= fold.start) & (image_of_caption < fold.stop)).nonzero().squeeze(1)
        longest_first = captions[caption_lengths[captions].argsort(descending=True, stable=True)]
        for columns in longest_first.split(captions_in_block):
            for start in range(fold.start, fold.stop, images_in_block):
                rows = slice(start, min(start + images_in_block, fold.stop))
                blocks.append(Block(rows, columns, group))
            group += 1
    return blocks
