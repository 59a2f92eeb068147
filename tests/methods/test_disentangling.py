"""D6 and D7: codes of pairs whose factors are known (METHODS: synthetic latent factors), in a third of the epochs."""

from typing import Any

import pytest
from disentangling import measure, train

from truepair.config import OptimisationConfig

SHORT: dict[str, Any] = {
    "main_epochs": 14,
    "optimisation": OptimisationConfig(learning_rate=1e-3, weight_decay=0.0, decay_epochs=1000),
}


@pytest.fixture(scope="module")
def found():
    """Measurements without any penalty, and with the one of the variant."""
    return {preset: measure(train({"preset": preset, **SHORT}, 0.0, 0), 0, quick=True) for preset in ("none", "cov")}


@pytest.mark.slow
def test_shared_codes_hold_shared_factors_and_nothing_else(found):
    for measured in found.values():
        assert measured["c_from_s"] >= 0.95
        assert measured["a_from_s"] <= 0.05
        assert measured["recall"] >= 0.98


@pytest.mark.slow
def test_exclusive_codes_hold_exclusive_factors_and_the_penalty_keeps_shared_ones_out(found):
    assert found["cov"]["a_from_x"] >= 0.9
    assert found["none"]["c_from_x"] >= 0.4
    assert found["cov"]["c_from_x"] <= 0.1


@pytest.mark.slow
def test_codes_of_two_images_can_be_put_together(found):
    assert found["cov"]["c_swapped"] >= 0.85
    assert found["cov"]["a_swapped"] >= 0.8
    assert found["none"]["c_swapped"] < found["cov"]["c_swapped"]  # exclusive codes write over shared factors


@pytest.mark.slow
def test_the_filter_tells_mismatched_pairs():
    measured = measure(train({"preset": "none", **SHORT}, 0.4, 0), 0, quick=True)
    assert measured["filter"] >= 0.95
    assert measured["c_from_s"] >= 0.95
    assert measured["a_from_s"] <= 0.05
