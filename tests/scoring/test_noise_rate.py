import math

import pytest
import torch

from truepair.scoring.noise_rate import Comparison, share_above


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
