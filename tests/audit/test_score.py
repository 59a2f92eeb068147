from dataclasses import replace

import pytest
import torch

from truepair.audit.crossfit import cross_fitted
from truepair.audit.probability import probabilities
from truepair.audit.score import cross_fitted_evidence, scores_by_a_run
from truepair.scoring.judgement import share_above


@pytest.fixture(scope="module")
def folds(noisy_world, quick):
    return cross_fitted(noisy_world, None, quick)


@pytest.fixture(scope="module")
def evidence(folds, noisy_world):
    return cross_fitted_evidence(folds, noisy_world, candidates=100, temperature=0.05, seed=0)


def test_random_couples_look_like_mismatched_pairs_and_unlike_clean_ones(noisy_world, evidence):
    clean = noisy_world.is_clean
    assert share_above(evidence.own[clean], evidence.random_own) > 0.9
    assert 0.3 < share_above(evidence.own[~clean], evidence.random_own) < 0.7
    found = probabilities(evidence, seed=0)
    assert 0.07 < 1 - float(found.match.mean()) < 0.25  # 15 % were put in
    assert not found.warnings


def test_the_order_in_which_folds_are_scored_leaves_no_pair_out(noisy_world, folds, evidence):
    backwards = cross_fitted_evidence(folds[::-1], noisy_world, candidates=100, temperature=0.05, seed=0)
    torch.testing.assert_close(evidence.pairs[:, 0], backwards.pairs[:, 0])  # similarities need no witnesses
    assert evidence.pairs.isfinite().all()
    assert evidence.pairs[:, 0].abs().max() <= 1 + 1e-6


def test_no_pair_witnesses_for_itself(noisy_world, folds):
    """What speaks for a fold's pairs stays the same when the fold's own pairs change partners."""
    judged = folds[0].pairs
    image = noisy_world.image_of_caption.clone()
    image[judged[1:]] = image[judged[1:]].roll(1)
    one, other = (
        cross_fitted_evidence(folds, pairs, candidates=100, temperature=0.05, seed=0)
        for pairs in (noisy_world, replace(noisy_world, image_of_caption=image))
    )
    torch.testing.assert_close(one.pairs[judged[0]], other.pairs[judged[0]])


def test_a_run_scores_every_pair_once(noisy_world, folds):
    scores = scores_by_a_run(folds[0].models, noisy_world, candidates=50, temperature=0.05, seed=0)
    again = scores_by_a_run(folds[0].models, noisy_world, candidates=50, temperature=0.05, seed=0)
    assert torch.equal(scores.log_odds, again.log_odds)
    assert scores.similarity.abs().max() <= 1 + 1e-6
