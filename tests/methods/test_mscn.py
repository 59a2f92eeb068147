import copy
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from latent_factors import latent_factor_pairs
from torch.nn.functional import binary_cross_entropy

from truepair.config import ModelConfig, MscnConfig, OptimisationConfig, Recipe
from truepair.data.labelled import LabelledPairs
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.errors import ConfigError, DataError, TrainingError
from truepair.evaluation.detection import detection_metrics
from truepair.methods import mscn as module
from truepair.methods.mscn import Mscn, clean_posterior
from truepair.methods.protocol import Method
from truepair.model import InputShape, make_model
from truepair.scoring.encodings import similarity_of_pairs
from truepair.scoring.mixtures import Beta, Mixture

CPU = torch.device("cpu")


@pytest.fixture(params=["cosine", "saf", "sgr"])
def make_headed(request, world, vocabulary):
    config = ModelConfig(request.param, embedding=12, word_size=6, similarity_size=6, head="network", head_size=5)
    return partial(make_model, config, InputShape.of(world, vocabulary))


@pytest.fixture
def make_cosine(world, vocabulary, small):
    return partial(make_model, replace(small, head="network"), InputShape.of(world, vocabulary))


@pytest.fixture
def trusting(world, dev_world):
    return Loaders(inject_noise(world, 0.4, 0), 8, 0, CPU, trusted=dev_world.select(torch.arange(8)))


def mscn(make, fabric, **options):
    torch.manual_seed(0)
    options = {"warmup_epochs": 1, "purified_epochs": 2, "warmup_batch_size": 16, "meta_batch_size": 6, **options}
    return Mscn(MscnConfig(**options), make, 40, fabric)


def train(method, loaders, epochs=None):
    return [list(method.train_epoch(epoch, loaders)) for epoch in epochs or range(method.epochs)]


def snapshot(module_or_state):
    return {name: value.clone() for name, value in module_or_state.items()}


def equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_it_is_a_method(make_cosine, fabric):
    assert isinstance(mscn(make_cosine, fabric), Method)


def test_a_similarity_without_a_head_is_refused(make, fabric):
    with pytest.raises(ConfigError, match=r"set model\.head to 'network'"):
        mscn(make, fabric)


def test_a_recipe_gives_the_network_its_head():
    assert Recipe(method=MscnConfig()).network == replace(ModelConfig(), head="network")
    assert Recipe().network == ModelConfig()


def test_every_backbone_trains_both_networks_and_differently(make_headed, fabric, trusting):
    method = mscn(make_headed, fabric)
    before = [snapshot(model.state_dict()) for model in method.models]
    logs = train(method, trusting)
    assert [len(log) for log in logs[:1]] == [2 * 3]  # 40 pairs, 16 a batch, two networks
    assert {"loss", "meta_loss", "kept"} <= set(logs[-1][0])
    for model, old in zip(method.models, before, strict=True):
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, old[name])}
        assert {name for name, _ in model.named_parameters()} - changed <= {"text_encoder.encoder.vectors.weight"}
    a, b = method.models
    assert not torch.equal(a.similarity.head[0].weight, b.similarity.head[0].weight)


# M5: what each of the four steps of an iteration changes, and what not.


def test_the_virtual_part_leaves_network_statistics_and_optimiser_as_they_are(make_headed, fabric, trusting):
    method = mscn(make_headed, fabric)
    train(method, trusting, range(2))  # so that Adam and the running statistics hold something
    network = method._networks[0]
    labelled, labels = next(method._labelled(trusting).draw(0).endless(6))
    model = network._model
    head = {name for name, _ in model.named_parameters() if name.startswith("similarity.head.")}
    state, adam = snapshot(model.state_dict()), copy.deepcopy(network._main_optimiser.state_dict()["adam"])
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    network.meta_step(next(iter(trusting.train(0))), labelled, labels, 0.0)
    after = model.state_dict()
    equal({k: v for k, v in after.items() if k not in head}, {k: v for k, v in state.items() if k not in head})
    assert all(not torch.equal(after[name], state[name]) for name in head)
    equal(network._main_optimiser.state_dict()["adam"], adam)
    for name, parameter in model.named_parameters():
        if name not in head:
            assert (parameter.grad is None) == (gradients[name] is None)
            assert parameter.grad is None or torch.equal(parameter.grad, gradients[name])


def test_the_real_step_leaves_the_head_as_it_is(make_headed, fabric, trusting):
    method = mscn(make_headed, fabric)
    train(method, trusting, range(2))
    network = method._networks[0]
    head = snapshot(network._head.state_dict())
    encoder = snapshot(network._model.image_encoder.state_dict())
    network.step(next(iter(trusting.train(0))), 0.0)
    equal(dict(network._head.state_dict()), head)
    assert any(
        not torch.equal(value, encoder[name]) for name, value in network._model.image_encoder.state_dict().items()
    )


def test_meta_step_comes_before_the_real_step_and_every_so_many_iterations(make_cosine, fabric, trusting, monkeypatch):
    done = []
    meta_step, step = module._Network.meta_step, module._Network.step
    monkeypatch.setattr(module._Network, "meta_step", lambda *a: (done.append("meta"), meta_step(*a))[1])
    monkeypatch.setattr(module._Network, "step", lambda *a: (done.append("main"), step(*a))[1])
    method = mscn(make_cosine, fabric, purify=False, meta_interval=2, purified_epochs=1)
    train(method, trusting)
    of_network = ["meta", "main", "main", "meta", "main", "main", "meta", "main"]  # 5 batches of 8
    assert done == 2 * of_network


def test_the_head_is_judged_with_the_same_random_numbers_at_every_call(make_headed, fabric, trusting):
    network = mscn(make_headed, fabric)._networks[0]
    network._model.train()
    batch, weights = next(iter(trusting.train(0))), network._weights()
    vectors = network._replayed(batch, paired=False)
    equal(vectors(weights), vectors(weights))
    assert not torch.equal(vectors(weights), network._replayed(batch, paired=False)(weights))


@pytest.mark.parametrize("options", [{"virtual_step": "adam"}, {"mixed_derivative": "backward"}])
def test_other_virtual_steps_and_derivatives_train_too(make_headed, fabric, trusting, options):
    logs = train(mscn(make_headed, fabric, **options), trusting)
    assert all(torch.tensor([step["meta_loss"] for step in log]).isfinite().all() for log in logs[1:])


def test_the_finite_difference_moves_the_head_as_twice_back_does(make_headed, fabric, trusting):
    heads = []
    for way in ("finite_difference", "backward"):
        method = mscn(make_headed, fabric, mixed_derivative=way, optimisation=OptimisationConfig(learning_rate=1e-2))
        train(method, trusting, range(1))
        network = method._networks[0]
        draw = method._labelled(trusting).draw(0)
        network.end_warm_up(draw)
        labelled, labels = next(draw.endless(6))
        network.meta_step(next(iter(trusting.train(0))), labelled, labels, 0.0)
        heads.append([parameter.grad for parameter in network._head.parameters()])
    one, other = (torch.cat([gradient.flatten() for gradient in head]) for head in heads)
    assert (one - other).norm() < 2e-3 * other.norm()


# M3 inside the method: what a step's loss is, written from the formulas.


@pytest.fixture
def certain(make_cosine, fabric):
    """A network without anything random, and what it makes of a batch."""
    config = ModelConfig(embedding=8, word_size=6, region_dropping=0.0, word_dropping=0.0, head="network")
    inputs = make_cosine.args[1]

    def of(**options):
        network = mscn(partial(make_model, config, inputs), fabric, **options)._networks[0]
        network._model.train()
        return network

    return of


def hinges(similarity, margins):
    """``[directions, anchors, candidates]``, at least 0, and 0 for pairs."""
    size = range(len(similarity))
    scores = similarity.tolist()
    of_image = [[max(0.0, margins[i] + scores[i][j] - scores[i][i]) * (i != j) for j in size] for i in size]
    of_caption = [[max(0.0, margins[i] + scores[j][i] - scores[i][i]) * (i != j) for j in size] for i in size]
    return [of_image, of_caption]


def test_the_warm_up_sums_the_mean_hinges_of_the_batch(certain, trusting):
    network, batch = certain(), next(iter(trusting.train(0)))
    similarity = network._model(batch)
    expected = sum(sum(row) / len(row) for way in hinges(similarity, [0.2] * 8) for row in way)
    assert network.warm_up(batch)["loss"] == pytest.approx(expected, rel=1e-5)


def test_afterwards_it_sums_the_hardest_hinges_with_margins_that_follow_the_similarity(certain, trusting):
    network, batch = certain(), next(iter(trusting.train(0)))
    similarity = network._model(batch)
    margins = [0.2 * s**2 / (s**2 + (1 - s) ** 2) for s in similarity.diagonal().tolist()]
    expected = sum(max(row) for way in hinges(similarity, margins) for row in way)
    assert network.step(batch, 0.0)["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_virtual_step_that_diverges_is_told_as_training_that_does(make_cosine, fabric, trusting):
    method = mscn(make_cosine, fabric, optimisation=OptimisationConfig(learning_rate=1e25))
    network, draw = method._networks[0], LabelledPairs(trusting.trusted, trusting.pairs, 0, CPU).draw(0)
    with pytest.raises(TrainingError, match="training diverged"):
        network.meta_step(next(iter(trusting.train(0))), *next(draw.endless(6)), 0.0)


def test_every_step_has_a_log_of_its_own(make_cosine, fabric, trusting):
    logs = train(mscn(make_cosine, fabric, purify=False, meta_interval=2, purified_epochs=1), trusting)[1]
    assert ["meta_loss" in step for step in logs] == 2 * [True, False, True, False, True]
    assert len({step["loss"] for step in logs}) == len(logs)


def test_a_schedule_without_purified_epochs_has_a_length(make_cosine, fabric, trusting):
    optimisation = OptimisationConfig(schedule="cosine")
    train(mscn(make_cosine, fabric, purified_epochs=0, optimisation=optimisation), trusting)


def judgement(posterior):
    """What a network says that believes in pairs as told."""
    return module.Judgement(posterior, posterior, Mixture(Beta(1.0, 2.0), Beta(2.0, 1.0), 0.4, True, 3), False)


# M7: who chooses for whom, and how well.


def test_a_chooses_for_b_and_then_b_just_trained_for_a(make_cosine, fabric, trusting, monkeypatch):
    method = mscn(make_cosine, fabric)
    train(method, trusting, range(1))
    a, b = method._networks
    seen, chosen, learned = [], [], {"A": set(), "B": set()}

    def recorded(model, pairs, draw):
        seen.append(("judge", "AB"[model is b.evaluated], snapshot(model.state_dict())))
        found = clean_posterior(model, pairs, draw)
        posterior = (
            found.posterior.roll(3 * len(seen)).double() + torch.arange(40) * 1e-9
        )  # so that the two choose unlike
        chosen.append(set(posterior.argsort()[-24:].tolist()))
        believed = torch.where(torch.isin(torch.arange(40), torch.tensor(list(chosen[-1]))), 0.9, 0.1)
        return found._replace(posterior=believed)

    step = module._Network.step
    monkeypatch.setattr(
        module._Network,
        "step",
        lambda self, batch, epoch: (learned["AB"[self is b]].update(batch.pair.tolist()), step(self, batch, epoch))[1],
    )
    monkeypatch.setattr(module, "clean_posterior", recorded)
    before = {"A": snapshot(a.evaluated.state_dict()), "B": snapshot(b.evaluated.state_dict())}
    list(method.train_epoch(1, trusting))
    (_, first, state_of_first), (_, second, state_of_second) = seen
    assert (first, second) == ("A", "B")
    assert (learned["B"], learned["A"]) == tuple(chosen)  # what A believes, then what B believes
    assert learned["A"] != learned["B"]
    equal(state_of_first, before["A"])  # not trained yet
    equal(state_of_second, dict(b.evaluated.state_dict()))  # trained before it chose for A
    assert not torch.equal(state_of_second["similarity.head.0.weight"], before["B"]["similarity.head.0.weight"])


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_after_the_warm_up_nine_tenths_of_the_purified_pairs_match(fabric, rate):
    world = {"world_seed": 0, "shared": 16, "exclusive": 4}
    noisy = inject_noise(latent_factor_pairs(2000, draw_seed=1, **world).pairs, rate, 0)
    trusted = latent_factor_pairs(40, draw_seed=2, **world).pairs
    make = partial(make_model, ModelConfig(embedding=64, head="network"), InputShape.of(noisy, None))
    loaders = Loaders(noisy, 64, 0, CPU, trusted=trusted)
    options = {"warmup_epochs": 2, "warmup_batch_size": 64, "optimisation": OptimisationConfig(learning_rate=3e-3)}
    method = mscn(make, fabric, **options)
    train(method, loaders, range(2))
    chosen = method._purified(0, 1, loaders, method._labelled(loaders).draw(0))
    assert noisy.is_clean[chosen].float().mean() >= 0.9
    assert len(chosen) >= 0.8 * noisy.is_clean.sum()
    assert detection_metrics(method.confidence(loaders), noisy.is_clean).auroc > 0.95


@pytest.mark.parametrize("networks", [1, 2])
def test_a_calibrated_head_scores_in_the_same_order_and_tells_probabilities(make_cosine, fabric, trusting, networks):
    method = mscn(make_cosine, fabric, networks=networks, calibrate=True)
    train(method, trusting, range(1))
    draw = method._labelled(trusting).draw(0)
    labels = torch.cat([torch.ones(len(draw.matched)), torch.zeros(len(draw.mismatched))])

    def scores(network):
        return torch.cat([similarity_of_pairs([network.evaluated], some) for some in (draw.matched, draw.mismatched)])

    for network in method._networks:
        before = scores(network)
        network.end_warm_up(draw)
        after = scores(network)
        assert torch.equal(before.argsort(), after.argsort())
        assert after.mean() == pytest.approx(0.5, abs=1e-3)  # as many match as do not
        assert binary_cross_entropy(after, labels) < binary_cross_entropy(before, labels)
        network.end_warm_up(draw)
        equal(scores(network), after)  # once


def test_labelled_pairs_that_do_not_overlap_give_a_finite_calibration(make_cosine, fabric, trusting, monkeypatch):
    network = mscn(make_cosine, fabric, calibrate=True)._networks[0]
    draw = LabelledPairs(trusting.trusted, trusting.pairs, 0, CPU).draw(0)
    scores = iter([torch.full((8,), 0.55), torch.full((8,), 0.45)])
    monkeypatch.setattr(module, "similarity_of_pairs", lambda *_: next(scores))
    before = snapshot(network._head[-1].state_dict())
    network._calibrate(draw)
    scale = (network._head[-1].weight / before["weight"]).mean().item()
    # Log-odds of 0.55 become those of Platt's target for 8 pairs, 9/10.
    assert scale == pytest.approx(torch.tensor(0.9).logit().item() / torch.tensor(0.55).logit().item(), rel=1e-2)


def test_a_network_that_tells_nothing_apart_is_not_calibrated(make_cosine, fabric, trusting):
    network = mscn(make_cosine, fabric, calibrate=True)._networks[0]
    draw = LabelledPairs(trusting.trusted, trusting.pairs, 0, CPU).draw(0)
    swapped = replace(draw, matched=draw.mismatched, mismatched=draw.matched)
    before = snapshot(network._head.state_dict())
    network._calibrate(swapped if _similar(network, draw.matched) > _similar(network, draw.mismatched) else draw)
    equal(dict(network._head.state_dict()), before)


def _similar(network, pairs):
    return similarity_of_pairs([network.evaluated], pairs).mean()


# Trusted pairs, and what happens without.


def test_trusted_pairs_that_cannot_be_used_are_refused_before_the_warm_up(make_cosine, fabric, world, dev_world):
    loaders = Loaders(world.select(torch.arange(4)), 4, 0, CPU, trusted=dev_world)
    with pytest.raises(DataError, match="40 trusted pairs need as many captions"):
        next(iter(mscn(make_cosine, fabric).train_epoch(0, loaders)))


def test_a_plain_head_is_refused(world, vocabulary, fabric):
    config = ModelConfig("sgr", embedding=8, word_size=6, similarity_size=6)
    with pytest.raises(ConfigError, match=r"set model\.head to 'network'"):
        mscn(partial(make_model, config, InputShape.of(world, vocabulary)), fabric)


def test_without_trusted_pairs_the_most_similar_ones_take_their_place_and_the_results_say_so(
    make_cosine, fabric, world
):
    loaders = Loaders(world, 8, 0, CPU)
    method = mscn(make_cosine, fabric, fallback_share=0.2)
    with pytest.warns(UserWarning, match=r"none were given: .* not verified"):
        train(method, loaders, range(1))
    assert method.notes == []
    train(method, loaders, range(1, 2))
    assert len(method.fallback) == 8
    assert len(world.image_of_caption[method.fallback].unique()) == 8  # of different images
    assert method.notes[0].startswith("no trusted pairs were given: the 8 most similar training pairs")
    assert method.confidence(loaders).shape == (40,)


def test_an_oracle_without_trusted_pairs_has_confidence_in_pairs_that_it_did_not_learn(make_cosine, fabric, world):
    method = Mscn(MscnConfig(warmup_epochs=1, purified_epochs=1), make_cosine, 20, fabric)
    half = Loaders(world.select(torch.arange(20, 40)), 8, 0, CPU)
    with pytest.warns(UserWarning, match="none were given"):
        train(method, half)
    learned, everything = (method._labelled(Loaders(pairs, 8, 0, CPU)).trusted for pairs in (half.pairs, world))
    assert learned.caption_ids == half.pairs.select(method.fallback).caption_ids
    most_similar = method._most_similar(world)
    assert everything.caption_ids == world.select(most_similar).caption_ids
    assert method.confidence(Loaders(world, 8, 0, CPU)).shape == (40,)


def test_confidence_is_a_probability_and_draws_nothing(make_cosine, fabric, trusting):
    method = mscn(make_cosine, fabric)
    train(method, trusting)
    before = torch.get_rng_state()
    confidence = method.confidence(trusting)
    assert torch.equal(torch.get_rng_state(), before)
    equal(method.confidence(trusting), confidence)
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_a_purified_set_smaller_than_a_batch_is_filled_up_and_counted(make_cosine, fabric, trusting, monkeypatch):
    method = mscn(make_cosine, fabric)
    posterior = torch.linspace(0, 0.4, 40)
    monkeypatch.setattr(module, "clean_posterior", lambda *_: judgement(posterior))
    chosen = method._purified(0, 1, trusting, method._labelled(trusting).draw(0))
    assert chosen.tolist() == list(range(32, 40))  # a batch of the most believed
    assert method.small_sets == 1
    assert method.notes == [
        "purified sets that were smaller than a batch, and were filled up to 10% of the pairs or a batch: 1"
    ]


@pytest.mark.parametrize(("above", "kept"), [(0.5, 20), (0.75, 10)])
def test_as_much_belief_as_asked_for_is_needed(make_cosine, fabric, trusting, monkeypatch, above, kept):
    method = mscn(make_cosine, fabric, purify_above=above)
    monkeypatch.setattr(module, "clean_posterior", lambda *_: judgement(torch.linspace(0, 1, 40)))
    chosen = method._purified(0, 1, trusting, method._labelled(trusting).draw(0))
    assert chosen.tolist() == list(range(40 - kept, 40))
    assert method.small_sets == 0


def test_a_degenerate_mixture_is_counted_and_equal_trusted_similarities_are_one(
    make_cosine, fabric, trusting, monkeypatch
):
    method = mscn(make_cosine, fabric)
    monkeypatch.setattr(module, "similarity_of_pairs", lambda _, pairs: torch.full((len(pairs),), 0.5))
    method._purified(0, 1, trusting, method._labelled(trusting).draw(0))
    assert method.degenerate_fits == 1
    assert method.notes == ["mixtures that did not show two kinds of pairs: 1"]
    method.confidence(trusting)
    assert method.notes[1:] == [
        "the mixture that confidence is read from did not show two kinds of pairs: do not rely on it"
    ]


@pytest.mark.parametrize(("value", "message"), [(torch.nan, "NaN or infinite"), (1.5, r"are outside \(range 1\.5")])
def test_a_similarity_that_is_none_is_an_error(make_cosine, fabric, trusting, monkeypatch, value, message):
    method = mscn(make_cosine, fabric)
    monkeypatch.setattr(module, "similarity_of_pairs", lambda _, pairs: torch.full((len(pairs),), value))
    with pytest.raises(DataError, match=message):
        method._purified(0, 1, trusting, method._labelled(trusting).draw(0))


# Ablations.


def test_without_meta_steps_the_head_learns_from_the_training_pairs(make_cosine, fabric, trusting):
    method = mscn(make_cosine, fabric, meta_step=False)
    train(method, trusting, range(1))
    head = snapshot(method._networks[0]._head.state_dict())
    logs = train(method, trusting, range(1, 2))
    assert "meta_loss" not in logs[0][0]
    assert not torch.equal(method._networks[0]._head.state_dict()["0.weight"], head["0.weight"])


def test_without_purification_all_pairs_are_learned(make_cosine, fabric, trusting):
    logs = train(mscn(make_cosine, fabric, purify=False), trusting)
    assert {step["kept"] for step in logs[-1]} == {1.0}


def test_one_network_chooses_for_itself(make_cosine, fabric, trusting):
    method = mscn(make_cosine, fabric, networks=1)
    train(method, trusting)
    assert len(method.models) == 1


# Resume.


@pytest.mark.parametrize("done", [1, 2])
def test_it_goes_on_exactly_where_it_stopped(make_cosine, fabric, trusting, done):
    options = {"optimisation": OptimisationConfig(weight_average=0.9, weight_decay=0.0)}
    whole = mscn(make_cosine, fabric, **options)
    train(whole, trusting, range(done))
    state, random = copy.deepcopy(whole.state_dict()), torch.get_rng_state()
    train(whole, trusting, range(done, 3))
    resumed = mscn(make_cosine, fabric, **options)
    resumed.load_state_dict(state)
    torch.set_rng_state(random)
    train(resumed, trusting, range(done, 3))
    for one, other in zip(whole.models, resumed.models, strict=True):
        equal(dict(one.state_dict()), dict(other.state_dict()))
    equal(whole.confidence(trusting), resumed.confidence(trusting))


def test_the_fallback_is_remembered(make_cosine, fabric, world):
    loaders = Loaders(world, 8, 0, CPU)
    method = mscn(make_cosine, fabric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(method, loaders, range(2))
    resumed = mscn(make_cosine, fabric)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(resumed.fallback, method.fallback)
    assert resumed.notes == method.notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, r"method\.margin is 0\.0"),
        ({"meta_batch_size": 1}, r"method\.meta_batch_size is 1"),
        ({"warmup_epochs": 0, "purified_epochs": 0}, "nor both 0"),
        ({"warmup_epochs": -1}, "neither may be negative"),
        ({"fallback_share": 1.0}, r"a share in \(0, 1\)"),
        ({"purify_above": 0.0}, r"method\.purify_above is 0\.0, but it is a share in \(0, 1\)"),
        ({"meta_interval": 0}, r"method\.meta_interval is 0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MscnConfig(**options)


def test_labelled_pairs_are_drawn_anew_every_epoch_and_for_each_network(make_cosine, fabric, trusting):
    labelled = LabelledPairs(trusting.trusted, trusting.pairs, 0, CPU)
    keys = {mscn(make_cosine, fabric)._key(epoch, number) for epoch in range(3) for number in range(2)}
    assert len(keys) == 6
    assert len({tuple(labelled.draw(key).mismatched.image_of_caption.tolist()) for key in keys}) == 6
