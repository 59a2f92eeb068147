from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from truepair.cleaning.decisions_db import HandDecision
from truepair.cleaning.merging import merged

TIME = "2025-01-02T03:04:05+00:00"


@pytest.fixture
def findings():
    return pa.table(
        {
            "caption_id": ["a", "b", "c", "d"],
            "caption": ["A", "B", "C", "D"],
            "image_id": ["1", "2", "3", "4"],
            "mismatch_probability": pa.array([0.9, 0.7, 0.5, 0.1], pa.float32()),
            "suggested_image_id": pa.array(["2", "3", None, "1"]),
            "may_re_pair": [False, True, False, True],
        }
    )


def fates(decisions):
    return [(d.caption_id, d.action, d.image_id, d.former_image_id) for d in decisions]


def test_the_rule_drops_what_reaches_the_threshold_in_the_precision_of_the_findings(findings):
    decisions = merged(findings, {}, threshold=0.7, re_pair=False)  # 0.7 is more than 0.7 in float32
    assert fates(decisions) == [
        ("a", "drop", "1", None),
        ("b", "drop", "2", None),
        ("c", "keep", "3", None),
        ("d", "keep", "4", None),
    ]
    assert decisions[0].rule == "threshold 0.70"


def test_the_rule_re_pairs_suspects_with_a_mutual_suggestion_if_the_audit_does(findings):
    decisions = merged(findings, {}, threshold=0.5, re_pair=True)
    assert fates(decisions) == [
        ("a", "drop", "1", None),
        ("b", "re-pair", "3", "2"),
        ("c", "drop", "3", None),
        ("d", "keep", "4", None),
    ]


def test_the_hand_wins_over_the_rule(findings):
    hands = {
        "a": HandDecision("keep", None, TIME),
        "b": HandDecision("drop", None, TIME),
        "c": HandDecision("re-pair", "4", TIME),
        "d": HandDecision("drop", None, TIME),
    }
    decisions = merged(findings, hands, threshold=0.5, re_pair=True)
    assert fates(decisions) == [
        ("a", "keep", "1", None),
        ("b", "drop", "2", None),  # the rule would have given it another image
        ("c", "re-pair", "4", "3"),
        ("d", "drop", "4", None),
    ]
    assert {(d.rule, d.time) for d in decisions} == {("by hand", TIME)}


def test_without_decisions_the_audits_own_threshold_gives_the_audits_own_manifest(audited_in_memory):
    """What the audit dropped and re-paired, read back from its own lists."""
    findings = pq.read_table(audited_in_memory / "findings.parquet")
    decisions = merged(findings, {}, threshold=0.5, re_pair=True)
    kept = (audited_in_memory / "kept.csv").read_text().splitlines()[1:]
    assert {f"{d.caption_id},{d.image_id},{d.caption}" for d in decisions if d.action != "drop"} == set(kept)
    assert Counter(d.action for d in decisions)["re-pair"] > 0
