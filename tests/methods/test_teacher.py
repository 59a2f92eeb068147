import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from latent_factors import latent_factor_pairs

from truepair.config import ModelConfig, OptimisationConfig, TeacherConfig
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.errors import ConfigError
from truepair.evaluation.detection import detection_metrics
from truepair.losses.complementary import active_complementary_loss
from truepair.methods.protocol import Method
from truepair.methods.teacher import Teacher
from truepair.model import InputShape, make_model
from truepair.optimisation import Optimiser
from truepair.scoring.out_of_sample import Prior, combined, prior_of

CPU = torch.device("cpu")
QUICK = OptimisationConfig(weight_average=0.9, learning_rate=3e-3)


def teacher(make, fabric, pairs=40, **options):
    """A teacher without folds that judges after every epoch, unless the options say otherwise."""
    torch.manual_seed(0)
    alone = {"epochs": 3, "warmup_epochs": 1, "fold_epochs": 0, "judge_every": 1}
    return Teacher(TeacherConfig(**{**alone, **options}), make, pairs, fabric)


def train(method, loaders, epochs):
    return [list(method.train_epoch(epoch, loaders)) for epoch in epochs]


def few(fabric, pairs=400, rate=0.4, **options):
    """A teacher of few mismatched pairs, enough that confidences differ; the data, and how to make another."""
    noisy = inject_noise(latent_factor_pairs(pairs, world_seed=0, draw_seed=1).pairs, rate, 0)
    make = partial(make_model, ModelConfig(embedding=16, input_dropout=0.1), InputShape.of(noisy, None))
    new = partial(teacher, make, fabric, pairs, **{"epochs": 8, "optimisation": QUICK, **options})
    return new(), Loaders(noisy, 32, 0, CPU), new


@pytest.fixture
def synthetic(fabric):
    """Trains a teacher on 2,000 pairs of which a share does not match, with folds or without."""

    def trained(rate, **options):
        pairs = latent_factor_pairs(2000, world_seed=0, draw_seed=1).pairs
        noisy = inject_noise(pairs, rate, 0) if rate else pairs
        make = partial(make_model, ModelConfig(embedding=32), InputShape.of(noisy, None))
        method = teacher(make, fabric, 2000, **{"epochs": 10, "warmup_epochs": 2, **options})
        loaders = Loaders(noisy, 64, 0, CPU)
        train(method, loaders, range(method.epochs))
        return method, loaders

    return trained


def test_it_is_a_method(make, fabric):
    assert isinstance(teacher(make, fabric), Method)


def test_in_the_warm_up_every_pair_is_believed_and_nothing_taught(make, fabric, loaders):
    method = teacher(make, fabric)
    batch = next(iter(loaders.train(0)))
    confidence = method.pair_confidence[batch.pair]
    assert (confidence == 1).all()
    assert method._taught(method.models[0], batch, confidence) is None
    similarity = method.models[0](batch)
    expected = active_complementary_loss(similarity, torch.ones(len(batch)), temperature=method.config.temperature)
    torch.testing.assert_close(method._loss(similarity, confidence, None), expected)


def by_hand(similarity, confidence, taught, tau, weight):
    """What the soft targets add, pair by pair and candidate by candidate."""
    size, total = len(similarity), 0.0
    for s, t in ((similarity, taught), (similarity.T, taught.T)):
        for i in range(size):
            others = [j for j in range(size) if j != i]
            mass = sum((t[i, j] / tau).exp() for j in others)
            log_total = torch.log(sum((s[i, j] / tau).exp() for j in range(size)))
            for j in others:
                total -= (1 - confidence[i]) * (t[i, j] / tau).exp() / mass * (s[i, j] / tau - log_total)
    return weight * total / size


def active_and_complementary_by_hand(similarity, confidence, tau, weight):
    """CRCL's loss, pair by pair and direction by direction."""
    size, total = len(similarity), 0.0
    for s in (similarity, similarity.T):
        for i in range(size):
            exponentials = [(s[i, j] / tau).exp() for j in range(size)]
            p = [each / sum(exponentials) for each in exponentials]
            tangents = [each.tan() for each in p]
            bounded = sum(tangents[j] for j in range(size) if j != i) / sum(tangents) ** (1 - confidence[i])
            total += -confidence[i] * p[i].log() + weight * bounded
    return total / size


@pytest.mark.parametrize("confidences", [[0.0, 0.2, 0.5, 0.9, 1.0], [1.0] * 5, [0.0] * 5])
def test_the_loss_is_the_formula_written_out(make, fabric, confidences):
    method = teacher(make, fabric, temperature=0.3, negative_weight=2.0, target_weight=0.7)
    generator = torch.Generator().manual_seed(4)
    similarity, taught = torch.rand(2, 5, 5, generator=generator, dtype=torch.float64)
    confidence = torch.tensor(confidences, dtype=torch.float64)
    expected = active_and_complementary_by_hand(similarity, confidence, 0.3, 2.0)
    torch.testing.assert_close(method._loss(similarity, confidence, None), expected)
    with_targets = expected + by_hand(similarity, confidence, taught, 0.3, 0.7)
    torch.testing.assert_close(method._loss(similarity, confidence, taught), with_targets)


def test_a_step_follows_that_loss_with_the_confidences_of_its_pairs_and_what_the_teacher_says(fabric, monkeypatch):
    method, loaders, _ = few(fabric, temperature=0.2)
    train(method, loaders, range(2))
    method.pair_confidence = torch.linspace(0, 1, 400)[torch.randperm(400, generator=torch.Generator().manual_seed(5))]
    network, (averaged,) = method._of_all[0].model, method.models
    seen, batches = [], []
    taught_of, loss_of = method._taught, method._loss

    def taught(judge, batch, confidence):
        batches.append(batch)
        return taught_of(judge, batch, confidence)

    def loss(similarity, confidence, targets):
        seen.append((similarity.detach(), confidence, targets, network.training, averaged.training))
        with torch.no_grad():
            torch.testing.assert_close(targets, copy.deepcopy(averaged).eval()(batches[-1]))
        assert not torch.allclose(targets, similarity)  # of other weights, and without dropout
        return loss_of(similarity, confidence, targets)

    monkeypatch.setattr(method, "_taught", taught)
    monkeypatch.setattr(method, "_loss", loss)
    confidences, logs = method.pair_confidence, list(method.train_epoch(2, loaders))
    assert len(seen) == len(logs) == loaders.batches_per_epoch() > 1
    for log, batch, (similarity, confidence, targets, trains, averaged_trains) in zip(logs, batches, seen, strict=True):
        assert torch.equal(confidence, confidences[batch.pair])
        expected = active_and_complementary_by_hand(similarity, confidence, 0.2, 5.0)
        expected += by_hand(similarity, confidence, targets, 0.2, 1.0)
        assert log["loss"] == pytest.approx(expected.item(), rel=1e-4)
        assert log["confidence"] == pytest.approx(confidence.mean().item())
        assert trains
        assert not averaged_trains
    assert network.training
    assert not torch.equal(method.pair_confidence, confidences)


def test_the_gradient_reaches_the_network_and_neither_teacher_nor_confidence(fabric):
    method, loaders, _ = few(fabric)
    train(method, loaders, range(2))
    assert 0 < method.pair_confidence.min() < method.pair_confidence.max() < 1
    batch = next(iter(loaders.train(2)))
    confidence = method.pair_confidence[batch.pair]
    network, (averaged,) = method._of_all[0].model.train(), method.models
    network.zero_grad()
    method._loss(network(batch), confidence, method._taught(method.models[0], batch, confidence)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in averaged.parameters())
    assert not method.pair_confidence.requires_grad


def test_without_a_weight_nothing_is_taught(make, fabric, loaders):
    batch = next(iter(loaders.train(0)))
    confidence = torch.full((len(batch),), 0.5)
    without, method = teacher(make, fabric, target_weight=0.0), teacher(make, fabric)
    assert without._taught(without.models[0], batch, confidence) is None
    assert method._taught(method.models[0], batch, confidence) is not None


def test_doubted_pairs_learn_the_teachers_targets_without_their_own_partner(make, fabric):
    method = teacher(make, fabric, temperature=0.2, target_weight=0.7)
    generator = torch.Generator().manual_seed(1)
    similarity, taught = torch.rand(2, 5, 5, generator=generator, dtype=torch.float64)
    confidence = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    alone = active_complementary_loss(similarity, confidence, temperature=0.2)
    added = by_hand(similarity, confidence, taught, 0.2, 0.7)
    assert added > 0.1
    torch.testing.assert_close(method._loss(similarity, confidence, taught), alone + added)
    changed = taught + torch.eye(5, dtype=torch.float64)  # of the own partner nothing is asked
    torch.testing.assert_close(method._loss(similarity, confidence, changed), alone + added)


def test_the_gradient_is_that_of_finite_differences_and_reaches_no_target(make, fabric):
    method = teacher(make, fabric)
    generator = torch.Generator().manual_seed(2)
    similarity, taught = (0.2 * torch.rand(2, 4, 4, generator=generator, dtype=torch.float64)).unbind()
    taught.requires_grad_()
    confidence = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: method._loss(s, confidence, taught.detach()), similarity.requires_grad_())
    method._loss(similarity, confidence, taught).backward()
    assert taught.grad is None


def test_the_teacher_teaches_in_evaluation_mode_and_the_network_trains_on(make, fabric, loaders):
    method = teacher(make, fabric)
    train(method, loaders, [0])
    method.pair_confidence = torch.full((40,), 0.5)
    batch = next(iter(loaders.train(1)))
    network = method._of_all[0].model.train()
    once, again = (method._taught(method.models[0], batch, method.pair_confidence[batch.pair]) for _ in range(2))
    assert torch.equal(once, again)
    assert not once.requires_grad
    assert network.training
    assert not method.models[0].training


def test_confidence_begins_with_the_end_of_the_warm_up(make, fabric, loaders):
    method = teacher(make, fabric, epochs=4, warmup_epochs=2)
    train(method, loaders, [0])
    assert (method.pair_confidence == 1).all()
    method.pair_confidence = torch.full((40,), 0.25)
    train(method, loaders, [1])
    assert not (method.pair_confidence == 0.25).any()


def test_after_the_last_epoch_nobody_needs_another_confidence(fabric):
    method, loaders, _ = few(fabric, epochs=3)
    train(method, loaders, range(2))
    before = method.pair_confidence
    train(method, loaders, [2])
    assert before.std() > 0.1
    assert torch.equal(method.pair_confidence, before)
    assert not torch.equal(method.confidence(loaders), before)


FOLDS = {"fold_epochs": 4, "folds": 2, "epochs": 6, "judge_every": 3}


@pytest.mark.parametrize("options", [{}, FOLDS], ids=["alone", "folds"])
def test_it_finds_mismatched_pairs_and_how_many_they_are(synthetic, options):
    method, loaders = synthetic(0.4, **options)
    metrics = detection_metrics(method.confidence(loaders), loaders.pairs.is_clean)
    assert metrics.auroc > 0.96
    assert metrics.estimated_noise_rate == pytest.approx(0.4, abs=0.06)
    assert (
        method.pair_confidence[loaders.pairs.is_clean].mean()
        > 0.65
        > 0.35
        > method.pair_confidence[~loaders.pairs.is_clean].mean()
    )
    assert not method.notes


@pytest.mark.parametrize("options", [{}, FOLDS], ids=["alone", "folds"])
def test_it_invents_no_noise(synthetic, options):
    method, loaders = synthetic(0.0, **options)
    confidence = method.confidence(loaders)
    assert (1 - confidence).mean() <= 0.02
    assert confidence.median() > 0.98
    assert confidence.std() > 0
    assert not method.notes


def test_nothing_consistent_to_learn_is_said_and_no_pair_judged(fabric):
    pairs = inject_noise(latent_factor_pairs(400, world_seed=0, draw_seed=1).pairs, 0.999, 0)
    make = partial(make_model, ModelConfig(embedding=16), InputShape.of(pairs, None))
    method, loaders = teacher(make, fabric, 400, epochs=2), Loaders(pairs, 64, 0, CPU)
    train(method, loaders, range(2))
    assert (method.confidence(loaders) == 0.5).all()
    assert "nothing consistent was learned" in method.notes[-1]


def test_confidence_draws_nothing_and_leaves_modes_as_they_were(make, fabric, loaders):
    method = teacher(make, fabric)
    train(method, loaders, range(3))
    method.models[0].train()
    before = torch.get_rng_state()
    confidence = method.confidence(loaders)
    assert torch.equal(torch.get_rng_state(), before)
    assert method.models[0].training
    assert method._of_all[0].model.training
    assert confidence.shape == (40,)
    assert "40 pairs" in method.notes[0]


def test_confidence_is_the_same_in_either_mode_and_changes_no_confidence(fabric):
    method, loaders, _ = few(fabric)
    train(method, loaders, range(3))
    confidences = method.pair_confidence.clone()
    each = []
    for training in (True, False):
        method.models[0].train(training)
        each.append(method.confidence(loaders))
        assert method.models[0].training is training
    assert torch.equal(*each)
    assert each[0].std() > 0.1
    assert torch.equal(method.pair_confidence, confidences)


def test_a_restored_method_goes_on_identically(make, fabric, loaders):
    method = teacher(make, fabric)
    train(method, loaders, range(2))
    restored = teacher(make, fabric)
    restored.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(restored.pair_confidence, method.pair_confidence)
    logs = []
    for either in (method, restored):
        torch.manual_seed(3)
        logs.append(train(either, loaders, [2]))
    assert logs[0] == logs[1]


def test_a_restored_method_goes_on_with_the_same_confidences(fabric):
    method, loaders, new = few(fabric)
    train(method, loaders, range(3))
    restored = new()
    restored.load_state_dict(copy.deepcopy(method.state_dict()))
    assert method.pair_confidence.std() > 0.1
    assert torch.equal(restored.pair_confidence, method.pair_confidence)
    logs = []
    for either in (method, restored):
        torch.manual_seed(3)
        logs.append(train(either, loaders, [3, 4]))
    assert logs[0] == logs[1]
    assert method.pair_confidence.std() > 0.1
    assert torch.equal(restored.pair_confidence, method.pair_confidence)
    confidence = method.confidence(loaders)
    assert confidence.std() > 0.1
    assert torch.equal(restored.confidence(loaders), confidence)


def test_networks_of_the_folds_learn_no_image_of_their_fold_and_judge_it(fabric, monkeypatch):
    method, loaders, _ = few(fabric, fold_epochs=3, folds=4, warmup_epochs=2)
    learned, judged = [], []
    image = loaders.pairs.image_of_caption

    def loss(similarity, confidence, taught):
        assert taught is None  # networks that judge for each other have no other teacher
        return active_complementary_loss(similarity, confidence)

    def prior(folds, pairs, *rest):
        judged.append((folds, rest))
        return prior_of(folds, pairs, *rest)

    batches = loaders.train
    monkeypatch.setattr(loaders, "train", lambda epoch, chosen: learned.append(chosen) or batches(epoch, chosen))
    monkeypatch.setattr(method, "_loss", loss)
    monkeypatch.setattr("truepair.methods.teacher.prior_of", prior)
    train(method, loaders, [0])
    assert (method.pair_confidence == 1).all(), "the warm-up believes every pair"
    train(method, loaders, [1, 2])
    assert len(judged) == 2, "after the warm-up and after the last epoch"
    assert [rest[-1] for _, rest in judged] == [2, 0], "other random pairs each time, the same ones for the prior"
    for folds, _ in judged:
        assert torch.equal(torch.cat([fold.pairs for fold in folds]).sort().values, torch.arange(400))
        for fold, of_network, chosen in zip(folds, method._of_folds, learned[-4:], strict=True):
            assert fold.models == [of_network.evaluated]
            assert torch.equal(fold.learned, chosen)
            assert not set(image[fold.learned].tolist()) & set(image[fold.pairs].tolist())
    assert torch.equal(method.pair_confidence, method.prior.confidence)
    assert torch.equal(method.confidence(loaders), method.prior.confidence)
    assert method.stage == 0
    assert len(method.models) == 4


@pytest.mark.parametrize(
    ("options", "start", "begins_with_the_mean"),
    [
        ({}, None, False),
        ({}, "fresh", False),
        ({}, "folds", True),
        ({"words": "mean"}, None, True),  # a GRU pools its regions
        ({"similarity": "saf"}, None, True),
        ({"similarity": "sgr"}, None, True),
        ({"similarity": "sgr"}, "fresh", False),
    ],
)
def test_a_network_that_reads_words_in_order_and_compares_by_cosines_starts_afresh(
    options, start, begins_with_the_mean, small, world, vocabulary, fabric, loaders, monkeypatch
):
    make = partial(make_model, replace(small, **options), InputShape.of(world, vocabulary))
    method = teacher(make, fabric, fold_epochs=1, folds=2, start=start)
    train(method, loaders, [0])
    method.prior = Prior(torch.full((40,), 0.5), torch.zeros(40), 0.5, 0, None, ())
    started = []
    monkeypatch.setattr(Optimiser, "start_from", lambda *given: started.append(given))
    train(method, loaders, [1])
    assert bool(started) == begins_with_the_mean
    assert method.stage == 1


def test_a_fresh_start_can_be_asked_for_where_nothing_is_read_in_order(fabric, monkeypatch):
    method, loaders, _ = few(fabric, fold_epochs=2, folds=2, start="fresh")
    train(method, loaders, [0, 1])
    assert method.prior is not None
    monkeypatch.setattr(Optimiser, "start_from", lambda *given: pytest.fail("it was asked for a fresh start"))
    train(method, loaders, [2])


def test_the_network_of_all_pairs_starts_from_what_the_folds_learned_and_said(fabric, monkeypatch):
    method, loaders, _ = few(fabric, fold_epochs=2, folds=2, epochs=4, judge_every=2)
    one, other = (optimiser.model.state_dict() for optimiser in method._of_folds)
    assert all(torch.equal(one[name], other[name]) for name in one), "the folds' networks have one start"
    train(method, loaders, range(2))
    one, other = (optimiser.evaluated.state_dict() for optimiser in method._of_folds)
    started = []
    start_from = Optimiser.start_from
    monkeypatch.setattr(Optimiser, "start_from", lambda *given: (started.append(given), start_from(*given)))
    prior = method.prior.confidence
    train(method, loaders, [2])
    ((of_all, weights),) = started
    assert of_all is method._of_all[0]
    for name in ("image_encoder.projection.linear.weight", "text_encoder.projection.linear.bias"):
        torch.testing.assert_close(weights[name], (one[name] + other[name]) / 2)
    assert method.stage == 1
    assert len(method.models) == 1
    assert torch.equal(method.pair_confidence, prior), "it learns by the prior"
    train(method, loaders, [3])
    assert not torch.equal(method.pair_confidence, prior), "and judges with it after judge_every epochs"
    assert method.pair_confidence.mean() == pytest.approx(1 - method.prior.noise_rate, abs=0.02)
    second = method.pair_confidence
    train(method, loaders, [4, 5])
    assert torch.equal(method.pair_confidence, second), "after the last epoch no estimate is needed"
    confidence = method.confidence(loaders)
    together = combined(method.prior, method.models, loaders.pairs, method.config.temperature, 0, method.epochs)
    assert torch.equal(confidence, together.confidence)
    few_pairs = Loaders(loaders.pairs.select(torch.arange(100)), 32, 0, CPU)
    assert method.confidence(few_pairs).shape == (100,), "of other pairs there is no prior"


def test_a_method_restored_in_either_stage_goes_on_identically(fabric):
    options = {"fold_epochs": 2, "folds": 2, "epochs": 3, "judge_every": 1}
    for done in (1, 2, 3, 4):
        method, loaders, new = few(fabric, **options)
        train(method, loaders, range(done))
        restored = new()
        restored.load_state_dict(copy.deepcopy(method.state_dict()))
        logs = []
        for either in (method, restored):
            torch.manual_seed(3)
            logs.append(train(either, loaders, range(done, 5)))
        assert logs[0] == logs[1]
        assert torch.equal(restored.pair_confidence, method.pair_confidence)
        assert torch.equal(restored.confidence(loaders), method.confidence(loaders))


def test_small_corpora_have_more_folds_and_longer_ones():
    config = TeacherConfig()
    assert [(config.folds_of(pairs), config.fold_epochs_of(pairs)) for pairs in (4_999, 5_000)] == [(4, 12), (2, 5)]
    assert [TeacherConfig(warmup_epochs=8).fold_epochs_of(pairs) for pairs in (4_999, 5_000)] == [12, 8]
    config = TeacherConfig(folds=3, fold_epochs=7)
    assert [(config.folds_of(pairs), config.fold_epochs_of(pairs)) for pairs in (9_999, 10_000)] == [(3, 7), (3, 7)]


def test_with_too_few_images_for_folds_the_network_judges_alone(make, fabric):
    pairs = latent_factor_pairs(8, world_seed=0, draw_seed=1).pairs
    make = partial(make_model, ModelConfig(embedding=16), InputShape.of(pairs, None))
    method, loaders = teacher(make, fabric, 8, fold_epochs=2), Loaders(pairs, 4, 0, CPU)
    assert [len(steps) for steps in train(method, loaders, range(method.epochs))] == [0, 0, 2, 2, 2]
    assert method.prior is None
    assert method.confidence(loaders).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimisation": OptimisationConfig()}, "weight_average is 0"),
        ({"optimisation": OptimisationConfig(weight_average=0.0)}, "set it to a decay such as 0.99"),
        ({"warmup_epochs": 0}, "warmup_epochs is 0"),
        ({"fold_epochs": 1}, "fold_epochs is 1 and method.warmup_epochs 2"),
        ({"fold_epochs": -1}, "fold_epochs is -1"),
        ({"folds": 1}, "folds is 1"),
        ({"start": "folds", "fold_epochs": 0}, "method.start is 'folds', but method.fold_epochs is 0"),
        ({"judge_every": -1}, "judge_every is -1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"negative_weight": -1.0}, "negative_weight is -1.0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"target_weight": -1.0}, "target_weight is -1.0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TeacherConfig(**options)
