"""The drivers find what they are for: kills come at their moment, damage is the same every time, faults are seen."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from breaking.mutations import drawn, mutated
from breaking.outcomes import half_written, leftovers, outcome
from breaking.tally import Tally

SCRIPT = """
import sys, time
from pathlib import Path
from breaking.children import in_child
from breaking.moments import FileEvents, Moment, await_moment

folder = Path(sys.argv[1])

def work():
    for number in range(3):
        (folder / f"{number}.part").write_bytes(bytes(100))
        (folder / f"{number}.part").replace(folder / str(number))
    time.sleep(5 if len(sys.argv) > 3 else 0)
    return 0

def killed():
    await_moment(Moment.parsed(sys.argv[2]), folder)
    return work()

ended = in_child(killed)
print(ended.code, *sorted(path.name for path in folder.iterdir()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits and forks as Linux has them")
@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("event:1", "-9"),
        ("event:2", "-9 0.part"),
        ("event:3", "-9 0"),
        ("event:6", "-9 0 1 2.part"),
        ("event:7", "0 0 1 2"),
        ("size:99", "-25 0.part"),
        ("time:0.5", "-14 0 1 2"),
    ],
)
def test_a_kill_comes_at_its_moment(moment, left, tmp_path):
    made = Path(__file__).parents[1] / "made"
    words = [sys.executable, "-c", SCRIPT, str(tmp_path), moment, *(["slow"] if moment.startswith("time") else [])]
    ended = subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=True, env=os.environ | {"PYTHONPATH": str(made)}
    )
    assert ended.stdout.strip() == left, ended.stderr


@pytest.mark.parametrize("suffix", [".json", ".csv", ".npy", ".parquet", ".safetensors", ".sqlite", ".png"])
def test_damage_is_the_same_every_time_and_never_fails(suffix):
    content = b'{"a": [1, "b", {"c": null}]}\n' * 3
    for number in range(60):
        mutations = drawn(suffix, np.random.default_rng(number))
        assert 1 <= len(mutations) <= 3
        assert mutated(content, mutations) == mutated(content, mutations)


def test_half_written_files_and_leftovers_are_seen(tmp_path):
    np.save(tmp_path / "whole.npy", np.arange(4))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-3])
    (tmp_path / "cut.json").write_text('{"a": ')
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n{"b"')
    (tmp_path / "run.json.part").write_text('{"a": ')
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "lock").touch()
    assert [name.split()[0] for name in half_written(tmp_path)] == ["cut.json", "cut.npy"]
    assert leftovers(tmp_path) == [".hidden", "run.json.part"]


def test_outcomes_leave_out_what_no_two_runs_have_in_common(tmp_path):
    ends = []
    for seconds in (1.5, 2.5):
        (tmp_path / "summary.json").write_text(f'{{"pairs": 3, "seconds": {seconds}}}')
        ends.append(outcome(tmp_path))
    (tmp_path / "summary.json").write_text('{"pairs": 4, "seconds": 1.5}')
    assert ends[0] == ends[1] != outcome(tmp_path)


def test_the_table_counts_faults_and_says_how_to_see_them_again():
    told = []
    tally = Tally(told.append)
    tally.tried("kills", "audit", "killed")
    tally.found("kills", "audit", "mix accepted", "event:5", "findings new,\nsummary old")
    assert "| kills | audit | 1 | 0 | 0 | 0 | 1 | 0 | 0 | 0 | 0 | 1 killed |" in tally.table()
    assert "--kinds kills --commands 'audit' --only 'event:5'" in tally.table()
    assert told == ["FOUND kills, audit, event:5: mix accepted: findings new, summary old"]
