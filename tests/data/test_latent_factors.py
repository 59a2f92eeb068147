import numpy as np
import pytest
import torch
from latent_factors import latent_factor_pairs

from truepair.data.pairs import Inputs


def _all(inputs: Inputs) -> torch.Tensor:
    return inputs.take(torch.arange(len(inputs))).values


def _explained(features: torch.Tensor, factor: torch.Tensor) -> float:
    """R² of a linear fit, over all columns of the factor."""
    design = torch.cat([features, torch.ones(len(features), 1)], 1)
    fit = design @ torch.linalg.lstsq(design, factor).solution
    return 1 - float((factor - fit).square().sum() / (factor - factor.mean(0)).square().sum())


def test_shapes_are_those_asked_for_and_every_pair_is_true():
    made = latent_factor_pairs(7, world_seed=0, draw_seed=0, shared=3, exclusive=2, width=5)
    assert [tuple(x.shape) for x in (made.shared, made.image_only, made.caption_only)] == [(7, 3), (7, 2), (7, 2)]
    assert _all(made.pairs.images).shape == _all(made.pairs.caption_inputs).shape == (7, 5)
    assert made.pairs.realised_noise_rate == 0
    assert made.pairs.captions[3] == "pair 3"


def test_features_hold_the_shared_factor_and_that_of_their_own_side_only():
    made = latent_factor_pairs(3000, world_seed=0, draw_seed=0)
    images, captions = _all(made.pairs.images), _all(made.pairs.caption_inputs)
    for features, own, other in (
        (images, made.image_only, made.caption_only),
        (captions, made.caption_only, made.image_only),
    ):
        assert _explained(features, made.shared) > 0.9
        assert _explained(features, own) > 0.9
        assert _explained(features, other) < 0.05  # 65 coefficients on 3,000 pairs explain 0.02 of anything


def test_factors_are_independent_standard_normal():
    made = latent_factor_pairs(20_000, world_seed=0, draw_seed=0)
    factors = torch.cat([made.shared, made.image_only, made.caption_only], 1)
    assert factors.mean(0).abs().max() < 0.03
    assert (factors.T.cov() - torch.eye(24)).abs().max() < 0.05


def test_features_are_standardised_over_the_world_not_over_the_draw():
    made = latent_factor_pairs(20_000, world_seed=1, draw_seed=0)
    for features in (_all(made.pairs.images), _all(made.pairs.caption_inputs)):
        assert features.mean(0).abs().max() < 0.05
        assert (features.std(0) - 1).abs().max() < 0.05
    few = latent_factor_pairs(10, world_seed=1, draw_seed=0, shared=8)
    assert _all(few.pairs.images).mean(0).abs().max() > 0.3


def test_training_and_test_draws_go_through_the_same_map():
    train, test = (latent_factor_pairs(2000, world_seed=0, draw_seed=seed) for seed in (0, 1))
    assert not torch.equal(train.shared, test.shared)
    weights = torch.linalg.lstsq(_all(train.pairs.images), train.shared).solution
    other_world = latent_factor_pairs(2000, world_seed=1, draw_seed=1)
    assert torch.equal(other_world.shared, test.shared)
    error = (_all(test.pairs.images) @ weights - test.shared).square().mean()
    assert error < 0.1
    assert (_all(other_world.pairs.images) @ weights - test.shared).square().mean() > 10 * error


def test_the_same_seeds_give_the_same_pairs():
    once, again = (latent_factor_pairs(5, world_seed=2, draw_seed=3) for _ in range(2))
    np.testing.assert_array_equal(once.pairs.images.array, again.pairs.images.array)
    np.testing.assert_array_equal(once.pairs.caption_inputs.array, again.pairs.caption_inputs.array)


@pytest.mark.parametrize(("seed", "row"), [(0, 4), (7, 0)])
def test_features_follow_the_formula(seed, row):
    """The map rebuilt with PyTorch layers from the documented order of draws."""
    made = latent_factor_pairs(5, world_seed=seed, draw_seed=1, shared=2, exclusive=1, hidden=4, width=3)
    world = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    with torch.no_grad():
        for layer in (layers[0], layers[2]):
            for parameter in (layer.weight, layer.bias):
                bound = layer.in_features**-0.5
                parameter.copy_(torch.from_numpy(world.uniform(-bound, bound, tuple(parameter.shape))))
        reference = layers(torch.from_numpy(world.standard_normal((10_000, 3))))
        factors = torch.cat([made.shared[row], made.image_only[row]]).double()
        expected = (layers(factors) - reference.mean(0)) / reference.std(0, correction=0)
    torch.testing.assert_close(_all(made.pairs.images)[row], expected.float(), rtol=1e-4, atol=1e-4)
