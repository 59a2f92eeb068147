from dataclasses import replace

import pytest
import torch

from truepair.audit.crossfit import cross_fitted
from truepair.audit.probability import probabilities
from truepair.audit.score import cross_fitted_features, scores_by_a_run
from truepair.scoring.noise_rate import share_above


@pytest.fixture(scope="module")
def folds(noisy_world, quick):
    return cross_fitted(noisy_world, None, quick)


@pytest.fixture(scope="module")
def features(folds, noisy_world):
    return cross_fitted_features(folds, noisy_world, candidates=100, temperature=0.05, seed=0)


def test_random_pairs_look_like_mismatched_pairs_and_unlike_clean_ones(noisy_world, features):
    clean = noisy_world.is_clean
    assert share_above(features.log_odds[clean], features.random_log_odds) > 0.9
    assert 0.3 < share_above(features.log_odds[~clean], features.random_log_odds) < 0.7
    found = probabilities(features, seed=0)
    assert 0.07 < 1 - float(found.match.mean()) < 0.25  # 15 % were put in
    assert not found.warnings


def test_the_order_in_which_folds_are_scored_leaves_no_pair_out(noisy_world, folds, features):
    backwards = cross_fitted_features(folds[::-1], noisy_world, candidates=100, temperature=0.05, seed=0)
    torch.testing.assert_close(features.pairs[:, 0], backwards.pairs[:, 0])  # similarities need no reference pairs
    assert features.pairs.isfinite().all()
    assert features.pairs[:, 0].abs().max() <= 1 + 1e-6


def test_no_pair_is_its_own_reference(noisy_world, folds):
    """The features of a fold's pairs stay the same when the fold's own pairs change partners."""
    scored = folds[0].pairs
    image = noisy_world.image_of_caption.clone()
    image[scored[1:]] = image[scored[1:]].roll(1)
    one, other = (
        cross_fitted_features(folds, pairs, candidates=100, temperature=0.05, seed=0)
        for pairs in (noisy_world, replace(noisy_world, image_of_caption=image))
    )
    torch.testing.assert_close(one.pairs[scored[0]], other.pairs[scored[0]])


def test_a_run_scores_every_pair_once(noisy_world, folds):
    scores = scores_by_a_run(folds[0].models, noisy_world, candidates=50, temperature=0.05, seed=0)
    again = scores_by_a_run(folds[0].models, noisy_world, candidates=50, temperature=0.05, seed=0)
    assert torch.equal(scores.log_odds, again.log_odds)
    assert scores.similarity.abs().max() <= 1 + 1e-6
