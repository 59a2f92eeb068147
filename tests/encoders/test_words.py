import pytest
import torch

from truepair.config import ModelConfig
from truepair.data.batch import Padded
from truepair.encoders.pooling import GeneralisedPooling, PooledEncoder
from truepair.encoders.projection import PlainProjection, VectorEncoder
from truepair.encoders.words import MeanWordEncoder, WordEncoder, WordsBesideVector
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


@pytest.mark.parametrize("kind", ["batch_norm", "plain"])
def test_means_are_those_of_a_loop_over_captions_and_their_words(kind):
    torch.manual_seed(0)
    module = MeanWordEncoder(50, 3, 4, word_size=5, kind=kind).eval()
    lengths = torch.randint(1, 12, (40,))
    tokens = torch.randint(4, 50, (40, 11)).masked_fill(torch.arange(11) >= lengths[:, None], 0)
    found = module.features(Padded(tokens, lengths)).values
    for caption, length, one in zip(tokens.tolist(), lengths.tolist(), found, strict=True):
        total = torch.zeros(5)
        for word in caption[:length]:
            total = total + module.vectors.weight[word]
        torch.testing.assert_close(one, module.projection.projection(total[None] / length)[0], atol=1e-6, rtol=1e-5)


def test_the_kind_of_projection_reaches_the_mean_of_words():
    assert type(MeanWordEncoder(9, 3, 4, kind="plain").projection.projection) is PlainProjection


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


VECTORS = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 0.0]])


def both_ways(words):
    """An encoder of words, one of vectors, and both together."""
    torch.manual_seed(0)
    if words == "mean":
        of_words = MeanWordEncoder(9, 3, 4, word_size=5)
    else:
        of_words = PooledEncoder(WordEncoder(9, 3, 4, word_size=5), GeneralisedPooling())
    vector = VectorEncoder(2, 4, kind="plain", scaling="length")
    return of_words, vector, WordsBesideVector(of_words, vector).eval()


@pytest.mark.parametrize("words", ["mean", "gru"])
def test_words_beside_a_vector_are_the_sum_of_both_made_of_length_one(words):
    of_words, vector, both = both_ways(words)
    items = Padded(TOKENS.values, TOKENS.lengths, VECTORS)
    total = of_words.features(TOKENS).values + vector.features(Padded(VECTORS)).values
    torch.testing.assert_close(both.features(items).values, total)
    encoded = both(items)
    torch.testing.assert_close(encoded.values, total / total.norm(dim=1, keepdim=True))
    assert encoded.lengths is None
    assert torch.equal(both.encoding(both.features(items)).values, encoded.values)


@pytest.mark.parametrize("words", ["mean", "gru"])
def test_words_and_the_vector_beside_them_both_count_and_both_learn(words):
    _, _, both = both_ways(words)
    encoded = both(Padded(TOKENS.values, TOKENS.lengths, VECTORS)).values
    other_vectors = Padded(TOKENS.values, TOKENS.lengths, VECTORS.roll(1, 0))
    other_words = Padded(TOKENS.values.roll(1, 0), TOKENS.lengths.roll(1), VECTORS)
    for other in (other_vectors, other_words):
        assert not torch.allclose(both(other).values[1], encoded[1], atol=1e-3)
    encoded.square().mul(torch.arange(4)).sum().backward()
    for part in (both.words, both.vector):
        assert any(parameter.grad.abs().sum() > 0 for parameter in part.parameters() if parameter.grad is not None)


def test_words_are_dropped_beside_a_vector_in_training_and_the_vector_stays():
    torch.manual_seed(0)
    both = WordsBesideVector(MeanWordEncoder(9, 3, 4, word_size=5, dropping=0.5), VectorEncoder(2, 4, kind="plain"))
    seen = []
    both.vector.projection.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    items = Padded(TOKENS.values, TOKENS.lengths, VECTORS)
    each = [both(items).values for _ in range(5)]
    assert any(not torch.allclose(one, each[0]) for one in each[1:])
    assert all(torch.equal(given, VECTORS) for given in seen)
