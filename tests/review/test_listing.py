import numpy as np
import pytest

from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.decisions_db import ACTIONS
from truepair.errors import ConfigError
from truepair.review.listing import Query, filters_from, rows_of


@pytest.fixture(scope="module")
def audit(audited):
    return open_audit(audited)


@pytest.fixture(scope="module")
def codes(audit):
    return np.random.default_rng(0).integers(0, 4, len(audit.findings)).astype(np.int8)


MEANING = {
    "suspects": lambda found, action: found["mismatch_probability"] >= 0.5,
    "undecided": lambda found, action: action == "clear",
    "decided": lambda found, action: action != "clear",
    "kept": lambda found, action: action == "keep",
    "dropped": lambda found, action: action == "drop",
    "re-paired": lambda found, action: action == "re-pair",
    "with suggestion": lambda found, action: found["suggested_image_id"] is not None,
}


@pytest.mark.parametrize("filters", [[], *[[name] for name in MEANING], ["suspects", "undecided", "with suggestion"]])
def test_filters_leave_the_pairs_of_which_all_hold(audit, codes, filters):
    expected = [
        row
        for row, found in enumerate(audit.findings.to_pylist())
        if all(MEANING[name](found, ACTIONS[codes[row]]) for name in filters)
    ]
    assert expected
    assert rows_of(audit, codes, Query(filters)).tolist() == expected


def test_orders(audit, codes):
    suspicious = rows_of(audit, codes, Query(["decided"]))
    assert rows_of(audit, codes, Query(["decided"], "plausible")).tolist() == suspicious[::-1].tolist()
    borderline = rows_of(audit, codes, Query(["decided"], "borderline"))
    assert sorted(borderline) == suspicious.tolist()
    distance = np.abs(audit.probability[borderline] - 0.5)
    assert (np.diff(distance) >= 0).all()


def test_a_range_of_probabilities_has_its_ends(audit, codes):
    low, high = (float(audit.probability[row]) for row in (30, 10))
    rows = rows_of(audit, codes, Query(probability_from=low, probability_to=high))
    assert {10, 30} <= set(rows.tolist())
    assert rows.min() <= 10 < 30 <= rows.max()
    assert ((audit.probability[rows] >= low) & (audit.probability[rows] <= high)).all()


@pytest.mark.parametrize("text", ["CAPTION 4", "<script", "k11", "7.png", ".*"])
def test_text_is_looked_for_as_it_is_in_captions_and_names(audit, codes, text):
    expected = [
        row
        for row, found in enumerate(audit.findings.to_pylist())
        if any(text.lower() in found[name].lower() for name in ("caption", "caption_id", "image_id"))
    ]
    assert bool(expected) == (text != ".*")
    assert rows_of(audit, codes, Query(text=text)).tolist() == expected


def test_an_unknown_filter_is_refused():
    with pytest.raises(ConfigError, match="no filter 'unsure'; there are suspects"):
        filters_from("suspects,unsure")
