import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from disentangling import swapped_r2

from truepair.errors import DataError
from truepair.evaluation.probes import mlp_r2, ridge_r2


def draw(items, width, seed):
    return torch.randn(items, width, generator=torch.Generator().manual_seed(seed))


def halves(codes, targets):
    """Training codes and targets, test codes and targets."""
    middle = len(codes) // 2
    return codes[:middle], targets[:middle], codes[middle:], targets[middle:]


def linear_world(items=1200, noise=0.0):
    codes = draw(items, 6, 0)
    return halves(codes, codes @ draw(6, 3, 1) + noise * draw(items, 3, 2))


def nonlinear_world(items=4000):
    """A square and a product of standard normal coordinates: uncorrelated with each of them."""
    codes = draw(items, 2, 3)
    return halves(codes, torch.stack([codes[:, 0].square(), codes[:, 0] * codes[:, 1]], 1))


def independent_world(items=1200):
    return halves(draw(items, 6, 4), draw(items, 3, 5))


def test_ridge_reads_linear_targets():
    assert ridge_r2(*linear_world()) == pytest.approx(1, abs=1e-3)


def test_ridge_explains_the_share_that_is_not_noise():
    codes = draw(4000, 1, 0)
    assert ridge_r2(*halves(codes, codes + draw(4000, 1, 1))) == pytest.approx(0.5, abs=0.03)


def test_ridge_does_not_read_squares_and_products_but_the_mlp_does():
    world = nonlinear_world()
    assert abs(ridge_r2(*world)) < 0.02
    assert mlp_r2(*world, seed=0) > 0.9


def test_mlp_reads_linear_targets():
    assert mlp_r2(*linear_world(), seed=0) > 0.98


def test_independent_targets_cannot_be_read():
    assert abs(ridge_r2(*independent_world())) < 0.02
    assert -0.2 < mlp_r2(*independent_world(), seed=0) < 0.02


@pytest.mark.parametrize("probe", [ridge_r2, lambda *world: mlp_r2(*world, seed=0)], ids=["ridge", "mlp"])
def test_scale_and_offset_of_codes_and_targets_do_not_matter(probe):
    codes, targets, test_codes, test_targets = linear_world(400, noise=0.5)
    moved = probe(1000 * codes + 7, 1e-3 * targets - 5, 1000 * test_codes + 7, 1e-3 * test_targets - 5)
    assert moved == pytest.approx(probe(codes, targets, test_codes, test_targets), abs=0.01)


def test_ridge_of_a_code_wider_than_the_items_does_not_break_down():
    targets = draw(200, 2, 0)
    codes = torch.cat([targets, 0.1 * draw(200, 1000, 1)], 1)
    assert -0.1 < ridge_r2(*halves(draw(200, 1000, 1), targets)) < 0.05
    assert 0 < ridge_r2(*halves(codes, targets)) < 1


def test_ridge_equals_the_normal_equations_where_the_penalty_is_negligible():
    codes, targets, test_codes, test_targets = (part.double() for part in linear_world(2000, noise=1.0))
    with_one = [torch.cat([part, torch.ones(len(part), 1)], 1) for part in (codes, test_codes)]
    weights = torch.linalg.lstsq(with_one[0], targets).solution
    error = (with_one[1] @ weights - test_targets).square().sum(0)
    spread = (test_targets - test_targets.mean(0)).square().sum(0)
    expected = (1 - error / spread).mean().item()
    assert ridge_r2(codes, targets, test_codes, test_targets) == pytest.approx(expected, abs=1e-3)


def test_mlp_repeats_itself_and_leaves_the_global_generators_alone():
    world = linear_world(200, noise=1.0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = mlp_r2(*world, seed=1)
    assert mlp_r2(*world, seed=1) == first
    assert mlp_r2(*world, seed=2) != first
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("probe", [ridge_r2, lambda *world: mlp_r2(*world, seed=0)], ids=["ridge", "mlp"])
def test_a_single_target_is_read_like_several(probe):
    codes = draw(400, 3, 0)
    assert probe(*halves(codes, codes[:, :1] - codes[:, 1:2])) > 0.9


def test_probes_refuse_few_items_nan_and_targets_that_do_not_vary():
    codes, targets, test_codes, test_targets = linear_world()
    with pytest.raises(DataError, match=r"19 training codes and 19 training targets; .* at least 20"):
        ridge_r2(codes[:19], targets[:19], test_codes, test_targets)
    with pytest.raises(DataError, match=r"infinite in 1 of 600 test items \(first: item 4\)"):
        ridge_r2(codes, targets, test_codes.index_fill(0, torch.tensor(4), math.nan), test_targets)
    with pytest.raises(DataError, match="1 of 3 targets have one value in all 600 test items"):
        mlp_r2(codes, targets, test_codes, test_targets.index_fill(1, torch.tensor(2), 0.0), seed=0)


MIX = draw(8, 16, 11)


def decode(shared, exclusive):
    return torch.cat([shared, exclusive], 1) @ MIX


def test_swapping_disentangled_codes_mixes_the_factors_of_two_items():
    c, a = draw(800, 4, 0), draw(800, 4, 1)
    of_shared, of_exclusive = swapped_r2(decode, c, a, c, a, seed=0)
    assert of_shared > 0.99
    assert of_exclusive > 0.99


def test_shared_factors_in_the_exclusive_code_show_when_it_is_swapped():
    c, a = draw(800, 4, 0), draw(800, 4, 1)

    def trusts_the_exclusive_code(shared, exclusive, share):
        """Takes c by a share from the exclusive code, which holds it too."""
        leaked, own = exclusive.split(4, 1)
        return decode((1 - share) * shared + share * leaked, own)

    both = torch.cat([c, a], 1)
    results = [
        swapped_r2(lambda s, x, share=share: trusts_the_exclusive_code(s, x, share), c, both, c, a, seed=0)
        for share in (0.0, 0.5, 1.0)
    ]
    assert all(left[0] > right[0] + 0.3 for left, right in pairwise(results))
    assert results[2][0] < -0.5  # the factors of somebody else
    assert all(of_exclusive > 0.99 for _, of_exclusive in results)


def test_exclusive_factors_in_the_shared_code_show_when_it_is_swapped():
    c, a = draw(800, 4, 0), draw(800, 4, 1)
    of_shared, of_exclusive = swapped_r2(
        lambda shared, exclusive: decode(shared[:, :4], shared[:, 4:]), torch.cat([c, a], 1), a, c, a, seed=0
    )
    assert of_shared > 0.99
    assert of_exclusive < -0.5


def test_swapping_follows_no_gradient_and_leaves_the_global_generator_alone():
    c, a, decoder = draw(80, 4, 0), draw(80, 4, 1), torch.nn.Linear(8, 16)

    def learnt(shared, exclusive):
        made = decoder(torch.cat([shared, exclusive], 1))
        assert not made.requires_grad
        return made

    state = torch.get_rng_state()
    first = swapped_r2(learnt, c, a, c, a, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert swapped_r2(learnt, c, a, c, a, seed=0) == first
