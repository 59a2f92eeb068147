import pytest
import torch

from truepair.config import ModelConfig
from truepair.data.batch import Padded
from truepair.encoders.words import MeanWordEncoder
from truepair.errors import ConfigError
from truepair.model import InputShape, first_word_vectors, make_model

TOKENS = Padded(torch.tensor([[4, 5, 6, 0], [7, 4, 0, 0], [6, 5, 4, 0]]), torch.tensor([3, 2, 3]))


def encoder():
    torch.manual_seed(0)
    return MeanWordEncoder(9, 3, 4, word_size=5, dropping=0.5).eval()


def test_a_caption_is_the_projection_of_its_mean_word():
    module = encoder()
    words = module.vectors.weight
    mean = torch.stack([words[[4, 5, 6]].mean(0), words[[7, 4]].mean(0)])
    projected = module.projection.projection(mean)
    encoded = module(TOKENS).values
    torch.testing.assert_close(encoded[:2], projected / projected.norm(dim=1, keepdim=True))
    assert module(TOKENS).lengths is None


def test_order_and_padding_do_not_matter():
    module = encoder()
    encoded = module(TOKENS).values
    torch.testing.assert_close(encoded[0], encoded[2])
    torch.testing.assert_close(module(Padded(TOKENS.values[1:2, :2], TOKENS.lengths[1:2])).values[0], encoded[1])
    assert not torch.allclose(encoded[0], encoded[1])


def test_words_without_order_cannot_be_compared_one_by_one():
    with pytest.raises(ConfigError, match=r"model\.words is 'mean'.*'sgr'"):
        ModelConfig(words="mean", similarity="sgr")


@pytest.mark.parametrize("words", ["gru", "mean"])
def test_word_vectors_start_from_the_captions_where_asked(world, vocabulary, words):
    shape = InputShape.of(world, vocabulary)
    config = ModelConfig(embedding=8, word_size=5, words=words, word_vectors="captions")
    given = first_word_vectors(config, shape, world)
    model = make_model(config, shape, given)
    (vectors,) = (module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    assert given.abs().sum() > 0
    assert torch.equal(vectors.weight, given)
    assert first_word_vectors(ModelConfig(), shape, world) is None


def test_what_stands_past_the_end_of_a_caption_is_not_read():
    module = encoder()
    junk = Padded(TOKENS.values.masked_fill(~TOKENS.mask, 8), TOKENS.lengths)
    assert not torch.equal(junk.values, TOKENS.values)
    assert torch.equal(module(junk).values, module(TOKENS).values)
    longer = Padded(junk.values, TOKENS.lengths + 1)
    assert not torch.allclose(module(longer).values, module(TOKENS).values)


def test_words_are_altered_in_training_only():
    module = encoder()
    assert torch.equal(module(TOKENS).values, module(TOKENS).values)
    module.train()
    each = [module(TOKENS).values for _ in range(5)]
    assert any(not torch.allclose(one, each[0]) for one in each[1:])
    for encoded in each:
        torch.testing.assert_close(encoded.norm(dim=1), torch.ones(3))


def test_features_are_the_encoding_before_its_length_is_taken():
    module = encoder()
    features = module.features(TOKENS)
    assert not torch.allclose(features.values.norm(dim=1), torch.ones(3))
    assert torch.equal(module.encoding(features).values, module(TOKENS).values)
