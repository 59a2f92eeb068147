import math

import pytest
import torch

from truepair.errors import ConfigError, DataError
from truepair.evaluation.detection import calibration_curve, detection_metrics, expected_calibration_error

CLEAN, WRONG = True, False


def auroc_by_counting(confidence, is_clean):
    """Share of (mismatched, clean) couples in the right order, ties counting half."""
    wrong = [c for c, clean in zip(confidence, is_clean, strict=True) if not clean]
    right = [c for c, clean in zip(confidence, is_clean, strict=True) if clean]
    return sum((w < r) + 0.5 * (w == r) for w in wrong for r in right) / (len(wrong) * len(right))


def average_precision_by_counting(confidence, is_clean):
    """Mean precision at the threshold of each mismatched pair."""
    precisions = []
    for threshold in [c for c, clean in zip(confidence, is_clean, strict=True) if not clean]:
        flagged = [not clean for c, clean in zip(confidence, is_clean, strict=True) if c <= threshold]
        precisions.append(sum(flagged) / len(flagged))
    return sum(precisions) / len(precisions)


def best_f1_by_trying(confidence, is_clean):
    def f1(threshold):
        flagged = [c <= threshold for c in confidence]
        hits = sum(f and not clean for f, clean in zip(flagged, is_clean, strict=True))
        return 2 * hits / (sum(flagged) + sum(not clean for clean in is_clean))

    return max((f1(threshold), threshold) for threshold in confidence)


@pytest.mark.parametrize("levels", [7, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_ranking_values_equal_slow_counting_with_and_without_ties(seed, levels):
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.randint(levels + 1, (60,), generator=generator) / levels
    is_clean = torch.rand(60, generator=generator) < 0.3 + 0.6 * confidence
    lists = confidence.double().tolist(), is_clean.tolist()
    metrics = detection_metrics(confidence, is_clean)
    assert metrics.auroc == pytest.approx(auroc_by_counting(*lists))
    assert metrics.average_precision == pytest.approx(average_precision_by_counting(*lists))
    f1, _ = best_f1_by_trying(*lists)
    assert metrics.best_f1 == pytest.approx(f1)
    flagged = confidence <= metrics.best_f1_threshold
    assert 2 * int((flagged & ~is_clean).sum()) / int(flagged.sum() + (~is_clean).sum()) == pytest.approx(f1)


def test_five_pairs_by_hand():
    confidence = torch.tensor([0.1, 0.2, 0.3, 0.8, 0.9])
    metrics = detection_metrics(confidence, torch.tensor([WRONG, CLEAN, WRONG, CLEAN, CLEAN]))
    assert metrics.auroc == pytest.approx(5 / 6)
    assert metrics.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert metrics.best_f1 == pytest.approx(2 * 2 / (3 + 2))  # flag three, two of them rightly, of two
    assert metrics.best_f1_threshold == pytest.approx(0.3)
    assert metrics.precision_at_noise_count == pytest.approx(0.5)
    assert metrics.estimated_noise_rate == pytest.approx((0.9 + 0.8 + 0.7 + 0.2 + 0.1) / 5)
    assert metrics.true_noise_rate == pytest.approx(0.4)


def test_a_perfect_score_and_its_reverse():
    is_clean = torch.tensor([WRONG] * 4 + [CLEAN] * 6)
    perfect = detection_metrics(is_clean.double(), is_clean)
    assert (perfect.auroc, perfect.average_precision, perfect.best_f1) == (1.0, 1.0, 1.0)
    assert (perfect.precision_at_noise_count, perfect.expected_calibration_error) == (1.0, 0.0)
    assert perfect.estimated_noise_rate == pytest.approx(perfect.true_noise_rate)
    reverse = detection_metrics(1 - is_clean.double(), is_clean)
    assert (reverse.auroc, reverse.precision_at_noise_count, reverse.expected_calibration_error) == (0.0, 0.0, 1.0)
    assert reverse.best_f1 == pytest.approx(2 * 4 / (10 + 4))  # nothing beats flagging everything


def test_a_constant_score_is_at_chance():
    is_clean = torch.tensor([WRONG] * 3 + [CLEAN] * 9)
    metrics = detection_metrics(torch.full((12,), 0.6), is_clean)
    assert metrics.auroc == 0.5
    assert metrics.average_precision == metrics.precision_at_noise_count == pytest.approx(0.25)
    assert metrics.expected_calibration_error == pytest.approx(0.4 - 0.25)


def test_precision_at_noise_count_is_the_mean_over_the_orders_of_tied_pairs():
    # Three mismatches; one pair is clearly lowest, and the other two places fall among four tied pairs, half of
    # them mismatched: (1 + 2 · 1/2) / 3.
    confidence = torch.tensor([0.1, 0.4, 0.4, 0.4, 0.4, 0.9])
    is_clean = torch.tensor([WRONG, WRONG, CLEAN, WRONG, CLEAN, CLEAN])
    assert detection_metrics(confidence, is_clean).precision_at_noise_count == pytest.approx(2 / 3)


def test_the_order_of_pairs_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.randint(10, (200,), generator=generator) / 10
    is_clean = torch.rand(200, generator=generator) < 0.6
    order = torch.randperm(200, generator=generator)
    shuffled, straight = detection_metrics(confidence[order], is_clean[order]), detection_metrics(confidence, is_clean)
    assert shuffled.as_dict() == pytest.approx(straight.as_dict())


def test_calibrated_confidence_has_a_small_error_and_an_overconfident_one_a_large_error():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(50_000, generator=generator)
    is_clean = torch.rand(50_000, generator=generator) < confidence
    metrics = detection_metrics(confidence, is_clean)
    assert metrics.expected_calibration_error < 0.01
    assert metrics.estimated_noise_rate == pytest.approx(metrics.true_noise_rate, abs=0.01)
    assert expected_calibration_error((confidence > 0.5).float(), is_clean) == pytest.approx(0.25, abs=0.01)


def test_the_calibration_curve_of_two_bins_by_hand():
    confidence = torch.tensor([1.0, 0.8, 0.6, 0.2, 0.0])
    curve = calibration_curve(confidence, torch.tensor([CLEAN, CLEAN, WRONG, CLEAN, WRONG]), bins=2)
    assert curve.mismatch_probability.tolist() == pytest.approx([(0 + 0.2 + 0.4) / 3, (0.8 + 1) / 2])
    assert curve.mismatch_rate.tolist() == pytest.approx([1 / 3, 1 / 2])
    assert curve.pairs.tolist() == [3, 2]


def test_bins_without_a_pair_are_left_out_of_the_curve():
    curve = calibration_curve(torch.tensor([0.99, 0.01]), torch.tensor([CLEAN, WRONG]), bins=10)
    assert curve.pairs.tolist() == [1, 1]
    assert curve.mismatch_rate.tolist() == [0.0, 1.0]


def test_a_score_that_is_no_probability_is_ranked_and_not_calibrated():
    is_clean = torch.tensor([WRONG, CLEAN, WRONG, CLEAN])
    cosine = torch.tensor([-0.5, 0.1, 0.0, 0.4])
    metrics = detection_metrics(cosine, is_clean)
    assert metrics.auroc == metrics.best_f1 == 1.0
    assert metrics.best_f1_threshold == 0.0
    assert metrics.expected_calibration_error is None
    assert metrics.estimated_noise_rate is None
    with pytest.raises(DataError, match=r"outside \[0, 1\] for 1 of 4 pairs \(range -0.5 … 0.4\)"):
        calibration_curve(cosine, is_clean)


@pytest.mark.parametrize("truth", [CLEAN, WRONG])
def test_one_kind_of_pair_only_leaves_ranking_undefined(truth):
    metrics = detection_metrics(torch.tensor([0.25, 0.75]), torch.tensor([truth, truth]))
    ranking = ("auroc", "average_precision", "best_f1", "best_f1_threshold", "precision_at_noise_count")
    assert [getattr(metrics, name) for name in ranking] == [None] * 5
    assert metrics.true_noise_rate == (0.0 if truth else 1.0)
    assert metrics.estimated_noise_rate == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_refused(bad):
    with pytest.raises(DataError, match=r"1 of 3 pairs \(first: pair 1\)"):
        detection_metrics(torch.tensor([0.1, bad, 0.2]), torch.tensor([CLEAN, WRONG, CLEAN]))


def test_no_pairs_and_no_bins_are_refused():
    with pytest.raises(DataError, match="at least one"):
        detection_metrics(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    with pytest.raises(ConfigError, match="bins is 0"):
        calibration_curve(torch.tensor([0.5]), torch.tensor([CLEAN]), bins=0)
