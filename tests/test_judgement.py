import math
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from truepair import judgement as module
from truepair.config import ModelConfig, OptimisationConfig
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.data.synthetic import latent_factor_pairs
from truepair.judgement import Evidence, belief_at, evidence_for, judged, judgement_of, neighbour_evidence
from truepair.losses.contrastive import info_nce
from truepair.model import InputShape, make_model
from truepair.optimisation import Optimiser

CPU = torch.device("cpu")


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def by_hand(image, caption, of_image, of_caption, excluded, k):
    """Of one model and one pair."""
    allowed = [w for w in range(len(of_image)) if not excluded[w]]
    result = 0.0
    for own, likes, other, answers in ((image, of_image, caption, of_caption), (caption, of_caption, image, of_image)):
        nearest = sorted(allowed, key=lambda w: -float(likes[w] @ own))[:k]
        if nearest:
            result += sum(float(answers[w] @ other) for w in nearest) / len(nearest)
    return result


@pytest.mark.parametrize("k", [1, 3, 50])
def test_neighbours_speak_as_written_out(k):
    images, captions = [unit(6, 4), unit(6, 5, seed=1)], [unit(6, 4, seed=2), unit(6, 5, seed=3)]
    witnesses = ([unit(8, 4, seed=4), unit(8, 5, seed=5)], [unit(8, 4, seed=6), unit(8, 5, seed=7)])
    excluded = torch.rand(6, 8, generator=torch.Generator().manual_seed(8)) < 0.3
    excluded[5] = True  # nobody is left to ask
    expected = [
        sum(by_hand(images[m][p], captions[m][p], witnesses[0][m], witnesses[1][m], excluded[p], k) for m in range(2))
        / 2
        for p in range(6)
    ]
    assert expected[5] == 0
    torch.testing.assert_close(neighbour_evidence(images, captions, witnesses, excluded, k), torch.tensor(expected))


def evidence(matching=700, mismatched=300, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def scores(high, low, spread):
        return torch.cat(
            [
                high + spread * torch.randn(matching, generator=generator),
                spread * torch.randn(mismatched, generator=generator) + low,
            ]
        )

    own, neighbours = scores(1.0, 0.2, 0.1), scores(0.8, 0.0, 0.15)
    return Evidence(
        own, neighbours, 0.1 * torch.randn(500, generator=generator), 0.15 * torch.randn(500, generator=generator)
    )


def share_above(scores, of_random):
    """Pair by pair."""
    wins = [float(s > r) + 0.5 * float(s == r) for s in scores.tolist() for r in of_random.tolist()]
    return sum(wins) / len(wins)


def test_ties_count_half_in_the_share_above_random_pairs():
    scores, of_random = torch.tensor([0.0, 1.0, 1.0, 2.0, 5.0]), torch.tensor([3.0, 1.0, 1.0, 0.0])
    assert module._share_above(scores, of_random) == pytest.approx(share_above(scores, of_random))
    assert module._share_above(of_random, of_random) == 0.5


def test_the_neighbours_tell_the_rate_and_both_tell_the_pairs():
    judgement = judgement_of(evidence())
    assert judgement.noise_rate == pytest.approx(0.3, abs=0.01)
    assert judgement.belief.mean() == pytest.approx(1 - judgement.noise_rate, abs=1e-4)
    assert judgement.belief[:700].min() > 0.5 > judgement.belief[700:].max()
    assert not judgement.warnings


def test_scores_like_those_of_random_pairs_are_no_judgement():
    one = evidence(matching=0, mismatched=1000)
    judgement = judgement_of(one, warnings=("before",))
    assert (judgement.belief == 0.5).all()
    assert judgement.warnings[0] == "before"
    assert judgement.noise_rate == 0.5
    said = r"nothing consistent was learned: .* in (\d+\.\d)% of cases \(chance: 50 %, needed: (\d+\.\d)%\)"
    share, needed = (float(figure) for figure in re.search(said, judgement.warnings[1]).groups())
    assert share == pytest.approx(100 * share_above(one.neighbours, one.random_neighbours), abs=0.06)
    assert needed == pytest.approx(100 * (0.5 + 5 * math.sqrt((1 / 1000 + 1 / 500) / 12)), abs=0.06)
    assert share < needed


def test_all_pairs_alike_are_believed_without_a_warning():
    judgement = judgement_of(evidence(matching=1000, mismatched=0))
    assert judgement.noise_rate == 0.005
    assert judgement.belief.mean().item() == pytest.approx(0.995, abs=1e-4)
    assert not judgement.warnings


def test_scores_below_those_of_random_pairs_are_said_and_no_pair_doubted():
    one = evidence()
    judgement = judgement_of(replace(one, own=-2 * one.neighbours - 1.0))
    assert (judgement.belief == 1).all()
    assert "are no higher than those of random pairs (mean" in judgement.warnings[0]


def test_evidence_of_one_kind_gives_an_upper_bound_of_the_rate():
    generator = torch.Generator().manual_seed(0)
    one = evidence()
    low, high = 0.1 * torch.randn(1500, generator=generator) - 1, 0.1 * torch.randn(500, generator=generator) + 4
    neighbours = 0.1 * torch.randn(1000, generator=generator)  # above three quarters of the random ones
    odd = replace(
        one,
        neighbours=neighbours,
        random_neighbours=torch.cat([low, high]),
        random_own=0.1 * torch.randn(2000, generator=generator) - 1,
    )
    judgement = judgement_of(odd)
    assert judgement.noise_rate == pytest.approx(0.5, abs=1e-4)
    assert judgement.belief.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert "noise rate of 50% is an upper bound" in judgement.warnings[0]


@pytest.mark.parametrize("rate", [0.01, 0.4, 0.95])
def test_belief_has_the_slope_written_out_and_the_mean_that_the_rate_says(rate):
    generator = torch.Generator().manual_seed(0)
    scores = 0.5 + 0.5 * torch.randn(2000, generator=generator)
    random_scores = 0.3 * torch.randn(300, generator=generator)
    belief = belief_at(rate, scores, random_scores).double()
    assert belief.mean().item() == pytest.approx(1 - rate, abs=1e-5)
    clean = (scores.mean() - rate * random_scores.mean()) / (1 - rate)
    slope = (clean - random_scores.mean()) / (2 * random_scores.var())
    inner = (belief > 0.01) & (belief < 0.99)
    assert inner.sum() > 10
    intercepts = (belief.logit() - slope * scores)[inner]
    torch.testing.assert_close(intercepts, intercepts.mean().expand_as(intercepts), atol=1e-3, rtol=0)


def model_and_pairs(count, captions=None):
    pairs = latent_factor_pairs(count, world_seed=0, draw_seed=1).pairs
    if captions is not None:
        pairs = replace(pairs, captions=captions)
    torch.manual_seed(0)
    return partial(make_model, ModelConfig(embedding=8), InputShape.of(pairs, None))(), pairs


def test_few_pairs_and_shared_captions_are_said_with_figures():
    model, pairs = model_and_pairs(100, ["the same"] * 60 + [f"caption {i}" for i in range(40)])
    few, shared = judged([model], pairs, 0.05, 0).warnings[:2]
    assert "100 training pairs" in few
    assert "60 of 100 pairs have the same caption ('the same')" in shared


def test_pairs_of_three_images_cannot_be_compared():
    model, pairs = model_and_pairs(3)
    judgement = judged([model], pairs, 0.05, 0)
    assert (judgement.belief == 1).all()
    assert "pairs of 3 images" in judgement.warnings[0]


@pytest.mark.parametrize(
    ("pairs", "times", "figures"),
    [(300, 20, None), (300, 21, "21 of 300"), (4000, 40, None), (4000, 41, "41 of 4,000")],
)
def test_a_caption_is_shared_by_many_above_twenty_and_a_hundredth(pairs, times, figures):
    captions = ["shared"] * times + [f"caption {i}" for i in range(pairs - times)]
    told = module._warnings_about(
        replace(latent_factor_pairs(pairs, world_seed=0, draw_seed=1).pairs, captions=captions)
    )
    if figures is None:
        assert not told
    else:
        assert len(told) == 1
        assert f"{figures} pairs have the same caption ('shared')" in told[0]


@pytest.mark.parametrize(("pairs", "warned"), [(199, True), (200, False)])
def test_two_hundred_pairs_are_enough(pairs, warned):
    told = module._warnings_about(latent_factor_pairs(pairs, world_seed=0, draw_seed=1).pairs)
    assert [f"{pairs} training pairs" in each for each in told] == [True] * warned


@pytest.fixture(scope="module")
def trained():
    """Two models that learned from 400 pairs of which 30 % do not match, and these."""
    pairs = inject_noise(latent_factor_pairs(400, world_seed=0, draw_seed=1).pairs, 0.3, 0)
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        fabric = Fabric(accelerator="cpu", devices=1)
        network = make_model(ModelConfig(embedding=16), InputShape.of(pairs, None))
        optimiser, loaders = (
            Optimiser(network, OptimisationConfig(learning_rate=3e-3), 4, fabric),
            Loaders(pairs, 32, seed, CPU),
        )
        for epoch in range(4):
            for batch in loaders.train(epoch):
                optimiser.step(info_nce(optimiser.model(batch), 0.05), float(epoch))
        models.append(network)
    return models, pairs


def test_a_judgement_is_a_function_of_its_seed_and_leaves_everything_else_as_it_was(trained):
    models, pairs = trained
    models[0].train()
    models[1].eval()
    before = torch.get_rng_state()
    first, again, other = (judged(models, pairs, 0.05, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert [model.training for model in models] == [True, False]
    assert first.belief.std() > 0.1
    assert torch.equal(first.belief, again.belief)
    assert not torch.equal(first.belief, other.belief)
    assert (first.belief - other.belief).abs().mean() < 0.05
    assert first.noise_rate == pytest.approx(0.3, abs=0.1)
    assert not first.warnings
    assert first.belief[pairs.is_clean].mean() - first.belief[~pairs.is_clean].mean() > 0.3


def test_witnesses_are_of_different_images_and_mostly_match(trained):
    models, pairs = trained
    candidates = module._candidates(pairs, np.random.default_rng(0))
    witnesses = module._witnesses(models, pairs, candidates)
    for chosen in (candidates, witnesses):
        images = pairs.image_of_caption[chosen]
        assert len(images.unique()) == len(images) > 100
    assert len(candidates) == len(pairs.image_of_caption.unique())
    assert set(witnesses.tolist()) < set(candidates.tolist())
    share = pairs.is_clean[witnesses].double().mean()
    assert share > pairs.is_clean[candidates].double().mean() + 0.1


def several_captions_an_image(trained):
    """Sixty of the pairs, every third with the image of the one before, and witnesses among them."""
    models, pairs = trained
    image = torch.tensor([i - (i % 3 == 2) for i in range(60)])
    few = replace(pairs.select(torch.arange(60)), image_of_caption=image, true_image_of_caption=None)
    witness = torch.tensor([2, 6, 11, 15, 18, 21, 24, 30, 35, 42, 45, 50, 54, 57])
    assert len(image[witness].unique()) == len(witness)  # of images that have one or two captions
    return models, few, witness, torch.tensor([0, 3, 9, 21, 33, 57])


def evidence_by_hand(models, pairs, image, caption, witness, excluded_images, tau, k, asked_too=()):
    """Of one caption with one image: what speaks for the couple itself, and the neighbours."""
    allowed = [w for w in witness if int(pairs.image_of_caption[w]) not in excluded_images or w in asked_too]
    with torch.no_grad():
        encoded = [
            (
                model.eval().image_encoder(pairs.images.take(torch.arange(len(pairs.images)))).values,
                model.text_encoder(pairs.caption_inputs.take(torch.arange(len(pairs)))).values,
            )
            for model in models
        ]

    def similarity(i, c):
        return sum(float(images[i] @ captions[c]) for images, captions in encoded) / len(encoded)

    rows, columns = ([int(pairs.image_of_caption[w]) for w in allowed], allowed)
    own = similarity(image, caption)
    for rivals in ([(image, c) for c in columns], [(i, caption) for i in rows]):
        own -= tau / 2 * math.log(sum(math.exp(similarity(*rival) / tau) for rival in rivals))
    neighbours = sum(
        by_hand(images[image], captions[caption], images[rows], captions[columns], [False] * len(rows), k)
        for images, captions in encoded
    )
    return own, neighbours / len(encoded)


@pytest.mark.parametrize("at_a_time", [7, 1024])
def test_evidence_is_that_written_out_pair_by_pair(trained, monkeypatch, at_a_time):
    monkeypatch.setattr(module, "_PAIRS_AT_A_TIME", at_a_time)
    models, pairs, witness, strangers = several_captions_an_image(trained)
    evidence = evidence_for(models, pairs, witness, strangers, 0.2, np.random.default_rng(3))
    image_of = pairs.image_of_caption.tolist()
    found = [
        evidence_by_hand(models, pairs, image_of[p], p, witness.tolist(), {image_of[p]}, 0.2, 10) for p in range(60)
    ]
    own, neighbours = (torch.tensor(each) for each in zip(*found, strict=True))
    torch.testing.assert_close(evidence.own, own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(evidence.neighbours, neighbours, rtol=1e-4, atol=1e-5)

    generator, found = np.random.default_rng(3), []
    for block in pairs.image_of_caption.argsort(stable=True).split(at_a_time):
        for p, drawn in zip(block.tolist(), generator.integers(6, size=len(block)).tolist(), strict=True):
            place = drawn if int(strangers[drawn]) != image_of[p] else (drawn + 1) % 6
            image = int(strangers[place])
            assert image != image_of[p]
            found.append(evidence_by_hand(models, pairs, image, p, witness.tolist(), {image, image_of[p]}, 0.2, 10))
    own, neighbours = (torch.tensor(each) for each in zip(*found, strict=True))
    torch.testing.assert_close(evidence.random_own, own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(evidence.random_neighbours, neighbours, rtol=1e-4, atol=1e-5)


def test_no_caption_of_its_own_image_speaks_for_a_pair(trained):
    models, pairs, witness, strangers = several_captions_an_image(trained)
    with_own = evidence_for(models, pairs, witness, strangers, 0.2, np.random.default_rng(0))
    kept = [w for w in witness.tolist() if w != 11]  # of image 10, as is pair 10
    without = evidence_for(models, pairs, torch.tensor(kept), strangers, 0.2, np.random.default_rng(0))
    of_image = pairs.image_of_caption == 10
    assert of_image.nonzero().flatten().tolist() == [10, 11]
    for name in ("own", "neighbours"):
        one, other = getattr(with_own, name), getattr(without, name)
        torch.testing.assert_close(one[of_image], other[of_image])
        assert not torch.isclose(one[~of_image], other[~of_image]).all()
    # Asked all the same, they would have spoken for it.
    arguments = (models, pairs, 10, 10, witness.tolist(), {10}, 0.2, 10)
    asked, not_asked = evidence_by_hand(*arguments, asked_too=(11,)), evidence_by_hand(*arguments)
    assert abs(asked[0] - not_asked[0]) > 0.01
    assert abs(asked[1] - not_asked[1]) > 0.01


@pytest.mark.parametrize("similarity", ["saf", "sgr"])
def test_regions_and_words_are_judged_too(world, vocabulary, similarity):
    torch.manual_seed(0)
    config = ModelConfig(similarity, embedding=8, word_size=6, similarity_size=5)
    model = make_model(config, InputShape.of(world, vocabulary))
    witness, strangers = torch.arange(0, 40, 2), torch.arange(20)
    evidence = evidence_for([model], world, witness, strangers, 0.05, np.random.default_rng(0))
    for scores in (evidence.own, evidence.neighbours, evidence.random_own, evidence.random_neighbours):
        assert scores.shape == (40,)
        assert scores.isfinite().all()
        assert scores.std() > 0
    assert max(evidence.neighbours.abs().max(), evidence.random_neighbours.abs().max()) <= 2
