import re
from math import log

import numpy as np
import pytest
import torch

from truepair.evaluation.detection import detection_metrics
from truepair.scoring import probability as module
from truepair.scoring.pair_features import PairFeatures
from truepair.scoring.probability import noise_rate_interval, probabilities

SHIFT = torch.tensor([0.5, 2.0, 1.5, 1.0, 0.0])


def drawn(pairs, rate, random=4000, seed=0, shift=SHIFT):
    """Gaussian features: matching pairs are shifted random pairs, which is a tilt with the weights ``shift``."""
    generator = torch.Generator().manual_seed(seed)
    mismatched = round(rate * pairs)
    features = torch.randn(pairs, 5, generator=generator)
    features[mismatched:] += shift
    clean = torch.arange(pairs) >= mismatched
    return PairFeatures(features, torch.randn(random, 5, generator=generator)), clean


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4, 0.7])
def test_rate_probabilities_and_weights_are_those_that_made_the_features(rate):
    features, clean = drawn(6000, rate)
    found = probabilities(features, seed=0)
    assert found.noise_rate == pytest.approx(rate, abs=0.03)
    low, high = noise_rate_interval(features, found, seed=0)
    assert low - 0.01 <= rate <= high + 0.01
    # Bayes' rule with the densities that the features were drawn from.
    log_ratio = features.pairs.double() @ SHIFT.double() - (SHIFT**2).sum() / 2
    right = (log_ratio + log((1 - rate) / rate)).sigmoid()
    assert (found.match.double() - right).abs().mean() < 0.02
    metrics = detection_metrics(found.match, clean)
    assert metrics.expected_calibration_error < 0.03
    assert metrics.auroc > detection_metrics(features.log_odds.sigmoid(), clean).auroc
    scale = torch.cat([features.pairs, features.random]).double().std(0, correction=0)
    weights = torch.tensor(list(found.weights.values())).double() / scale
    torch.testing.assert_close(weights, SHIFT.double(), atol=0.35, rtol=0)
    torch.testing.assert_close(found.log_odds, log_ratio, atol=1.0, rtol=0.3)


def test_no_noise_is_not_invented():
    features, _ = drawn(4000, 0.0)
    found = probabilities(features, seed=0)
    assert found.noise_rate <= 0.02
    assert found.match.mean() > 0.98


def is_unknown(found, features):
    """Nothing is said about any pair, and nothing about the noise rate."""
    return (
        found.match.shape == features.log_odds.shape
        and bool(found.match.isnan().all())
        and bool(found.random.isnan().all())
        and bool(found.match_of(torch.zeros(3, 5)).isnan().all())
        and np.isnan(found.noise_rate)
        and noise_rate_interval(features, found, seed=0) == (0.0, 1.0)
        and not found.weights
    )


def test_forty_pairs_with_hardly_any_difference_are_too_few_to_say():
    """All captions are right, and the features show little of it, as models that learned from 30 pairs do."""
    features, _ = drawn(40, 0.0, random=160, shift=torch.full((5,), 0.3))
    found = probabilities(features, seed=0)
    assert is_unknown(found, features)
    assert found.unknown == "too few pairs"
    (said,) = found.warnings
    assert said.startswith("nothing consistent was learned: pairs are more plausible than random pairs in ")
    assert "40 pairs are too few to say; no pair is called a suspect; audit more pairs together" in said


def test_thousands_of_shuffled_pairs_have_captions_that_belong_elsewhere():
    features, _ = drawn(2000, 1.0)
    found = probabilities(features, seed=0)
    assert is_unknown(found, features)
    assert found.unknown == "captions elsewhere"
    (said,) = found.warnings
    assert "though 2,000 pairs are enough: the captions seem to belong to other images" in said
    assert "no pair is called a suspect" in said
    assert torch.equal(found.log_odds, features.log_odds.double()), "by which the pairs can still be ordered"


@pytest.mark.parametrize("rate", [0.0, 0.4, 0.8])
def test_probabilities_are_known_where_many_pairs_match(rate):
    features, _ = drawn(2000, rate)
    found = probabilities(features, seed=0)
    assert found.unknown is None
    assert not found.match.isnan().any()


def test_a_feature_that_is_the_same_for_all_has_no_weight():
    features, clean = drawn(3000, 0.3)
    for side in (features.pairs, features.random):
        side[:, 3] = 0.25
    found = probabilities(features, seed=0)
    assert found.weights["agreement with captions of similar images"] == 0
    assert detection_metrics(found.match, clean).auroc > 0.9


def test_features_that_tell_everything_end_and_stay_finite():
    features, clean = drawn(1000, 0.3, shift=torch.full((5,), 50.0))
    found = probabilities(features, seed=0)
    assert found.log_odds.isfinite().all()
    assert torch.equal(found.match > 0.5, clean)


def test_it_depends_on_the_seed_in_the_interval_only_where_all_pairs_are_fitted():
    features, _ = drawn(1500, 0.3)
    one, other = (probabilities(features, seed) for seed in (0, 1))
    assert torch.equal(one.match, other.match)
    assert one.noise_rate == other.noise_rate
    intervals = [noise_rate_interval(features, one, seed) for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1] != intervals[2]


def test_the_interval_lies_around_the_rate_and_is_narrower_with_more_pairs():
    widths = []
    for pairs in (300, 3000, 30_000):  # more than are resampled
        features, _ = drawn(pairs, 0.3, random=4 * pairs)
        found = probabilities(features, seed=0)
        low, high = noise_rate_interval(features, found, seed=0)
        assert 0 <= low < found.noise_rate < high <= 1
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 2.25 * widths[2]


def test_a_part_of_the_pairs_is_enough_to_fit(monkeypatch):
    features, _ = drawn(6000, 0.3)
    whole = probabilities(features, seed=0)
    monkeypatch.setattr(module, "_MOST_FITTED", 1500)
    monkeypatch.setattr(module, "_MOST_RESAMPLED", 500)
    part = probabilities(features, seed=0)
    assert part.match.shape == whole.match.shape
    assert (part.match - whole.match).abs().mean() < 0.02
    assert np.diff(noise_rate_interval(features, part, seed=0))[0] < 0.15


@pytest.mark.parametrize(("shift", "is_trusted"), [(0.3, False), (1.5, True)])
def test_models_that_tell_little_apart_are_said_to_overrate_the_noise(shift, is_trusted):
    features, _ = drawn(2000, 0.0, shift=torch.full((5,), shift))
    found = probabilities(features, seed=0)
    said = [warning for warning in found.warnings if "may be far too high" in warning]
    assert len(said) == (0 if is_trusted else 1)
    if said:
        (told,) = re.findall(r"from a random one in only (\d+) % of comparisons", said[0])
        assert 50 < int(told) < 80
