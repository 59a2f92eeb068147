import math

import pytest
import torch

from truepair.config import ModelConfig
from truepair.data.batch import Padded
from truepair.encoders.projection import (
    FeatureScaling,
    PlainProjection,
    ResidualProjection,
    VectorEncoder,
    projection,
)
from truepair.encoders.regions import RegionEncoder
from truepair.errors import ConfigError


def test_training_follows_the_formula():
    torch.manual_seed(0)
    module, x = ResidualProjection(6, 4), torch.randn(3, 5, 6)
    with torch.no_grad():
        module.network[1].weight.copy_(torch.tensor([1.5, 0.5]))
        module.network[1].bias.copy_(torch.tensor([0.2, -0.3]))
        module.linear.bias.copy_(torch.randn(4))
    first, norm, _, last = module.network
    rows = x.reshape(15, 6)
    hidden = rows @ first.weight.T + first.bias
    scaled = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
    expected = rows @ module.linear.weight.T + module.linear.bias + scaled.clamp(min=0) @ last.weight.T + last.bias
    torch.testing.assert_close(module(x), expected.reshape(3, 5, 4))


def test_evaluation_uses_running_statistics_so_that_rows_are_independent():
    torch.manual_seed(0)
    module, x = ResidualProjection(6, 4), torch.randn(3, 5, 6)
    module(x)
    module.eval()
    torch.testing.assert_close(module(x[1:2, 2:3]), module(x)[1:2, 2:3])


def test_the_linear_map_starts_uniform_within_its_bound_and_without_bias():
    torch.manual_seed(0)
    module = ResidualProjection(2048, 1024)
    bound = (6 / (2048 + 1024)) ** 0.5
    weight = module.linear.weight.detach()
    assert bound * 0.999 < weight.abs().max() <= bound
    assert abs(weight.std().item() / bound - 3**-0.5) < 0.01  # a uniform distribution's standard deviation
    assert (module.linear.bias == 0).all()
    assert module.network[0].out_features == 512


def test_vectors_become_unit_vectors_and_a_zero_vector_stays_finite():
    torch.manual_seed(0)
    encoder = VectorEncoder(6, 4).eval()
    encoded = encoder(Padded(torch.cat([torch.randn(3, 6), torch.zeros(1, 6)])))
    assert encoded.lengths is None
    torch.testing.assert_close(encoded.values.norm(dim=1), torch.ones(4))


def test_input_dropout_zeroes_features_in_training_only():
    torch.manual_seed(0)
    encoder, x = VectorEncoder(6, 4, input_dropout=0.5), Padded(torch.randn(3, 6))
    assert not torch.equal(encoder(x).values, encoder(x).values)
    encoder.eval()
    assert torch.equal(encoder(x).values, encoder(x).values)


@pytest.mark.parametrize("training", [True, False])
def test_the_plain_projection_follows_the_formula_and_keeps_rows_independent(training):
    torch.manual_seed(0)
    module, x = PlainProjection(6, 4).train(training), torch.randn(3, 5, 6)
    first, _, last = module.network
    rows = x.reshape(15, 6)
    hidden = (rows @ first.weight.T + first.bias).clamp(min=0)
    expected = rows @ module.linear.weight.T + module.linear.bias + hidden @ last.weight.T + last.bias
    torch.testing.assert_close(module(x), expected.reshape(3, 5, 4))
    torch.testing.assert_close(module(x[1:2, 2:3]), expected.reshape(3, 5, 4)[1:2, 2:3])


def test_the_plain_projection_is_as_wide_as_the_joint_space_and_starts_as_pytorch_does():
    torch.manual_seed(0)
    module = PlainProjection(50, 400)
    layers = module.linear, module.network[0], module.network[2]
    assert [layer.weight.shape for layer in layers] == [(400, 50), (400, 50), (400, 400)]
    for layer in layers:
        bound = layer.in_features**-0.5
        assert bound * 0.97 < layer.weight.detach().abs().max() <= bound
        assert 0 < layer.bias.detach().abs().max() <= bound
    assert not list(module.buffers()), "no running statistics"


def test_the_identity_changes_nothing_until_it_learns():
    begun = projection("identity", 5, 5)
    vectors = torch.randn(3, 5)
    assert torch.equal(begun(vectors), vectors)
    begun(vectors).square().sum().backward()
    moved = {name for name, weight in begun.named_parameters() if weight.grad.any()}
    assert {"linear.weight", "network.2.weight"} <= moved


def test_the_identity_keeps_the_width():
    with pytest.raises(ConfigError, match=r"they have 5 values, but model\.embedding is 4; make it 5"):
        projection("identity", 5, 4)
    with pytest.raises(ConfigError, match=r"model\.projection is 'identity', but model\.feature_scaling 'root'"):
        ModelConfig(projection="identity", feature_scaling="root")


def test_a_projection_is_what_its_name_says():
    assert type(projection("batch_norm", 6, 4)) is ResidualProjection
    assert type(projection("plain", 6, 4)) is PlainProjection
    assert type(VectorEncoder(6, 4).projection) is ResidualProjection, "of every published system"
    assert type(VectorEncoder(6, 4, kind="plain").projection) is PlainProjection
    assert type(RegionEncoder(6, 4, kind="plain").projection) is PlainProjection


def scaled_by_hand(vector, kind):
    """One vector, value by value."""
    if kind == "none":
        return vector
    values = [math.copysign(math.sqrt(abs(x)), x) for x in vector] if kind == "root" else vector
    length = math.sqrt(sum(x * x for x in values))
    return [math.sqrt(len(values)) / 2 * x / length if length else 0.0 for x in values]


@pytest.mark.parametrize("kind", ["none", "length", "root"])
def test_features_are_scaled_as_written_out_and_zeros_stay_zero(kind):
    features = 3 * torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0))
    features[1, 1], features[2, 0, 3] = 0, 0
    scaled = FeatureScaling(kind)(features)
    expected = [[scaled_by_hand(vector, kind) for vector in rows] for rows in features.tolist()]
    torch.testing.assert_close(scaled, torch.tensor(expected))
    assert (scaled[1, 1] == 0).all()
    assert scaled[2, 0, 3] == 0


def test_the_root_of_a_vector_computed_by_hand():
    """The roots of 16, -9, 0 and 0 are 4, -3, 0 and 0, of length 5; √4 / 2 = 1."""
    found = FeatureScaling("root")(torch.tensor([[16.0, -9.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.8, -0.6, 0.0, 0.0]]))


@pytest.mark.parametrize("kind", ["length", "root"])
@pytest.mark.parametrize("by", [0.1, 7.0, 1e4])
def test_scaled_features_do_not_depend_on_the_range_of_the_encoder(kind, by):
    features = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    scaling = FeatureScaling(kind)
    torch.testing.assert_close(scaling(by * features), scaling(features))
    torch.testing.assert_close(scaling(features).square().mean(1).sqrt(), torch.full((20,), 0.5))


def test_encoders_scale_features_before_they_drop_and_project_them():
    torch.manual_seed(0)
    vectors, regions = torch.randn(4, 6).exp(), torch.randn(4, 3, 6).exp()
    for encoder, items in (
        (VectorEncoder(6, 4, kind="plain", scaling="root"), Padded(vectors)),
        (RegionEncoder(6, 4, kind="plain", scaling="root"), Padded(regions, torch.full((4,), 3))),
    ):
        encoder.eval()
        features = encoder.features(items) if isinstance(encoder, VectorEncoder) else encoder(items)
        roots = items.values.sqrt()
        scaled = roots / roots.norm(dim=-1, keepdim=True) * 6**0.5 / 2
        torch.testing.assert_close(features.values, encoder.projection(scaled))
        torch.testing.assert_close(encoder(Padded(9 * items.values, items.lengths)).values, encoder(items).values)
    torch.manual_seed(1)
    dropping = VectorEncoder(6, 4, input_dropout=0.5, kind="plain", scaling="length")
    seen = []
    dropping.projection.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    dropping(Padded(vectors))
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], (2 * dropping.scaling(vectors))[kept])
    assert 0 < kept.sum() < kept.numel()


def test_zero_rows_past_an_images_regions_stay_finite_when_they_are_scaled():
    regions = Padded(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), torch.tensor([1]))
    for rows in ("padded", "valid"):
        encoded = RegionEncoder(2, 4, kind="plain", scaling="root", batch_norm_rows=rows)(regions)
        assert encoded.values.isfinite().all()
