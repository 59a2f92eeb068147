import copy
from functools import partial

import pytest
import torch
from latent_factors import latent_factor_pairs

from truepair.config import BaselineConfig, CrclConfig, ModelConfig, OptimisationConfig
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.evaluation.detection import detection_metrics
from truepair.losses.complementary import active_complementary_loss, mean_matching_probability
from truepair.methods.baseline import Baseline
from truepair.methods.crcl import Crcl
from truepair.methods.protocol import Method
from truepair.model import InputShape, make_model

CPU = torch.device("cpu")


def crcl(make, fabric, pairs=40, correspondence=None, **options):
    torch.manual_seed(0)
    return Crcl(CrclConfig(**{"stages": (1, 2), "frozen_epochs": 1, **options}), make, pairs, fabric, correspondence)


def train(method, loaders, epochs):
    return [list(method.train_epoch(epoch, loaders)) for epoch in epochs]


def test_it_is_a_method(make, fabric):
    assert isinstance(crcl(make, fabric), Method)


def test_position_counts_frozen_and_refining_epochs_of_every_stage():
    config = CrclConfig(stages=(1, 0, 2), frozen_epochs=2)
    expected = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert config.epochs == len(expected)
    assert [config.position(epoch) for epoch in range(config.epochs)] == expected
    with pytest.raises(IndexError):
        config.position(config.epochs)


def test_the_released_schedule_has_53_epochs_in_4_stages():
    config = CrclConfig()
    assert config.epochs == 7 + 7 + 7 + 32
    assert [config.position(epoch)[0] for epoch in (6, 7, 20, 21, 52)] == [0, 1, 2, 3, 3]


# R4: correspondences are constants of the loss.


def test_no_gradient_reaches_correspondences_or_probabilities(make, fabric, loaders):
    method = crcl(make, fabric)
    similarity = method.models[0](next(iter(loaders.train(0))))
    probability = mean_matching_probability(similarity, 0.05)
    assert similarity.requires_grad
    assert not probability.requires_grad
    assert not method._refine(torch.arange(8), probability, 5).requires_grad
    train(method, loaders, range(3))
    assert not method.correspondence.requires_grad


@pytest.mark.parametrize("correspondence", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("own", [-1.0, -0.3, 0.0, 0.4, 0.7, 1.0])
def test_a_pair_is_never_pushed_apart_whatever_its_correspondence(correspondence, own):
    generator = torch.Generator().manual_seed(0)
    similarity = 0.5 * torch.randn(6, 6, dtype=torch.float64, generator=generator)
    similarity[2, 2] = own
    similarity.requires_grad_()
    trust = torch.full((6,), correspondence, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(active_complementary_loss(similarity, trust), similarity)
    assert gradient[2, 2] <= 1e-12


def test_an_unmatched_pair_is_pulled_only_as_far_as_it_is_trusted():
    pairs, temperature = 6, 0.05
    similarity = torch.full((pairs, pairs), 0.5, dtype=torch.float64)
    similarity.diagonal().fill_(-0.5)  # p of every pair about 1e-9
    similarity.requires_grad_()

    def pull(trust):
        loss = active_complementary_loss(similarity, torch.full((pairs,), trust, dtype=torch.float64))
        return -torch.autograd.grad(loss, similarity)[0].diagonal()

    assert (pull(0.0) < 1e-6).all()
    # -log p has slope -(1 - p)/τ in each of the two directions; the mean over pairs divides by their number.
    torch.testing.assert_close(pull(1.0), torch.full((pairs,), 2 / temperature / pairs, dtype=torch.float64))


# R5: self-refining correspondence correction, as in the released code.

SIX = torch.arange(6)


def scripted(make, fabric, stage=0, correspondence=None, **options):
    """CRCL with the released constants and 6 pairs, in `stage`."""
    method = crcl(make, fabric, 6, correspondence, frozen_epochs=2, stages=(3, 3), **options)
    method.stage = stage
    return method


def refined(method, probability, stage_epoch):
    """What the loss would use and what is remembered, as lists."""
    used = method._refine(SIX, torch.tensor(probability), stage_epoch)
    return used.tolist(), method.correspondence.tolist()


def test_the_scripted_trace_of_the_first_stage(make, fabric):
    method = scripted(make, fabric)
    # Epoch 0: everything is trusted, whatever the network thinks.
    assert refined(method, [0.9, 0.5, 0.3, 0.05, 0.0, 1.0], 0) == ([1.0] * 6, [1.0] * 6)
    # Epoch 1, the last frozen one: still trusted, but p̄ itself is remembered, below the threshold too.
    used, remembered = refined(method, [0.9, 0.5, 0.3, 0.05, 0.0, 1.0], 1)
    assert used == [1.0] * 6
    assert remembered == pytest.approx([0.9, 0.5, 0.3, 0.05, 0.0, 1.0])
    # Epoch 2: 0.8 m + 0.2 p̄, below 0.1 → 0; a pair forgotten at 0 comes back only if p̄ > 0.5.
    used, remembered = refined(method, [0.9, 0.0, 0.8, 0.2, 0.6, 0.0], 2)
    expected = [0.9, 0.4, 0.8 * 0.3 + 0.2 * 0.8, 0.0, 0.12, 0.8]  # the fourth would be 0.08
    assert used == pytest.approx(expected)
    assert remembered == used
    # Epoch 3 goes on from there.
    used, remembered = refined(method, [0.9, 0.0, 0.8, 0.49, 0.0, 0.0], 3)
    assert used == pytest.approx([0.9, 0.32, 0.8 * 0.4 + 0.16, 0.0, 0.0, 0.64])
    assert remembered == used


@pytest.mark.parametrize(("probability", "back"), [(0.0, False), (0.499, False), (0.501, True), (1.0, True)])
def test_a_forgotten_pair_revives_only_above_one_half(make, fabric, probability, back):
    method = scripted(make, fabric, correspondence=torch.zeros(6))
    used, _ = refined(method, [probability] * 6, 4)
    assert used == pytest.approx([0.2 * probability * back] * 6)


def test_later_stages_start_from_the_carried_correspondences(make, fabric):
    carried = torch.tensor([1.0, 0.5, 0.1, 0.09, 0.0, 0.9])
    method = scripted(make, fabric, stage=1, correspondence=carried)
    frozen = [1.0, 0.5, 0.1, 0.0, 0.0, 0.9]  # unchanged, except that 0.09 is below the threshold
    for stage_epoch in (0, 1):
        used, remembered = refined(method, [0.9, 0.0, 0.8, 0.9, 0.9, 0.2], stage_epoch)
        assert used == pytest.approx(frozen)
        assert remembered == used
    used, _ = refined(method, [0.9, 0.0, 0.8, 0.9, 0.9, 0.2], 2)
    assert used == pytest.approx([0.98, 0.4, 0.24, 0.18, 0.18, 0.76])


def test_the_whole_trace_agrees_with_a_loop_over_pairs(make, fabric):
    """The released code's rule written out pair by pair, on random probabilities and batches, over two stages."""
    random = torch.Generator().manual_seed(0)
    method = scripted(make, fabric)
    m = [1.0] * 6
    for stage in (0, 1):
        method.stage = stage
        for e in range(5):
            order = torch.randperm(6, generator=random)
            probabilities = torch.rand(6, generator=random)
            for batch in order.split(4):
                used = method._refine(batch, probabilities[batch], e)
                for i, got in zip(batch.tolist(), used.tolist(), strict=True):
                    p = probabilities[i].item()
                    y = m[i] if e < 2 else 0.8 * m[i] + 0.2 * p
                    y = 0.0 if y < 0.1 else y
                    m[i] = p if stage == 0 and e == 1 else y
                    assert got == pytest.approx(y, abs=1e-6)
            assert method.correspondence.tolist() == pytest.approx(m, abs=1e-6)


def test_pairs_outside_the_batch_are_not_touched(make, fabric):
    method = scripted(make, fabric, correspondence=torch.full((6,), 0.7))
    method._refine(torch.tensor([4, 1]), torch.tensor([0.2, 0.9]), 3)
    assert method.correspondence.tolist() == pytest.approx([0.7, 0.74, 0.7, 0.7, 0.6, 0.7])


def test_full_momentum_without_a_threshold_changes_nothing(make, fabric):
    start = torch.rand(6, generator=torch.Generator().manual_seed(0))
    method = scripted(make, fabric, correspondence=start, momentum=1.0, threshold=0.0)
    for stage_epoch in (0, 2, 3, 4):  # not epoch 1, which takes the network's word
        used, remembered = refined(method, [0.5] * 6, stage_epoch)
        assert used == remembered == start.tolist()


def test_correspondences_stay_within_0_and_1(make, fabric, loaders):
    method = crcl(make, fabric)
    train(method, loaders, range(5))
    assert method.correspondence.min() >= 0
    assert method.correspondence.max() <= 1
    assert method.correspondence.unique().numel() > 2


@pytest.mark.parametrize("given", [False, True], ids=["trusting all", "the truth"])
def test_without_refining_correspondences_stay_as_they_are(make, fabric, loaders, given):
    start = (torch.arange(40) % 3 > 0).float() if given else None
    method = crcl(make, fabric, correspondence=start, refine=False)
    logs = train(method, loaders, range(5))
    assert torch.equal(method.correspondence, torch.ones(40) if start is None else start)
    used = sum(step["correspondence"] for step in logs[0]) / len(logs[0])  # batches are equal in size
    assert used == pytest.approx(1 if start is None else 26 / 40)


def test_the_correspondences_that_were_given_are_not_written_to(make, fabric, loaders):
    given = torch.full((40,), 0.9)
    train(crcl(make, fabric, correspondence=given), loaders, range(3))
    assert (given == 0.9).all()


# R6: what a stage carries over.


def test_a_new_stage_has_fresh_weights_a_fresh_optimiser_the_first_rate_and_the_same_correspondences(
    make, fabric, loaders
):
    optimisation = OptimisationConfig(decay_epochs=1, weight_average=0.9)
    method = crcl(make, fabric, optimisation=optimisation)
    train(method, loaders, range(2))
    old = method.state_dict()
    weights, correspondence = copy.deepcopy(old["network"]), method.correspondence.clone()
    assert old["adam"]["state"]
    assert old["adam"]["param_groups"][0]["lr"] == pytest.approx(5e-5)

    steps = method.train_epoch(2, loaders)
    first = next(steps)
    assert method.stage == 1
    assert first["learning_rate"] == 5e-4
    assert torch.equal(method.correspondence > 0, correspondence >= 0.1)
    kept = correspondence >= 0.1
    assert torch.equal(method.correspondence[kept], correspondence[kept])
    new = method.state_dict()
    assert all(state["step"] == 1 for state in new["adam"]["state"].values())
    assert new["average"]["n_averaged"] == 1
    name = "image_encoder.encoder.projection.linear.weight"
    one_step = 2 * 5e-4  # no element moves further than about the rate in Adam's first step
    assert (new["network"][name] - weights[name]).abs().max() > 10 * one_step


def test_the_network_is_the_same_one_within_a_stage(make, fabric, loaders):
    method = crcl(make, fabric)
    network = method.models[0]
    train(method, loaders, range(2))
    assert method.models[0] is network
    train(method, loaders, [2])
    assert method.models[0] is not network


def test_frozen_epochs_of_a_later_stage_keep_correspondences(make, fabric, loaders):
    method = crcl(make, fabric, threshold=0.0)
    train(method, loaders, range(2))
    carried = method.correspondence.clone()
    train(method, loaders, [2])
    assert torch.equal(method.correspondence, carried)
    train(method, loaders, [3])
    assert not torch.equal(method.correspondence, carried)


def test_a_restored_run_goes_on_identically(make, fabric, loaders):
    method = crcl(make, fabric, optimisation=OptimisationConfig(weight_average=0.9))
    train(method, loaders, range(3))
    state, random = copy.deepcopy(method.state_dict()), torch.random.get_rng_state()
    expected = train(method, loaders, range(3, 5))

    other = crcl(make, fabric, optimisation=OptimisationConfig(weight_average=0.9))
    other.load_state_dict(state)
    assert other.stage == 1
    torch.random.set_rng_state(random)
    assert train(other, loaders, range(3, 5)) == expected
    torch.testing.assert_close(other.state_dict(), method.state_dict(), rtol=0, atol=0)


def test_a_log_has_the_loss_and_the_mean_correspondence_of_its_batch(make, fabric, loaders):
    steps = train(crcl(make, fabric), loaders, [0])[0]
    assert len(steps) == loaders.batches_per_epoch()
    assert set(steps[0]) == {"loss", "gradient_norm", "learning_rate", "correspondence"}
    assert steps[0]["correspondence"] == 1


# R7: an overfit test on known noise.


@pytest.mark.parametrize("seed", [0, 1])
def test_correspondences_tell_true_from_false_pairs_where_plain_training_memorises_both(fabric, seed):
    world = latent_factor_pairs(200, world_seed=0, draw_seed=1, shared=12, exclusive=4)
    pairs = inject_noise(world.pairs, 0.4, seed=seed)
    clean = pairs.is_clean
    loaders = Loaders(pairs, 100, 0, CPU)
    make = partial(make_model, ModelConfig(embedding=64), InputShape.of(pairs, None))
    optimisation = OptimisationConfig(learning_rate=2e-3, decay_epochs=100)

    torch.manual_seed(seed)
    robust = Crcl(CrclConfig(stages=(4, 16), optimisation=optimisation), make, 200, fabric)
    train(robust, loaders, range(robust.epochs))
    assert robust.correspondence[clean].mean() > 0.7
    assert robust.correspondence[~clean].mean() < 0.2
    assert detection_metrics(robust.correspondence, clean).auroc > 0.95
    confidence = robust.confidence(loaders)
    assert confidence[clean].mean() > 0.7
    assert confidence[~clean].mean() < 0.2
    assert detection_metrics(confidence, clean).auroc > 0.95

    plain = Baseline(BaselineConfig(epochs=60, optimisation=optimisation), make, 200, fabric)
    train(plain, loaders, range(plain.epochs))
    assert matching_probability(robust, loaders)[~clean].mean() < 0.2
    assert matching_probability(plain, loaders)[~clean].mean() > 0.8


@torch.no_grad()
def matching_probability(method, loaders):
    """p̄ of every pair within its batch, in evaluation mode."""
    method.models[0].eval()
    probability = torch.empty(len(loaders.pairs))
    for batch in loaders.train(0):
        probability[batch.pair] = mean_matching_probability(method.models[0](batch), 0.05)
    return probability
