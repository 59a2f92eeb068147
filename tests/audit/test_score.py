import pytest
import torch

from truepair.audit.crossfit import trained
from truepair.audit.score import scores_by_a_run
from truepair.scoring.cross_fitting import cross_fitted_features
from truepair.scoring.noise_rate import share_above
from truepair.scoring.probability import probabilities


@pytest.fixture(scope="module")
def folds(noisy_world, quick):
    return trained(noisy_world, None, quick).folds


def test_to_models_of_other_folds_random_pairs_look_like_mismatched_pairs_and_unlike_clean_ones(noisy_world, folds):
    features = cross_fitted_features(folds, noisy_world, 100, 0.05, 0)
    clean = noisy_world.is_clean
    assert share_above(features.log_odds[clean], features.random_log_odds) > 0.9
    assert 0.3 < share_above(features.log_odds[~clean], features.random_log_odds) < 0.7
    found = probabilities(features, seed=0)
    assert 0.07 < 1 - float(found.match.mean()) < 0.25  # 15 % were put in
    assert not found.warnings


def test_a_run_scores_every_pair_once(noisy_world, folds):
    scores = scores_by_a_run(folds[0].models, noisy_world, candidates=50, temperature=0.05, seed=0)
    again = scores_by_a_run(folds[0].models, noisy_world, candidates=50, temperature=0.05, seed=0)
    assert torch.equal(scores.log_odds, again.log_odds)
    assert scores.similarity.abs().max() <= 1 + 1e-6
