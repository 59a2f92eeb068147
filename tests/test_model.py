from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric

from truepair.config import ModelConfig, OptimisationConfig
from truepair.data.batch import Batch, Padded
from truepair.encoders.pooling import PooledEncoder
from truepair.encoders.words import MeanWordEncoder
from truepair.errors import DataError
from truepair.model import InputShape, first_word_vectors, make_model
from truepair.optimisation import Optimiser


def test_the_shape_of_regions_and_words(world, vocabulary):
    shape = InputShape("regions", 6, "words", len(vocabulary), vocabulary.mask, regions=4)
    assert InputShape.of(world, vocabulary) == shape


def test_the_shape_of_vectors(vector_world):
    assert InputShape.of(vector_world, None) == InputShape("vector", 12, "vector", 12)


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
