import pytest
import torch

from truepair.data.batch import Padded
from truepair.layers import unit_length
from truepair.similarity.cosine import CosineSimilarity
from truepair.similarity.protocol import Similarity


def encodings(items, seed, dim=5):
    return Padded(unit_length(torch.randn(items, dim, generator=torch.Generator().manual_seed(seed))))


def test_it_does_what_a_similarity_does():
    assert isinstance(CosineSimilarity(), Similarity)


def test_two_images_and_three_captions_by_hand():
    images = Padded(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    captions = Padded(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    expected = torch.tensor([[1.0, 0.0, -1.0], [0.6, 0.8, -0.6]])
    torch.testing.assert_close(CosineSimilarity().matrix(images, captions), expected)


def test_paired_is_the_diagonal_of_the_matrix():
    images, captions = encodings(7, 0), encodings(7, 1)
    similarity = CosineSimilarity()
    torch.testing.assert_close(similarity.paired(images, captions), similarity.matrix(images, captions).diagonal())


def test_a_pair_scores_the_same_alone_and_among_128():
    images, captions = encodings(128, 0), encodings(128, 1)
    similarity = CosineSimilarity()
    alone = similarity.matrix(images.rows(slice(5, 6)), captions.rows(slice(9, 10)))
    torch.testing.assert_close(alone[0, 0], similarity.matrix(images, captions)[5, 9])


def test_pairs_of_unlike_number_are_an_error():
    with pytest.raises(Exception, match=r"pd,pd->p|[Ss]ize"):
        CosineSimilarity().paired(encodings(3, 0), encodings(4, 1))
