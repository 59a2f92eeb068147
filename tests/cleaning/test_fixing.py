import csv
import errno
import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kills import killed_at
from owned_elsewhere import owned_elsewhere
from reviewed_table import ROWS

from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.decisions_db import HandDecision
from truepair.cleaning.fixing import FixOptions, check_target, fix
from truepair.cleaning.generation import marked
from truepair.errors import ConfigError, DataError
from truepair.files import parquet as parquet_files
from truepair.files.locking import alone_with
from truepair.review.app import make_app


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "review.sqlite"
    }


def change(folder, **values):
    """The audit's summary with some values changed."""
    summary = json.loads((folder / "summary.json").read_text())
    for name, value in values.items():
        summary[name] = value if not isinstance(value, dict) else summary[name] | value
    (folder / "summary.json").write_text(json.dumps(summary))


def unknown(folder):
    """The audit as one that could not say which pairs do not match."""
    findings = pq.read_table(folder / "findings.parquet")
    place = findings.schema.get_field_index("mismatch_probability")
    missing = pa.nulls(len(findings), pa.float32())
    findings = findings.set_column(place, findings.schema.field(place), missing)
    place = findings.schema.get_field_index("is_suspect")
    findings = findings.set_column(place, findings.schema.field(place), pa.array([False] * len(findings)))
    pq.write_table(findings, folder / "findings.parquet")
    change(folder, estimated_mismatches=None, estimated_noise_rate=None, suspects=0)


def test_a_copy_is_the_rule_and_the_hand_and_the_source_is_untouched(browser, folder, table):
    """The expected table is made row by row from the source."""
    before, audit = contents(table.parent), contents(folder)
    pairs = browser.pairs(filter="with suggestion")["pairs"]
    kept, re_paired = pairs[0], pairs[1]
    dropped = browser.pairs(order="plausible")["pairs"][0]
    browser.decide(kept, "keep")
    browser.decide(re_paired, "re-pair", re_paired["suggestion"]["id"])
    browser.decide(dropped, "drop")
    answer = browser.post("export", {"threshold": 0.9})

    rows = {row["key"]: row for row in map(json.loads, table.read_text().splitlines())}
    found = {row["caption_id"]: row for row in pq.read_table(folder / "findings.parquet").to_pylist()}
    hands = {kept["caption_id"]: "keep", re_paired["caption_id"]: "re-pair", dropped["caption_id"]: "drop"}
    expected = []
    for key, row in rows.items():
        action = hands.get(key, "drop" if found[key]["mismatch_probability"] >= 0.9 else "keep")
        if action == "re-pair":
            donor = next(row for row in rows.values() if row["picture"] == re_paired["suggestion"]["id"])
            row = row | {"picture": donor["picture"], "seen": donor["seen"]}
        if action != "drop":
            expected.append(row)
    written = [json.loads(line) for line in (folder / "reviewed" / "scraped.jsonl").read_text().splitlines()]
    assert written == expected
    assert answer["keep"] + answer["re-pair"] == len(expected)
    assert answer["drop"] == ROWS - len(expected)

    provenance = pq.read_table(folder / "reviewed" / "provenance.parquet").to_pylist()
    assert [row["caption_id"] for row in provenance] == list(rows), "in the order of the source"
    assert {row["caption_id"] for row in provenance if row["rule"] == "by hand"} == set(hands)
    assert {row["rule"] for row in provenance} == {"by hand", "threshold 0.90"}
    assert json.loads(provenance[0]["model"])["how"] == "cross-fitting"
    by_hand = {row["caption_id"]: row for row in provenance}[re_paired["caption_id"]]
    assert by_hand["image_id"] == re_paired["suggestion"]["id"]
    assert by_hand["former_image_id"] == re_paired["image"]["id"]

    assert contents(table.parent) == before
    assert {name: data for name, data in contents(folder).items() if not name.startswith("reviewed/")} == audit


def test_pairs_that_were_in_memory_become_a_csv_with_the_audits_own_re_pairing(audited_in_memory, tmp_path, visit):
    folder = shutil.copytree(audited_in_memory, tmp_path / "audit")
    browser = visit(make_app(folder))
    answer = browser.post("export", {"threshold": 0.5})
    assert answer["re-pair"] > 0
    with (folder / "reviewed" / "kept.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["caption_id"]: row for row in pq.read_table(folder / "findings.parquet").to_pylist()}
    assert len(rows) == answer["keep"] + answer["re-pair"]
    for row in rows:
        finding = found[row["caption_id"]]
        image = finding["suggested_image_id"] if finding["is_suspect"] else finding["image_id"]
        assert (row["image_id"], row["caption"]) == (image, finding["caption"])
    cut = browser.client.get("/api/cut", params={"threshold": 0.5}).json()
    assert (cut["dropped"], cut["re_paired"]) == (answer["drop"], answer["re-pair"])


def test_another_copy_replaces_the_first_as_a_whole(browser, folder):
    first = browser.post("export", {"threshold": 0.5})
    (folder / "reviewed" / "old.txt").write_text("of the first copy")
    browser.post("export", {"threshold": 0.9})
    assert sorted(path.name for path in (folder / "reviewed").iterdir()) == sorted(first["files"])
    assert not list(folder.glob(".*")), "nothing temporary stays"


@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_what_was_there(browser, folder, monkeypatch, earlier):
    """The last of the files does not fit any more."""
    if earlier:
        browser.post("export", {"threshold": 0.5})
    before = contents(folder)
    browser.decide(browser.pairs()["pairs"][0], "keep")

    def full(writer, table):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(parquet_files.pq.ParquetWriter, "write_table", full)
    answer = browser.post("export", {"threshold": 0.5}, 507)
    assert "reviewed was not written (No space left on device)" in answer["error"]
    assert contents(folder) == before
    assert not list(folder.glob(".*"))


def test_a_copy_goes_where_it_is_asked_to(folder, tmp_path, visit):
    browser = visit(make_app(folder, export=tmp_path / "deep" / "out"))
    browser.post("export", {"threshold": 0.5})
    assert (tmp_path / "deep" / "out" / "provenance.parquet").exists()


@pytest.mark.parametrize("threshold", [0, 1.5, "high", None])
def test_impossible_thresholds_are_refused(browser, folder, threshold):
    assert "threshold" in browser.post("export", {"threshold": threshold}, 400)["error"]
    assert not (folder / "reviewed").exists()


def test_a_folder_with_other_things_is_never_replaced(folder, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match="something else than an earlier copy"):
        make_app(folder, export=tmp_path / "photos")
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DataError, match="is a file"):
        make_app(folder, export=tmp_path / "file")


def test_an_earlier_copy_that_is_the_source_itself_is_never_replaced(folder, table, browser):
    """Audited again from what a review wrote."""
    browser.post("export", {"threshold": 1.0})
    reviewed = folder / "reviewed"
    (reviewed / "kept.jsonl").write_bytes(table.read_bytes())
    change(folder, source={"path": str(reviewed / "kept.jsonl"), "image_root": str(table.parent)})
    before = contents(reviewed)
    with pytest.raises(DataError, match=r"holds .*kept\.jsonl, which is only read"):
        make_app(folder)
    assert contents(reviewed) == before


def test_the_audits_own_folder_and_those_above_it_are_refused(folder):
    audit = open_audit(folder)
    for out in (folder, folder.parent):
        (out / "provenance.parquet").write_bytes(b"")
        with pytest.raises(DataError, match="which is only read"):
            check_target(audit, out)


def test_a_table_that_changed_meanwhile_is_refused_and_nothing_is_written(folder, table, tmp_path):
    copied = shutil.copytree(table.parent, tmp_path / "copy") / table.name
    change(folder, source={"path": str(copied)})
    copied.write_text(copied.read_text().replace('"caption 4"', '"something else"'))
    with pytest.raises(DataError, match="was the source changed"):
        fix(open_audit(folder), {}, tmp_path / "out", FixOptions(0.5))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != folder.name) == ["copy"]


def test_a_table_that_lost_rows_is_refused(folder, table, tmp_path):
    copied = shutil.copytree(table.parent, tmp_path / "copy") / table.name
    change(folder, source={"path": str(copied)})
    copied.write_text("".join(table.read_text().splitlines(keepends=True)[:100]))
    with pytest.raises(DataError, match="20 of 120 decisions are about pairs that the source does not have"):
        fix(open_audit(folder), {}, tmp_path / "out", FixOptions(0.5))


# What must not be lost


def test_no_copy_without_more_than_half_of_the_pairs_is_made_unasked(folder, tmp_path):
    audit = open_audit(folder)
    lowest = float(sorted(audit.probability)[ROWS // 2 - 2])
    with pytest.raises(DataError, match=r"of 120 audited pairs would be dropped.*--drop-most"):
        fix(audit, {}, tmp_path / "out", FixOptions(lowest))
    hands = {name: HandDecision("drop", None, "now") for name in audit.findings["caption_id"].to_pylist()}
    with pytest.raises(DataError, match="all 120 audited pairs would be dropped"):
        fix(audit, hands, tmp_path / "out", FixOptions(1.0))
    assert not (tmp_path / "out").exists()
    fixed = fix(audit, hands, tmp_path / "out", FixOptions(1.0, drop_most=True))
    assert (fixed.account.kept, fixed.account.dropped, fixed.by_hand) == (0, 120, 120)


def test_an_audit_that_cannot_say_drops_nothing_at_any_threshold(folder, tmp_path, table):
    unknown(folder)
    fixed = fix(open_audit(folder), {}, tmp_path / "out", FixOptions(0.0001))
    assert (fixed.account.kept, fixed.account.dropped) == (120, 0)
    assert (tmp_path / "out" / table.name).read_bytes() == table.read_bytes()


def test_every_row_of_the_input_is_accounted_for(folder, tmp_path, table):
    """Two rows were added after the audit, one of them without a caption."""
    copied = shutil.copytree(table.parent, tmp_path / "copy") / table.name
    first = json.loads(copied.read_text().splitlines()[0])
    more = [first | {"key": "new", "text": "a new caption"}, first | {"key": "empty", "text": ""}]
    copied.write_text(copied.read_text() + "".join(json.dumps(row) + "\n" for row in more))
    change(folder, source={"path": str(copied)})
    audit = open_audit(folder)
    fixed = fix(audit, {}, tmp_path / "out", FixOptions(0.5))
    account = fixed.account
    assert account.not_audited == {"without a finding": 1, "empty caption": 1}
    assert account.kept + account.dropped + account.re_paired + sum(account.not_audited.values()) == 122
    assert str(account).endswith("re-paired, 2 not audited: 1 × without a finding, 1 × empty caption")
    rules = Counter(
        row["rule"].split(":")[0] for row in pq.read_table(tmp_path / "out" / "provenance.parquet").to_pylist()
    )
    assert rules["not audited"] == 2
    kept = fix(audit, {}, tmp_path / "out", FixOptions(0.5, keep_unaudited=True))
    lines = (tmp_path / "out" / table.name).read_text().splitlines()
    assert len(lines) == kept.account.kept + kept.account.re_paired + 2
    assert [json.loads(line)["key"] for line in lines[-2:]] == ["new", "empty"]


def test_pairs_with_issues_are_dropped_if_they_are_to(folder, tmp_path):
    audit = open_audit(folder)
    images = audit.findings["image_id"].to_pylist()
    issues = {
        "issue": ["blank", "duplicate", "duplicate"],
        "image_id": [images[-1], images[-2], images[-3]],
        "caption_id": pa.array([None] * 3, pa.string()),
        "group": pa.array([None, 0, 0], pa.int64()),
        "detail": ["", "", ""],
    }
    pq.write_table(marked(pa.table(issues), audit.summary.generation), folder / "issues.parquet")
    audit = open_audit(folder)
    plain = fix(audit, {}, tmp_path / "a", FixOptions(0.5))
    fixed = fix(audit, {}, tmp_path / "b", FixOptions(0.5, drop_issues=("blank", "duplicate")))
    of_images = [image in (images[-1], images[-3]) for image in images]
    assert fixed.account.dropped - plain.account.dropped == sum(of_images) - sum(
        suspect and of for suspect, of in zip(audit.is_suspect, of_images, strict=True)
    )
    rules = {row["rule"] for row in pq.read_table(tmp_path / "b" / "provenance.parquet").to_pylist()}
    assert rules == {"threshold 0.50", "issue: blank", "issue: duplicate"}


def test_an_audit_is_fixed_from_any_folder(folder, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert fix(open_audit(folder), {}, Path("out"), replace(FixOptions(0.5))).account.kept > 0
    assert (tmp_path / "elsewhere" / "out" / "scraped.jsonl").exists()


def test_a_decision_about_an_image_that_no_finding_knows_is_refused(folder, tmp_path):
    audit = open_audit(folder)
    name = audit.findings["caption_id"][0].as_py()
    with pytest.raises(DataError, match=r"is to get the image 'ghost' \(by hand\)"):
        fix(audit, {name: HandDecision("re-pair", "ghost", "now")}, tmp_path / "out", FixOptions(0.5))


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_whenever_it_is_killed_a_copy_is_whole_and_the_earlier_one_is_never_lost(folder, tmp_path):
    audit, here = open_audit(folder), tmp_path / "here"
    event, away = 1, 0
    while True:
        shutil.rmtree(here, ignore_errors=True)
        earlier = fix(audit, {}, here / "out", FixOptions(1.0))
        before = contents(here)
        if not killed_at(event, lambda: fix(audit, {}, here / "out", FixOptions(0.5)), here):
            break
        if not (here / "out").exists():
            away += 1
            with pytest.raises(DataError, match="would be dropped"):  # a call that writes nothing puts it back as well
                fix(audit, {}, here / "out", FixOptions(0.0001))
            assert contents(here) == before
        fixed = fix(audit, {}, here / "out", FixOptions(0.5))
        assert fixed.account.dropped > earlier.account.dropped
        assert {path.split("/")[0] for path in contents(here)} == {"out"}, "nothing else lies there"
        event += 1
    assert away == 1
    assert event > 10


def test_two_copies_to_one_place_at_once_are_refused(folder, tmp_path):
    audit = open_audit(folder)
    with owned_elsewhere(alone_with(tmp_path / "out")), pytest.raises(ConfigError, match=r"is writing .*out: wait for"):
        fix(audit, {}, tmp_path / "out", FixOptions(0.5))
    assert not (tmp_path / "out").exists()
