import torch

from truepair.data.batch import Padded
from truepair.encoders.shared_space import Centred, ClassesOfCaptions, ClassesOfImages, SharedVectors


def test_vectors_of_captions_with_words_are_those_beside_the_words():
    vectors = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    words = Padded(torch.tensor([[1, 5, 2], [1, 2, 0]]), torch.tensor([3, 2]), vectors)
    for items in (words, Padded(vectors)):
        assert torch.equal(SharedVectors()(items).values, vectors)


def test_centred_vectors_have_length_1_and_lose_what_all_have_in_common():
    vectors, common = torch.tensor([[3.0, 4.0], [0.0, -2.0]]), torch.tensor([10.0, -7.0])
    found = Centred(SharedVectors(), common)(Padded(vectors + common)).values
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, -1.0]]))


def test_classes_of_an_image_follow_the_formula_and_those_of_regions_are_of_their_mean():
    torch.manual_seed(0)
    weight, bias, vectors = torch.randn(5, 3), torch.randn(5), torch.randn(4, 3)
    encoder = ClassesOfImages(weight, bias, temperature=2.0)
    expected = torch.stack([((weight @ x + bias) / 2).softmax(0) for x in vectors])
    torch.testing.assert_close(encoder(Padded(vectors)).values, expected)
    apart = torch.stack([vectors - 1, vectors + 1], 1)  # [images, 2 regions, dim]
    torch.testing.assert_close(encoder(Padded(apart, torch.full((4,), 2))).values, expected)


def test_classes_of_a_caption_follow_the_formula_with_and_without_words():
    torch.manual_seed(0)
    names, vectors = torch.randn(5, 3), torch.randn(4, 3)
    middle = names.mean(0)
    cosines = torch.cosine_similarity((vectors - middle)[:, None], (names - middle)[None], dim=2)
    words = Padded(torch.ones(4, 2, dtype=torch.int64), torch.full((4,), 2), vectors)
    for items in (Padded(vectors), words):
        torch.testing.assert_close(ClassesOfCaptions(names, 0.1)(items).values, (cosines / 0.1).softmax(1))
