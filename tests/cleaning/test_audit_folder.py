import contextlib
import io
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged_databases import DAMAGES, damaged
from PIL import Image
from reviewed_table import BROKEN, COLUMNS, QUICK

from truepair.audit.run import audit_corpus
from truepair.cleaning.audit_folder import NONE, digest_of, open_audit
from truepair.config import DataConfig, NoiseConfig, TeacherConfig
from truepair.data.corpora import load_corpus
from truepair.errors import ConfigError, DataError


def test_images_and_captions_are_numbered_as_the_findings_name_them(audited):
    audit = open_audit(audited)
    found = audit.findings.to_pylist()
    numbers = {row["image_id"]: audit.number_of_image(row["image_id"]) for row in found}
    assert len(set(numbers.values())) == len(numbers)
    assert [int(number) for number in audit.image] == [numbers[row["image_id"]] for row in found]
    suggested = [NONE if row["suggested_image_id"] is None else numbers[row["suggested_image_id"]] for row in found]
    assert audit.suggested_image.tolist() == suggested
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
    assert audit.source is None
    assert not audit.has_pictures
    assert (audit.image != NONE).all()
    with pytest.raises(DataError, match="no picture"):
        audit.thumbnails.of(0, 64)


def test_opening_an_audit_and_copying_its_source_needs_no_torch(audited, tmp_path):
    code = (
        "import sys; from pathlib import Path; from truepair.cleaning.audit_folder import open_audit; "
        "from truepair.cleaning.fixing import FixOptions, fix; "
        f"fix(open_audit(Path({str(audited)!r})), {{}}, Path({str(tmp_path / 'out')!r}), FixOptions(0.5)); "
        "print([name for name in ('torch', 'sklearn', 'scipy', 'matplotlib', 'datasets') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


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
    for changed in ({k: v for k, v in summary.items() if k != "threshold"}, summary | {"pairs": "many"}, [], {"a": 1}):
        (folder / "summary.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match=r"summary\.json .*: audit again"):
            open_audit(folder)
    (folder / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json cannot be read"):
        open_audit(folder)


@pytest.mark.parametrize("change", ["no column", "no table", "no rows", "a caption is missing", "zeros"])
def test_findings_that_are_not_an_audits_are_refused(folder, change):
    path = folder / "findings.parquet"
    findings = pq.read_table(path)
    if change == "no column":
        pq.write_table(findings.drop_columns(["suggested_image_id"]), path)
    elif change == "no rows":
        pq.write_table(findings.slice(0, 0), path)
    elif change == "a caption is missing":
        captions = pa.array([None, *findings["caption"].to_pylist()[1:]], pa.string())
        place = findings.schema.get_field_index("caption")
        pq.write_table(findings.set_column(place, "caption", captions), path)
    else:
        path.write_bytes(b"nothing" if change == "no table" else bytes(1000))
    with pytest.raises(DataError, match=r"findings\.parquet .*audit again"):
        open_audit(folder)


def changed(findings, column, change):
    """Findings with a column that is a list, changed in place or made anew."""
    values = findings[column].to_pylist()
    made = change(values)
    place = findings.column_names.index(column)
    return findings.set_column(
        place, column, pa.array(values if made is None else made, findings.schema.field(place).type)
    )


def put(place, value):
    def change(values):
        values[place] = value

    return change


@pytest.mark.parametrize(
    ("column", "change", "why"),
    [
        ("mismatch_probability", put(0, float("nan")), "has nan as a mismatch_probability"),
        ("mismatch_probability", put(0, float("inf")), "has inf as a mismatch_probability"),
        ("mismatch_probability", put(-1, -0.5), r"has -0\.5 as a mismatch_probability"),
        ("suggestion_probability", put(0, 1.5), r"has 1\.5 as a suggestion_probability"),
        ("mismatch_probability", put(3, None), "is not in the order of the mismatch probability, or lacks some"),
        ("mismatch_probability", lambda values: values[::-1], "is not in the order of the mismatch probability"),
        ("is_suspect", lambda values: values[::-1], "has suspects behind other pairs"),
        ("caption_id", lambda values: ["k1"] * len(values), "has 'k1' as the caption_id of several rows"),
        ("caption", put(5, None), "has no caption in 1 of 120 rows"),
    ],
)
def test_findings_that_no_audit_writes_are_refused(folder, column, change, why):
    path = folder / "findings.parquet"
    pq.write_table(changed(pq.read_table(path), column, change), path)
    with pytest.raises(DataError, match=rf"findings\.parquet {why}.*: audit again"):
        open_audit(folder)


@pytest.mark.parametrize(("column", "kind"), [("mismatch_probability", pa.string()), ("caption", pa.large_string())])
def test_findings_of_other_types_are_refused(folder, column, kind):
    path = folder / "findings.parquet"
    findings = pq.read_table(path)
    place = findings.column_names.index(column)
    pq.write_table(findings.set_column(place, column, findings[column].cast(kind)), path)
    with pytest.raises(DataError, match=rf"has {column} as {kind}, but an audit writes"):
        open_audit(folder)


def test_captions_that_are_no_utf_8_are_refused(folder):
    path = folder / "findings.parquet"
    findings = pq.read_table(path)
    texts = [b"\xff", *[caption.encode() for caption in findings["caption"].to_pylist()[1:]]]
    binary = pa.array(texts, pa.binary())
    invalid = pa.StringArray.from_buffers(len(binary), binary.buffers()[1], binary.buffers()[2])
    pq.write_table(findings.set_column(findings.column_names.index("caption"), "caption", invalid), path)
    with pytest.raises(DataError, match=r"findings\.parquet cannot be read .*UTF.*: audit again"):
        open_audit(folder)


def test_any_damage_of_the_findings_is_said_in_a_sentence(folder):
    path = folder / "findings.parquet"
    content = path.read_bytes()
    for seed in range(100):
        path.write_bytes(damaged(content, DAMAGES[seed % len(DAMAGES)], random.Random(seed)))
        with contextlib.suppress(DataError):
            audit = open_audit(folder)
            audit.rows(range(len(audit.findings)))


def test_a_source_that_is_gone_is_refused_with_a_next_step(folder, table):
    other = shutil.copytree(table.parent, folder.parent / "other") / table.name
    summary = json.loads((folder / "summary.json").read_text())
    summary["source"]["path"] = str(other)
    (folder / "summary.json").write_text(json.dumps(summary))
    other.unlink()
    with pytest.raises(ConfigError, match=r"scraped\.jsonl', which cannot be opened .*was it moved"):
        _ = open_audit(folder).source


def test_training_pairs_only_are_found_under_their_own_names(table, tmp_path):
    """An audit of the training split of a corpus with noise put in, as of a run."""
    config = replace(QUICK, pairs="train", method=TeacherConfig(fold_epochs=2, epochs=1))
    data = DataConfig(path=str(table), source=COLUMNS)
    audit_corpus(load_corpus(data), data, NoiseConfig(rate=0.2), tmp_path / "train", config)
    audit = open_audit(tmp_path / "train")
    assert len(audit.findings) < 120
    assert not audit.summary.can_copy, "noise is in no file"
    assert audit.thumbnails.of(int(audit.image[0]), 32)
