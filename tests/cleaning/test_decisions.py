import pyarrow as pa
import pytest

from truepair.cleaning.decisions import Decision, IssuesToDrop, decide, issues_to_drop, merged
from truepair.cleaning.decisions_db import HandDecision
from truepair.errors import ConfigError

TIME = "2025-01-02T03:04:05+00:00"
NO_ISSUES = {}, {}


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
    decisions = decide(findings, threshold=0.7, re_pair=False)  # 0.7 is more than 0.7 in float32
    assert fates(decisions) == [
        ("a", "drop", "1", None),
        ("b", "drop", "2", None),
        ("c", "keep", "3", None),
        ("d", "keep", "4", None),
    ]
    assert decisions[0].rule == "threshold 0.70"


def test_the_rule_re_pairs_suspects_with_a_mutual_suggestion_if_it_is_to(findings):
    decisions = decide(findings, threshold=0.5, re_pair=True)
    assert fates(decisions) == [
        ("a", "drop", "1", None),
        ("b", "re-pair", "3", "2"),
        ("c", "drop", "3", None),
        ("d", "keep", "4", None),
    ]


def test_a_pair_whose_probability_is_not_known_is_kept_at_any_threshold(findings):
    unknown = findings.set_column(3, "mismatch_probability", pa.array([None, None, 0.5, None], pa.float32()))
    decisions = decide(unknown, threshold=0.0001, re_pair=True)
    assert [decision.action for decision in decisions] == ["keep", "keep", "drop", "keep"]
    assert decisions[0].mismatch_probability is None


def test_the_hand_wins_over_issues_and_the_rule(findings):
    hands = {
        "a": HandDecision("keep", None, TIME),
        "b": HandDecision("drop", None, TIME),
        "c": HandDecision("re-pair", "4", TIME),
        "d": HandDecision("drop", None, TIME),
    }
    decisions = merged(decide(findings, threshold=0.5, re_pair=True), IssuesToDrop({"1": "blank"}), hands)
    assert fates(decisions) == [
        ("a", "keep", "1", None),
        ("b", "drop", "2", None),  # the rule would have given it another image
        ("c", "re-pair", "4", "3"),
        ("d", "drop", "4", None),
    ]
    assert {(d.rule, d.time) for d in decisions} == {("by hand", TIME)}


def test_issues_win_over_the_rule(findings):
    decisions = merged(
        decide(findings, threshold=0.5, re_pair=True), IssuesToDrop({"2": "blank"}, {"d": "boilerplate"}), {}
    )
    assert fates(decisions) == [
        ("a", "drop", "1", None),
        ("b", "drop", "2", None),  # a blank image is no reason to look for its caption's own
        ("c", "drop", "3", None),
        ("d", "drop", "4", None),
    ]
    assert [d.rule for d in decisions] == ["threshold 0.50", "issue: blank", "threshold 0.50", "issue: boilerplate"]


def test_issues_are_of_images_of_captions_and_of_groups():
    rows = [
        ("blank", "1", None, None),
        ("duplicate", "2", None, 0),
        ("duplicate", "3", None, 0),
        ("duplicate", "4", None, 1),
        ("duplicate", "5", None, 1),
        ("boilerplate", None, "c", None),
        ("tiny", "9", None, None),
    ]
    table = pa.table(
        dict(zip(("issue", "image_id", "caption_id", "group"), map(list, zip(*rows, strict=True)), strict=True))
    )
    found = issues_to_drop(table, ("blank", "duplicate", "boilerplate"))
    assert found.images == {"1": "blank"}
    assert found.captions == {"c": "boilerplate"}
    assert found.groups == [("duplicate", ["2", "3"]), ("duplicate", ["4", "5"])]
    with pytest.raises(ConfigError, match="no issue 'ugly' to drop; there are blank, "):
        issues_to_drop(table, ("ugly",))


def pair(caption_id, action, image_id, former=None):
    return Decision(caption_id, caption_id, action, image_id, "threshold 0.50", 0.5, former)


def test_of_duplicates_the_first_image_with_a_kept_caption_stays():
    by_rule = [
        pair("wrong caption of the first copy", "drop", "1"),
        pair("right caption of the second", "keep", "2"),
        pair("right caption of the third", "keep", "3"),
        pair("given the third", "re-pair", "3", "9"),
        pair("taken from the third", "re-pair", "9", "3"),
        pair("of a blank copy", "keep", "4"),
        pair("of a good copy", "keep", "5"),
        pair("all of them wrong", "drop", "6"),
        pair("these too", "drop", "7"),
    ]
    groups = [("duplicate", ["1", "2", "3"]), ("near-duplicate", ["4", "5"]), ("duplicate", ["6", "7"])]
    decisions = merged(by_rule, IssuesToDrop({"4": "blank"}, {}, groups), {})
    assert [(d.action, d.image_id) for d in decisions] == [
        ("drop", "1"),
        ("keep", "2"),
        ("drop", "3"),
        ("re-pair", "2"),
        ("re-pair", "9"),
        ("drop", "4"),
        ("keep", "5"),
        ("drop", "6"),
        ("drop", "7"),
    ]
    assert [d.rule for d in decisions if d.action == "drop"][1:3] == ["issue: duplicate", "issue: blank"]
    hands = {name: HandDecision("keep", None, TIME) for name in ("of a blank copy", "right caption of the third")}
    by_hand = merged(by_rule, IssuesToDrop({"4": "blank"}, {}, groups), hands)
    assert [(d.action, d.image_id) for d in by_hand[1:7]] == [
        ("drop", "2"),
        ("keep", "3"),
        ("re-pair", "3"),
        ("re-pair", "9"),
        ("keep", "4"),
        ("drop", "5"),
    ]


def test_an_image_that_stands_for_its_duplicates_does_so_among_near_duplicates():
    by_rule = [pair("wrong", "drop", "1"), pair("right", "keep", "2"), pair("near", "keep", "3")]
    groups = [("duplicate", ["1", "2"]), ("near-duplicate", ["1", "3"])]
    decisions = merged(by_rule, IssuesToDrop(groups=groups), {})
    assert [(d.action, d.image_id) for d in decisions] == [("drop", "1"), ("keep", "2"), ("drop", "3")]


def test_of_duplicates_one_that_was_decided_about_by_hand_stays():
    by_rule = [pair("first", "keep", "1"), pair("checked", "keep", "2"), pair("moved", "re-pair", "1", "2")]
    hands = {"checked": HandDecision("keep", None, TIME)}
    decisions = merged(by_rule, IssuesToDrop(groups=[("duplicate", ["1", "2"])]), hands)
    assert [(d.action, d.image_id, d.former_image_id) for d in decisions] == [
        ("drop", "1", None),
        ("keep", "2", None),
        ("keep", "2", None),  # it was to get a copy of the image that it has
    ]
