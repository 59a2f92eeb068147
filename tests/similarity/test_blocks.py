import pytest
import torch

from truepair.data.batch import Padded
from truepair.encoders.normalisation import unit_length
from truepair.similarity.blocks import best_images, similarity_blocks
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


@pytest.mark.parametrize("block", [1, 4, 23, 1000])
@pytest.mark.parametrize("count", [1, 3, 10, 23])
def test_best_images_are_those_of_a_full_sort(gallery, block, count):
    images, captions, whole = gallery
    similarity, rows = best_images(CosineSimilarity(), images, captions, count, block)
    order = whole.T.argsort(dim=1, descending=True)[:, :count]
    assert torch.equal(rows, order)
    torch.testing.assert_close(similarity, whole.T.gather(1, order))


def test_no_more_best_images_than_there_are_images(gallery):
    images, captions, _ = gallery
    similarity, rows = best_images(CosineSimilarity(), images, captions, count=50, block=4)
    assert similarity.shape == rows.shape == (9, 23)
    assert torch.equal(rows.sort(1).values, torch.arange(23).expand(9, -1))
