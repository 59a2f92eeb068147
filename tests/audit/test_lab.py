import json

import pytest

from truepair.audit.lab import PairLab
from truepair.config import DataConfig, SourceConfig
from truepair.data.pairs import Pairs
from truepair.errors import ConfigError


def test_an_audit_is_read_in_the_words_of_cleanlab(audited):
    lab = PairLab.load(audited.out)
    found = lab.get_issues()
    assert len(found) == 300
    rows = found.to_pylist()
    assert all(row["mismatch_score"] == pytest.approx(1 - row["mismatch_prob"], abs=1e-6) for row in rows)
    assert all(row["is_mismatch_issue"] == (row["mismatch_prob"] >= 0.5) for row in rows)
    counts = dict(zip(*(column.to_pylist() for column in lab.get_issue_summary().columns), strict=True))
    assert counts["mismatch"] == sum(row["is_mismatch_issue"] for row in rows)
    assert counts["shared caption"] == len(lab.get_issues("shared caption")) == 100
    assert lab.report().read_text().startswith("<!doctype html>")


def test_samples_for_fiftyone_have_a_file_a_sample(audited, tmp_path):
    PairLab.load(audited.out).to_fiftyone(tmp_path / "samples.json")
    samples = json.loads((tmp_path / "samples.json").read_text())["samples"]
    assert len(samples) == 300
    assert all(sample["tags"] == (["mismatch"] if sample["is_mismatch"] else []) for sample in samples)
    assert all(sample["filepath"].startswith(str(audited.folder / "pictures")) for sample in samples)


def test_pairs_in_memory_are_looked_at_from_python(noisy_world, quick, tmp_path):
    assert isinstance(noisy_world, Pairs)
    lab = PairLab(noisy_world)
    with pytest.raises(ConfigError, match="there are no issues yet"):
        lab.get_issues()
    summary = lab.find_issues(tmp_path / "audit", quick)
    assert summary.pairs == len(lab.get_issues())
    with pytest.raises(ConfigError, match="there is no issue 'typo'; there are mismatch, duplicate"):
        lab.get_issues("typo")


def test_a_loaded_lab_is_of_the_corpus_that_was_audited(audited, measured):
    assert PairLab.load(audited.out).data == audited.data
    with pytest.raises(ConfigError, match="were in memory"):
        PairLab.load(measured[0]).find_issues("anywhere")


def test_options_of_reading_are_called_as_on_the_command_line():
    lab = PairLab("photos.csv", image_col="file", caption_col="title")
    assert lab.data == DataConfig("photos.csv", SourceConfig(image_col="file", caption_col=("title",)))


def test_a_folder_without_an_audit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no audit"):
        PairLab.load(tmp_path)
