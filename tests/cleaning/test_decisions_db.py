import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np
import pytest

from truepair.cleaning.decisions_db import ACTIONS, HandDecisions, decisions_of
from truepair.errors import DataError

PAIRS = 6


@pytest.fixture
def opened(tmp_path):
    """Opens the database of some findings; the same one every time."""
    return partial(HandDecisions, tmp_path / "review.sqlite", findings=tmp_path / "findings.parquet")


@pytest.fixture
def decisions(opened):
    return opened("digest")


def decide(decisions, pair, action, page="a"):
    return decisions.decide(page, pair, f"caption {pair}", action, "image 9" if action == "re-pair" else None)


def held(decisions):
    return {int(name.split()[1]): hand.action for name, hand in decisions.all().items()}


def test_undo_and_redo_go_through_the_same_states_as_a_list_of_them(opened):
    """The reference keeps a copy of everything before each step; the database is opened anew for every step."""
    drawn = random.Random(0)
    before, after, state = [], [], {}
    for _ in range(120):
        decisions = opened("digest")
        what = drawn.choice(["decide", "decide", "undo", "redo"])
        if what == "decide":
            pair, action = drawn.randrange(1, PAIRS + 1), drawn.choice(ACTIONS)
            if state.get(pair, "clear") != action:
                before, after = [*before, state], []
                state = {key: value for key, value in {**state, pair: action}.items() if value != "clear"}
            decide(decisions, pair, action)
        elif what == "undo":
            assert (decisions.undo("a") is None) == (not before)
            if before:
                *before, last = before
                after, state = [*after, state], last
        else:
            assert (decisions.redo("a") is None) == (not after)
            if after:
                *after, following = after
                before, state = [*before, state], following
        assert held(decisions) == state


def test_codes_of_a_step_are_what_was_held_after_it_whatever_came_later(decisions):
    drawn = random.Random(1)
    seen = {}
    for _ in range(60):
        page = drawn.choice("ab")
        if drawn.random() < 0.7:
            decide(decisions, drawn.randrange(1, PAIRS + 1), drawn.choice(ACTIONS), page)
        else:
            (decisions.undo if drawn.random() < 0.6 else decisions.redo)(page)
        actions = held(decisions)
        seen[decisions.last_step()] = [ACTIONS.index(actions.get(pair, "clear")) for pair in range(1, PAIRS + 1)]
    assert len(seen) > 30
    decisions.codes_at.cache_clear()
    for step, codes in seen.items():
        assert decisions.codes_at(step, PAIRS).tolist() == codes
    assert not decisions.codes_at(0, PAIRS).any()


def test_pages_undo_their_own_steps(decisions):
    decide(decisions, 1, "keep", "a")
    decide(decisions, 2, "drop", "b")
    assert decisions.undo("a").caption_id == "caption 1"
    assert held(decisions) == {2: "drop"}
    assert decisions.undo("a") is None
    assert decisions.undo("b").rank == 2
    assert held(decisions) == {}


def test_an_undo_leaves_what_another_page_has_decided_since(decisions):
    decide(decisions, 1, "keep", "a")
    decide(decisions, 1, "drop", "b")
    change = decisions.undo("a")
    assert change.was_superseded
    assert change.decision.action == "drop"
    assert held(decisions) == {1: "drop"}
    assert decisions.undo("b").decision.action == "keep", "what b replaced comes back"
    assert decisions.redo("a").decision.action == "keep"


def test_a_re_pair_keeps_its_image_through_undo_and_redo(decisions):
    decide(decisions, 3, "re-pair")
    decide(decisions, 3, "keep")
    assert decisions.undo("a").decision.image_id == "image 9"
    decisions.undo("a")
    assert decisions.redo("a").decision.image_id == "image 9"
    assert decisions.of_ranks([2, 3])[3] == decisions.all()["caption 3"]


def test_a_decision_that_changes_nothing_is_no_step(decisions):
    decide(decisions, 1, "keep")
    decide(decisions, 1, "keep")
    decide(decisions, 2, "clear")
    assert decisions.last_step() == 1


def test_decided_counts_up_to_a_rank(decisions):
    for pair in (1, 3, 5):
        decide(decisions, pair, "drop")
    assert [decisions.decided(rank) for rank in range(7)] == [0, 1, 1, 2, 2, 3, 3]


def test_several_writers_at_once_lose_nothing(opened):
    def work(page):
        own = opened("digest")
        for pair in range(1, 11):
            own.decide(page, pair, f"caption {pair}", "keep" if page == "a" else "drop")

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, "abc"))
    decisions = opened("digest")
    assert len(held(decisions)) == 10
    codes = decisions.codes_at(decisions.last_step(), 10)
    assert {pair: ACTIONS[code] for pair, code in enumerate(codes, start=1)} == held(decisions)


def test_history_cannot_be_rewritten(decisions):
    decide(decisions, 1, "keep")
    with sqlite3.connect(decisions.path) as raw:
        for change in ("UPDATE history SET action = 'drop'", "DELETE FROM history"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(change)
    raw.close()


def test_decisions_about_other_findings_are_refused_and_both_files_named(decisions, opened, tmp_path):
    decide(decisions, 1, "keep")
    with pytest.raises(DataError, match=r"review\.sqlite .* other findings than .*findings\.parquet has now"):
        opened("another")
    assert held(opened("digest")) == {1: "keep"}, "and nothing is lost"


@pytest.mark.parametrize("content", ["text", "database"])
def test_a_file_that_is_no_database_of_decisions_is_refused(opened, tmp_path, content):
    path = tmp_path / "review.sqlite"
    if content == "text":
        path.write_text("not a database at all, though long enough to be looked at " * 30)
    else:
        raw = sqlite3.connect(path)
        raw.execute("CREATE TABLE somebody_elses (value)")
        raw.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"review\.sqlite .*start over"):
        opened("digest")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    ["DROP TABLE decisions", "ALTER TABLE decisions RENAME COLUMN time TO tim", "cut short", "a page of zeros"],
)
def test_a_damaged_database_is_refused_in_one_sentence(decisions, tmp_path, damage):
    decide(decisions, 1, "keep")
    path = tmp_path / "review.sqlite"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if " TABLE " in damage:
            raw.execute(damage)
            raw.commit()
    content = path.read_bytes()
    if damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "a page of zeros":
        path.write_bytes(content[:4096] + bytes(4096) + content[8192:])
    with pytest.raises(DataError, match=r"review\.sqlite"):
        decisions_of(path, "digest", tmp_path / "findings.parquet")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be opened"):
        HandDecisions(tmp_path / "no" / "review.sqlite", "digest", tmp_path / "findings.parquet")


def test_codes_are_shared_and_therefore_cannot_be_written_to(decisions):
    decide(decisions, 2, "drop")
    codes = decisions.codes_at(1, PAIRS)
    assert codes.dtype == np.int8
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 1
