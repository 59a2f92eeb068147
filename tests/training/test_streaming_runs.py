"""Runs that are stopped within an epoch, and runs that read shards in turn: they end as others do."""

import json
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_sources import picture, write_tar
from together import together

from truepair.audit.run import audit_run
from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.fixing import FixOptions, fix
from truepair.config import (
    AuditConfig,
    BaselineConfig,
    CrclConfig,
    DataConfig,
    DisnclConfig,
    ModelConfig,
    MscnConfig,
    NoiseConfig,
    Recipe,
    TeacherConfig,
    TrainingConfig,
)
from truepair.errors import ConfigError, DataError
from truepair.search.building import build_index
from truepair.search.index import open_index
from truepair.training import fit as fit_module
from truepair.training.folder import load_run
from truepair.training.log import read_log
from truepair.training.run import run

OF_DEMO = Recipe(
    DataConfig("demo"),
    NoiseConfig(0.3),
    model=ModelConfig(words="mean", embedding=16, word_size=16, projection="plain", input_dropout=0.2),
    training=TrainingConfig(batch_size=256, device="cpu", checkpoint_steps=2),
)
METHODS = {
    "baseline": BaselineConfig(epochs=2),
    "crcl": CrclConfig(stages=(1, 1), frozen_epochs=1),
    "mscn": MscnConfig(warmup_epochs=1, warmup_batch_size=256, purified_epochs=2, meta_batch_size=16, meta_interval=2),
    "disncl": DisnclConfig(networks=2, warmup_epochs=1, main_epochs=2, critics_from=1),
    "teacher": TeacherConfig(fold_epochs=2, folds=2, epochs=2, warmup_epochs=1, judge_every=1, target_weight=1.0),
}


def stopped_after(saves, recipe, folder, monkeypatch):
    """A run that ends when it has saved so often; whether it did."""
    done = []
    save = fit_module.save

    def save_and_count(*given):
        save(*given)
        done.append(given[1].batches)
        if len(done) == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "save", save_and_count)
        try:
            run(recipe, folder)
        except KeyboardInterrupt:
            return done
    return None


def of_run(folder):
    """What a run has left, but for times."""
    log = [{k: v for k, v in line.items() if "seconds" not in k} for line in read_log(folder / "log.jsonl")]
    results = json.loads((folder / "results.json").read_text())
    kept = {k: v for k, v in results.items() if "seconds" not in k and k != "peak_memory_mb"}
    return log, kept, (folder / "best.safetensors").read_bytes(), (folder / "pairs.parquet").read_bytes()


@pytest.mark.filterwarnings("ignore:MSCN learns from pairs", "ignore:.*codes of the .* side collapsed")
@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_is_stopped_within_epochs_ends_like_one_left_in_peace(name, tmp_path, monkeypatch):
    model = replace(OF_DEMO.model, region_dropping=0.1) if name == "baseline" else OF_DEMO.model
    recipe = replace(OF_DEMO, method=METHODS[name], model=model)
    run(recipe, tmp_path / "whole")
    within = []
    for saves in (1, 2, 3, 2, 1, 1, 2, 3):  # from there on, so many more
        done = stopped_after(saves, recipe, tmp_path / "stopped", monkeypatch)
        if done is None:
            break
        within.append(done[-1])
    assert len([batches for batches in within if batches]) >= 3
    run(recipe, tmp_path / "stopped")
    for whole, stopped in zip(of_run(tmp_path / "whole"), of_run(tmp_path / "stopped"), strict=True):
        assert whole == stopped


def test_how_often_is_saved_changes_no_weight(tmp_path):
    for steps in (0, 3):
        training = replace(OF_DEMO.training, checkpoint_steps=steps)
        run(replace(OF_DEMO, method=METHODS["teacher"], training=training), tmp_path / str(steps))
    for name in ("best.safetensors", "pairs.parquet"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ConfigError, match=r"training\.checkpoint_steps is -1"):
        TrainingConfig(checkpoint_steps=-1)


@pytest.fixture
def streamed(tmp_path):
    """A recipe over shards of pictures, one of which is broken in training, and one in the test."""
    pytest.importorskip("transformers", reason="needs the extra hf")
    from tiny_networks import save_bert, save_clip

    broken = (4, 17)
    for shard in range(4):
        files = {}
        for place in range(8):
            number = 8 * shard + place
            files[f"{number:03d}.png"] = b"no picture" * 9 if number in broken else picture(number)
            files[f"{number:03d}.json"] = json.dumps({"caption": [f"a dog {number}", f"cat {number}"]}).encode()
        write_tar(tmp_path / "shards" / f"{shard:05d}.tar", files)
    return Recipe(
        DataConfig(str(tmp_path / "shards"), stream_index=str(tmp_path / "index"), shards_at_once=2),
        model=ModelConfig(
            image="full",
            text="full",
            image_encoder=save_clip(tmp_path / "clip"),
            text_encoder=save_bert(tmp_path / "bert"),
            embedding=8,
            projection="plain",
            smallest_crop=1.0,
        ),
        method=METHODS["crcl"],
        training=TrainingConfig(batch_size=10, device="cpu", checkpoint_steps=2),
    )


def test_a_streamed_run_goes_on_within_an_epoch(streamed, tmp_path, monkeypatch):
    results = run(streamed, tmp_path / "whole")
    assert [note for note in results.notes if "2 pairs were not learned from" in note]
    stops = 0
    while stopped_after(1, streamed, tmp_path / "stopped", monkeypatch):
        stops += 1
    assert stops > 5
    for whole, stopped in zip(of_run(tmp_path / "whole"), of_run(tmp_path / "stopped"), strict=True):
        assert whole == stopped


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("name", ["baseline", "crcl", "teacher"])
def test_two_processes_leave_out_the_same_broken_pictures(streamed, tmp_path, name):
    model = replace(streamed.model, text="frozen")  # without dropout
    recipe = replace(streamed, method=METHODS[name], model=model)
    run(recipe, tmp_path / "one")
    together(lambda _: run(recipe, tmp_path / "two").pairs.train, tmp_path / "told")
    ours, theirs = (
        [line["loss"] for line in read_log(tmp_path / each / "log.jsonl") if line["kind"] == "steps"]
        for each in ("one", "two")
    )
    assert ours == pytest.approx(theirs, rel=1e-3)
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert any("2 pairs were not learned from" in note for note in results["notes"])


def test_pairs_without_a_picture_are_in_no_audit_no_copy_and_no_index(streamed, tmp_path):
    results = run(streamed, tmp_path / "run")
    (note,) = (note for note in results.notes if "2 pairs were not learned from" in note)
    assert note.endswith("they have no confidence")
    pairs = pq.read_table(tmp_path / "run" / "pairs.parquet").to_pylist()
    lost = {row["caption_id"] for row in pairs if np.isnan(row["confidence"])}
    assert lost == {row["caption_id"] for row in pairs if row["left_out"]}
    assert len(lost) == 2

    trained = load_run(tmp_path / "run")
    summary = audit_run(trained, tmp_path / "audit", AuditConfig(cards=5, threshold=1.0))
    assert (summary.pairs, summary.skipped["unreadable picture"]) == (len(pairs) - 2, 2)  # and one of the test
    found = pq.read_table(tmp_path / "audit" / "findings.parquet")["caption_id"].to_pylist()
    assert set(found) == {row["caption_id"] for row in pairs} - lost
    fix(open_audit(tmp_path / "audit"), {}, tmp_path / "copy", FixOptions(threshold=1.0))
    became = {row["caption_id"]: row for row in pq.read_table(tmp_path / "copy" / "provenance.parquet").to_pylist()}
    assert {became[name]["rule"] for name in lost} == {"not audited: unreadable picture"}

    told: list[str] = []
    manifest = build_index(str(tmp_path / "run"), tmp_path / "index_of_run", tell=told.append)
    stored = trained.corpus.splits
    assert manifest.count("images") == sum(len(part.images) for part in (stored.train, stored.dev, stored.test)) - 1
    assert "1 picture cannot be decoded, and is not in the index" in told
    index = open_index(tmp_path / "index_of_run")
    (missing,) = {row["image_id"] for row in pairs if row["caption_id"] in lost}
    with pytest.raises(DataError, match="3 of 3 ids are neither images nor captions of the index"):
        index.found([missing, *lost])
