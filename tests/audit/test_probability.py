from math import log

import numpy as np
import pytest
import torch

from truepair.audit import probability as module
from truepair.audit.probability import probabilities
from truepair.evaluation.detection import detection_metrics
from truepair.scoring.evidence import Evidence

SHIFT = torch.tensor([0.5, 2.0, 1.5, 1.0, 0.0])


def drawn(pairs, rate, random=4000, seed=0, shift=SHIFT):
    """Gaussian evidence: matching pairs are shifted random couples, which is a tilt with the weights ``shift``."""
    generator = torch.Generator().manual_seed(seed)
    mismatched = round(rate * pairs)
    evidence = torch.randn(pairs, 5, generator=generator)
    evidence[mismatched:] += shift
    clean = torch.arange(pairs) >= mismatched
    return Evidence(evidence, torch.randn(random, 5, generator=generator)), clean


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4, 0.7])
def test_rate_probabilities_and_weights_are_those_that_made_the_evidence(rate):
    evidence, clean = drawn(6000, rate)
    found = probabilities(evidence, seed=0)
    assert found.noise_rate == pytest.approx(rate, abs=0.03)
    assert found.interval[0] - 0.01 <= rate <= found.interval[1] + 0.01
    # Bayes' rule with the densities that the evidence was drawn from.
    log_ratio = evidence.pairs.double() @ SHIFT.double() - (SHIFT**2).sum() / 2
    right = (log_ratio + log((1 - rate) / rate)).sigmoid()
    assert (found.match.double() - right).abs().mean() < 0.02
    metrics = detection_metrics(found.match, clean)
    assert metrics.expected_calibration_error < 0.03
    assert metrics.auroc > detection_metrics(evidence.own.sigmoid(), clean).auroc
    scale = torch.cat([evidence.pairs, evidence.random]).double().std(0, correction=0)
    weights = torch.tensor(list(found.weights.values())).double() / scale
    torch.testing.assert_close(weights, SHIFT.double(), atol=0.35, rtol=0)
    torch.testing.assert_close(found.log_odds, log_ratio, atol=1.0, rtol=0.3)


def test_no_noise_is_not_invented():
    evidence, _ = drawn(4000, 0.0)
    found = probabilities(evidence, seed=0)
    assert found.noise_rate <= 0.02
    assert found.match.mean() > 0.98


def test_pairs_like_random_couples_get_no_probability():
    evidence, _ = drawn(2000, 1.0)
    found = probabilities(evidence, seed=0)
    assert (found.match == 0.5).all()
    assert found.interval == (0.0, 1.0)
    assert "nothing consistent was learned" in found.warnings[0]


def test_evidence_that_is_the_same_for_all_has_no_weight():
    evidence, clean = drawn(3000, 0.3)
    for side in (evidence.pairs, evidence.random):
        side[:, 3] = 0.25
    found = probabilities(evidence, seed=0)
    assert found.weights["captions of like images"] == 0
    assert detection_metrics(found.match, clean).auroc > 0.9


def test_evidence_that_tells_everything_ends_and_stays_finite():
    evidence, clean = drawn(1000, 0.3, shift=torch.full((5,), 50.0))
    found = probabilities(evidence, seed=0)
    assert found.log_odds.isfinite().all()
    assert torch.equal(found.match > 0.5, clean)


def test_it_depends_on_the_seed_in_the_interval_only_where_all_pairs_are_fitted():
    evidence, _ = drawn(1500, 0.3)
    one, again, other = (probabilities(evidence, seed) for seed in (0, 0, 1))
    assert torch.equal(one.match, again.match)
    assert one.interval == again.interval
    assert torch.equal(one.match, other.match)
    assert one.interval != other.interval


def test_a_part_of_the_pairs_is_enough_to_fit(monkeypatch):
    evidence, _ = drawn(6000, 0.3)
    whole = probabilities(evidence, seed=0)
    monkeypatch.setattr(module, "_MOST_FITTED", 1500)
    monkeypatch.setattr(module, "_MOST_RESAMPLED", 500)
    part = probabilities(evidence, seed=0)
    assert part.match.shape == whole.match.shape
    assert (part.match - whole.match).abs().mean() < 0.02
    assert np.diff(part.interval)[0] < 0.15


def test_evidence_of_one_kind_gives_an_upper_bound_of_the_rate():
    generator = torch.Generator().manual_seed(0)
    low, high = 0.1 * torch.randn(1500, 5, generator=generator) - 1, 0.1 * torch.randn(500, 5, generator=generator) + 4
    pairs = 0.1 * torch.randn(1000, 5, generator=generator)  # above three quarters of the random couples
    found = probabilities(Evidence(pairs, torch.cat([low, high])), seed=0)
    assert found.noise_rate == pytest.approx(0.5, abs=0.01)
    assert "is an upper bound" in found.warnings[0]
