import csv
import errno
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from reviewed_table import ROWS

from truepair.cleaning import copying as exporting
from truepair.cleaning.audit_folder import open_audit
from truepair.errors import DataError
from truepair.files import parquet as parquet_files
from truepair.review.app import make_app


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "review.sqlite"
    }


def test_without_decisions_the_manifest_is_the_audits_own(browser, folder):
    answer = browser.post("export", {"threshold": 0.5})
    assert answer["folder"] == str(folder / "reviewed")
    assert answer["files"] == ["kept.jsonl", "dropped.csv", "provenance.parquet"]
    assert (folder / "reviewed" / "kept.jsonl").read_bytes() == (folder / "kept.jsonl").read_bytes()
    dropped = [(path / "dropped.csv").read_text().splitlines() for path in (folder / "reviewed", folder)]
    assert sorted(dropped[0]) == sorted(dropped[1]), "equal probabilities may be in another order"


def test_an_export_is_the_rule_and_the_hand_and_the_source_is_untouched(browser, folder, table):
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
    written = [json.loads(line) for line in (folder / "reviewed" / "kept.jsonl").read_text().splitlines()]
    assert written == expected
    assert answer["keep"] + answer["re-pair"] == len(expected)
    assert answer["drop"] == ROWS - len(expected)

    provenance = pq.read_table(folder / "reviewed" / "provenance.parquet").to_pylist()
    assert [row["caption_id"] for row in provenance] == [*found]
    assert {row["caption_id"] for row in provenance if row["rule"] == "by hand"} == set(hands)
    assert {row["rule"] for row in provenance} == {"by hand", "threshold 0.90"}
    assert json.loads(provenance[0]["model"])["how"] == "cross-fitting"
    by_hand = {row["caption_id"]: row for row in provenance}[re_paired["caption_id"]]
    assert by_hand["image_id"] == re_paired["suggestion"]["id"]
    assert by_hand["former_image_id"] == re_paired["image"]["id"]

    assert contents(table.parent) == before
    assert {name: data for name, data in contents(folder).items() if not name.startswith("reviewed/")} == audit


def test_pairs_that_were_in_memory_are_exported_with_the_audits_own_re_pairing(audited_in_memory, tmp_path, visit):
    folder = shutil.copytree(audited_in_memory, tmp_path / "audit")
    browser = visit(make_app(folder))
    answer = browser.post("export", {"threshold": 0.5})
    assert answer["re-pair"] > 0

    def rows(path):
        with path.open(newline="") as file:
            return sorted(csv.reader(file))

    assert rows(folder / "reviewed" / "kept.csv") == rows(folder / "kept.csv")
    assert rows(folder / "reviewed" / "re_paired.csv") == rows(folder / "re_paired.csv")
    cut = browser.client.get("/api/cut", params={"threshold": 0.5}).json()
    assert (cut["dropped"], cut["re_paired"]) == (answer["drop"], answer["re-pair"])


def test_another_export_replaces_the_first_as_a_whole(browser, folder):
    pair = browser.pairs(filter="with suggestion")["pairs"][0]
    browser.decide(pair, "re-pair", pair["suggestion"]["id"])
    assert "re_paired.csv" in browser.post("export", {"threshold": 0.5})["files"]
    browser.post("undo")
    browser.post("export", {"threshold": 0.5})
    names = sorted(path.name for path in (folder / "reviewed").iterdir())
    assert names == ["dropped.csv", "kept.jsonl", "provenance.parquet"]
    assert not list(folder.glob("reviewed.*")), "nothing temporary stays"


@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_what_was_there(browser, folder, monkeypatch, earlier):
    """The last of the files does not fit any more."""
    if earlier:
        browser.post("export", {"threshold": 0.5})
    before = contents(folder)
    browser.decide(browser.pairs()["pairs"][0], "keep")

    def full(table, path):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(parquet_files.pq, "write_table", full)
    answer = browser.post("export", {"threshold": 0.5}, 507)
    assert "reviewed was not written (No space left on device)" in answer["error"]
    assert contents(folder) == before
    assert not list(folder.glob("reviewed.*"))


def test_a_disk_that_would_fill_up_is_noticed_before(browser, folder, monkeypatch):
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(exporting.shutil, "disk_usage", lambda _: usage._replace(free=10))
    assert "free some space" in browser.post("export", {"threshold": 0.5}, 507)["error"]
    assert not (folder / "reviewed").exists()


def test_an_export_goes_where_it_is_asked_to(folder, tmp_path, visit):
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
    with pytest.raises(DataError, match="something else than an earlier review"):
        make_app(folder, export=tmp_path / "photos")
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DataError, match="is a file"):
        make_app(folder, export=tmp_path / "file")


def test_an_earlier_review_that_is_the_source_itself_is_never_replaced(folder, table, browser):
    """Audited again from what a review wrote."""
    browser.post("export", {"threshold": 1.0})
    reviewed = folder / "reviewed"
    (reviewed / "kept.jsonl").write_bytes(table.read_bytes())
    summary = json.loads((folder / "summary.json").read_text())
    summary["data"] |= {"path": str(reviewed / "kept.jsonl"), "image_root": str(table.parent)}
    (folder / "summary.json").write_text(json.dumps(summary))
    before = contents(reviewed)
    with pytest.raises(DataError, match=r"holds .*kept\.jsonl, which a review never changes"):
        make_app(folder)
    assert contents(reviewed) == before


def test_the_audits_own_folder_and_those_above_it_are_refused(folder):
    audit = open_audit(folder)
    for out in (folder, folder.parent):
        (out / "provenance.parquet").write_bytes(b"")
        with pytest.raises(DataError, match="never changes"):
            exporting.check_target(audit, out)


def test_a_table_that_changed_meanwhile_is_refused_and_nothing_is_written(folder, table, tmp_path, visit):
    copied = shutil.copytree(table.parent, tmp_path / "copy") / table.name
    summary = json.loads((folder / "summary.json").read_text())
    summary["data"]["path"] = str(copied)
    (folder / "summary.json").write_text(json.dumps(summary))
    browser = visit(make_app(folder))
    copied.write_text(copied.read_text().replace('"caption 4"', '"something else"'))
    assert "was the table changed" in browser.post("export", {"threshold": 0.5}, 400)["error"]
    assert not (folder / "reviewed").exists()
