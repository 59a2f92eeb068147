import math
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from truepair.config import ModelConfig
from truepair.data.synthetic import latent_factor_pairs
from truepair.model import InputShape, make_model
from truepair.scoring import judgement as module
from truepair.scoring.evidence import Evidence
from truepair.scoring.judgement import belief_at, judged, judgement_of

CPU = torch.device("cpu")


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


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
    random_own, random_neighbours = torch.randn(500, generator=generator), torch.randn(500, generator=generator)
    return Evidence(columns(own, neighbours), columns(0.1 * random_own, 0.15 * random_neighbours))


def columns(own, neighbours):
    """Evidence whose sides say the same."""
    return torch.stack([torch.zeros_like(own), own, own, neighbours / 2, neighbours / 2], dim=1)


def share_above(scores, of_random):
    """Pair by pair."""
    wins = [float(s > r) + 0.5 * float(s == r) for s in scores.tolist() for r in of_random.tolist()]
    return sum(wins) / len(wins)


def test_ties_count_half_in_theshare_above_random_pairs():
    scores, of_random = torch.tensor([0.0, 1.0, 1.0, 2.0, 5.0]), torch.tensor([3.0, 1.0, 1.0, 0.0])
    assert module.share_above(scores, of_random) == pytest.approx(share_above(scores, of_random))
    assert module.share_above(of_random, of_random) == 0.5


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
    judgement = judgement_of(replace(one, pairs=columns(-2 * one.neighbours - 1.0, one.neighbours)))
    assert (judgement.belief == 1).all()
    assert "are no higher than those of random pairs (mean" in judgement.warnings[0]


def test_evidence_of_one_kind_gives_an_upper_bound_of_the_rate():
    generator = torch.Generator().manual_seed(0)
    one = evidence()
    low, high = 0.1 * torch.randn(1500, generator=generator) - 1, 0.1 * torch.randn(500, generator=generator) + 4
    neighbours = 0.1 * torch.randn(1000, generator=generator)  # above three quarters of the random ones
    random_own = 0.1 * torch.randn(2000, generator=generator) - 1
    odd = Evidence(columns(one.own, neighbours), columns(random_own, torch.cat([low, high])))
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
    told = module.warnings_about(
        replace(latent_factor_pairs(pairs, world_seed=0, draw_seed=1).pairs, captions=captions)
    )
    if figures is None:
        assert not told
    else:
        assert len(told) == 1
        assert f"{figures} pairs have the same caption ('shared')" in told[0]


@pytest.mark.parametrize(("pairs", "warned"), [(199, True), (200, False)])
def test_two_hundred_pairs_are_enough(pairs, warned):
    told = module.warnings_about(latent_factor_pairs(pairs, world_seed=0, draw_seed=1).pairs)
    assert [f"{pairs} training pairs" in each for each in told] == [True] * warned


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
    candidates = module.possible_witnesses(pairs, np.random.default_rng(0))
    witnesses = module.witnesses_among(models, pairs, candidates)
    for chosen in (candidates, witnesses):
        images = pairs.image_of_caption[chosen]
        assert len(images.unique()) == len(images) > 100
    assert len(candidates) == len(pairs.image_of_caption.unique())
    assert set(witnesses.tolist()) < set(candidates.tolist())
    share = pairs.is_clean[witnesses].double().mean()
    assert share > pairs.is_clean[candidates].double().mean() + 0.1
