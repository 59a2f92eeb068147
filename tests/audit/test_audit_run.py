import copy
import json
import shutil
from dataclasses import replace
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from truepair.audit.run import audit_corpus, audit_pairs, audit_run, refuse_inputs
from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.fixing import FixOptions, fix
from truepair.cleaning.summary import read_summary
from truepair.config import DataConfig, ModelConfig, NoiseConfig, Recipe, TeacherConfig, TrainingConfig
from truepair.config.audit import AuditConfig
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.training.folder import load_run
from truepair.training.run import run


def test_planted_mismatches_rank_first(audited):
    ranked = pq.read_table(audited.out / "findings.parquet")["caption_id"].to_pylist()
    first = ranked[: len(audited.mismatched)]
    assert len(set(first) & audited.mismatched) >= 0.8 * len(audited.mismatched)
    assert set(first[:10]) <= audited.mismatched


def test_findings_have_one_row_a_pair_in_order_of_suspicion(audited):
    found = pq.read_table(audited.out / "findings.parquet").to_pylist()
    assert sorted(row["caption_id"] for row in found) == sorted(f"k{row}" for row in range(300))
    assert [row["rank"] for row in found] == list(range(1, 301))
    probabilities = [row["mismatch_probability"] for row in found]
    assert probabilities == sorted(probabilities, reverse=True)
    assert min(probabilities) >= 0
    assert max(probabilities) <= 1
    assert all(row["is_suspect"] == (row["mismatch_probability"] >= 0.5) for row in found)
    assert all(a["mismatch_probability"] >= b["mismatch_probability"] for a, b in pairwise(found))
    assert "is_clean" not in found[0]


def test_suggestions_are_another_image_and_another_caption(audited):
    found = pq.read_table(audited.out / "findings.parquet").to_pylist()
    suggested = [row for row in found if row["suggested_image_id"] is not None]
    assert suggested
    assert all(row["suggested_image_id"] != row["image_id"] for row in suggested)
    assert all(row["suggested_caption_id"] != row["caption_id"] for row in found)
    assert all((row["suggested_image_id"] is None) == (row["suggested_image_similarity"] is None) for row in found)


def test_the_audit_never_changes_its_input_and_leaves_no_half_written_file(audited):
    assert audited.table.read_bytes() == audited.before
    assert sorted(path.name for path in audited.out.iterdir()) == [
        "findings.parquet",
        "issues.parquet",
        "report.html",
        "summary.json",
    ]


def test_a_copy_of_the_table_is_the_input_without_the_suspects(audited, tmp_path):
    suspects = {
        row["caption_id"]
        for row in pq.read_table(audited.out / "findings.parquet").to_pylist()
        if row["mismatch_probability"] >= 0.5
    }
    lines = audited.before.decode().splitlines(keepends=True)
    expected = "".join(line for line in lines if json.loads(line)["key"] not in suspects)
    fixed = fix(open_audit(audited.out), {}, tmp_path / "out", FixOptions(threshold=0.5))
    assert (tmp_path / "out" / "scraped.jsonl").read_text(encoding="utf-8") == expected
    assert (fixed.account.kept, fixed.account.dropped) == (300 - len(suspects), len(suspects))
    assert audited.summary.suspects == len(suspects)


def test_the_summary_on_disk_is_the_one_returned_and_says_who_decided(audited):
    assert json.loads((audited.out / "summary.json").read_text()) == json.loads(json.dumps(audited.summary.as_dict()))
    assert json.dumps(read_summary(audited.out).as_dict()) == json.dumps(audited.summary.as_dict())
    assert audited.summary.scored_by.how == "cross-fitting"
    assert audited.summary.threshold == 0.5
    assert 0.05 < audited.summary.estimated_noise_rate < 0.2  # 10 % were planted
    assert audited.summary.truth is None


def test_pairs_without_pictures_whose_truth_is_known_are_measured(measured):
    out, summary = measured
    assert summary.truth["auroc"] > 0.9
    assert summary.truth["mismatched"] == 36
    assert summary.truth["precision_at_100"] is not None
    assert summary.may_re_pair == summary.truth["mutual"] > 0
    clean = pq.read_table(out / "findings.parquet")["is_clean"].to_pylist()
    assert clean.count(False) == 36


def test_an_audit_repeats_itself_exactly(noisy_world, quick, tmp_path):
    config = replace(quick, folds=2, method=TeacherConfig(fold_epochs=2, epochs=1), cards=4)
    for name in ("a", "b"):
        torch.manual_seed(hash(name) % 1000)
        audit_pairs(noisy_world, None, tmp_path / name, config)
    for file in ("findings.parquet", "issues.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_output_folder_that_would_overwrite_the_input_is_refused_before_any_work(audited, quick):
    data = replace(audited.data, path=str(audited.out / "findings.parquet"))
    with pytest.raises(DataError, match="is the input itself"):
        audit_corpus(audited.corpus, data, NoiseConfig(), audited.out, quick)


@pytest.mark.parametrize("path", ["demo", "hf://datasets/org/name"])
def test_a_corpus_that_is_no_path_is_audited_into_the_same_folder_again(path, tmp_path):
    (tmp_path / "report.html").touch()
    refuse_inputs(DataConfig(path=path), tmp_path)


@pytest.mark.parametrize("wrong", [{"folds": 1}, {"threshold": 0.0}, {"temperature": 0.0}, {"candidates": 2}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
        AuditConfig(**wrong)


@pytest.fixture(scope="module")
def trained(audited):
    """A short run on the table with more mistakes put in."""
    recipe = Recipe(
        data=audited.data,
        noise=NoiseConfig(rate=0.2),
        model=ModelConfig(embedding=32),
        method=TeacherConfig(fold_epochs=2, epochs=2),
        training=TrainingConfig(batch_size=32, device="cpu"),
    )
    run(recipe, audited.folder / "run", audited.corpus)
    return load_run(audited.folder / "run")


def test_a_run_is_audited_by_its_own_confidence(trained, quick, tmp_path):
    summary = audit_run(trained, tmp_path, quick)
    found = pq.read_table(tmp_path / "findings.parquet").to_pylist()
    stored = pq.read_table(trained.folder / "pairs.parquet").to_pylist()
    belief = {row["caption_id"]: row["confidence"] for row in stored}
    assert set(belief) == {row["caption_id"] for row in found}
    assert all(abs(row["mismatch_probability"] - (1 - belief[row["caption_id"]])) < 1e-6 for row in found)
    assert summary.scored_by.saw_the_pairs is True
    assert summary.truth["true_noise_rate"] == pytest.approx(0.2, abs=0.01)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "was trained on the pairs that it judges here" in page
    assert "Development rSum" in page
    assert not summary.can_copy, "mistakes put in on purpose stand in no file"


@pytest.mark.parametrize("confidence", [0.5, 1.0])
def test_a_run_that_learned_nothing_makes_no_suspects(trained, quick, tmp_path, confidence):
    folder = shutil.copytree(trained.folder, tmp_path / "run")
    table = pq.read_table(folder / "pairs.parquet")
    place, kind = table.column_names.index("confidence"), table["confidence"].type
    same = pa.array([confidence] * len(table), kind)
    pq.write_table(table.set_column(place, "confidence", same), folder / "pairs.parquet")
    summary = audit_run(replace(trained, folder=folder), tmp_path / "audit", quick)
    assert (summary.estimated_noise_rate, summary.suspects) == (None, 0)
    assert "learned nothing consistent about its pairs: it has the same confidence in all" in summary.warnings[-1]
    found = pq.read_table(tmp_path / "audit" / "findings.parquet")
    assert found["mismatch_probability"].null_count == len(found)
    assert "learned nothing consistent" in (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")


def test_an_unfinished_run_is_refused(trained, quick, tmp_path):
    with pytest.raises(CheckpointError, match="has not finished"):
        audit_run(replace(trained, folder=tmp_path), tmp_path / "out", quick)


def test_a_run_of_two_networks_is_audited_by_their_mean(trained, quick, tmp_path):
    untrained = copy.deepcopy(trained.models[0])
    with torch.no_grad():
        for parameter in untrained.parameters():
            parameter.zero_()
    audit_run(trained, tmp_path / "one", quick)
    audit_run(replace(trained, models=[*trained.models, untrained]), tmp_path / "two", quick)
    one, two = (pq.read_table(tmp_path / name / "findings.parquet").to_pylist() for name in ("one", "two"))
    of_one = {row["caption_id"]: row["similarity"] for row in one}
    assert all(row["similarity"] == pytest.approx(of_one[row["caption_id"]] / 2, abs=1e-6) for row in two)
