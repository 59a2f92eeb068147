import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch

from truepair.config import ModelConfig
from truepair.data.batch import Padded
from truepair.encoders.codes import Backbone, ExclusiveBranch, GaussianHead, SharedEncoder, pooled
from truepair.errors import ConfigError
from truepair.layers import unit_length
from truepair.model import InputShape, load_weights, make_model, retrieval_weights


@pytest.fixture(params=["cosine", "saf", "sgr"])
def backbone(request):
    return ModelConfig(request.param, embedding=12, word_size=6, similarity_size=6, codes="shared_and_exclusive")


@pytest.fixture
def inputs(world, vocabulary):
    return InputShape.of(world, vocabulary)


@pytest.fixture
def batch(loaders):
    return next(iter(loaders.train(0)))


def test_a_head_is_a_softplus_and_a_floor_and_starts_near_a_third():
    torch.manual_seed(0)
    head = GaussianHead(20, 16, 8)
    features = 100 * torch.randn(50, 20)
    code = head(features)
    raw = head.network(features / features.square().mean().sqrt())
    torch.testing.assert_close(code.mean, raw[:, :8])
    torch.testing.assert_close(code.stddev, (1 + (raw[:, 8:] - 1).exp()).log() + 1e-3)
    assert 0.2 < code.stddev.mean() < 0.6


def test_a_residual_head_starts_as_the_features_and_keeps_their_cosines():
    torch.manual_seed(0)
    head = GaussianHead(8, 16, 8, residual=True)
    features = 7 * torch.randn(5, 8)
    torch.testing.assert_close(unit_length(head(features).mean), unit_length(features))


def test_the_scale_of_features_follows_in_training_and_stays_in_evaluation():
    head = GaussianHead(4, 4, 2)
    head(torch.full((3, 4), 10.0))
    assert head.mean_square.item() == pytest.approx(100)  # the first batch, not a tenth of it
    head(torch.zeros(3, 4))
    assert head.mean_square.item() == pytest.approx(90)
    head.eval()(torch.full((3, 4), 1000.0))
    assert head.mean_square.item() == pytest.approx(90)


def test_pooled_is_the_vector_or_the_mean_over_valid_positions():
    vectors = torch.randn(3, 4)
    assert pooled(Padded(vectors)).equal(vectors)
    values = torch.randn(2, 3, 4)
    expected = torch.stack([values[0, :1].mean(0), values[1].mean(0)])
    torch.testing.assert_close(pooled(Padded(values, torch.tensor([1, 3]))), expected)


def test_every_backbone_can_be_taken_apart(backbone, inputs, batch):
    model = make_model(backbone, inputs).eval()
    for encoder, items in ((model.image_encoder, batch.images), (model.text_encoder, batch.captions)):
        assert isinstance(encoder, SharedEncoder)
        assert isinstance(encoder.backbone, Backbone)
        whole = encoder.backbone(items)
        in_steps = encoder.backbone.encoding(encoder.backbone.features(items))
        torch.testing.assert_close(in_steps.values, whole.values, rtol=0, atol=0)


def test_a_fresh_model_with_codes_scores_as_its_backbone(backbone, inputs, batch):
    model = make_model(backbone, inputs).eval()
    for encoder, items in ((model.image_encoder, batch.images), (model.text_encoder, batch.captions)):
        plain = encoder.backbone(items)
        coded = encoder(items)
        torch.testing.assert_close(coded.values, plain.values, rtol=1e-4, atol=1e-5)
        if plain.lengths is not None:
            assert coded.lengths.equal(plain.lengths)


def test_codes_are_draws_and_evaluation_is_their_mean(backbone, inputs, batch):
    torch.manual_seed(0)
    model = make_model(backbone, inputs)
    first, second = (model.image_encoder.codes(batch.images) for _ in range(2))
    assert first.features.shape == first.sample.shape == (8, 12)
    assert not first.sample.equal(second.sample)
    model.eval()
    assert model.image_encoder(batch.images).values.equal(model.image_encoder(batch.images).values)


@pytest.mark.parametrize("shared", [5, 12])
def test_shared_codes_may_be_narrower_than_features(backbone, inputs, batch, shared):
    config = ModelConfig(**{**vars(backbone), "shared_size": shared, "exclusive_size": 7})
    model = make_model(config, inputs)
    codes = model.text_encoder.codes(batch.captions)
    assert codes.sample.shape == (8, shared)
    assert model(batch).shape == (8, 8)
    branch = model.exclusive["text"]
    exclusive = branch(codes.features)
    assert exclusive.mean.shape == (8, 7)
    assert branch.decoded(codes.sample, exclusive.rsample()).shape == (8, model.text_encoder.backbone.input_width)
    again = make_model(replace(config, reconstructs="features"), inputs).exclusive["text"]
    assert again.decoded(codes.sample, exclusive.rsample()).shape == (8, 12)


def test_inputs_of_every_backbone_are_one_vector_an_item_whatever_was_learned(backbone, inputs, batch):
    torch.manual_seed(0)
    model = make_model(backbone, inputs).train()
    for encoder, items in ((model.image_encoder, batch.images), (model.text_encoder, batch.captions)):
        made = encoder.inputs(items)
        assert made.values.shape == (8, encoder.backbone.input_width)
        assert not made.values.requires_grad
        assert made.values.equal(encoder.inputs(items).values), "nothing is dropped"
        padded = Padded(items.values, items.lengths)
        alone = [encoder.inputs(padded.rows(slice(row, row + 1))).values for row in range(8)]
        torch.testing.assert_close(made.values, torch.cat(alone))


def test_a_narrower_shared_code_keeps_what_cosines_say(inputs, batch):
    """Orthonormal rows: the mean over many of such maps of a squared length is that of the vector, but for a factor."""
    torch.manual_seed(0)
    vectors = torch.randn(2, 12)
    scale = vectors.square().mean()
    products = []
    for _ in range(400):
        one, other = GaussianHead(12, 8, 5, residual=True)(vectors).mean
        products.append((one @ other).item())
    assert statistics.mean(products) == pytest.approx((vectors[0] @ vectors[1] / scale * 5 / 12).item(), abs=0.15)


def test_default_widths_follow_the_embedding():
    config = ModelConfig(embedding=1024)
    assert (config.shared, config.exclusive) == (1024, 256)
    narrow = ModelConfig(embedding=2)
    assert narrow.exclusive == 1


@pytest.mark.parametrize("name", ["shared_size", "exclusive_size"])
def test_codes_wider_than_features_are_refused(name):
    with pytest.raises(ConfigError, match=rf"model\.{name} is 9, but .* model\.embedding 8 and cannot be wider"):
        ModelConfig(embedding=8, **{name: 9})


def test_scores_do_not_depend_on_what_is_dropped(backbone, inputs, batch):
    torch.manual_seed(0)
    model = make_model(backbone, inputs)
    model(batch)  # moves running statistics
    weights = model.state_dict()
    kept = retrieval_weights(weights)
    assert {name.split(".")[0] for name in weights} - {name.split(".")[0] for name in kept} == {"exclusive"}
    again = make_model(backbone, inputs)
    load_weights(again, kept)
    assert again.exclusive is None
    assert again.eval()(batch).equal(model.eval()(batch))


def test_weights_of_another_model_are_refused(backbone, inputs):
    model = make_model(backbone, inputs)
    weights = retrieval_weights(model.state_dict())
    del weights[next(iter(weights))]
    with pytest.raises(RuntimeError, match="Missing key"):
        load_weights(model, weights)


def test_a_branch_decodes_what_is_in_both_codes():
    torch.manual_seed(0)
    branch = ExclusiveBranch(6, 32, 3, 3)
    features = torch.randn(64, 6)
    adam = torch.optim.Adam(branch.parameters(), 1e-2)
    target = torch.nn.functional.layer_norm(features, (6,))

    def error(exclusive):
        return (branch.decoded(features[:, :3], exclusive) - target).square().mean()

    for _ in range(300):
        loss = error(branch(features).mean)
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss.item() < 0.1
    assert error(branch(features.roll(1, 0)).mean).item() > 3 * loss.item()


def test_models_without_codes_are_as_before(inputs, batch):
    make = partial(make_model, ModelConfig(embedding=12, word_size=6), inputs)
    assert make().exclusive is None
    assert not isinstance(make().image_encoder, SharedEncoder)
