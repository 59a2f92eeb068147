import io
import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from reviewed_table import BROKEN, QUICK

from truepair.audit.run import audit_corpus
from truepair.cleaning.audit_folder import NONE, digest_of, open_audit
from truepair.config import BaselineConfig, NoiseConfig
from truepair.data.corpora import load_corpus
from truepair.errors import ConfigError, DataError


def test_the_images_of_the_findings_are_those_of_the_corpus(audited):
    audit = open_audit(audited)
    found = audit.findings.to_pylist()
    assert [audit.pairs.image_ids[number] for number in audit.image] == [row["image_id"] for row in found]
    suggested = [None if number == NONE else audit.pairs.image_ids[number] for number in audit.suggested_image]
    assert suggested == [row["suggested_image_id"] for row in found]
    captions = [None if row == NONE else found[row]["caption_id"] for row in audit.suggested_caption]
    assert captions == [row["suggested_caption_id"] for row in found]
    assert audit.row_of(found[17]["caption_id"]) == 17
    assert audit.row_of("nobody") is None
    assert audit.number_of_image("nobody") == NONE
    assert audit.suspects == sum(row["is_suspect"] for row in found)


def test_thumbnails_are_of_the_image_asked_for_and_small(audited, table):
    audit = open_audit(audited)
    number = audit.number_of_image("50.png")
    picture = Image.open(io.BytesIO(audit.thumbnails.of(number, 20)))
    assert picture.format == "WEBP"
    assert picture.size == (20, 10)
    assert abs(picture.convert("RGB").getpixel((5, 5))[0] - 100) < 12  # image 50 is (100, 90, 128)
    for missing in (audit.number_of_image(f"{BROKEN}.png"), -1, 10_000):
        with pytest.raises(DataError):
            audit.thumbnails.of(missing, 20)


def test_pairs_that_were_in_memory_have_names_and_no_pictures(audited_in_memory):
    audit = open_audit(audited_in_memory)
    assert audit.table is None
    assert audit.pairs.pictures is None
    assert (audit.image != NONE).all()
    with pytest.raises(DataError, match="no picture"):
        audit.thumbnails.of(0, 64)


def test_the_digest_changes_with_ids_and_probabilities_and_with_nothing_else(audited):
    findings = pq.read_table(audited / "findings.parquet")
    digest = digest_of(findings)
    assert digest_of(pa.concat_tables([findings.slice(0, 7), findings.slice(7)])) == digest
    assert digest_of(findings.drop_columns(["similarity"])) == digest
    assert digest_of(findings.slice(1)) != digest
    assert digest_of(pa.concat_tables([findings.slice(1, 1), findings.slice(0, 1), findings.slice(2)])) != digest
    names = findings["caption_id"].to_pylist()
    moved = pa.table({"caption_id": [names[0] + names[1][0], names[1][1:], *names[2:]]})
    moved = moved.append_column("mismatch_probability", findings["mismatch_probability"])
    assert digest_of(moved) != digest, "the same letters, cut elsewhere"


def test_a_folder_without_an_audit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no audit"):
        open_audit(tmp_path)


def test_damaged_files_are_refused(folder):
    summary = json.loads((folder / "summary.json").read_text())
    del summary["threshold"]
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match="does not say threshold"):
        open_audit(folder)
    (folder / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json cannot be read"):
        open_audit(folder)


@pytest.mark.parametrize("change", ["no column", "no table", "no rows"])
def test_findings_that_are_not_an_audits_are_refused(folder, change):
    path = folder / "findings.parquet"
    findings = pq.read_table(path)
    if change == "no column":
        pq.write_table(findings.drop_columns(["suggested_image_id"]), path)
    elif change == "no rows":
        pq.write_table(findings.slice(0, 0), path)
    else:
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"findings\.parquet .*audit again"):
        open_audit(folder)


def moved_table(folder, table, text):
    """The audit, of another table with that text."""
    other = shutil.copytree(table.parent, folder.parent / "other") / table.name
    other.write_text(text)
    summary = json.loads((folder / "summary.json").read_text())
    summary["data"]["path"] = str(other)
    (folder / "summary.json").write_text(json.dumps(summary))
    return other


def test_a_corpus_that_changed_is_refused_and_named(folder, table):
    other = moved_table(folder, table, table.read_text().replace('"caption 4"', '"something else"'))
    with pytest.raises(DataError, match=r"scraped\.jsonl is not what .*: 1 of 120 pairs differ \(first: k4") as error:
        open_audit(folder)
    assert str(other) in str(error.value)


def test_a_corpus_without_some_of_the_pairs_is_refused(folder, table):
    moved_table(folder, table, "".join(table.read_text().splitlines(keepends=True)[:100]))
    with pytest.raises(DataError, match="20 of 120 pairs differ"):
        open_audit(folder)


def test_a_corpus_that_is_gone_is_refused_with_a_next_step(folder, table):
    moved_table(folder, table, table.read_text()).unlink()
    with pytest.raises(ConfigError, match=r"does not exist.*relative paths start.*at the folder that the command"):
        open_audit(folder)


def test_training_pairs_only_are_found_under_their_own_names(audited, table, tmp_path):
    """An audit of the training split of a corpus with noise put in, as of a run."""
    config = replace(QUICK, split="train", method=BaselineConfig(epochs=1))
    data = open_audit(audited).data
    audit_corpus(load_corpus(data), data, NoiseConfig(rate=0.2), tmp_path / "train", config)
    audit = open_audit(tmp_path / "train")
    assert len(audit.findings) == len(audit.pairs) < 120
    assert audit.table is None, "noise is in no file"
    assert audit.thumbnails.of(int(audit.image[0]), 32)
