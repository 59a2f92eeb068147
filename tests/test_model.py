from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from truepair.config import ModelConfig, OptimisationConfig
from truepair.data.batch import Batch, Padded
from truepair.data.features import Features
from truepair.data.loader import Loaders
from truepair.data.text import tokenised
from truepair.encoders.pooling import PooledEncoder
from truepair.encoders.projection import PlainProjection, ResidualProjection
from truepair.encoders.words import MeanWordEncoder, WordsBesideVector
from truepair.errors import DataError
from truepair.model import InputShape, first_word_vectors, make_model
from truepair.optimisation import Optimiser


def test_the_shape_of_regions_and_words(world, vocabulary):
    shape = InputShape("regions", 6, "words", len(vocabulary), vocabulary.mask, regions=4)
    assert InputShape.of(world, vocabulary) == shape


def test_the_shape_of_vectors(vector_world):
    assert InputShape.of(vector_world, None) == InputShape("vector", 12, "vector", 12)


@pytest.fixture
def both_world(world, vocabulary):
    """Regions, and words beside vectors of 3 values."""
    features = Features(np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32))
    return tokenised(replace(world, caption_inputs=features), vocabulary, beside_features=True)


def test_the_shape_of_words_beside_vectors(both_world, vocabulary, world, vector_world):
    found = InputShape.of(both_world, vocabulary)
    assert found == InputShape("regions", 6, "words_and_vector", len(vocabulary), vocabulary.mask, 3, regions=4)
    assert found.has_words
    assert InputShape.of(world, vocabulary).has_words
    assert not InputShape.of(vector_world, None).has_words


def test_the_shape_of_captions_without_inputs_is_an_error(world):
    with pytest.raises(DataError, match="no inputs yet"):
        InputShape.of(replace(world, caption_inputs=None), None)


@pytest.mark.parametrize("image", ["vector", "regions"])
@pytest.mark.parametrize("caption", ["vector", "words"])
def test_any_kind_of_image_meets_any_kind_of_caption(image, caption):
    model = make_model(ModelConfig(embedding=8, word_size=6), InputShape(image, 6, caption, 30, mask=4))
    lengths = torch.tensor([2, 3])
    images = Padded(torch.randn(2, 6)) if image == "vector" else Padded(torch.randn(2, 3, 6), lengths)
    captions = Padded(torch.randn(2, 30)) if caption == "vector" else Padded(torch.randint(5, 30, (2, 3)), lengths)
    for encoder, items in ((model.image_encoder, images), (model.text_encoder, captions)):
        encoded = encoder(items)
        assert encoded.lengths is None
        torch.testing.assert_close(encoded.values.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("similarity", ["saf", "sgr"])
@pytest.mark.parametrize("image", ["vector", "regions"])
@pytest.mark.parametrize("caption", ["vector", "words"])
def test_saf_and_sgr_take_a_vector_for_a_single_region_or_word(similarity, image, caption):
    shape = InputShape(image, 6, caption, 30, mask=4, regions=1 if image == "vector" else 3)
    model = make_model(ModelConfig(similarity, embedding=8, word_size=6, similarity_size=5), shape).eval()
    images = Padded(torch.randn(2, 6)) if image == "vector" else Padded(torch.randn(2, 3, 6), torch.tensor([3, 3]))
    lengths = torch.tensor([2, 3])
    captions = Padded(torch.randn(2, 30)) if caption == "vector" else Padded(torch.randint(5, 30, (2, 3)), lengths)
    encoded = model.image_encoder(images)
    assert encoded.values.shape == (2, 1 + shape.regions, 8)
    assert encoded.lengths.tolist() == [1 + shape.regions] * 2
    assert model.text_encoder(captions).lengths.tolist() == ([2, 2] if caption == "vector" else [3, 4])
    scores = model(Batch(torch.arange(2), images, captions))
    assert scores.shape == (2, 2)
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("similarity", ["saf", "sgr"])
def test_every_option_of_saf_and_sgr_reaches_the_model(world, vocabulary, similarity):
    config = ModelConfig(similarity, 8, 6, similarity_size=5, graph_steps=2, alignment_dropout=0.3, word_dropping=0.1)
    model = make_model(config, InputShape.of(world, vocabulary))
    assert model.similarity.local_map.weight.shape == (5, 8)
    assert model.text_encoder.encoder.dropout.p == 0.3
    assert model.text_encoder.encoder.dropping.probability == 0.1
    assert model.image_encoder.encoder.dropping.keeps_places
    assert {model.image_encoder.whole.dropout.p, model.text_encoder.whole.dropout.p} == {0.3}
    if similarity == "sgr":
        assert len(model.similarity.reasoning.steps) == 2


@pytest.mark.parametrize("similarity", ["cosine", "saf", "sgr"])
def test_pairs_are_the_diagonal_of_the_batch(world, vocabulary, loaders, similarity):
    torch.manual_seed(0)
    config = ModelConfig(similarity, embedding=8, word_size=6, similarity_size=5)
    model = make_model(config, InputShape.of(world, vocabulary)).eval()
    batch = next(iter(loaders.train(0)))
    similarity = model(batch)
    paired = model.scores.paired(model.image_encoder(batch.images), model.text_encoder(batch.captions))
    assert similarity.shape == (8, 8)
    torch.testing.assert_close(similarity.diagonal(), paired)
    assert similarity.requires_grad


def test_weights_come_from_the_global_generator(make):
    def drawn(seed):
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in make().parameters()])

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


@pytest.mark.parametrize(
    ("option", "sides"),
    [("region_dropping", {"image"}), ("word_dropping", {"caption"}), ("input_dropout", {"image"}), (None, set())],
)
def test_every_kind_of_dropping_reaches_its_encoder(world, vocabulary, loaders, option, sides):
    rates = dict.fromkeys(("region_dropping", "word_dropping", "input_dropout"), 0.0)
    if option is not None:
        rates[option] = 0.5
    model = make_model(ModelConfig(embedding=8, word_size=6, **rates), InputShape.of(world, vocabulary))
    batch = next(iter(loaders.train(0)))
    encoders = {"image": (model.image_encoder, batch.images), "caption": (model.text_encoder, batch.captions)}
    varies = {
        side
        for side, (encoder, items) in encoders.items()
        if not torch.equal(encoder(items).values, encoder(items).values)
    }
    assert varies == sides


def test_the_choice_of_batch_statistics_reaches_the_region_encoder(world, vocabulary):
    for rows in ("padded", "valid"):
        config = ModelConfig(embedding=8, word_size=6, batch_norm_rows=rows)
        model = make_model(config, InputShape.of(world, vocabulary))
        assert model.image_encoder.encoder.batch_norm_rows == rows


def test_the_choice_of_words_reaches_the_text_encoder(world, vocabulary, loaders):
    shape, scores = InputShape.of(world, vocabulary), {}
    for words, kind in (("gru", PooledEncoder), ("mean", MeanWordEncoder)):
        config = ModelConfig(
            embedding=8, word_size=6, words=words, word_vector_dropout=0.3, word_dropping=0.1, input_dropout=0.2
        )
        model = make_model(config, shape)
        assert type(model.text_encoder) is kind
        encoder = model.text_encoder if words == "mean" else model.text_encoder.encoder
        assert encoder.vectors.weight.shape == (len(vocabulary), 6)
        assert encoder.dropping.probability == 0.1
        assert {m.p for m in model.text_encoder.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
        scores[words] = model.eval()(next(iter(loaders.train(0))))
        assert scores[words].shape == (8, 8)
    assert not torch.allclose(scores["gru"], scores["mean"])


@pytest.mark.parametrize("options", [{}, {"words": "mean"}, {"similarity": "saf", "similarity_size": 5}])
def test_given_word_vectors_change_nothing_else(world, vocabulary, options):
    config, shape = ModelConfig(embedding=8, word_size=6, **options), InputShape.of(world, vocabulary)
    given = torch.arange(6.0 * len(vocabulary)).reshape(len(vocabulary), 6)
    weights, states = [], []
    for vectors in (None, given):
        torch.manual_seed(0)
        weights.append(dict(make_model(config, shape, vectors).named_parameters()))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    (changed,) = (name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name]))
    assert changed.endswith("vectors.weight")
    assert torch.equal(weights[1][changed], given)
    assert weights[1][changed].requires_grad


def test_captions_that_are_vectors_have_no_word_vectors(vector_world):
    config = ModelConfig(embedding=8, word_vectors="captions")
    assert first_word_vectors(config, InputShape.of(vector_world, None), vector_world) is None


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(embedding=8, word_size=6, words="mean"),
        ModelConfig(embedding=8, word_size=6, batch_norm_rows="padded"),
        ModelConfig(embedding=8, word_size=6, batch_norm_rows="valid"),
        ModelConfig("saf", embedding=8, word_size=6, similarity_size=5),
        ModelConfig("sgr", embedding=8, word_size=6, similarity_size=5),
    ],
    ids=["mean", "padded", "valid", "saf", "sgr"],
)
def test_mixed_precision_trains_every_part_and_stays_near_full_precision(loaders, world, vocabulary, config):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        model = make_model(config, InputShape.of(world, vocabulary))
        optimiser = Optimiser(model, OptimisationConfig(), 1, fabric)
        similarity = optimiser.model(next(iter(loaders.train(0))))
        assert similarity.dtype == torch.float32
        losses[precision] = optimiser.step((similarity - torch.eye(8)).square().mean(), 0.0)["loss"]
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.02)


def batch_of(pairs):
    """The first eight pairs."""
    return next(iter(Loaders(pairs, 8, 0, torch.device("cpu")).train(0)))


def with_other_vectors(batch):
    """The same batch, its caption vectors in another order."""
    return replace(batch, captions=replace(batch.captions, vectors=batch.captions.vectors.flip(0)))


@pytest.mark.parametrize(("words", "kind"), [("mean", MeanWordEncoder), ("gru", PooledEncoder)])
@pytest.mark.parametrize("projection", ["batch_norm", "plain"])
def test_words_beside_vectors_are_compared_by_their_cosine(both_world, world, vocabulary, words, kind, projection):
    torch.manual_seed(0)
    config = ModelConfig(embedding=8, word_size=6, words=words, projection=projection, word_vectors="captions")
    shape, batch = InputShape.of(both_world, vocabulary), batch_of(both_world)
    given = first_word_vectors(config, shape, both_world)
    model = make_model(config, shape, given).eval()
    assert type(model.text_encoder) is WordsBesideVector
    assert type(model.text_encoder.words) is kind
    assert torch.equal(given, first_word_vectors(config, InputShape.of(world, vocabulary), world))
    assert any(torch.equal(parameter, given) for parameter in model.text_encoder.words.parameters())
    similarity = model(batch)
    assert similarity.shape == (8, 8)
    assert similarity.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(model.text_encoder(batch.captions).values.norm(dim=1), torch.ones(8))
    assert not torch.allclose(model(with_other_vectors(batch)), similarity, atol=1e-3)


@pytest.mark.parametrize("words", ["mean", "gru"])
def test_every_part_learns_from_words_beside_vectors(both_world, vocabulary, fabric, words):
    torch.manual_seed(0)
    config = ModelConfig(embedding=8, word_size=6, words=words, projection="plain", feature_scaling="root")
    optimiser = Optimiser(make_model(config, InputShape.of(both_world, vocabulary)), OptimisationConfig(), 1, fabric)
    similarity = optimiser.model(batch_of(both_world))
    optimiser.step((similarity - torch.eye(8)).square().mean(), 0.0)
    assert all(parameter.grad.abs().sum() > 0 for parameter in optimiser.model.parameters())


@pytest.mark.parametrize("similarity", ["saf", "sgr"])
def test_saf_and_sgr_read_the_words_and_not_the_vector_beside_them(both_world, world, vocabulary, similarity):
    config = ModelConfig(similarity, embedding=8, word_size=6, similarity_size=5)
    models = []
    for pairs in (both_world, world):
        torch.manual_seed(0)
        models.append(make_model(config, InputShape.of(pairs, vocabulary)).eval())
    batch = batch_of(both_world)
    torch.testing.assert_close(models[0](batch), models[1](batch_of(world)))
    assert torch.equal(models[0](with_other_vectors(batch)), models[0](batch))


@pytest.mark.parametrize("codes", ["shared", "shared_and_exclusive"])
def test_codes_are_drawn_from_words_beside_vectors_too(both_world, vocabulary, codes):
    torch.manual_seed(0)
    config = ModelConfig(embedding=8, word_size=6, codes=codes, shared_size=4, exclusive_size=3)
    model, batch = make_model(config, InputShape.of(both_world, vocabulary)).eval(), batch_of(both_world)
    assert model(batch).shape == (8, 8)
    assert not torch.allclose(model(with_other_vectors(batch)), model(batch), atol=1e-4)


@pytest.mark.parametrize(("asked", "of_captions"), [("none", "none"), ("length", "length"), ("root", "length")])
def test_the_root_is_taken_of_image_features_only(both_world, vocabulary, vector_world, asked, of_captions):
    """And not of features of captions, in which no few values are large."""
    config = ModelConfig(embedding=8, word_size=6, feature_scaling=asked)
    regions = make_model(config, InputShape.of(both_world, vocabulary))
    vectors = make_model(config, InputShape.of(vector_world, None))
    assert (regions.image_encoder.encoder.scaling.kind, vectors.image_encoder.scaling.kind) == (asked, asked)
    assert regions.text_encoder.vector.scaling.kind == of_captions
    assert vectors.text_encoder.scaling.kind == of_captions


@pytest.mark.parametrize(("name", "kind"), [("batch_norm", ResidualProjection), ("plain", PlainProjection)])
def test_the_projection_that_is_asked_for_is_that_of_every_side(both_world, vocabulary, vector_world, name, kind):
    config = ModelConfig(embedding=8, word_size=6, words="mean", projection=name, input_dropout=0.25)
    shapes = InputShape.of(both_world, vocabulary), InputShape.of(vector_world, None)
    models = [make_model(config, shape) for shape in shapes]
    other = PlainProjection if kind is ResidualProjection else ResidualProjection
    counts = [[sum(type(m) is each for m in model.modules()) for each in (kind, other)] for model in models]
    assert counts == [[3, 0], [2, 0]]  # regions, words and vectors; vectors and vectors
    assert models[0].text_encoder.vector.dropout.p == 0.25
