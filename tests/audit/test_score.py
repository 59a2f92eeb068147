import pytest
import torch

from truepair.audit.crossfit import cross_fitted
from truepair.audit.score import score, separation
from truepair.mixtures import fit_with_known_mismatches


@pytest.fixture(scope="module")
def folds(noisy_world, quick):
    return cross_fitted(noisy_world, None, quick)


def test_separation_equals_counting_all_comparisons():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (40,), generator=generator).float()  # many ties
    known = torch.randint(0, 5, (30,), generator=generator).float()
    slow = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in scores for b in known) / (40 * 30)
    assert abs(separation(scores, known) - slow) < 1e-9


def test_random_pairs_look_like_mismatched_ones_and_unlike_clean_ones(noisy_world, folds):
    scores = score(folds, noisy_world, candidates=100, temperature=0.05, seed=0)
    clean = noisy_world.is_clean
    assert separation(scores.log_odds[clean], scores.random_log_odds) > 0.9
    assert 0.3 < separation(scores.log_odds[~clean], scores.random_log_odds) < 0.7
    estimated = 1 - fit_with_known_mismatches(scores.log_odds, scores.random_log_odds).posterior(scores.log_odds)
    assert 0.07 < float(estimated.mean()) < 0.25  # 15 % were put in


def test_the_order_in_which_folds_are_scored_leaves_no_pair_out(noisy_world, folds):
    scores = score(folds, noisy_world, candidates=50, temperature=0.05, seed=0)
    backwards = score(folds[::-1], noisy_world, candidates=50, temperature=0.05, seed=0)
    assert scores.similarity.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(scores.similarity, backwards.similarity)
