import math

import pytest
import torch
from jaxtyping import TypeCheckError

from truepair.scoring.mixtures import fit_with_known_mismatches
from truepair.scoring.noise_rate import LEAST_RATE, Comparison, rate_against_random, share_above


def share_by_hand(scores, of_random):
    """Pair by pair."""
    wins = [float(s > r) + 0.5 * float(s == r) for s in scores.tolist() for r in of_random.tolist()]
    return sum(wins) / len(wins)


def test_ties_count_half_in_the_share_above_random_pairs():
    scores, of_random = torch.tensor([0.0, 1.0, 1.0, 2.0, 5.0]), torch.tensor([3.0, 1.0, 1.0, 0.0])
    assert share_above(scores, of_random) == pytest.approx(share_by_hand(scores, of_random))
    assert share_above(of_random, of_random) == 0.5


def test_chance_alone_hardly_ever_reaches_the_needed_share():
    """The standard error is that of shares of equal kinds, and five of them are needed."""
    generator = torch.Generator().manual_seed(0)
    shares = [
        Comparison.of(torch.randn(50, generator=generator), torch.randn(200, generator=generator)) for _ in range(500)
    ]
    spread = torch.tensor([each.share for each in shares], dtype=torch.float64).std().item()
    assert spread == pytest.approx(shares[0].standard_error, rel=0.1)
    assert shares[0].needed == pytest.approx(0.5 + 5 * math.sqrt((1 / 50 + 1 / 200) / 12))
    assert all(each.unknown is not None for each in shares)


@pytest.mark.parametrize("pairs", [40, 80, 200, 2500, 100_000])
def test_right_captions_are_never_said_to_be_elsewhere(pairs):
    """Right captions reach a share of 0.8 with frozen features: at such shares it is known, or there are too few."""
    for share in (0.7, 0.8, 0.9):
        assert Comparison(share, pairs, 4 * pairs).unknown != "captions elsewhere"


def test_too_few_pairs_and_captions_elsewhere_are_told_apart_with_figures_and_a_next_step():
    assert Comparison(0.38, 99, 400).unknown == "too few pairs", "models that learn from so few hardly learn anything"
    few, many = Comparison(0.512, 40, 160), Comparison(0.503, 2500, 10_000)
    assert few.unknown == "too few pairs"
    assert many.unknown == "captions elsewhere"
    said = [
        each.explained("pairs do better", "no pair is called a suspect", "audit more pairs") for each in (few, many)
    ]
    assert said[0] == (
        "nothing consistent was learned: pairs do better in 51.2 % of comparisons (chance is 50 %, needed: 75.5 %), "
        "and 40 pairs are too few to say; no pair is called a suspect; audit more pairs"
    )
    assert "in 50.3 % of comparisons (chance is 50 %, needed: 53.2 %), though 2,500 pairs are enough" in said[1]
    assert "belong to other images (was the table joined or sorted wrongly?)" in said[1]
    assert "no pair is called a suspect" in said[1]


NULLS = {
    "gaussian": lambda count, generator: torch.randn(count, generator=generator, dtype=torch.float64),
    "exponential": lambda count, generator: torch.empty(count, dtype=torch.float64).exponential_(generator=generator),
    "gamma": lambda count, generator: (
        torch.empty(3, count, dtype=torch.float64).exponential_(generator=generator).sum(0) / math.sqrt(3)
    ),
}
"""Distributions of standard deviation 1."""


def drawn(rate, pairs=20_000, random=16_000, shift=4.0, null="gaussian", seed=0):
    """Scores of pairs, of which matching ones are shifted by so many standard deviations, and of random pairs."""
    generator = torch.Generator().manual_seed(seed)
    scores = NULLS[null](pairs, generator)
    scores[round(rate * pairs) :] += shift
    return scores, NULLS[null](random, generator)


def rate_by_hand(scores, of_random):
    """Storey's ratio at 19 scores, or the upper ones if pairs are few, and the highest that agrees with all lower."""
    values, known = scores.tolist(), sorted(of_random.tolist())
    n, m, estimates, errors = len(values), len(known), [], []
    first = next(step for step in range(19) if 0.05 + 0.025 * step >= min(30 / n, 0.5) - 1e-12)
    for step in range(first, 19):
        place = max(int((0.05 + 0.025 * step) * m), 1)
        below, of_null = sum(value < known[place] for value in values), place / m
        estimates.append(below / n / of_null)
        least = max(below, 1)
        relative = math.sqrt((1 - below / n) / least + (1 - of_null) / place)
        errors.append(2.5 * least / n / of_null * relative)
    best = max(
        place
        for place in range(19 - first)
        if all(abs(estimates[place] - estimates[lower]) <= errors[lower] for lower in range(place))
    )
    return min(max(estimates[best], 0.005), 0.995)


@pytest.mark.parametrize(("pairs", "random"), [(7, 97), (60, 61), (300, 397), (2000, 1997)])
@pytest.mark.parametrize("shift", [0.5, 2.0, 4.0])
def test_the_rate_is_the_ratio_of_shares_below_written_out(pairs, random, shift):
    found = []
    for seed in range(10):
        one = drawn(0.3, pairs, random, shift, seed=seed)
        found.append(rate_against_random(*one))
        assert found[-1] == pytest.approx(rate_by_hand(*one), abs=1e-9)
    assert len({round(rate, 6) for rate in found}) > 2


@pytest.mark.parametrize("step", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_equal_scores_change_little(rate, step):
    scores, of_random = drawn(rate, seed=3)
    rounded = [(values / step).round() * step for values in (scores, of_random)]
    assert rate_against_random(*rounded) == pytest.approx(rate_against_random(scores, of_random), abs=0.02)


def test_where_most_random_pairs_have_the_lowest_score_pairs_up_to_it_are_counted():
    scores = torch.cat([torch.zeros(400), torch.ones(600)])
    assert rate_against_random(scores, torch.cat([torch.zeros(800), torch.ones(200)])) == pytest.approx(0.5)


def test_of_few_pairs_none_below_the_lowest_scores_is_no_sign_that_all_match():
    """60 of 300 pairs are spread over random pairs, but none of them is, by chance, among the lowest 8 %."""
    scores = torch.cat([torch.linspace(0.08, 1, 60), torch.full((240,), 10.0)])
    assert rate_against_random(scores, torch.linspace(0, 1, 1200)) == pytest.approx(0.2, abs=0.03)


def test_the_rate_of_evenly_spaced_scores_is_exact():
    """100 of 400 pairs are spread over random pairs, as those are; 300 lie above."""
    scores = torch.cat([torch.arange(0.5, 200, 2), torch.full((300,), 1000.0)])
    assert rate_against_random(scores, torch.arange(200.0)) == pytest.approx(0.25)


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.4, 0.8, 0.95])
def test_the_rate_is_found_whatever_the_distribution_of_random_pairs(null, rate):
    found = torch.tensor([rate_against_random(*drawn(rate, null=null, seed=seed)) for seed in range(5)])
    assert found.mean().item() == pytest.approx(rate, abs=0.02)
    assert (found - rate).abs().max() < 0.03 + 0.03 * (rate > 0.5)


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize(("pairs", "random"), [(200, 800), (5000, 4096)])
def test_no_noise_is_invented_where_right_pairs_stand_apart(null, pairs, random):
    for seed in range(5):
        assert rate_against_random(*drawn(0.0, pairs, random, null=null, seed=seed)) <= 0.01


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_a_few_hundred_pairs_are_right_on_the_average_though_hardly_any_scores_lowest(rate):
    """Below a twentieth of random pairs lie fewer than one of 100 pairs, which says nothing about those above."""
    found = torch.tensor([rate_against_random(*drawn(rate, 100, 400, shift=3.0, seed=seed)) for seed in range(60)])
    assert found.mean().item() == pytest.approx(rate, abs=0.02)
    assert found.std().item() < 0.1


def test_where_models_know_little_the_rate_is_near_and_that_of_a_mixture_of_gaussians_is_not():
    errors = []
    for seed in range(5):
        scores, of_random = drawn(0.8, 10_000, 10_000, shift=1.5, seed=seed)
        assert rate_against_random(scores, of_random) == pytest.approx(0.8, abs=0.08)
        mixture = fit_with_known_mismatches(scores, of_random).posterior(scores)
        errors.append(abs(0.8 - (1 - float(mixture.mean()))))
    assert sorted(errors)[2] > 0.15


def test_pairs_that_can_hardly_be_told_from_random_ones_are_not_said_to_match():
    """The ratio is an upper bound: with weak models the rate comes out too high, never far too low."""
    for shift in (0.5, 1.0, 2.0):
        found = [rate_against_random(*drawn(0.4, 5000, 4096, shift=shift, seed=seed)) for seed in range(5)]
        assert min(found) > 0.37
    assert 0.6 < rate_against_random(*drawn(0.4, 5000, 4096, shift=0.5)) < 1


@pytest.mark.parametrize("rate", [0.05, 0.4, 0.8])
def test_the_rate_depends_on_the_order_of_scores_alone(rate):
    scores, of_random = drawn(rate, 3000, 2500)
    found = rate_against_random(scores, of_random)
    for mapped in (torch.exp, torch.atan, lambda x: 1000 * x - 7, lambda x: x**3):
        assert rate_against_random(mapped(scores), mapped(of_random)) == found
    shuffled = torch.randperm(3000, generator=torch.Generator().manual_seed(1))
    assert rate_against_random(scores[shuffled], of_random.flip(0)) == found


def test_the_rate_ends_at_its_limits():
    of_random = torch.arange(100.0)
    assert rate_against_random(torch.full((50,), 200.0), of_random) == LEAST_RATE
    assert rate_against_random(torch.full((50,), -1.0), of_random) == 1 - LEAST_RATE


def test_scores_of_another_shape_are_refused():
    with pytest.raises(TypeCheckError):
        rate_against_random(torch.zeros(3, 2), torch.zeros(4))
