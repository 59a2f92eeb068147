import torch

from truepair.data.batch import Padded
from truepair.encoders.projection import ResidualProjection, VectorEncoder


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
