import pytest
import torch
from torch import nn

from truepair.config import ModelConfig
from truepair.data.batch import Padded
from truepair.errors import ConfigError
from truepair.layers import unit_length
from truepair.model import InputShape, make_model
from truepair.similarity import partial_cosine as module
from truepair.similarity.cosine import CosineSimilarity
from truepair.similarity.head import HeadNetwork, scored
from truepair.similarity.partial_cosine import PartialCosine
from truepair.similarity.protocol import VectorSimilarity


def encoded(count, seed, width=12):
    vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return Padded(unit_length(vectors))


@pytest.fixture
def similarity():
    torch.manual_seed(0)
    return PartialCosine(4, HeadNetwork(4, hidden=5))


def test_it_does_what_a_similarity_with_a_head_does(similarity):
    assert isinstance(similarity, VectorSimilarity)
    scores = similarity.matrix(encoded(3, 0), encoded(5, 1))
    assert scores.shape == (3, 5)
    assert ((scores > 0) & (scores < 1)).all()


def test_one_image_and_one_caption_by_hand():
    images, captions = Padded(torch.tensor([[0.5, 0.5, 0.5, 0.5]])), Padded(torch.tensor([[0.8, 0.0, 0.6, 0.0]]))
    vectors = PartialCosine(2, nn.Identity()).vectors(images, captions)
    torch.testing.assert_close(vectors, torch.tensor([[[0.8, 0.6]]]))  # 2 · 0.5 · 0.8 and 2 · 0.5 · 0.6; cosine 0.7


@pytest.mark.parametrize("size", [1, 4, 12])
def test_the_mean_of_the_parts_is_the_cosine(size):
    images, captions = encoded(3, 0), encoded(5, 1)
    parts = PartialCosine(size, nn.Identity()).vectors(images, captions)
    assert parts.shape == (3, 5, size)
    torch.testing.assert_close(parts.mean(2), CosineSimilarity().matrix(images, captions))


def test_with_as_many_parts_as_coordinates_they_are_products():
    images, captions = encoded(2, 0), encoded(2, 1)
    parts = PartialCosine(12, nn.Identity()).vectors(images, captions)
    torch.testing.assert_close(parts[0, 1], 12 * images.values[0] * captions.values[1])


def test_paired_is_the_diagonal_of_the_matrix_and_a_pair_scores_the_same_alone(similarity):
    images, captions = encoded(7, 0), encoded(7, 1)
    matrix = similarity.matrix(images, captions)
    torch.testing.assert_close(similarity.paired(images, captions), matrix.diagonal())
    torch.testing.assert_close(
        similarity.paired_vectors(images, captions), similarity.vectors(images, captions)[range(7), range(7)]
    )
    alone = similarity.matrix(Padded(images.values[2:3]), Padded(captions.values[4:5]))
    torch.testing.assert_close(alone, matrix[2:3, 4:5])


def test_blocks_of_images_change_nothing(similarity, monkeypatch):
    images, captions = encoded(7, 0), encoded(5, 1)
    whole = similarity.matrix(images, captions)
    monkeypatch.setattr(module, "_VECTOR_BYTES", 1)
    with torch.no_grad():
        torch.testing.assert_close(similarity.matrix(images, captions), whole)


def test_nothing_to_compare_gives_nothing(similarity):
    with torch.no_grad():
        assert similarity.matrix(encoded(0, 0), encoded(5, 1)).shape == (0, 5)
        assert similarity.matrix(encoded(5, 0), encoded(0, 1)).shape == (5, 0)


def test_half_precision_is_scored_in_single(similarity):
    images, captions = encoded(3, 0), encoded(5, 1)
    vectors = similarity.vectors(images, captions)
    scores = scored(similarity.head, vectors.bfloat16())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, scored(similarity.head, vectors), atol=0.01, rtol=0)


def test_a_width_that_cannot_be_cut_is_refused():
    config = ModelConfig(embedding=10, similarity_size=4, head="network")
    shape = InputShape("vector", 6, "vector", 6)
    with pytest.raises(ConfigError, match=r"model\.similarity_size \(4\) equal blocks .* model\.embedding is 10"):
        make_model(config, shape)
    small = make_model(ModelConfig(embedding=10, head="network"), shape)  # fewer coordinates than parts
    assert small.similarity.size == 10
