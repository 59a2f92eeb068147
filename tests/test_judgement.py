from dataclasses import replace
from functools import partial

import pytest
import torch

from truepair.config import ModelConfig
from truepair.data.synthetic import latent_factor_pairs
from truepair.judgement import Evidence, belief_at, judged, judgement_of, neighbour_evidence
from truepair.model import InputShape, make_model


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
    assert "nothing consistent was learned" in judgement.warnings[1]
    assert "5" in judgement.warnings[1]


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


def test_a_judgement_is_a_function_of_its_seed():
    model, pairs = model_and_pairs(300)
    first, again = judged([model], pairs, 0.05, 0), judged([model], pairs, 0.05, 0)
    assert torch.equal(first.belief, again.belief)
