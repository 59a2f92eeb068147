import pytest
import torch

from truepair.data.batch import Padded
from truepair.encoders.normalisation import unit_length
from truepair.similarity.blocks import similarity_blocks
from truepair.similarity.cosine import CosineSimilarity


@pytest.fixture
def gallery():
    generator = torch.Generator().manual_seed(0)
    images, captions = (Padded(unit_length(torch.randn(n, 5, generator=generator))) for n in (23, 9))
    return images, captions, CosineSimilarity().matrix(images, captions)


@pytest.mark.parametrize("block", [1, 7, 22, 23, 24, 1000])
def test_blocks_together_are_the_whole_matrix(gallery, block):
    images, captions, whole = gallery
    blocks = list(similarity_blocks(CosineSimilarity(), images, captions, block))
    assert [len(rows) for rows in blocks] == [min(block, 23 - start) for start in range(0, 23, block)]
    torch.testing.assert_close(torch.cat(blocks), whole)
