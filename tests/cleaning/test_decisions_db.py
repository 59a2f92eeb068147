import contextlib
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np
import pytest
from damaged_databases import DAMAGES, damaged, decide_at_random

from truepair.cleaning import decisions_db
from truepair.cleaning.decisions_db import ACTIONS, HandDecisions
from truepair.cleaning.decisions_rescue import rescued_decisions
from truepair.errors import DataError

PAIRS = 6


@pytest.fixture
def opened(tmp_path):
    """Opens the database of some findings; the same one every time."""
    return partial(HandDecisions, tmp_path / "review.sqlite", findings=tmp_path / "findings.parquet")


@pytest.fixture
def decisions(opened):
    return opened("digest")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a database in which two pages decided and undid some 40 pairs."""
    path = tmp_path_factory.mktemp("many") / "review.sqlite"
    decide_at_random(HandDecisions(path, "digest", path), steps=150, pairs=40)
    return path.read_bytes()


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


def test_a_database_of_a_newer_version_is_refused_and_left_alone(decisions, opened):
    with closing(sqlite3.connect(decisions.path)) as raw:
        raw.execute("PRAGMA user_version = 99")
    before = decisions.path.read_bytes()
    with pytest.raises(DataError, match=r"of version 99, which a newer truepair wrote; .*update truepair"):
        opened("digest")
    assert decisions.path.read_bytes() == before


def test_an_older_database_is_migrated_and_keeps_its_decisions(decisions, opened, monkeypatch):
    decide(decisions, 1, "re-pair")
    decide(decisions, 2, "drop")
    migration = "ALTER TABLE decisions ADD COLUMN note TEXT;"
    monkeypatch.setattr(decisions_db, "_MIGRATIONS", (*decisions_db._MIGRATIONS, migration))
    monkeypatch.setitem(decisions_db._KINDS, "decisions", (*decisions_db._KINDS["decisions"], str | None))
    for _ in range(2):  # migrated, then opened as it is
        again = opened("digest")
        assert held(again) == {1: "re-pair", 2: "drop"}
        with closing(sqlite3.connect(again.path)) as raw:
            assert raw.execute("PRAGMA user_version").fetchone() == (2,)
            assert raw.execute("SELECT note FROM decisions").fetchall() == [(None,), (None,)]


def test_a_migration_that_fails_leaves_the_database_as_it_was(decisions, opened, monkeypatch):
    decide(decisions, 1, "keep")
    before = decisions.path.read_bytes()
    broken = "CREATE TABLE notes (note TEXT);\nALTER TABLE no_table ADD COLUMN note TEXT;"
    monkeypatch.setattr(decisions_db, "_MIGRATIONS", (*decisions_db._MIGRATIONS, broken))
    with pytest.raises(DataError, match=r"review\.sqlite .*no such table"):
        opened("digest")
    monkeypatch.undo()
    assert decisions.path.read_bytes() == before
    assert held(opened("digest")) == {1: "keep"}


def test_a_locked_database_is_said_with_a_way_to_save_the_decisions(decisions, opened, monkeypatch):
    decide(decisions, 1, "keep")
    monkeypatch.setattr(decisions_db, "_PATIENCE", 0.05)
    with closing(sqlite3.connect(decisions.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DataError, match=r"is locked by another process .*--export-decisions decisions\.csv"):
            opened("digest")
        assert rescued_decisions(decisions.path).decisions["caption 1"].action == "keep"
    assert held(opened("digest")) == {1: "keep"}


def test_what_somebody_put_into_the_database_does_not_run(decisions, opened):
    decide(decisions, 1, "keep")
    with closing(sqlite3.connect(decisions.path)) as raw:
        raw.execute("CREATE TRIGGER more AFTER INSERT ON decisions BEGIN DELETE FROM audit; END")
        raw.commit()
    with pytest.raises(DataError, match="its tables are not those of a review"):
        opened("digest")


@pytest.mark.parametrize(
    "change",
    [
        "DROP TRIGGER history_is_never_changed",
        "UPDATE decisions SET rank = 'two'",
        "UPDATE decisions SET time = x'ff'",
        "UPDATE decisions SET time = CAST(x'ff' AS TEXT)",
        "UPDATE decisions SET step = 77",
        "DELETE FROM audit",
        "INSERT INTO audit VALUES ('a', 'b')",
        "UPDATE audit SET findings = 3.5, made = x'00'",
        "INSERT INTO history VALUES (9, 'a', 'undo', 1, 'caption 1', 1, 'clear', NULL, NULL, 'now'), "
        "(10, 'a', 'undo', 1, 'caption 1', 1, 'clear', NULL, NULL, 'now')",
    ],
)
def test_contents_that_no_review_wrote_are_refused(decisions, opened, change):
    decide(decisions, 1, "keep")
    with closing(sqlite3.connect(decisions.path)) as raw:
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute(change)
        raw.commit()
    with pytest.raises(DataError, match=r"review\.sqlite is damaged \(.*--export-decisions"):
        opened("digest")


@pytest.mark.parametrize("how", DAMAGES)
def test_any_damage_is_said_in_a_sentence_or_does_no_harm(content, opened, tmp_path, how):
    """Opening, and all that the page asks for, raises nothing but what the page and `fix` turn into a sentence."""
    path = tmp_path / "review.sqlite"
    for seed in range(50):
        path.write_bytes(damaged(content, how, random.Random(seed)))
        before = path.read_bytes()
        try:
            found = opened("digest")
        except DataError:
            assert path.read_bytes() == before
            continue
        with contextlib.suppress(sqlite3.Error):
            found.codes_at(found.last_step(), 40)
            found.all()
            found.undo("a")
            found.redo("b")
            decide(found, 3, "keep")


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_after_opening_is_an_error_of_the_database(content, opened, tmp_path, how):
    path = tmp_path / "review.sqlite"
    path.write_bytes(content)
    found = opened("digest")
    calls = (
        found.last_step,
        found.all,
        partial(found.undo, "a"),
        partial(found.redo, "b"),
        partial(found.codes_at, 150, 40),
    )
    for seed in range(20):
        path.write_bytes(damaged(content, how, random.Random(seed)))
        found.codes_at.cache_clear()
        for call in calls:
            with contextlib.suppress(sqlite3.Error):
                call()


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be opened"):
        HandDecisions(tmp_path / "no" / "review.sqlite", "digest", tmp_path / "findings.parquet")


def test_codes_are_shared_and_therefore_cannot_be_written_to(decisions):
    decide(decisions, 2, "drop")
    codes = decisions.codes_at(1, PAIRS)
    assert codes.dtype == np.int8
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 1
