import copy
import math

import pytest
import torch

from truepair.config import BaselineConfig, OptimisationConfig
from truepair.evaluation.retrieval import evaluate
from truepair.losses.contrastive import info_nce
from truepair.losses.triplet import triplet_loss
from truepair.methods import METHODS
from truepair.methods.baseline import Baseline
from truepair.methods.protocol import Method


def baseline(make, fabric, **options):
    torch.manual_seed(0)
    return Baseline(BaselineConfig(**{"epochs": 4, **options}), make, 40, fabric)


def train(method, loaders, epochs):
    return [list(method.train_epoch(epoch, loaders)) for epoch in epochs]


def test_it_is_a_method(make, fabric):
    assert isinstance(baseline(make, fabric), Method)


def test_methods_are_listed_under_the_names_of_their_configs(make, fabric):
    assert METHODS["baseline"] is Baseline
    assert {name: method.__name__.lower() for name, method in METHODS.items()} == {name: name for name in METHODS}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("info_nce", lambda s: info_nce(s, 0.1)),
        ("triplet_sum", lambda s: triplet_loss(s, 0.3, negatives="sum")),
        ("triplet_hardest", lambda s: triplet_loss(s, 0.3, negatives="hardest")),
    ],
)
def test_the_first_loss_is_that_of_the_first_batch(make, fabric, loaders, loss, expected):
    method = baseline(make, fabric, loss=loss, temperature=0.1, margin=0.3)
    network = copy.deepcopy(method.models[0]).train()
    random = torch.random.get_rng_state()
    value = expected(network(next(iter(loaders.train(0))))).item()
    torch.random.set_rng_state(random)
    assert next(method.train_epoch(0, loaders))["loss"] == pytest.approx(value)


def test_three_losses_are_three_losses(make, fabric, loaders):
    losses = ("info_nce", "triplet_sum", "triplet_hardest")
    first = [next(baseline(make, fabric, loss=loss).train_epoch(0, loaders))["loss"] for loss in losses]
    assert len(set(first)) == 3


@pytest.mark.parametrize("loss", ["info_nce", "triplet_sum"])
def test_it_learns_the_world(make, fabric, loaders, world, dev_world, loss):
    method = baseline(make, fabric, loss=loss, epochs=25, optimisation=OptimisationConfig(learning_rate=2e-2))
    before = evaluate(method.models, dev_world).rsum
    train(method, loaders, range(method.epochs))
    assert evaluate(method.models, world).rsum > before + 150
    assert evaluate(method.models, dev_world).rsum > before + 150


def test_an_epoch_has_a_step_a_batch_and_the_schedule_counts_epochs(make, fabric, loaders):
    method = baseline(make, fabric, optimisation=OptimisationConfig(schedule="cosine", learning_rate=1.0))
    steps = train(method, loaders, [2])[0]
    expected = [0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (2.0, 2.2, 2.4, 2.6, 2.8)]
    assert [step["learning_rate"] for step in steps] == pytest.approx(expected)


def test_a_restored_run_goes_on_identically(make, fabric, loaders):
    method = baseline(make, fabric)
    train(method, loaders, range(2))
    state, random = copy.deepcopy(method.state_dict()), torch.random.get_rng_state()
    expected = train(method, loaders, [2, 3])
    other = baseline(make, fabric)
    other.load_state_dict(state)
    torch.random.set_rng_state(random)
    assert train(other, loaders, [2, 3]) == expected
    torch.testing.assert_close(other.state_dict(), method.state_dict(), rtol=0, atol=0)
