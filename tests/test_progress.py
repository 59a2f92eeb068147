import io
import sys

import pytest

from truepair.progress import no_progress, progress


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def test_work_of_less_than_ten_seconds_prints_nothing_where_there_is_no_terminal(clock, capsys):
    with progress("scoring", "pairs", 5, clock=clock) as shown:
        for _ in range(5):
            clock.now += 1.9
            shown.advance()
    assert capsys.readouterr().err == ""


def test_without_a_terminal_there_is_a_plain_line_every_ten_seconds_at_most(clock, capsys):
    with progress("scoring", "pairs", 5_000, clock=clock) as shown:
        for _ in range(25):  # 25 seconds at 200 pairs a second
            clock.now += 1.0
            shown.advance(200)
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 2,000 of 5,000 pairs, 200 pairs/s, about 15 s left",
        "scoring: 4,000 of 5,000 pairs, 200 pairs/s, about 5 s left",
    ]


def test_what_was_done_before_counts_as_done_but_not_for_the_rate(clock, capsys):
    with progress("scoring", "pairs", 5_000, 4_000, clock=clock) as shown:
        clock.now += 10.0
        shown.advance(500)
    assert capsys.readouterr().err == "scoring: 4,500 of 5,000 pairs, 50 pairs/s, about 10 s left\n"


def test_slow_units_are_said_by_the_time_that_each_takes(clock, capsys):
    with progress("runs", "runs", 5, clock=clock) as shown:
        clock.now += 3_600.0
        shown.advance()
    assert capsys.readouterr().err == "runs: 1 of 5 runs, 60 min each, about 4 h 00 min left\n"


def test_without_a_total_no_remaining_time_is_said(clock, capsys):
    with progress("embedding", "images", clock=clock) as shown:
        clock.now += 20.0
        shown.advance(1_024)
    assert capsys.readouterr().err == "embedding: 1,024 images, 51 images/s\n"


def test_total_description_and_remark_may_change_on_the_way(clock, capsys):
    with progress("training", "steps", 10, clock=clock) as shown:
        shown.advance(4)
        shown.total, shown.remark = 8, "development rSum 310.0"
        clock.now += 10.0
        shown.describe("epoch 2/2")
    assert capsys.readouterr().err == "epoch 2/2: 4 of 8 steps, 2 s each, about 10 s left, development rSum 310.0\n"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_within_no_progress_nothing_is_shown(clock, kind, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := kind())
    with no_progress(), progress("scoring", "pairs", 2, clock=clock) as shown:
        clock.now += 100.0
        shown.advance(2)
    assert shown.done == 2
    assert stream.getvalue() == ""


def test_after_no_progress_it_is_shown_again(clock, capsys):
    with no_progress():
        pass
    with progress("scoring", "pairs", 2, clock=clock) as shown:
        clock.now += 100.0
        shown.advance()
    assert capsys.readouterr().err != ""


def test_a_terminal_shows_a_bar_with_a_rate_once_the_work_takes_a_while(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress("scoring", "pairs", 4, clock=clock) as shown:
        shown.advance(2)
        assert terminal.getvalue() == "", "a bar for less than two seconds would flicker"
        clock.now += 5.0
        shown.describe("scoring again")
    assert "scoring again:  50%" in terminal.getvalue()
    assert "2/4" in terminal.getvalue()
    assert "pairs/s" in terminal.getvalue()


def test_a_bar_whose_end_is_unknown_has_one_colon(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress("embedding", "images", clock=clock) as shown:
        shown.advance(2)
        clock.now += 5.0
        shown.describe("embedding")
    assert "embedding: 2 images [" in terminal.getvalue()
