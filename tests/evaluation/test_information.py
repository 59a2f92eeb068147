import math

import numpy as np
import pytest
import torch
from more_information import gaussian_information, ksg_information
from sklearn.feature_selection import mutual_info_regression

from truepair.errors import ConfigError, DataError
from truepair.evaluation.information import critic_information, info_nce_bound


def gaussian_codes(items, width, correlation, seed=0):
    """Two codes, independent over coordinates, whose k-th coordinates correlate."""
    generator = torch.Generator().manual_seed(seed)
    one, rest = torch.randn(2, items, width, generator=generator, dtype=torch.float64)
    return one, correlation * one + math.sqrt(1 - correlation**2) * rest


def true_information(width, correlation):
    return -width / 2 * math.log(1 - correlation**2)


def shuffled(code, seed=9):
    return code[torch.randperm(len(code), generator=torch.Generator().manual_seed(seed))]


def random_rotation(width, seed=5):
    matrix = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(matrix).Q


def ksg_by_loops(one, other, neighbours):
    """From the paper, with all distances."""
    one, other = ((code - code.mean(0)) / code.std(0, correction=0) for code in (one, other))
    of_one, of_other = (torch.cdist(code, code, p=math.inf) for code in (one, other))
    total = 0.0
    for i in range(len(one)):
        reach = torch.maximum(of_one[i], of_other[i]).sort().values[neighbours]
        total += sum(torch.digamma((near[i] < reach).sum().double()).item() for near in (of_one, of_other))
    sizes = torch.tensor([float(neighbours), float(len(one))], dtype=torch.float64)
    return sizes.digamma().sum().item() - total / len(one)


@pytest.mark.parametrize(
    ("width", "correlation", "items"), [(1, 0.9, 3000), (2, 0.6, 6000), (3, 0.7, 6000), (4, 0.8, 6000)]
)
def test_critic_finds_the_information_of_gaussian_codes(width, correlation, items):
    one, other = gaussian_codes(items, width, correlation)
    estimate = critic_information(one, other, seed=0)
    assert estimate == pytest.approx(true_information(width, correlation), rel=0.15)


def test_critic_finds_nothing_in_independent_codes():
    assert critic_information(*gaussian_codes(2000, 4, 0.0), seed=0) <= 0.05


def test_critic_finds_nothing_in_shuffled_codes():
    one, other = gaussian_codes(2000, 4, 0.9)
    assert critic_information(one, shuffled(other), seed=0) <= 0.05


def test_critic_sees_what_is_not_linear():
    one, rest = gaussian_codes(2000, 1, 0.0)
    parabola = one.square() + 0.1 * rest
    assert gaussian_information(one, parabola) < 0.05
    assert 0.8 < critic_information(one, parabola, seed=0, hidden=64) < ksg_information(one, parabola)


@pytest.mark.parametrize("width", [16, 128])
def test_a_critic_of_few_items_does_not_make_up_information(width):
    one, other = gaussian_codes(200, width, 0.0)
    assert critic_information(one, other, seed=0) <= 0.05


def test_critic_repeats_itself_and_leaves_the_global_generators_alone():
    one, other = gaussian_codes(200, 2, 0.9)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = critic_information(one, other, seed=3, steps=100)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    torch.rand(7)
    with torch.no_grad():
        assert critic_information(one, other, seed=3, steps=100) == first
    assert critic_information(one, other, seed=4, steps=100) != first


def test_critic_does_not_mind_the_scale_of_codes():
    one, other = gaussian_codes(1000, 2, 0.9)
    scaled = critic_information(1e-4 * one + 3, 1e4 * other, seed=0, steps=100)
    assert scaled == pytest.approx(critic_information(one, other, seed=0, steps=100), rel=0.02)


@pytest.mark.parametrize(("width", "correlation"), [(1, 0.9), (2, 0.6), (4, 0.8), (4, 0.5)])
def test_gaussian_estimate_is_within_3_percent(width, correlation):
    one, other = gaussian_codes(20_000, width, correlation)
    rotated = one @ random_rotation(width) * 7 - 3
    assert gaussian_information(rotated, other) == pytest.approx(true_information(width, correlation), rel=0.03)


def test_gaussian_estimate_of_few_items_is_right_in_the_mean():
    correlation = 0.8
    estimates = [gaussian_information(*gaussian_codes(60, 10, correlation, seed)) for seed in range(60)]
    assert np.mean(estimates) == pytest.approx(true_information(10, correlation), rel=0.03)


def test_gaussian_estimate_of_independent_codes_is_not_inflated_by_their_width():
    estimates = [gaussian_information(*gaussian_codes(100, 20, 0.0, seed)) for seed in range(20)]
    plug_in = 20 * 20 / (2 * 100)
    assert np.mean(estimates) < plug_in / 5


def test_gaussian_estimate_counts_repeated_and_constant_coordinates_once():
    one, other = gaussian_codes(500, 2, 0.8)
    wide = torch.cat([one, one @ random_rotation(2), torch.full((500, 3), 0.1, dtype=torch.float64)], 1)
    assert gaussian_information(wide, other) == pytest.approx(gaussian_information(one, other))
    assert gaussian_information(one, torch.ones(500, 2)) == 0.0


def test_gaussian_estimate_of_a_code_with_itself_is_finite():
    one, _ = gaussian_codes(500, 3, 0.0)
    assert gaussian_information(one, one) == pytest.approx(3 * -math.log(1e-12) / 2, rel=0.01)


def test_gaussian_estimate_refuses_codes_wider_than_the_items_tell():
    one, other = gaussian_codes(40, 20, 0.5)
    with pytest.raises(DataError, match=r"40 items are too few .* 20 and 20 independent .* more than 40 are needed"):
        gaussian_information(one, other)


@pytest.mark.parametrize(("width", "correlation"), [(1, 0.9), (1, 0.5), (2, 0.7)])
def test_ksg_estimate_is_within_10_percent(width, correlation):
    estimate = ksg_information(*gaussian_codes(4000, width, correlation))
    assert estimate == pytest.approx(true_information(width, correlation), rel=0.1)


def test_ksg_equals_loops_over_all_distances():
    one, other = gaussian_codes(150, 2, 0.8)
    assert ksg_information(one, other[:, :1], 4) == pytest.approx(ksg_by_loops(one, other[:, :1], 4), abs=1e-9)


def test_ksg_equals_scikit_learn_on_scalars():
    one, other = gaussian_codes(500, 1, 0.8)
    expected = mutual_info_regression(one.numpy(), other.flatten().numpy(), random_state=0)[0]
    assert ksg_information(one, other) == pytest.approx(expected, abs=1e-3)  # it adds a little noise


def test_ksg_is_near_zero_for_independent_and_shuffled_codes():
    one, other = gaussian_codes(3000, 2, 0.9)
    assert ksg_information(one, shuffled(other)) <= 0.05
    assert ksg_information(*gaussian_codes(3000, 2, 0.0)) <= 0.05


def test_ksg_sees_what_is_not_linear():
    one, rest = gaussian_codes(2000, 1, 0.0)
    assert ksg_information(one, one.square() + 0.1 * rest) > 1


def test_ksg_refuses_wide_repeated_and_few_items():
    one, other = gaussian_codes(100, 6, 0.5)
    with pytest.raises(DataError, match=r"12 coordinates in both codes: .* at most 10"):
        ksg_information(one, other)
    with pytest.raises(DataError, match="100 of 100 items coincide with 3 or more"):
        ksg_information(one[:25, :2].repeat(4, 1), other[:25, :2].repeat(4, 1))
    with pytest.raises(DataError, match=r"3 items .* more than 3"):
        ksg_information(one[:3, :1], other[:3, :1])
    with pytest.raises(ConfigError, match="neighbours is 0"):
        ksg_information(one[:, :1], other[:, :1], 0)


def test_info_nce_bound_of_a_perfect_matrix_is_log_items():
    assert info_nce_bound(torch.eye(64), 0.01) == pytest.approx(math.log(64))


def test_info_nce_bound_never_exceeds_log_items_and_is_zero_without_information():
    similarity = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    assert info_nce_bound(similarity + 3 * torch.eye(32), 0.1) <= math.log(32)
    assert info_nce_bound(torch.zeros(32, 32), 0.05) == pytest.approx(0, abs=1e-6)
    assert info_nce_bound(similarity, 0.1) < 0


def test_info_nce_bound_of_the_true_density_ratio_is_below_the_information():
    one, other = gaussian_codes(1000, 1, 0.8)
    residue = 1 - 0.8**2  # log p(x|s) up to a constant, which is all that a softmax sees
    log_ratio = -((other.T - 0.8 * one) ** 2) / (2 * residue) + other.T.square() / 2
    bound = info_nce_bound(log_ratio, 1.0)
    assert 0.9 * true_information(1, 0.8) < bound < 1.1 * true_information(1, 0.8)


def test_info_nce_bound_does_not_mind_which_code_is_the_query():
    similarity = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    assert info_nce_bound(similarity, 0.5) == pytest.approx(info_nce_bound(similarity.T, 0.5))


def test_info_nce_bound_refuses_nan_and_an_empty_matrix():
    with pytest.raises(DataError, match="NaN or infinity in 1 of 3 rows"):
        info_nce_bound(torch.eye(3).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(math.nan)), 0.1)
    with pytest.raises(DataError, match="0 of 0 rows"):
        info_nce_bound(torch.zeros(0, 0), 0.1)


@pytest.mark.parametrize(
    "estimate",
    [gaussian_information, ksg_information, lambda one, other: critic_information(one, other, seed=0)],
    ids=["gaussian", "ksg", "critic"],
)
def test_codes_that_are_not_finite_or_missing_are_refused(estimate):
    one, other = gaussian_codes(60, 2, 0.5)
    with pytest.raises(DataError, match=r"NaN or infinite in 1 of 60 items \(first: item 7\)"):
        estimate(one, other.index_fill(0, torch.tensor(7), math.inf))
    with pytest.raises(DataError, match="at least one item"):
        estimate(one[:0], other[:0])


def test_critic_refuses_few_items_and_bad_options():
    one, other = gaussian_codes(49, 2, 0.5)
    with pytest.raises(DataError, match="49 items are too few"):
        critic_information(one, other, seed=0)
    with pytest.raises(ConfigError, match=r"held_out is 0\.9"):
        critic_information(one, other, seed=0, held_out=0.9)
    with pytest.raises(ConfigError, match="batch_size 1"):
        critic_information(one, other, seed=0, batch_size=1)


def test_a_code_that_does_not_vary_holds_nothing():
    one, _ = gaussian_codes(100, 2, 0.0)
    still = torch.full((100, 2), 0.1)
    assert critic_information(one, still, seed=0, steps=100) <= 0.05
    assert gaussian_information(one, still) == 0.0
    assert ksg_information(one, still) <= 0.05
