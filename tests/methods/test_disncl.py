import copy
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch

from truepair.config import DisnclConfig, ModelConfig, OptimisationConfig, Recipe, TrainingConfig
from truepair.data.batch import Batch
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.errors import ConfigError, TrainingError
from truepair.losses.contrastive import info_nce
from truepair.methods import disncl as module
from truepair.methods.disncl import Disncl, alignment_term, exclusive_terms, matching_term
from truepair.methods.protocol import Method
from truepair.model import InputShape, load_weights, make_model, retrieval_weights
from truepair.optimisation import mean_weights
from truepair.scoring.encodings import similarity_of_pairs
from truepair.scoring.mixtures import Gaussian, Mixture
from truepair.scoring.out_of_sample import Prior

CPU = torch.device("cpu")


@pytest.fixture(params=["cosine", "saf", "sgr"])
def make_coded(request, world, vocabulary):
    config = ModelConfig(request.param, embedding=12, word_size=6, similarity_size=6, codes="shared_and_exclusive")
    return partial(make_model, config, InputShape.of(world, vocabulary))


@pytest.fixture
def make_cosine(world, vocabulary, small):
    return partial(make_model, replace(small, codes="shared_and_exclusive"), InputShape.of(world, vocabulary))


@pytest.fixture
def noisy_loaders(world):
    return Loaders(inject_noise(world, 0.4, 0), 8, 0, CPU)


def disncl(make, fabric, **options):
    torch.manual_seed(0)
    options = {"warmup_epochs": 1, "main_epochs": 2, "critics_from": 1, "adversary_epochs": 0, **options}
    return Disncl(DisnclConfig(**options), make, 40, fabric)


def train(method, loaders, epochs=None):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*collapsed at epoch")  # tiny codes of a tiny world
        return [list(method.train_epoch(epoch, loaders)) for epoch in epochs or range(method.epochs)]


def equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_it_is_a_method(make_cosine, fabric):
    assert isinstance(disncl(make_cosine, fabric), Method)


def test_a_recipe_gives_the_network_its_codes():
    assert Recipe(method=DisnclConfig()).network == replace(ModelConfig(), codes="shared_and_exclusive")
    assert Recipe(method=DisnclConfig(exclusive_branch=False)).network == replace(ModelConfig(), codes="shared")


def test_a_network_without_the_codes_is_refused(make, make_cosine, fabric):
    with pytest.raises(ConfigError, match=r"set model\.codes"):
        disncl(make, fabric)
    with pytest.raises(ConfigError, match=r"set model\.codes"):
        disncl(make_cosine, fabric, exclusive_branch=False)


def test_presets_set_what_keeps_codes_apart():
    weights = {preset: DisnclConfig(preset=preset) for preset in ("paper_like", "cov", "none")}
    assert {name: (config.adversary, config.correlation) for name, config in weights.items()} == {
        "paper_like": (5, 0),
        "cov": (0, 80),
        "none": (0, 0),
    }
    assert DisnclConfig(adversary_weight=0.0, correlation_weight=2.0).correlation == 2
    assert DisnclConfig(adversary_weight=0.0).adversary == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": 0, "main_epochs": 0}, "neither may be negative, nor both 0"),
        ({"temperature": 0.0}, r"method\.temperature is 0\.0, but it must be above 0"),
        ({"balance": 1.5}, r"method\.balance is 1\.5, but it must be in \[0, 1\]"),
        ({"adversary_weight": -1.0}, r"method\.adversary_weight is -1\.0, but it must be at least 0"),
        ({"adversary_epochs": -1}, r"method\.adversary_epochs is -1, but it must be at least 0"),
        ({"critic_steps": -1}, r"method\.critic_steps is -1, but it must be at least 0"),
    ],
)
def test_options_that_cannot_train_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DisnclConfig(**options)


@pytest.mark.parametrize(("preset", "term"), [("paper_like", "adversary"), ("cov", "correlation")])
def test_a_batch_smaller_than_codes_can_be_compared_in_is_refused(preset, term):
    small = TrainingConfig(batch_size=7)
    with pytest.raises(ConfigError, match=rf"training\.batch_size is 7, but the {term} term .* use at least 8"):
        Recipe(method=DisnclConfig(preset=preset), training=small)
    Recipe(method=DisnclConfig(preset="none"), training=small)
    Recipe(method=DisnclConfig(exclusive_branch=False), training=small)


def test_every_backbone_trains(make_coded, fabric, noisy_loaders):
    method = disncl(make_coded, fabric)
    before = copy.deepcopy(method.models[0].state_dict())
    logs = train(method, noisy_loaders)
    assert [len(log) for log in logs] == [5, 5, 5]
    names = {"matching", "reconstruction", "prior", "confidence", "shared_signal_image", "exclusive_signal_text"}
    assert names <= set(logs[0][0])
    assert "alignment" not in logs[0][0]
    assert {"alignment", "adversary", "critic_loss"} <= set(logs[1][0])
    for name, weight in method.models[0].state_dict().items():
        assert weight.isfinite().all(), name
    heads = [name for name in before if "head.network" in name and "weight" in name]
    assert len(heads) == 8
    assert not any(before[name].equal(method.models[0].state_dict()[name]) for name in heads)


# D4: who may move what.


@pytest.fixture
def parts(make_coded, loaders):
    """A network in training mode, a batch, and the codes of it."""
    torch.manual_seed(0)
    model = make_coded()
    batch = next(iter(loaders.train(0)))
    return model, batch


def codes_of(network, batch):
    items = zip(module.MODALITIES, (batch.images, batch.captions), strict=True)
    return {modality: network._codes.of_items(modality, of_modality, batch) for modality, of_modality in items}


def gradients(network, loss):
    """Names of the parameters that a loss moves."""
    network._model.zero_grad()
    loss.backward()
    return {
        name
        for name, weight in network._model.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }


def of_exclusive(network, codes):
    """All of L_X."""
    terms = [
        term
        for modality, critic in network._critics.items()
        for term in exclusive_terms(codes[modality], network._codes.branches[modality], critic, network.config).values()
    ]
    return torch.stack(terms).sum()


def is_shared_head(name):
    return "encoder.head" in name


def is_backbone(name):
    return "encoder.backbone" in name


@pytest.mark.parametrize("detached", [False, True])
def test_exclusive_terms_never_move_shared_heads_and_the_backbone_unless_detached(
    make_coded, fabric, loaders, detached
):
    network = disncl(make_coded, fabric, x_input_detach=detached)._networks[0]
    network._model.train()
    moved = gradients(network, of_exclusive(network, codes_of(network, next(iter(loaders.train(0))))))
    assert not any(map(is_shared_head, moved))
    assert any(map(is_backbone, moved)) != detached
    assert any(name.startswith("exclusive.image.head") for name in moved)
    assert any(name.startswith("exclusive.text.decoder") for name in moved)


def test_coupled_exclusive_terms_do_move_shared_heads(make_coded, fabric, loaders):
    network = disncl(make_coded, fabric, coupled=True)._networks[0]
    network._model.train()
    moved = gradients(network, of_exclusive(network, codes_of(network, next(iter(loaders.train(0))))))
    assert any(map(is_shared_head, moved))


def test_shared_terms_never_move_exclusive_heads(make_coded, fabric, loaders):
    network = disncl(make_coded, fabric)._networks[0]
    network._model.train()
    codes = codes_of(network, next(iter(loaders.train(0))))
    image, text = (codes[modality].shared for modality in module.MODALITIES)
    similarity = network._model.scores.matrix(image.encoding, text.encoding)
    confidence = torch.ones(8)
    loss = matching_term(similarity, image, text, confidence, network.config) + alignment_term(
        image.code, text.code, confidence
    )
    moved = gradients(network, loss)
    assert not any(name.startswith("exclusive") for name in moved)
    assert any(map(is_shared_head, moved))
    assert any(map(is_backbone, moved))


def test_which_caption_belongs_to_which_image_changes_shared_terms_only(make_cosine, fabric, loaders):
    network = disncl(make_cosine, fabric)._networks[0]
    network._model.eval()
    batch = next(iter(loaders.train(0)))
    order = torch.arange(8).roll(1)
    other = Batch(batch.pair, batch.images, batch.captions.rows(order))
    values = []
    for of_pairs in (batch, other):
        torch.manual_seed(0)
        codes = codes_of(network, of_pairs)
        image, text = (codes[modality].shared for modality in module.MODALITIES)
        means = [side.code.mean for side in (image, text)]
        terms = [
            {
                name: term.item()
                for name, term in exclusive_terms(
                    codes[m]._replace(
                        sample=codes[m].exclusive.mean,
                        shared=codes[m].shared._replace(sample=codes[m].shared.code.mean),
                    ),
                    network._codes.branches[m],
                    network._critics[m],
                    network.config,
                ).items()
            }
            for m in module.MODALITIES
        ]
        shared = alignment_term(image.code, text.code, torch.ones(8)).item()
        values.append((terms, shared, means))
    assert values[0][0] == [pytest.approx(terms, rel=1e-4) for terms in values[1][0]]
    assert values[0][1] != pytest.approx(values[1][1], rel=1e-3)


def test_a_pair_that_is_not_believed_is_not_aligned(make_cosine, fabric, loaders):
    network = disncl(make_cosine, fabric)._networks[0]
    codes = codes_of(network, next(iter(loaders.train(0))))
    image, text = codes["image"].shared.code, codes["text"].shared.code
    confidence = torch.tensor([1.0, 0.5, 0.3, 0.0, 0.8, 0.51, 0.49, 0.0])
    each = module.symmetric_divergence(image, text)
    expected = (each[0] + 0.8 * each[4] + 0.51 * each[5]) / 8 / image.mean.shape[1]
    torch.testing.assert_close(alignment_term(image, text, confidence), expected)


# D8: retrieval by the means of shared codes alone.


def test_evaluation_is_the_same_bits_without_exclusive_heads_and_critics(make_coded, fabric, noisy_loaders, world):
    method = disncl(make_coded, fabric)
    train(method, noisy_loaders)
    trained = method.models[0]
    alone = make_coded()
    load_weights(alone, retrieval_weights(trained.state_dict()))
    equal(similarity_of_pairs([alone], world), similarity_of_pairs([trained], world))


# D9: without anything else, InfoNCE.


def test_without_the_rest_it_is_info_nce_of_the_sampled_codes(make_cosine, fabric, loaders):
    options = {"alignment_weight": 0.0, "reconstruction_weight": 0.0, "prior_weight": 0.0, "preset": "none"}
    method = disncl(make_cosine, fabric, smoothing=0.0, filtering=False, **options)
    network = method._networks[0]
    batch = next(iter(loaders.train(0)))
    twin = copy.deepcopy(network._model).train()
    random = torch.get_rng_state()
    log = network.step(batch, torch.ones(8), 0.0)
    torch.set_rng_state(random)
    image, text = twin.image_encoder.codes(batch.images), None
    torch.empty(8, 2).normal_()  # the exclusive code's draw comes between
    text = twin.text_encoder.codes(batch.captions)
    similarity = twin.scores.matrix(image.encoding, text.encoding)
    assert log["loss"] == pytest.approx(info_nce(similarity, 0.05).item() / 2, rel=1e-5)


def test_weights_rise_after_the_warm_up(make_cosine, fabric):
    network = disncl(make_cosine, fabric, warmup_epochs=2, adversary_epochs=4)._networks[0]
    assert [network._weights(epoch)["adversary"] for epoch in (0.0, 1.9, 2.0, 4.0, 6.0, 9.0)] == [
        0,
        0,
        0,
        1.25,
        2.5,
        2.5,
    ]
    assert network._weights(0.0)["reconstruction"] == 5
    assert [network._weights(epoch)["alignment"] for epoch in (1.9, 2.0, 6.0, 10.0, 12.0)] == [0, 0, 0.4, 0.8, 0.8]


def test_a_pair_teaches_as_much_as_it_is_believed(make_cosine, fabric, loaders):
    method = disncl(make_cosine, fabric)
    batch = next(iter(loaders.train(0)))
    similarity, codes = method._networks[0]._codes(batch)
    doubted = torch.ones(8)
    doubted[3] = 0.0
    of_all, of_others = (
        matching_term(similarity, codes["image"].shared, codes["text"].shared, confidence, method.config)
        for confidence in (torch.ones(8), doubted)
    )
    rows = torch.autograd.grad(of_others, similarity, retain_graph=True)[0]
    assert of_others < of_all
    # In both directions, what row 3 (column 3) is compared with is no target: all its slope is of other pairs' losses.
    others = [place for place in range(8) if place != 3]
    assert (rows[3, others] >= 0).all()
    assert (rows[others, 3] >= 0).all()


# Filtering.


def judged(monkeypatch, *scores):
    """Makes every mixture a step at 0, over scores that are given network by network, epoch by epoch."""
    given = iter(scores)

    class Given:
        def __init__(self, *_):
            self.log_odds = next(given)

    monkeypatch.setattr(module, "pair_scores", Given)
    step = Mixture(Gaussian(-1.0, 1e-4), Gaussian(1.0, 1e-4), 0.5, converged=True, iterations=1)
    monkeypatch.setattr(module, "fit_gaussian_mixture", lambda _: step)


def test_confidence_follows_the_first_judgement_at_once_and_later_ones_slowly(
    make_cosine, fabric, loaders, monkeypatch
):
    up, down = torch.ones(40), -torch.ones(40)
    judged(monkeypatch, down, up, up)
    method = disncl(make_cosine, fabric, warmup_epochs=1)
    train(method, loaders, [0])
    assert method.pair_confidence.equal(torch.ones(1, 40))
    expected = 0.0
    for epoch in (1, 2, 3):
        method._judge(epoch, loaders)
        torch.testing.assert_close(method.pair_confidence, torch.full((1, 40), expected), rtol=0, atol=1e-6)
        expected = 0.7 * expected + 0.3


def test_two_networks_filter_for_each_other(make_cosine, fabric, loaders, monkeypatch):
    judged(monkeypatch, torch.ones(40), -torch.ones(40))
    method = disncl(make_cosine, fabric, networks=2, warmup_epochs=0, main_epochs=1, critics_from=9)
    logs = train(method, loaders)[0]
    assert len(method.models) == 2
    assert [log["confidence"] for log in logs] == pytest.approx([0.0] * 5 + [1.0] * 5)


def test_networks_of_the_warm_up_judge_what_they_did_not_learn(make_cosine, fabric, noisy_loaders, monkeypatch):
    learned, judged_by = [], []
    step, prior_of = module._Network.step, module.prior_of

    def stepped(network, batch, *rest):
        learned.append((id(network), batch.pair.tolist()))
        return step(network, batch, *rest)

    def prior(folds, *rest):
        judged_by.extend(folds)
        return prior_of(folds, *rest)

    monkeypatch.setattr(module._Network, "step", stepped)
    monkeypatch.setattr(module, "prior_of", prior)
    method = disncl(make_cosine, fabric, out_of_sample=True)
    halves = [*method._of_halves]
    equal(halves[0].evaluated.state_dict(), halves[1].evaluated.state_dict())
    train(method, noisy_loaders, [0])
    assert [*method.models] == [half.evaluated for half in halves]
    mean = mean_weights(method.models)
    assert method.stage == 0
    image_of = noisy_loaders.pairs.image_of_caption
    learned_by = [{pair for who, pairs in learned if who == id(half) for pair in pairs} for half in halves]
    assert set(range(40)) == learned_by[0] | learned_by[1]
    assert not set(image_of[[*learned_by[0]]].tolist()) & set(image_of[[*learned_by[1]]].tolist())

    started = []
    monkeypatch.setattr(module._Network, "start_from", lambda _, weights: started.append(weights))
    train(method, noisy_loaders, [1])
    equal(started[0], mean)
    assert method.stage == 1
    assert [*method.models] == [method._networks[0].evaluated]
    for fold, half, own in zip(judged_by, halves, learned_by, strict=True):
        assert fold.models == [half.evaluated]
        assert not own & set(fold.pairs.tolist())
    assert "out_of_sample" in method.notes[0]


def test_a_prior_counts_in_the_filter_and_in_the_confidence(make_cosine, fabric, noisy_loaders):
    method = disncl(make_cosine, fabric, out_of_sample=True)
    sure = torch.linspace(-8, 8, 40)
    method.stage, method.prior = 1, Prior(sure.sigmoid(), sure, 0.5, 0, None, ())
    method._judge(1, noisy_loaders)
    for found in (method.pair_confidence[0], method.confidence(noisy_loaders)):
        assert found.mean().item() == pytest.approx(0.5, abs=1e-3)
        assert torch.corrcoef(torch.stack([found, sure]))[0, 1] > 0.8


@pytest.mark.parametrize("options", [{"warmup_epochs": 0}, {"filtering": False}])
def test_halves_without_a_warm_up_or_a_filter_are_refused(options):
    with pytest.raises(ConfigError, match=f"method.out_of_sample .* set method.{next(iter(options))}"):
        DisnclConfig(out_of_sample=True, **options)


def test_too_few_images_for_halves_are_refused(make_cosine, fabric, world):
    few = world.select(torch.arange(len(world))[world.image_of_caption < 5])
    method = Disncl(DisnclConfig(out_of_sample=True), make_cosine, len(few), fabric)
    with pytest.raises(ConfigError, match="2 parts of the images, of at least 3 each, but the training pairs have 5"):
        train(method, Loaders(few, 8, 0, CPU), [0])


def test_without_filtering_every_pair_is_believed(make_cosine, fabric, noisy_loaders):
    method = disncl(make_cosine, fabric, filtering=False)
    train(method, noisy_loaders)
    assert method.pair_confidence.equal(torch.ones(1, 40))


# What goes wrong.


FAST = OptimisationConfig(learning_rate=1e-2)


def test_a_collapse_of_shared_codes_ends_the_run_and_names_the_term(make_cosine, fabric, loaders):
    options = {"warmup_epochs": 0, "main_epochs": 30, "filtering": False, "optimisation": FAST}
    method = disncl(make_cosine, fabric, alignment_weight=1e6, exclusive_branch=True, preset="none", **options)
    with pytest.raises(
        TrainingError,
        match=r"shared codes of the .* side collapsed at epoch .* alignment term .* lower method\.alignment_weight",
    ):
        train(method, loaders)


def test_a_collapse_of_exclusive_codes_is_noted_once_and_names_the_term(make_cosine, fabric, loaders):
    options = {"warmup_epochs": 0, "main_epochs": 8, "filtering": False, "optimisation": FAST}
    method = disncl(make_cosine, fabric, prior_weight=1e4, preset="none", x_input_detach=True, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in range(8):
            list(method.train_epoch(epoch, loaders))
    assert len(caught) == len(method.notes) == 2
    for warning, modality in zip(sorted(str(one.message) for one in caught), ("image", "text"), strict=True):
        assert warning.startswith(f"the exclusive codes of the {modality} side collapsed at epoch ")
        assert "the prior term drives them there; lower method.prior_weight (10000)" in warning
        assert f"network 1: {warning}" in method.notes


def test_a_critic_that_diverges_is_named_with_epoch_and_step_sizes(make_cosine, fabric, loaders):
    method = disncl(make_cosine, fabric, warmup_epochs=0, critics_from=0)
    network = method._networks[0]
    next(network._critics["text"].parameters()).data.fill_(torch.nan)
    before = copy.deepcopy(network._model.state_dict())
    with pytest.raises(
        TrainingError,
        match=r"the critic of the text codes diverged at epoch 0\.00 .* method\.critic_learning_rate \(0\.0001\) or "
        r"method\.optimisation\.learning_rate \(0\.0005 now\); the last checkpoint is intact",
    ):
        network.step(next(iter(loaders.train(0))), torch.ones(8), 0.0)
    weights = network._model.state_dict()
    equal(
        {n: weights[n] for n, _ in network._model.named_parameters()},
        {n: before[n] for n, _ in network._model.named_parameters()},
    )


def test_two_captions_of_one_image_alone_in_a_last_batch_are_no_collapse(small, world, vocabulary, fabric):
    still = replace(small, input_dropout=0.0, region_dropping=0.0, codes="shared_and_exclusive")
    method = disncl(partial(make_model, still, InputShape.of(world, vocabulary)), fabric, warmup_epochs=0)
    pair = next(Loaders(world.select(torch.tensor([0, 1])), 2, 0, CPU).train(0))
    network = method._networks[0]
    network._model.train()
    assert module.signal(network._model.image_encoder.codes(pair.images).code) < 1e-6
    network.step(pair, torch.ones(2), 0.0)
    assert method.notes == []


def test_a_last_batch_that_is_too_small_leaves_codes_uncompared(make_cosine, fabric, world):
    method = disncl(make_cosine, fabric, warmup_epochs=0, critics_from=0)
    logs = train(method, Loaders(world, 12, 0, CPU), [0])[0]  # 12, 12, 12 and 4
    assert ["adversary" in log for log in logs] == [True, True, True, False]
    assert "reconstruction" in logs[-1]


# State.


@pytest.mark.parametrize("done", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"networks": 2},
        {"preset": "cov"},
        {"exclusive_branch": False},
        {"out_of_sample": True},
        {"out_of_sample": True, "networks": 2},
    ],
)
def test_it_resumes_to_the_same_bits(world, vocabulary, small, fabric, noisy_loaders, options, done):
    codes = "shared" if options.get("exclusive_branch") is False else "shared_and_exclusive"
    make = partial(make_model, replace(small, codes=codes), InputShape.of(world, vocabulary))
    whole = disncl(make, fabric, **options)
    train(whole, noisy_loaders, [0, 1][:done])
    saved, random = copy.deepcopy(whole.state_dict()), torch.get_rng_state()
    train(whole, noisy_loaders, [1, 2][done - 1 :])
    resumed = disncl(make, fabric, **options)
    resumed.load_state_dict(saved)
    torch.set_rng_state(random)
    train(resumed, noisy_loaders, [1, 2][done - 1 :])
    for one, other in zip(whole.models, resumed.models, strict=True):
        equal(one.state_dict(), other.state_dict())
    equal(whole.pair_confidence, resumed.pair_confidence)
    for one, other in zip(whole._networks, resumed._networks, strict=True):
        for modality, critic in one._critics.items():
            equal(critic.state_dict(), other._critics[modality].state_dict())


def test_confidence_is_a_probability_and_draws_nothing(make_cosine, fabric, noisy_loaders):
    method = disncl(make_cosine, fabric)
    train(method, noisy_loaders)
    random = torch.get_rng_state()
    confidence = method.confidence(noisy_loaders)
    assert torch.get_rng_state().equal(random)
    assert confidence.shape == (40,)
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_the_variant_says_that_it_is_one(make_cosine, fabric):
    assert disncl(make_cosine, fabric).notes == []
    assert "variant of truepair's" in disncl(make_cosine, fabric, preset="cov").notes[0]
