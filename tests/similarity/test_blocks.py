from itertools import pairwise

import pytest
import torch

from truepair.evaluation.recall import fold_slices
from truepair.similarity.blocks import similarity_blocks


def gallery(seed, images=12, captions=31):
    """Captions in any order, of any length; some images have none."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(images - 1, (captions,), generator=generator),
        torch.randint(1, 9, (captions,), generator=generator),
    )


@pytest.mark.parametrize("sizes", [(1, 1), (5, 3), (4, 31), (12, 7), (100, 100)])
@pytest.mark.parametrize("folds", [1, 3])
def test_every_image_meets_every_caption_of_its_fold_once_and_no_other(folds, sizes):
    image_of_caption, lengths = gallery(seed=0)
    blocks = similarity_blocks(image_of_caption, lengths, fold_slices(12, folds), *sizes)
    met = torch.zeros(12, 31)
    for block in blocks:
        met[block.images, block.captions] += 1
        rows, columns = block.images.stop - block.images.start, len(block.captions)
        assert block.pairs == rows * columns <= sizes[0] * sizes[1]
    fold_size = 12 // folds
    expected = torch.arange(12)[:, None] // fold_size == image_of_caption // fold_size
    assert torch.equal(met, expected.float())


def test_a_group_is_one_set_of_captions_and_groups_go_from_long_to_short():
    image_of_caption, lengths = gallery(seed=1)
    blocks = similarity_blocks(image_of_caption, lengths, [slice(0, 12)], 5, 8)
    assert [block.group for block in blocks] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for first, second in pairwise(blocks):
        if first.group == second.group:
            assert torch.equal(first.captions, second.captions)
    order = torch.cat([block.captions for block in blocks[::3]])
    assert lengths[order].tolist() == sorted(lengths.tolist(), reverse=True)
