import random
import sqlite3
from contextlib import closing

import pytest
from damaged_databases import DAMAGES, damaged, decide_at_random

from truepair.cleaning.decisions_db import HandDecisions
from truepair.cleaning.decisions_rescue import rescued_decisions
from truepair.errors import DataError

PAIRS = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A database in which two pages decided and undid, and its decisions."""
    path = tmp_path_factory.mktemp("whole") / "review.sqlite"
    decisions = HandDecisions(path, "digest", path)
    decide_at_random(decisions, steps=150, pairs=PAIRS)
    return path.read_bytes(), decisions.all()


def rescued(path):
    """What was read; None where it was said that there is nothing. The file and its folder stay as they are."""
    before = path.read_bytes()
    try:
        return rescued_decisions(path)
    except DataError:
        return None
    finally:
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]


def right(found, decisions):
    """How many are what they were; history knows the time of an undo, not of the decision that came back."""
    expected = {(name, one.action, one.image_id) for name, one in decisions.items()}
    return len(expected & {(name, one.action, one.image_id) for name, one in found.decisions.items()})


def test_a_whole_database_is_read_whole(whole, tmp_path):
    path = tmp_path / "review.sqlite"
    path.write_bytes(whole[0])
    found = rescued(path)
    assert (found.decisions, found.from_history, found.lost) == (whole[1], 0, 0)


@pytest.mark.parametrize("how", DAMAGES)
def test_most_decisions_of_damaged_databases_are_read(whole, tmp_path, how):
    content, decisions = whole
    path = tmp_path / "review.sqlite"
    shares = []
    for seed in range(30):
        path.write_bytes(damaged(content, how, random.Random(seed)))
        found = rescued(path)
        shares.append(0 if found is None else right(found, decisions) / len(decisions))
    assert sum(shares) / len(shares) > (0.6 if how == "cut short" else 0.9)


@pytest.mark.parametrize("page", range(10))
def test_a_page_that_is_lost_costs_no_more_than_its_rows(whole, tmp_path, page):
    content, decisions = whole
    path = tmp_path / "review.sqlite"
    path.write_bytes(content[: page * 4096] + bytes(4096) + content[(page + 1) * 4096 :])
    found = rescued(path)
    assert right(found, decisions) >= len(decisions) - 1


def test_a_transaction_that_was_cut_off_is_taken_back_in_the_copy_only(whole, tmp_path):
    """A kill between the pages of a transaction leaves a journal; the file is half old and half new."""
    path, other = tmp_path / "review.sqlite", tmp_path / "other"
    path.write_bytes(whole[0])
    other.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA cache_size = 1")  # pages are written before the transaction ends
        raw.execute("BEGIN")
        for pair in range(1, PAIRS + 1):
            raw.execute("DELETE FROM decisions WHERE rank = ?", (pair,))
            raw.execute("CREATE TABLE IF NOT EXISTS filler (value)")
            raw.execute("INSERT INTO filler VALUES (zeroblob(20000))")
        for file in tmp_path.glob("review.sqlite*"):
            (other / file.name).write_bytes(file.read_bytes())
    assert (other / "review.sqlite-journal").stat().st_size > 0
    before = {file: file.read_bytes() for file in other.iterdir()}
    assert rescued_decisions(other / "review.sqlite").decisions == whole[1]
    assert {file: file.read_bytes() for file in other.iterdir()} == before


def test_a_view_that_somebody_put_in_the_place_of_the_decisions_is_not_run(whole, tmp_path):
    path = tmp_path / "review.sqlite"
    path.write_bytes(whole[0])
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT 'a', 'keep', NULL, x FROM n"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("DROP TABLE decisions")
        raw.execute(f"CREATE VIEW decisions (caption_id, action, image_id, time) AS {endless}")
        raw.commit()
    assert rescued(path).decisions, "those of the history"


def test_where_there_is_nothing_it_is_said(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*review\.sqlite: nothing was decided"):
        rescued_decisions(tmp_path / "review.sqlite")
    for content in (b"", b"no database", bytes(20_000)):
        (tmp_path / "review.sqlite").write_bytes(content)
        assert rescued(tmp_path / "review.sqlite") is None
