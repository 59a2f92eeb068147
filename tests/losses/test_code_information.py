import math

import pytest
import torch

from truepair.layers import gaussian
from truepair.losses.information import (
    DensityRatioCritic,
    critic_loss,
    cross_correlation,
    derangement,
    divergence_from_prior,
    nonlinear_correlation,
    reconstruction_error,
    symmetric_divergence,
)


def codes(seed, items=6, size=4):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(items, size, generator=generator, dtype=torch.float64)
    return gaussian(mean, 0.2 + torch.rand(items, size, generator=generator, dtype=torch.float64))


def closed_form(one, other):
    """KL of diagonal Gaussians, from the textbook formula."""
    variance, of_other = one.stddev**2, other.stddev**2
    ratio = variance / of_other
    return 0.5 * (ratio + (one.mean - other.mean) ** 2 / of_other - 1 - ratio.log()).sum(1)


def test_divergences_are_zero_for_equal_codes():
    same = codes(0)
    assert symmetric_divergence(same, same).abs().max() == 0
    zero = torch.zeros(3, 4)
    assert divergence_from_prior(gaussian(zero, zero + 1)).abs().max() == 0


def test_the_symmetric_divergence_is_the_mean_of_both_closed_forms_and_symmetric():
    one, other = codes(0), codes(1)
    expected = (closed_form(one, other) + closed_form(other, one)) / 2
    torch.testing.assert_close(symmetric_divergence(one, other), expected)
    torch.testing.assert_close(symmetric_divergence(other, one), expected)
    assert expected.min() > 0


def test_divergences_agree_with_monte_carlo():
    torch.manual_seed(0)
    one, other = codes(2, items=1, size=2), codes(3, items=1, size=2)

    def sampled(p, q):
        draws = p.sample((200_000,))
        return (p.log_prob(draws) - q.log_prob(draws)).mean().item()

    expected = (sampled(one, other) + sampled(other, one)) / 2
    assert symmetric_divergence(one, other).item() == pytest.approx(expected, rel=0.02)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    assert divergence_from_prior(one).item() == pytest.approx(sampled(one, gaussian(zero, zero + 1)), rel=0.02)


@pytest.mark.parametrize("items", [2, 3, 7, 128])
def test_a_derangement_moves_every_item_and_loses_none(items):
    torch.manual_seed(0)
    for _ in range(20):
        order = derangement(items)
        assert (order != torch.arange(items)).all()
        assert order.sort().values.tolist() == list(range(items))


def test_derangements_differ_and_follow_the_global_generator():
    torch.manual_seed(0)
    first, second = derangement(20), derangement(20)
    torch.manual_seed(0)
    assert derangement(20).equal(first)
    assert not first.equal(second)


def test_one_item_has_no_derangement():
    with pytest.raises(ValueError, match="1 item cannot change places"):
        derangement(1)


def test_the_critic_loss_is_the_cross_entropy_of_telling_joint_from_shuffled():
    joint, shuffled = torch.randn(9), torch.randn(9)
    logits = torch.cat([joint, shuffled])
    labels = torch.cat([torch.ones(9), torch.zeros(9)])
    expected = 2 * torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(critic_loss(joint, shuffled), expected)
    assert critic_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(2 * math.log(2))


def test_a_code_cannot_hide_from_the_critic_by_growing():
    torch.manual_seed(0)
    critic = DensityRatioCritic(3, 2, hidden=8)
    shared, exclusive = torch.randn(20, 3), torch.randn(20, 2)
    torch.testing.assert_close(
        critic(5 * shared + 1, 100 * exclusive - 7), critic(shared, exclusive), rtol=1e-3, atol=1e-4
    )


def test_reconstruction_is_measured_against_layer_normalised_features_without_gradient():
    features = torch.randn(5, 8, requires_grad=True)
    made = torch.randn(5, 8, requires_grad=True)
    centred = features - features.mean(1, keepdim=True)
    target = (centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()).detach()
    error = reconstruction_error(made, features)
    torch.testing.assert_close(error, ((made - target) ** 2).mean(1))
    error.sum().backward()
    assert features.grad is None
    assert reconstruction_error(torch.zeros(5, 8), features).mean().item() == pytest.approx(1, abs=1e-3)


def test_cross_correlation_is_the_sum_of_squared_correlations():
    torch.manual_seed(0)
    shared, exclusive = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    exclusive[:, 0] += shared[:, 1]
    stacked = torch.cat([shared, exclusive], 1).T
    expected = torch.corrcoef(stacked)[:3, 3:].square().sum() / 2
    torch.testing.assert_close(cross_correlation(shared, exclusive), expected, rtol=1e-4, atol=0)


def test_cross_correlation_of_independent_codes_is_about_width_by_items():
    torch.manual_seed(0)
    values = [cross_correlation(torch.randn(128, 8), torch.randn(128, 4)).item() for _ in range(50)]
    assert sum(values) / 50 == pytest.approx(8 / 128, rel=0.1)


def test_without_waves_the_nonlinear_correlation_is_the_linear_one_of_a_rotated_code():
    torch.manual_seed(0)
    shared = torch.linalg.qr(torch.randn(200, 4)).Q  # uncorrelated coordinates: a rotation keeps the sum
    shared = torch.linalg.qr(shared - shared.mean(0)).Q
    exclusive = shared[:, :2] + 0.1 * torch.randn(200, 2)
    torch.testing.assert_close(
        nonlinear_correlation(shared, exclusive, 0), cross_correlation(shared, exclusive), rtol=0.02, atol=0.0
    )


def test_waves_see_what_linear_correlation_does_not():
    torch.manual_seed(0)
    exclusive = torch.randn(4000, 2)
    shared = exclusive.square() - 1 + 0.1 * torch.randn(4000, 2)  # determined by it, and uncorrelated
    independent = torch.randn(4000, 2)
    assert cross_correlation(shared, exclusive) < 0.02
    seen, floor = (nonlinear_correlation(code, exclusive, 64).item() for code in (shared, independent))
    assert seen > 0.1
    assert floor < 0.005


@pytest.mark.parametrize("width", [3, 40])
def test_correlations_have_a_gradient_for_codes_of_any_width(width):
    torch.manual_seed(0)
    shared = torch.randn(10, width)
    exclusive = (shared[:, :3] + 0.1 * torch.randn(10, 3)).requires_grad_(True)
    nonlinear_correlation(shared, exclusive, 4).backward()
    assert exclusive.grad is not None
    assert exclusive.grad.isfinite().all()
    assert exclusive.grad.abs().sum() > 0
