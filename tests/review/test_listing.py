from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.decisions_db import ACTIONS
from truepair.errors import ConfigError
from truepair.review.issues import PairIssues
from truepair.review.listing import Query, filters_from, rows_of


@pytest.fixture(scope="module")
def audit(audited):
    return open_audit(audited)


@pytest.fixture(scope="module")
def issues(audit):
    return PairIssues(audit)


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
def test_filters_leave_the_pairs_of_which_all_hold(audit, issues, codes, filters):
    expected = [
        row
        for row, found in enumerate(audit.findings.to_pylist())
        if all(MEANING[name](found, ACTIONS[codes[row]]) for name in filters)
    ]
    assert expected
    assert rows_of(audit, issues, codes, Query(filters)).tolist() == expected


def test_orders(audit, issues, codes):
    suspicious = rows_of(audit, issues, codes, Query(["decided"]))
    assert rows_of(audit, issues, codes, Query(["decided"], "plausible")).tolist() == suspicious[::-1].tolist()
    borderline = rows_of(audit, issues, codes, Query(["decided"], "borderline"))
    assert sorted(borderline) == suspicious.tolist()
    distance = np.abs(audit.probability[borderline] - 0.5)
    assert (np.diff(distance) >= 0).all()


def test_a_range_of_probabilities_has_its_ends(audit, issues, codes):
    low, high = (float(audit.probability[row]) for row in (30, 10))
    rows = rows_of(audit, issues, codes, Query(probability_from=low, probability_to=high))
    assert {10, 30} <= set(rows.tolist())
    assert rows.min() <= 10 < 30 <= rows.max()
    assert ((audit.probability[rows] >= low) & (audit.probability[rows] <= high)).all()


@pytest.mark.parametrize("text", ["CAPTION 4", "<script", "k11", "7.png", ".*"])
def test_text_is_looked_for_as_it_is_in_captions_and_names(audit, issues, codes, text):
    expected = [
        row
        for row, found in enumerate(audit.findings.to_pylist())
        if any(text.lower() in found[name].lower() for name in ("caption", "caption_id", "image_id"))
    ]
    assert bool(expected) == (text != ".*")
    assert rows_of(audit, issues, codes, Query(text=text)).tolist() == expected


def test_pairs_with_an_issue_are_those_of_its_images_and_captions(audit, issues, codes):
    rows = pq.read_table(audit.folder / "issues.parquet").to_pylist()
    assert issues.counts
    for kind, count in issues.counts.items():
        named = {row["image_id"] or row["caption_id"] for row in rows if row["issue"] == kind}
        found = audit.findings.to_pylist()
        expected = [place for place, row in enumerate(found) if {row["image_id"], row["caption_id"]} & named]
        assert rows_of(audit, issues, codes, Query(issue=kind)).tolist() == expected
        assert len(expected) == count
        assert all(kind in issues.of(place) for place in expected)


def test_pairs_of_one_group_come_together(audit, issues, codes):
    kind = "shared caption"  # a third of the captions are the same
    rows = rows_of(audit, issues, codes, Query(issue=kind, order="grouped"))
    groups = issues.group(kind)[rows]
    assert len(rows) == issues.counts[kind]
    assert (np.diff(groups) >= 0).all()


def test_an_issue_that_no_pair_has_is_refused(audit, issues, codes):
    with pytest.raises(ConfigError, match="no pair has the issue 'typo'; there are "):
        rows_of(audit, issues, codes, Query(issue="typo"))


def test_an_audit_without_a_file_of_issues_has_none(audit, tmp_path):
    assert PairIssues(replace(audit, folder=tmp_path)).counts == {}


def test_an_unknown_filter_is_refused():
    with pytest.raises(ConfigError, match="no filter 'unsure'; there are suspects"):
        filters_from("suspects,unsure")
