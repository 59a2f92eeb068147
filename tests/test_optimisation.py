import copy
import math

import pytest
import torch
from torch import nn

from truepair.config import OptimisationConfig
from truepair.errors import TrainingError
from truepair.optimisation import Optimiser, decay_after, learning_rate, mean_weights


def linear(fabric, epochs=10, **options):
    """``y = w · x``, from w = (1, 2), and its optimiser."""
    network = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 2.0]]))
    return network, Optimiser(network, OptimisationConfig(**options), epochs, fabric)


def loss_of(optimiser, scale=1.0):
    """Its gradient is ``scale · (3, 4)`` everywhere."""
    return scale * optimiser.model(torch.tensor([[3.0, 4.0]])).sum()


def test_the_step_schedule_falls_at_its_epochs():
    config = OptimisationConfig(learning_rate=0.5, decay_epochs=3, decay_factor=0.1)
    rates = [learning_rate(config, epoch, 9) for epoch in (0.0, 2.99, 3.0, 5.5, 6.0, 8.99)]
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])


def test_the_cosine_schedule_starts_at_the_rate_and_ends_at_0():
    config = OptimisationConfig(learning_rate=0.5, schedule="cosine")
    assert learning_rate(config, 0.0, 8) == 0.5
    assert learning_rate(config, 2.0, 8) == pytest.approx(0.25 * (1 + math.sqrt(0.5)))
    assert learning_rate(config, 4.0, 8) == pytest.approx(0.25)
    assert learning_rate(config, 8.0, 8) == 0
    rates = [learning_rate(config, epoch / 10, 8) for epoch in range(81)]
    assert rates == sorted(rates, reverse=True)


def test_a_step_uses_the_rate_of_its_epoch(fabric):
    _, optimiser = linear(fabric, learning_rate=0.5, decay_epochs=3)
    assert optimiser.step(loss_of(optimiser), 0.0)["learning_rate"] == 0.5
    assert optimiser.step(loss_of(optimiser), 3.5)["learning_rate"] == pytest.approx(0.05)


def test_the_first_step_is_that_of_adamw(fabric):
    network, optimiser = linear(fabric, learning_rate=0.1, weight_decay=0.2)
    log = optimiser.step(loss_of(optimiser), 0.0)
    assert log == {"loss": pytest.approx(11.0), "gradient_norm": pytest.approx(5.0), "learning_rate": 0.1}
    # Decay multiplies by 1 - 0.1 · 0.2; Adam's first step is the rate times the gradient's sign.
    torch.testing.assert_close(network.weight.detach(), torch.tensor([[0.98 - 0.1, 2 * 0.98 - 0.1]]))


@pytest.mark.parametrize(("scale", "norm"), [(1.0, 2.0), (1e4, 2.0), (0.1, 0.5)])
def test_gradients_are_clipped_to_the_norm_and_no_further(fabric, scale, norm):
    network, optimiser = linear(fabric, gradient_clip=2.0)
    log = optimiser.step(loss_of(optimiser, scale), 0.0)
    assert log["gradient_norm"] == pytest.approx(5 * scale)
    torch.testing.assert_close(network.weight.grad, norm * torch.tensor([[0.6, 0.8]]), rtol=1e-5, atol=1e-6)


def test_gradients_of_two_steps_do_not_add_up(fabric):
    network, optimiser = linear(fabric, gradient_clip=100.0)
    for _ in range(2):
        optimiser.step(loss_of(optimiser), 0.0)
    torch.testing.assert_close(network.weight.grad, torch.tensor([[3.0, 4.0]]))


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_an_error_and_changes_no_weight(fabric, scale):
    network, optimiser = linear(fabric, weight_average=0.9)
    optimiser.step(loss_of(optimiser), 0.0)
    before = copy.deepcopy(optimiser.state_dict())
    with pytest.raises(TrainingError, match=r"epoch 1\.25.*diverged.*Lower learning_rate \(0\.0005\)"):
        optimiser.step(loss_of(optimiser, scale), 1.25)
    assert_equal(optimiser.state_dict(), before)
    optimiser.step(loss_of(optimiser), 0.0)
    assert network.weight.isfinite().all()


def test_a_finite_loss_with_an_infinite_gradient_is_an_error(fabric):
    network, optimiser = linear(fabric)
    loss = (network.weight - network.weight.detach()).sum().abs().pow(0.5)  # 0, with slope ∞
    before = network.weight.detach().clone()
    with pytest.raises(TrainingError, match=r"loss 0 and gradient norm (nan|inf)"):
        optimiser.step(loss, 0.0)
    assert torch.equal(network.weight.detach(), before)


def test_averaged_weights_are_the_moving_average_of_the_raw_ones(fabric):
    network, optimiser = linear(fabric, weight_average=0.75, learning_rate=0.1)
    average = None
    for step in range(40):
        optimiser.step(loss_of(optimiser), 0.0)
        raw = network.weight.detach().clone()
        kept = min(0.75, (1 + step) / (10 + step))
        average = raw if step == 0 else kept * average + (1 - kept) * raw
        torch.testing.assert_close(optimiser.evaluated.weight, average)
    assert not torch.allclose(average, raw)
    assert not optimiser.evaluated.weight.requires_grad


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_the_decay_rises_with_the_steps_up_to_its_limit(decay):
    decays = [decay_after(float(step), decay) for step in range(2000)]
    assert decays[0] == pytest.approx(0.1)
    assert decays == sorted(decays)
    reached = next(step for step in range(2000) if (1 + step) / (10 + step) >= decay)
    assert 0 < reached < 1999
    assert decays[reached - 1] < decay
    assert set(decays[reached:]) == {decay}


def test_a_restored_average_warms_up_where_it_was(fabric):
    options = {"weight_average": 0.99, "learning_rate": 0.1}
    network, optimiser = linear(fabric, **options)
    raws = []
    for step in range(12):
        if step == 5:
            state = copy.deepcopy(optimiser.state_dict())
            network, optimiser = linear(fabric, **options)
            optimiser.load_state_dict(state)
        optimiser.step(loss_of(optimiser), 0.0)
        raws.append(network.weight.detach().clone())
    expected, afresh = raws[0], raws[0]
    for step in range(1, 12):
        kept, wrong = (1 + step) / (10 + step), (1 + (step if step < 5 else step - 5)) / 10
        expected = kept * expected + (1 - kept) * raws[step]
        afresh = wrong * afresh + (1 - wrong) * raws[step]
    torch.testing.assert_close(optimiser.evaluated.weight, expected)
    assert not torch.allclose(expected, afresh)


def test_averages_start_from_the_weights_and_take_batch_statistics_as_they_are(fabric):
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimiser = Optimiser(network, OptimisationConfig(weight_average=0.9), 1, fabric)
    assert torch.equal(optimiser.evaluated[0].weight, network[0].weight)
    optimiser.step(optimiser.model(torch.randn(8, 2)).square().sum(), 0.0)
    assert torch.equal(optimiser.evaluated[1].running_mean, network[1].running_mean)
    assert not torch.equal(network[1].running_mean, torch.zeros(2))


def test_without_averaging_the_network_itself_is_evaluated(fabric):
    network, optimiser = linear(fabric)
    assert optimiser.evaluated is network


@pytest.mark.parametrize("weight_average", [0.0, 0.9])
def test_a_restored_optimiser_goes_on_identically(fabric, weight_average):
    options = {"weight_average": weight_average, "learning_rate": 0.1}
    _, optimiser = linear(fabric, **options)
    for _ in range(3):
        optimiser.step(loss_of(optimiser), 0.0)
    _, restored = linear(fabric, **options)
    restored.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for either in (optimiser, restored):
        for _ in range(3):
            either.step(loss_of(either, 0.3), 1.0)
    assert_equal(restored.state_dict(), optimiser.state_dict())
    assert torch.equal(restored.evaluated.weight, optimiser.evaluated.weight)


def assert_equal(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_mean_of_networks_is_that_of_each_weight_and_buffer():
    networks = [nn.BatchNorm1d(2), nn.BatchNorm1d(2)]
    for network, value in zip(networks, (1.0, 4.0), strict=True):
        nn.init.constant_(network.weight, value)
        network.running_mean.fill_(2 * value)
        network.num_batches_tracked.fill_(7)
    mean = mean_weights(networks)
    assert mean["weight"].tolist() == [2.5, 2.5]
    assert mean["running_mean"].tolist() == [5.0, 5.0]
    assert (mean["num_batches_tracked"].dtype, int(mean["num_batches_tracked"])) == (torch.int64, 7)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_network_that_starts_from_other_weights_has_them_in_training_and_in_evaluation(fabric, average):
    network, optimiser = linear(fabric, weight_average=average, learning_rate=0.5, weight_decay=0.0)
    optimiser.start_from({"weight": torch.tensor([[5.0, 7.0]])})
    assert network.weight.tolist() == optimiser.evaluated.weight.tolist() == [[5.0, 7.0]]
    optimiser.step(loss_of(optimiser), 0.0)
    torch.testing.assert_close(network.weight.detach(), torch.tensor([[4.5, 6.5]]))  # Adam's first step: the rate
