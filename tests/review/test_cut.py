import numpy as np
import pytest
import torch

from truepair.audit.findings import suspects_at
from truepair.errors import ConfigError
from truepair.review.cut import Cut


@pytest.fixture
def world():
    random = np.random.default_rng(0)
    probability = random.beta(0.5, 1.5, 500).astype(np.float32)
    probability[:5] = [0.7, 0.5, 1.0, 0.0, 0.3]  # at thresholds themselves, and at the ends
    return probability, random.random(500) < 0.3


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 0.7, 0.999, 1.0])
def test_a_cut_is_what_the_report_says_of_it(world, threshold):
    probability, may_re_pair = world
    expected = suspects_at(torch.from_numpy(probability), threshold)
    found = Cut(probability, may_re_pair, re_pair=False).at(threshold)
    assert found["dropped"] == expected["suspects"]
    assert found["re_paired"] == 0
    assert found["expected_mismatched"] == pytest.approx(expected["expected_mismatched"])
    assert found["expected_missed"] == pytest.approx(expected["expected_missed"])
    assert found["expected_matching"] == pytest.approx(expected["suspects"] - expected["expected_mismatched"])


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("re_pair", [False, True])
def test_with_decisions_counts_every_pair_once(world, threshold, re_pair):
    """The reference decides pair by pair."""
    probability, may_re_pair = world
    codes = np.random.default_rng(1).integers(0, 4, 500).astype(np.int8)
    counts = {"keep": 0, "drop": 0, "re-pair": 0}
    for value, mutual, code in zip(probability, may_re_pair, codes, strict=True):
        rule = "keep" if value < np.float32(threshold) else "re-pair" if mutual and re_pair else "drop"
        counts[rule if code == 0 else ("keep", "drop", "re-pair")[code - 1]] += 1
    assert Cut(probability, may_re_pair, re_pair=re_pair).with_decisions(threshold, codes) == counts
    rule_alone = Cut(probability, may_re_pair, re_pair=re_pair).at(threshold)
    without = Cut(probability, may_re_pair, re_pair=re_pair).with_decisions(threshold, np.zeros(500, np.int8))
    assert (without["drop"], without["re-pair"]) == (rule_alone["dropped"], rule_alone["re_paired"])


@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0])
def test_pairs_of_unknown_probability_are_never_dropped_by_the_rule(world, threshold):
    probability, may_re_pair = world
    more = np.concatenate([probability, np.full(100, np.nan, np.float32)])
    known = Cut(probability, may_re_pair, re_pair=True)
    both = Cut(more, np.concatenate([may_re_pair, np.ones(100, bool)]), re_pair=True)
    assert both.at(threshold) == known.at(threshold)
    kept = known.with_decisions(threshold, np.zeros(500, np.int8))["keep"]
    assert both.with_decisions(threshold, np.zeros(600, np.int8))["keep"] == kept + 100


def test_where_nothing_is_known_a_cut_does_nothing():
    cut = Cut(np.full(10, np.nan, np.float32), np.ones(10, bool), re_pair=True)
    assert not cut.is_known
    assert set(cut.at(0.5).values()) == {0.5, 0}
    assert cut.with_decisions(0.5, np.array([2] + [0] * 9, np.int8)) == {"keep": 9, "drop": 1, "re-pair": 0}


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_what_is_no_threshold_is_refused(world, threshold):
    with pytest.raises(ConfigError, match="a probability above 0"):
        Cut(*world, re_pair=False).at(threshold)
