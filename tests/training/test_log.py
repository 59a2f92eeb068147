import json
import sys

import pytest

from truepair.errors import ConfigError
from truepair.training.log import RunLog, read_log


def log_epochs(log, epochs, steps=5):
    for epoch in epochs:
        for step in range(steps):
            log.step(epoch, {"loss": float(10 * epoch + step)})
        log.epoch(epoch, {"rsum": float(epoch)})


def test_lines_are_means_over_steps_and_one_line_an_epoch(tmp_path):
    log_epochs(RunLog(tmp_path, steps_per_line=2), [0])
    assert read_log(tmp_path / "log.jsonl") == [
        {"kind": "steps", "epoch": 0, "steps": 2, "loss": 0.5},
        {"kind": "steps", "epoch": 0, "steps": 2, "loss": 2.5},
        {"kind": "steps", "epoch": 0, "steps": 1, "loss": 4.0},
        {"kind": "epoch", "epoch": 0, "rsum": 0.0},
    ]


def test_a_scalar_that_some_steps_have_is_their_mean(tmp_path):
    log = RunLog(tmp_path)
    for scalars in ({"loss": 1.0, "meta": 5.0}, {"loss": 3.0}, {"late": 2.0, "loss": 5.0, "meta": 7.0}):
        log.step(0, scalars)
    log.epoch(0, {})
    assert read_log(log.path)[0] == {"kind": "steps", "epoch": 0, "steps": 3, "loss": 3.0, "meta": 6.0, "late": 2.0}


def test_a_log_is_gone_on_with(tmp_path):
    log_epochs(RunLog(tmp_path), [0])
    log_epochs(RunLog(tmp_path), [1])
    assert [line["epoch"] for line in read_log(tmp_path / "log.jsonl")] == [0, 0, 1, 1]


def test_rewinding_keeps_the_lines_of_the_first_epochs(tmp_path):
    log = RunLog(tmp_path, steps_per_line=2)
    log_epochs(log, range(3))
    whole = read_log(log.path)
    log.rewind(2)
    assert read_log(log.path) == [line for line in whole if line["epoch"] < 2]
    log_epochs(log, [2])
    assert read_log(log.path) == whole
    log.rewind(0)
    assert read_log(log.path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_rewinding_forgets_steps_that_were_not_written_yet(tmp_path):
    log = RunLog(tmp_path)
    log.step(0, {"loss": 99.0})
    log.rewind(0)
    log_epochs(log, [0])
    assert read_log(log.path)[0] == {"kind": "steps", "epoch": 0, "steps": 5, "loss": 2.0}


def test_there_is_nothing_to_rewind_in_a_new_folder(tmp_path):
    RunLog(tmp_path).rewind(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path, cut):
    log = RunLog(tmp_path)
    log_epochs(log, [0, 1])
    whole = read_log(log.path)
    text = log.path.read_text(encoding="utf-8")
    log.path.write_text(text[:-cut] if cut > 1 else text[:-2], encoding="utf-8")
    assert read_log(log.path) == whole[:-1]
    log.rewind(1)
    assert read_log(log.path) == whole[:2]
    assert log.path.read_text(encoding="utf-8").endswith("\n")


def test_every_line_is_json_of_its_own(tmp_path):
    log = RunLog(tmp_path)
    log_epochs(log, [0])
    assert [json.loads(line)["kind"] for line in log.path.read_text(encoding="utf-8").splitlines()] == [
        "steps",
        "epoch",
    ]


def test_tensorboard_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'truepair\[tensorboard\]'"):
        RunLog(tmp_path, tensorboard=True)
