import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from latent_factors import latent_factor_pairs
from moved_captions import moved_captions
from one_space import zero_shot

from truepair.config import BaselineConfig, CrclConfig, ModelConfig
from truepair.data.loader import Loaders
from truepair.methods.baseline import Baseline
from truepair.methods.crcl import Crcl
from truepair.model import InputShape, make_model
from truepair.scoring import confidence
from truepair.scoring.confidence import (
    confidence_against_random_pairs,
    confidence_at,
    confidence_from,
    confidence_of_two_components,
    estimated_confidence,
    in_sample_features,
    in_sample_scores,
    pair_scores,
    shifted_to_mean,
    warnings_about,
)
from truepair.scoring.log_odds import Scores
from truepair.scoring.noise_rate import share_above
from truepair.scoring.pair_features import PairFeatures

TEMPERATURE = 0.05


@pytest.fixture
def model(make):
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("estimate", [confidence_against_random_pairs, confidence_of_two_components])
def test_confidence_is_in_0_1_and_rises_with_the_log_odds(model, loaders, estimate):
    scores = pair_scores([model], loaders, TEMPERATURE)
    confidence = estimate([model], loaders, TEMPERATURE).confidence
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    assert (confidence[scores.log_odds.argsort()].diff() >= 0).all()


@pytest.mark.parametrize("estimate", [confidence_against_random_pairs, confidence_of_two_components])
@pytest.mark.parametrize("seed", range(4))
def test_pairs_that_score_like_random_pairs_have_no_confidence(model, loaders, estimate, seed, monkeypatch):
    draw = partial(torch.randn, 3000, generator=torch.Generator().manual_seed(seed))
    monkeypatch.setattr(confidence, "pair_scores", lambda *given: Scores(draw(), draw(), draw()))
    found = estimate([model], loaders, TEMPERATURE)
    assert (found.confidence == 0.5).all()
    assert re.search(
        "nothing consistent was learned: pairs are more plausible than random pairs in", found.warnings[-1]
    )


@pytest.mark.parametrize("estimate", [confidence_against_random_pairs, confidence_of_two_components])
@pytest.mark.parametrize("images", [1, 2, 3])
def test_so_few_images_cannot_be_compared(make, loaders, estimate, images):
    few = loaders.pairs.select((loaders.pairs.image_of_caption < images).nonzero().flatten())
    found = estimate([make()], Loaders(few, 2, 0, torch.device("cpu")), TEMPERATURE)
    assert (found.confidence == 1).all()
    assert found.warnings == (f"there are pairs of {images} images, too few to compare them: every confidence is 1",)


@pytest.mark.parametrize("method", [(Baseline, BaselineConfig()), (Crcl, CrclConfig())], ids=["baseline", "crcl"])
def test_reading_confidence_draws_no_random_number_and_changes_no_state(make, fabric, loaders, method):
    kind, config = method
    torch.manual_seed(0)
    trained = kind(config, make, 40, fabric)
    list(trained.train_epoch(0, loaders))
    state = {name: value.clone() for name, value in trained.models[0].state_dict().items()}
    random = torch.random.get_rng_state()
    first = trained.confidence(loaders)
    assert torch.equal(trained.confidence(loaders), first)
    assert torch.equal(torch.random.get_rng_state(), random)
    torch.testing.assert_close(trained.models[0].state_dict(), state, rtol=0, atol=0)


def features(matching=700, mismatched=300, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def scores(high, low, spread):
        return torch.cat(
            [
                high + spread * torch.randn(matching, generator=generator),
                spread * torch.randn(mismatched, generator=generator) + low,
            ]
        )

    log_odds, agreement = scores(1.0, 0.2, 0.1), scores(0.8, 0.0, 0.15)
    random_log_odds, random_agreement = torch.randn(500, generator=generator), torch.randn(500, generator=generator)
    return PairFeatures(columns(log_odds, agreement), columns(0.1 * random_log_odds, 0.15 * random_agreement))


def columns(log_odds, agreement):
    """Features whose two sides are equal."""
    return torch.stack([torch.zeros_like(log_odds), log_odds, log_odds, agreement / 2, agreement / 2], dim=1)


def test_neighbour_agreement_tells_the_rate_and_both_features_tell_the_pairs():
    found = confidence_from(features())
    assert found.noise_rate == pytest.approx(0.3, abs=0.03)  # its standard error: 150 pairs, 250 random ones below
    assert found.confidence.mean() == pytest.approx(1 - found.noise_rate, abs=1e-4)
    assert found.confidence[:700].min() > found.confidence[700:].max(), "all are told apart"
    is_right = (found.confidence > 0.5) == (torch.arange(1000) < 700)
    assert is_right.double().mean() > 0.97, "but for the error of the rate"
    assert not found.warnings


def test_pairs_like_random_pairs_get_the_confidence_one_half_and_a_warning_with_the_figures():
    one = features(matching=0, mismatched=1000)
    found = confidence_from(one, warnings=("before",))
    assert (found.confidence == 0.5).all()
    assert found.warnings[0] == "before"
    assert found.noise_rate == 0.5
    said = r"nothing consistent was learned: .* in (\d+\.\d) % of comparisons \(chance is 50 %, needed: (\d+\.\d) %\)"
    share, needed = (float(figure) for figure in re.search(said, found.warnings[1]).groups())
    assert share == pytest.approx(100 * share_above(one.agreement, one.random_agreement), abs=0.06)
    assert needed == pytest.approx(100 * (0.5 + 5 * math.sqrt((1 / 1000 + 1 / 500) / 12)), abs=0.06)
    assert share < needed


def test_all_pairs_alike_have_a_high_confidence_without_a_warning():
    found = confidence_from(features(matching=1000, mismatched=0))
    assert found.noise_rate == 0.005
    assert found.confidence.mean().item() == pytest.approx(0.995, abs=1e-4)
    assert not found.warnings


def test_scores_below_those_of_random_pairs_are_said_and_every_confidence_is_1():
    one = features()
    found = confidence_from(replace(one, pairs=columns(-2 * one.agreement - 1.0, one.agreement)))
    assert (found.confidence == 1).all()
    assert "are no higher than those of random pairs (mean" in found.warnings[0]


@pytest.mark.parametrize("rate", [0.01, 0.4, 0.95])
def test_confidence_has_the_slope_written_out_and_the_mean_that_the_rate_says(rate):
    generator = torch.Generator().manual_seed(0)
    scores = 0.5 + 0.5 * torch.randn(2000, generator=generator)
    random_scores = 0.3 * torch.randn(300, generator=generator)
    confidence = confidence_at(rate, scores, random_scores).double()
    assert confidence.mean().item() == pytest.approx(1 - rate, abs=1e-5)
    clean = (scores.mean() - rate * random_scores.mean()) / (1 - rate)
    slope = (clean - random_scores.mean()) / (2 * random_scores.var())
    inner = (confidence > 0.01) & (confidence < 0.99)
    assert inner.sum() > 10
    intercepts = (confidence.logit() - slope * scores)[inner]
    torch.testing.assert_close(intercepts, intercepts.mean().expand_as(intercepts), atol=1e-3, rtol=0)


@pytest.mark.parametrize("mean", [0.005, 0.3, 0.6, 0.995])
@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0, 1000.0])
def test_log_odds_are_shifted_by_one_amount_to_any_mean(mean, spread):
    log_odds = spread * torch.randn(4001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = shifted_to_mean(log_odds, mean)
    assert found.mean().item() == pytest.approx(mean, abs=1e-9)
    assert (found[log_odds.argsort()].diff() >= 0).all()
    inner = (found > 1e-6) & (found < 1 - 1e-6)
    shift = (found.logit() - log_odds)[inner]
    assert inner.any()
    torch.testing.assert_close(shift, shift.mean().expand_as(shift), atol=1e-6, rtol=0)
    torch.testing.assert_close(shifted_to_mean(log_odds + 17, mean), found, atol=1e-9, rtol=0)


def test_a_shift_of_nothing_leaves_probabilities_as_they_are():
    log_odds = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(shifted_to_mean(log_odds, log_odds.sigmoid().mean().item()), log_odds.sigmoid())


def model_and_pairs(count, captions=None):
    pairs = latent_factor_pairs(count, world_seed=0, draw_seed=1).pairs
    if captions is not None:
        pairs = replace(pairs, captions=captions)
    torch.manual_seed(0)
    return partial(make_model, ModelConfig(embedding=8), InputShape.of(pairs, None))(), pairs


def test_few_pairs_and_shared_captions_are_said_with_figures():
    model, pairs = model_and_pairs(100, ["the same"] * 60 + [f"caption {i}" for i in range(40)])
    few, shared = estimated_confidence([model], pairs, 0.05, 0).warnings[:2]
    assert "100 pairs" in few
    assert "60 of 100 pairs have the same caption ('the same')" in shared


def test_pairs_of_three_images_cannot_be_compared():
    model, pairs = model_and_pairs(3)
    found = estimated_confidence([model], pairs, 0.05, 0)
    assert (found.confidence == 1).all()
    assert "pairs of 3 images" in found.warnings[0]


@pytest.mark.parametrize(
    ("pairs", "times", "figures"),
    [(300, 20, None), (300, 21, "21 of 300"), (4000, 40, None), (4000, 41, "41 of 4,000")],
)
def test_a_caption_is_shared_by_many_above_twenty_and_a_hundredth(pairs, times, figures):
    captions = ["shared"] * times + [f"caption {i}" for i in range(pairs - times)]
    told = warnings_about(replace(latent_factor_pairs(pairs, world_seed=0, draw_seed=1).pairs, captions=captions))
    if figures is None:
        assert not told
    else:
        assert len(told) == 1
        assert f"{figures} pairs have the same caption ('shared')" in told[0]


@pytest.mark.parametrize(("pairs", "warned"), [(199, True), (200, False)])
def test_two_hundred_pairs_are_enough(pairs, warned):
    told = warnings_about(latent_factor_pairs(pairs, world_seed=0, draw_seed=1).pairs)
    assert [f"{pairs} pairs" in each for each in told] == [True] * warned


def test_confidence_is_a_function_of_its_seed_and_leaves_everything_else_as_it_was(trained):
    models, pairs = trained
    models[0].train()
    models[1].eval()
    before = torch.get_rng_state()
    first, again, other = (estimated_confidence(models, pairs, 0.05, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert [model.training for model in models] == [True, False]
    assert first.confidence.std() > 0.1
    assert torch.equal(first.confidence, again.confidence)
    assert not torch.equal(first.confidence, other.confidence)
    assert (first.confidence - other.confidence).abs().mean() < 0.1
    assert not first.warnings
    assert first.confidence[pairs.is_clean].mean() - first.confidence[~pairs.is_clean].mean() > 0.15


def test_pairs_that_models_learned_by_heart_make_the_rate_low_but_not_none(trained):
    """Of 400 pairs, 30 % do not match, and four epochs have lifted these above random pairs a little."""
    models, pairs = trained
    rates = [estimated_confidence(models, pairs, 0.05, seed).noise_rate for seed in range(5)]
    assert min(rates) > 0.1
    assert max(rates) < 0.4


def test_another_key_draws_other_pairs_and_the_same_key_the_same():
    pairs = moved_captions(1500, 1, "captions")  # more than are reference pairs
    models = zero_shot(pairs)[0].models
    first, again, other, third = (in_sample_features(models, pairs, 0.05, 0, *key) for key in ((), (), (1,), (1, 2)))
    assert torch.equal(first.pairs, again.pairs)
    assert torch.equal(first.random, again.random)
    torch.testing.assert_close(first.pairs[:, 0], other.pairs[:, 0])  # similarities need no other pair
    assert not torch.allclose(first.pairs[:, 1:], other.pairs[:, 1:])
    assert not torch.allclose(other.random, third.random)
    one, same, another = (estimated_confidence(models, pairs, 0.05, 0, key).confidence for key in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, another)
    expected = confidence_from(other)
    assert torch.equal(one, expected.confidence)


def test_scores_of_learned_pairs_are_log_odds_and_three_tenths_of_the_agreement(trained):
    models, pairs = trained
    found = in_sample_features(models, pairs, 0.05, 0)
    for side, scores in zip((found.pairs, found.random), in_sample_scores(found), strict=True):
        expected = [(row[1] + row[2]) / 2 + 0.3 * (row[3] + row[4]) for row in side.tolist()]
        torch.testing.assert_close(scores, torch.tensor(expected))
