"""Copies of every kind of source: the ecosystem's own reader reads them, and what is kept is as it was."""

import csv
import errno
import json
import os
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from made_sources import (
    check,
    hashes,
    opened,
    picture,
    samples,
    tar_files,
    write_files,
    write_rows,
    write_shards,
    write_tar,
)
from made_stores import in_memory
from source_forms import CAPTIONS, FORMS, made, pictures, reopened, table_rows

from truepair.cleaning.decisions import Decision
from truepair.cleaning.fixing import write_copy
from truepair.cleaning.row_edits import RowEdit
from truepair.cleaning.table_writers import write_rows as write_table
from truepair.cleaning.writers import WRITERS
from truepair.config import SourceConfig
from truepair.errors import ConfigError, DataError
from truepair.sources.opening import open_source
from truepair.sources.protocol import Kind, Source

datasets = pytest.importorskip("datasets")
# The libraries that read the copies leave files to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def decided(source: Source, drop: Mapping[int, None] = {}, re_pair: Mapping[int, int] = {}) -> dict[str, Decision]:
    """Keep but for some samples, counted from 0 without the missing one."""
    found = samples(source)
    decisions = {}
    for place, sample in enumerate(found):
        for caption, name in zip(sample.captions, sample.caption_ids, strict=True):
            action, image, former = "keep", sample.image_id, None
            if place in drop:
                action = "drop"
            elif place in re_pair:
                action, image, former = "re-pair", found[re_pair[place]].image_id, sample.image_id
            decisions[name] = Decision(name, caption, action, image, "why", 0.9 if action != "keep" else 0.1, former)
    return decisions


def copied(source: Source, decisions: Mapping[str, Decision], target: Path, **more) -> list[str]:
    return write_copy(source, list(decisions.values()), target, **more)[0]


@pytest.mark.usefixtures("cache", "memory")
@pytest.mark.parametrize("form", FORMS)
def test_the_copy_of_what_lies_in_a_store_is_the_copy_of_what_lies_on_a_disk(form, tmp_path):
    path = made(form, tmp_path / "source")
    for source, target in ((open_source(path), "disk"), (open_source(in_memory(path)), "store")):
        copied(source, decided(source, drop={1: None}, re_pair={4: 0}), tmp_path / target, keep_unaudited=True)
    disk, store = hashes(tmp_path / "disk"), hashes(tmp_path / "store")
    assert disk.keys() == store.keys()
    assert {name for name in disk if disk[name] != store[name]} <= {"provenance.parquet"}  # it says where and when


def test_every_kind_of_source_has_a_writer():
    assert set(WRITERS) == set(get_args(Kind))


@pytest.mark.parametrize("form", FORMS)
def test_a_cleaned_copy_is_a_source_of_the_same_kind_without_what_was_dropped(form, tmp_path):
    path = made(form, tmp_path / "source")
    source, before = open_source(path), hashes(tmp_path / "source")
    found = check(source)
    assert len(found) == 7
    written = copied(source, decided(source, drop={1: None}, re_pair={4: 0}), tmp_path / "out")

    copy = reopened(tmp_path / "out", form, path)
    assert copy.kind == source.kind
    pairs = sorted((caption, sample.picture) for sample in check(copy) for caption in sample.captions)
    expected = [(sample.captions[0], sample.picture) for place, sample in enumerate(found) if place != 1]
    expected[3] = (found[4].captions[0], found[0].picture)
    assert pairs == sorted(expected)
    assert hashes(tmp_path / "source") == before
    files = (file for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert sorted(written) == sorted(file.relative_to(tmp_path / "out").as_posix() for file in files)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("form", FORMS)
def test_the_provenance_says_what_became_of_every_pair(form, tmp_path):
    source = open_source(made(form, tmp_path / "source"))
    found = samples(source)
    decisions = decided(source, drop={1: None}, re_pair={4: 0})
    del decisions[found[6].caption_ids[0]]
    (checked,) = found[5].caption_ids
    decisions[checked] = replace(decisions[checked], rule="by hand", time="2025-01-02")
    names, account = write_copy(source, list(decisions.values()), tmp_path / "out", model={"how": "cross-fitting"})
    assert names[-1] == "provenance.parquet"
    rows = {row.pop("caption_id"): row for row in pq.read_table(tmp_path / "out" / names[-1]).to_pylist()}
    assert len(rows) == 8
    assert (account.kept, account.dropped, account.re_paired, sum(account.not_audited.values())) == (4, 1, 1, 2)
    first = rows[found[0].caption_ids[0]]
    assert first.pop("time") is not None
    assert first == {
        "action": "keep", "image_id": found[0].image_id, "former_image_id": None, "mismatch_probability": 0.1,
        "rule": "why", "model": '{"how": "cross-fitting"}',
    }  # fmt: skip
    assert rows[found[1].caption_ids[0]]["action"] == "drop"
    changed = rows[found[4].caption_ids[0]]
    assert (changed["action"], changed["image_id"]) == ("re-pair", found[0].image_id)
    assert changed["former_image_id"] == found[4].image_id
    assert (rows[checked]["rule"], rows[checked]["time"]) == ("by hand", "2025-01-02")
    left = rows[found[6].caption_ids[0]]
    assert (left["action"], left["mismatch_probability"], left["rule"]) == ("drop", None, "not audited")
    (lost,) = (row for name, row in rows.items() if name not in {n for sample in found for n in sample.caption_ids})
    assert lost["action"] == "drop"
    assert lost["rule"].startswith("not audited: ")


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("webdataset", "folder", "zipped folder")])
def test_rows_that_were_not_audited_stay_if_they_are_to(form, tmp_path):
    """One has a picture that is not there, another no decision."""
    path = made(form, tmp_path / "source")
    source = open_source(path)
    decisions = decided(source, drop={1: None})
    del decisions[samples(source)[6].caption_ids[0]]
    copied(source, decisions, tmp_path / "out", keep_unaudited=True)
    copy = reopened(tmp_path / "out", form, path)
    captions = [caption for row in range(len(copy)) for caption in copy.captions_of(row).texts]
    dropped = samples(source)[1].captions
    assert sorted(captions) == sorted(set(CAPTIONS) - set(dropped))
    actions = pq.read_table(tmp_path / "out" / "provenance.parquet").to_pylist()
    assert sum(row["action"] == "keep" and row["rule"].startswith("not audited") for row in actions) == 2


def test_what_was_not_audited_stays_in_a_folder_and_in_tar_shards_too(tmp_path):
    folder = open_source(made("folder", tmp_path / "a"))
    copied(folder, {}, tmp_path / "folder", keep_unaudited=True)
    assert {name: h for name, h in hashes(tmp_path / "folder").items() if name != "provenance.parquet"} == hashes(
        tmp_path / "a"
    )
    shards = open_source(made("webdataset", tmp_path / "b"))
    copied(shards, {}, tmp_path / "shards", keep_unaudited=True)
    for name in ("00000.tar", "00001.tar"):
        assert tar_files(tmp_path / "shards" / name) == tar_files(tmp_path / "b" / name)


# The ecosystem's own readers


def test_what_a_link_leads_to_is_in_no_copy(tmp_path):
    write_files(tmp_path / "far", {"secret.txt": "secret", "secret.json": '{"secret": 1}', "b.png": picture(9)})
    folder = write_files(tmp_path / "in", {name: picture(number) for number, name in enumerate(("a.png", "c.png"))})
    write_files(folder, {"a.txt": "fine"})
    for name, target in (("c.txt", "secret.txt"), ("b.png", "b.png"), ("a.json", "secret.json")):
        (folder / name).symlink_to(tmp_path / "far" / target)
    source = open_source(folder)
    copied(source, decided(source), tmp_path / "out", keep_unaudited=True)
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {"a.png", "a.txt", "c.png"} == written.keys() - {"provenance.parquet"}
    assert not any(b"secret" in content or content == picture(9) for content in written.values())


def test_pandas_reads_a_cleaned_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    readers = {
        "csv": pandas.read_csv, "csv.gz": pandas.read_csv, "tsv": lambda path: pandas.read_csv(path, sep="\t"),
        "jsonl": lambda path: pandas.read_json(path, lines=True), "json": pandas.read_json,
        "parquet": pandas.read_parquet, "feather": pandas.read_feather,
    }  # fmt: skip
    for form, read in readers.items():
        path = made(form, tmp_path / form / "source")
        source = open_source(path)
        copied(source, decided(source, drop={1: None}, re_pair={4: 0}), tmp_path / form / "out")
        before, after = read(path), read(tmp_path / form / "out" / path.name)
        expected = before.drop([1, 3]).reset_index(drop=True)
        expected.loc[3, "image"] = "k0.png"
        pandas.testing.assert_frame_equal(after, expected)


@pytest.mark.parametrize("form", ["dataset", "datasetdict"])
def test_datasets_loads_a_cleaned_dataset_from_disk(form, tmp_path):
    path = made(form, tmp_path / "source")
    source = open_source(path)
    copied(source, decided(source, drop={1: None}, re_pair={4: 0}), tmp_path / "out")
    before, after = datasets.load_from_disk(path), datasets.load_from_disk(tmp_path / "out")
    if form == "dataset":
        before, after = {"": before}, {"": after}
    assert after.keys() == before.keys()
    kept = [row for split in after for row in after[split]]
    assert [row["n"] for row in kept] == [0, 2, 4, 5, 6, 7]
    for split, rows in after.items():
        assert rows.features == before[split].features
    first = next(row for row in kept if row["n"] == 0)["image"]
    assert kept[3]["image"].tobytes() == first.tobytes()


@pytest.mark.parametrize("form", ["hub", "imagefolder"])
def test_datasets_loads_a_cleaned_folder(form, tmp_path):
    source = open_source(made(form, tmp_path / "source"))
    numbers = [CAPTIONS.index(sample.captions[0]) for sample in samples(source)]  # test/ stands before train/
    assert numbers == [5, 6, 7, 0, 1, 2, 4]
    copied(source, decided(source, drop={1: None}, re_pair={4: 0}), tmp_path / "out")
    (tmp_path / "out" / "provenance.parquet").unlink()
    loaded = datasets.load_dataset(str(tmp_path / "out"))
    rows = {row["n"]: row for split in ("train", "test") for row in loaded[split]}
    assert list(rows) == [0, 1, 2, 4, 5, 7]
    assert all(row["caption"] == CAPTIONS[n] for n, row in rows.items())
    assert rows[1]["image"].tobytes() == rows[5]["image"].tobytes()


def test_pictures_of_one_name_that_come_to_one_folder_stay_apart(tmp_path):
    folders = {"train": ("a", "b"), "val": ("x",), "test": ("x",)}
    for number, (name, stems) in enumerate(folders.items()):
        rows = [{"file_name": f"{stem}.png", "caption": f"{name} {stem}"} for stem in stems]
        write_rows(tmp_path / "in" / name / "metadata.csv", rows)
        write_files(tmp_path / "in" / name, {f"{stem}.png": picture(10 * number + k) for k, stem in enumerate(stems)})
    source = open_source(tmp_path / "in")
    found = {sample.captions[0]: (place, sample.picture) for place, sample in enumerate(samples(source))}
    (a, _), (b, _), (val, of_val), (test, of_test) = (found[name] for name in ("train a", "train b", "val x", "test x"))
    assert of_val != of_test
    copied(source, decided(source, re_pair={a: val, b: test}), tmp_path / "out")
    after = {caption: sample.picture for sample in check(opened(tmp_path / "out")) for caption in sample.captions}
    assert after == {"train a": of_val, "train b": of_test, "val x": of_val, "test x": of_test}
    assert len(list((tmp_path / "out" / "train").glob("x*.png"))) == 2


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_pictures_outside_a_picture_folder_are_in_its_copy(ending, tmp_path):
    write_files(tmp_path / "in" / "images", {f"{k}.png": picture(k) for k in range(3)})
    write_files(tmp_path / "in" / "train", {"2.png": picture(7)})
    names = [
        "../images/0.png",
        "../images/0.png",
        str(tmp_path / "in" / "images" / "1.png"),
        "../images/2.png",
        "2.png",
    ]
    rows = [{"file_name": name, "caption": f"c{place}"} for place, name in enumerate(names)]
    write_rows(tmp_path / "in" / "train" / f"metadata.{ending}", rows)
    source = opened(tmp_path / "in", allow_outside=True)
    before = {caption: sample.picture for sample in samples(source) for caption in sample.captions}
    assert len(before) == 5
    copied(source, decided(source), tmp_path / "out")
    found = check(opened(tmp_path / "out"))
    assert {caption: sample.picture for sample in found for caption in sample.captions} == before
    kept = sorted(file.name for file in (tmp_path / "out" / "train").glob("*.png"))
    assert kept == ["0.png", "1.png", "2.png", "2~2.png"]


def test_webdataset_reads_cleaned_shards(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    source = open_source(made("webdataset", tmp_path / "source"))
    copied(source, decided(source, drop={1: None}), tmp_path / "out")
    urls = [str(file) for file in sorted((tmp_path / "out").glob("*.tar"))]
    found = [sample["txt"].decode() for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    assert found == [caption for i, caption in enumerate(CAPTIONS) if i not in (1, 3)]


def test_json_reads_cleaned_caption_files(tmp_path):
    for form, name in (("coco", "captions.json"), ("karpathy", "dataset.json")):
        path = made(form, tmp_path / form / "source")
        source = open_source(path)
        copied(source, decided(source, drop={1: None}, re_pair={4: 0}), tmp_path / form / "out")
        before, after = json.loads(path.read_text()), json.loads((tmp_path / form / "out" / name).read_text())
        if form == "coco":
            expected = [item for item in before["annotations"] if item["id"] not in (101, 103)]
            expected[3] = expected[3] | {"image_id": 10}
            assert after["annotations"] == expected
            assert [image["id"] for image in after["images"]] == [10, 12, 14, 16, 17, 99]
            assert after["info"] == before["info"]
        else:
            sentences = {image["filename"]: [s["sentid"] for s in image["sentences"]] for image in after["images"]}
            assert sentences == {"k0.png": [0, 5], "k2.png": [2], "k4.png": [4], "k6.png": [6], "k7.png": [7]}
            assert all(image["sentids"] == sentences[image["filename"]] for image in after["images"])
            assert after["dataset"] == "mine"


def test_zipfile_reads_a_cleaned_archive_without_the_pictures_of_dropped_rows(tmp_path):
    source = open_source(made("zip", tmp_path / "source"))
    copied(source, decided(source, drop={1: None}, re_pair={4: 0}), tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out" / "t.zip") as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    assert names == {"top/t.csv", *(f"top/k{i}.png" for i in (0, 2, 4, 6, 7))}


@pytest.mark.parametrize("outside", ["{folder}/outside/evil", "../../outside/evil", "a/../../../outside/evil"])
def test_names_in_an_archive_that_lead_out_of_it_are_not_followed(outside, tmp_path):
    """A copy of zipped pictures is unpacked before it is packed again."""
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for place, name in enumerate(["a/one", "a/two", outside.format(folder=tmp_path)]):
            archive.writestr(f"{name}.png", picture(place))
            archive.writestr(f"{name}.txt", f"caption {place}")
    source = open_source(tmp_path / "in.zip")
    copied(source, decided(source), tmp_path / "out", keep_unaudited=True)
    with zipfile.ZipFile(tmp_path / "out" / "in.zip") as archive:
        assert set(archive.namelist()) == {"a/one.png", "a/one.txt", "a/two.png", "a/two.txt"}
    assert not list(tmp_path.rglob("*evil*"))


# What stays as it was


def test_files_of_kept_samples_stay_byte_for_byte_with_their_names_and_order(tmp_path):
    write_shards(tmp_path / "in", shards=2)
    source = open_source(tmp_path / "in")
    copied(source, decided(source, drop={0: None}), tmp_path / "out")
    for shard in ("00000.tar", "00001.tar"):
        before, after = tar_files(tmp_path / "in" / shard), tar_files(tmp_path / "out" / shard)
        assert list(after.items()) == [file for file in before.items() if not file[0].startswith("000000000")]


def test_untouched_lines_of_csv_tsv_and_jsonl_stay_byte_for_byte(tmp_path):
    pictures(tmp_path)
    lines = {
        "bom.csv": [b'\xef\xbb\xbfimage,caption\r\n', b'k0.png,"a, b"\r\n', b"k1.png,c\r\n", b"k2.png,d\r\n"],
        "all.tsv": [b'"image"\t"caption"\n', b'"k0.png"\t"a ""b"""\n', b'"k1.png"\t"c"\n', b'"k2.png"\t"d"\n'],
        "odd.jsonl": [
            b"", b'{"image": "k0.png", "caption":  "spaced",   "n": 1.0}\n',
            b'{"n":1e3,"image":"k1.png","caption":"\\u00fc"}\n', b'{"caption": "third", "image": "k2.png"}\n',
        ],
    }  # fmt: skip
    for name, parts in lines.items():
        (tmp_path / name).write_bytes(b"".join(parts))
        source = open_source(tmp_path / name)
        copied(source, decided(source, drop={0: None}), tmp_path / name[:3])
        assert (tmp_path / name[:3] / name).read_bytes() == parts[0] + parts[2] + parts[3]
        copied(source, decided(source, drop={2: None}, re_pair={1: 0}), tmp_path / f"{name[:3]}2")
        *_, changed = (tmp_path / f"{name[:3]}2" / name).read_bytes().splitlines(keepends=True)
        assert b"k0.png" in changed
        assert changed.count(b'"') == parts[2].count(b'"')
        assert changed.endswith(b"\r\n") == parts[2].endswith(b"\r\n")


def test_a_last_row_without_a_line_end_gets_one_where_it_is_not_the_last_any_more(tmp_path):
    pictures(tmp_path)
    (tmp_path / "t.csv").write_text("image,caption\nk0.png,a\nk1.png,b")
    source = open_source(tmp_path / "t.csv")
    copied(source, decided(source), tmp_path / "out")
    assert (tmp_path / "out" / "t.csv").read_text() == "image,caption\nk0.png,a\nk1.png,b\n"


def test_parquet_keeps_schema_metadata_types_and_embedded_pictures(tmp_path):
    kinds = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": picture(n), "path": None} for n in range(5)]
    columns = {
        "image": pa.array(cells, kinds),
        "caption": pa.array([f"c{n}" for n in range(5)], pa.large_string()),
        "kind": pa.array(["a", "b", "a", "b", "a"]).dictionary_encode(),
        "when": pa.array(range(5), pa.timestamp("us", "UTC")),
        "v": pa.array([[n, n + 1] for n in range(5)], pa.list_(pa.float16(), 2)),
    }
    table = pa.table(columns).replace_schema_metadata({"made by": "hand"})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    source = open_source(tmp_path / "t.parquet", SourceConfig(image_feature_col="v"))
    copied(source, decided(source, drop={1: None, 2: None}, re_pair={3: 1}), tmp_path / "out")
    after = pq.read_table(tmp_path / "out" / "t.parquet")
    assert after.schema.equals(pq.read_schema(tmp_path / "t.parquet"), check_metadata=True)
    assert after["caption"].to_pylist() == ["c0", "c3", "c4"]
    assert after["image"].to_pylist() == [cells[0], cells[1], cells[4]]
    assert after["v"].to_pylist() == [[0, 1], [1, 2], [4, 5]]
    assert after["kind"].to_pylist() == ["a", "b", "a"]


@pytest.mark.parametrize("codecs", ["zstd", "none", {"image": "none", "caption": "gzip", "v.list.element": "snappy"}])
def test_parquet_keeps_its_compression(codecs, tmp_path):
    pictures(tmp_path)
    table = pa.table({"image": ["k0.png", "k1.png"], "caption": ["a", "b"], "v": [[1], [2]]})
    pq.write_table(table, tmp_path / "t.parquet", compression=codecs)
    source = open_source(tmp_path / "t.parquet")
    copied(source, decided(source, drop={0: None}), tmp_path / "out")
    before, after = (
        [pq.read_metadata(file).row_group(0).column(place).compression for place in range(3)]
        for file in (tmp_path / "t.parquet", tmp_path / "out" / "t.parquet")
    )
    assert after == before


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_a_column_that_was_never_empty_may_be_where_a_caption_of_it_is_dropped(name, tmp_path):
    pictures(tmp_path)
    fields = [pa.field(name, pa.string(), nullable=False) for name in ("image", "en", "de")]
    rows = [["k0.png", "k1.png", "k2.png"], ["a", "b", "c"], ["d", "e", "f"]]
    table = pa.table(rows, pa.schema(fields, {"made by": "hand"}))
    if name == "t.parquet":
        pq.write_table(table, tmp_path / name, row_group_size=2)
    else:
        pyarrow.feather.write_feather(table, tmp_path / name)
    source = open_source(tmp_path / name, SourceConfig(caption_col=("en", "de")))
    copied(source, fates(source, {"row-2/de": "drop"}), tmp_path / "out")
    read = pq.read_table if name == "t.parquet" else pyarrow.feather.read_table
    after = read(tmp_path / "out" / name)
    assert after["de"].to_pylist() == ["d", None, "f"]
    assert [field.nullable for field in after.schema] == [False, False, True]
    assert after.schema.metadata[b"made by"] == b"hand"
    (tmp_path / "whole").mkdir()
    copied(source, fates(source, {"row-1/en": "drop", "row-1/de": "drop"}), tmp_path / "whole")
    assert read(tmp_path / "whole" / name).schema.equals(table.schema, check_metadata=True)


def test_numbers_of_a_json_list_and_of_changed_rows_stay_as_they_are_written(tmp_path):
    pictures(tmp_path)
    rows = [f'{{"image": "k{n}.png", "caption": "c{n}", "n": [1.10, 1E400, {n}.00]}}' for n in range(3)]
    (tmp_path / "t.json").write_text(f"[{', '.join(rows)}]")
    (tmp_path / "t.jsonl").write_text("\n".join(rows) + "\n")
    changed = [rows[1], rows[2].replace("k2", "k1")]
    for name, text in (("t.json", f"[{', '.join(changed)}]"), ("t.jsonl", "\n".join(changed) + "\n")):
        source = open_source(tmp_path / name)
        copied(source, decided(source, drop={0: None}, re_pair={2: 1}), tmp_path / "out")
        assert (tmp_path / "out" / name).read_text() == text


# Half of a surrogate pair, which JSON can spell and UTF-8 cannot

HALF = "ü \ud83d"


@pytest.mark.parametrize("form", ["json", "coco", "karpathy", "jsonl"])
def test_half_of_a_surrogate_pair_stays_in_a_copy_of_json(form, tmp_path):
    path = made(form, tmp_path / "in")
    text = path.read_text(encoding="utf-8")
    rows = list(map(json.loads, text.splitlines())) if form == "jsonl" else json.loads(text)
    if form in ("json", "jsonl"):
        rows[1]["alt"], rows[2]["caption"] = HALF, HALF
        rows[5]["image"] = HALF
    elif form == "coco":
        rows["annotations"][2]["caption"] = rows["annotations"][1]["alt"] = HALF
    else:
        rows["images"][2]["sentences"][0]["raw"] = rows["images"][0]["alt"] = HALF
    lines = [json.dumps(row, ensure_ascii=False) for row in (rows if form == "jsonl" else [rows])]
    path.write_text("".join(line.replace("\ud83d", "\\ud83d") + "\n" for line in lines), encoding="utf-8")
    source = open_source(path)
    copied(source, decided(source, re_pair={1: 0}), tmp_path / "out", keep_unaudited=True)
    text = (tmp_path / "out" / path.name).read_text(encoding="utf-8")
    again = list(map(json.loads, text.splitlines())) if form == "jsonl" else json.loads(text)
    assert json.dumps(again).count(json.dumps(HALF)[1:-1]) == json.dumps(rows).count(json.dumps(HALF)[1:-1]) > 1
    if form in ("json", "jsonl"):
        rows = pq.read_table(tmp_path / "out" / "provenance.parquet").to_pylist()
        assert [row["image_id"] for row in rows if row["caption_id"] == "row-6"] == [r"ü \ud83d"]


def test_half_of_a_surrogate_pair_stays_in_metadata_of_which_a_caption_is_dropped(tmp_path):
    metadata = json.dumps({"caption": ["one", "two"], "alt": HALF}).encode()
    write_files(tmp_path / "folder", {"a.png": picture(0), "a.json": metadata})
    write_tar(tmp_path / "tar" / "0.tar", {"a.png": picture(0), "a.json": metadata})
    for name, dropped in (("folder", "a.png/1"), ("tar", "0/a/1")):
        source = open_source(tmp_path / name)
        copied(source, fates(source, {dropped: "drop"}), tmp_path / "out" / name)
    assert json.loads((tmp_path / "out" / "folder" / "a.json").read_bytes()) == {"caption": ["two"], "alt": HALF}
    assert json.loads(tar_files(tmp_path / "out" / "tar" / "0.tar")["a.json"]) == {"caption": ["two"], "alt": HALF}


def test_feature_files_beside_the_table_follow_its_rows(tmp_path):
    rows = [{"image": f"{image}.png", "caption": f"c{row}"} for row, image in enumerate((1, 2, 1, 3, 4))]
    path = write_rows(tmp_path / "t.csv", rows)
    np.save(tmp_path / "images.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
    np.save(tmp_path / "captions.npy", np.arange(10, dtype=np.float16).reshape(5, 2))
    changes = {"row-1": ("drop", "1.png"), "row-5": ("re-pair", "2.png")}
    decisions = [
        Decision(f"row-{n}", row["caption"], *changes.get(f"row-{n}", ("keep", row["image"])), "why", 0.5,
                 row["image"] if n == 5 else None)
        for n, row in enumerate(rows, 1)
    ]  # fmt: skip
    features = {"images": tmp_path / "images.npy", "captions": tmp_path / "captions.npy"}
    write_copy(open_source(path), decisions, tmp_path / "out", features=features)
    # In the copy's order of first appearance: 2.png, 1.png, 3.png.
    assert np.load(tmp_path / "out" / "images.npy").tolist() == [[2, 3], [0, 1], [4, 5]]
    assert np.load(tmp_path / "out" / "captions.npy").tolist() == [[2, 3], [4, 5], [6, 7], [8, 9]]


def test_a_copy_of_a_copy_is_the_copy(tmp_path):
    for form in ("csv", "jsonl", "parquet", "json", "hub", "folder", "coco"):
        path = made(form, tmp_path / form / "source")
        source = open_source(path)
        copied(source, decided(source, drop={1: None}), tmp_path / form / "once")
        again = reopened(tmp_path / form / "once", form, path)
        copied(again, decided(again), tmp_path / form / "twice")
        once, twice = hashes(tmp_path / form / "once"), hashes(tmp_path / form / "twice")
        assert {n: h for n, h in once.items() if n != "provenance.parquet"} == {
            n: h for n, h in twice.items() if n != "provenance.parquet"
        }


# Captions that part ways


def fates(source: Source, actions: dict[str, str]) -> dict[str, Decision]:
    """Caption id → ``"drop"``, or the image that it gets; all others are kept."""
    return {
        name: Decision(
            name, caption, action if action in ("keep", "drop") else "re-pair",
            action if action not in ("keep", "drop") else sample.image_id, "why", 0.5,
            None if action in ("keep", "drop") else sample.image_id,
        )
        for sample in samples(source)
        for caption, name in zip(sample.captions, sample.caption_ids, strict=True)
        for action in [actions.get(name, "keep")]
    }  # fmt: skip


def test_a_re_paired_sample_keeps_its_key_and_text_and_gets_the_other_pictures_extension(tmp_path):
    files = {"a.jpg": picture(0, "JPEG"), "a.txt": b"one", "a.png": b"second", "b.webp": picture(1, "WEBP")}
    write_tar(tmp_path / "in" / "0.tar", files | {"b.json": b'{"caption":  "two"}', "b.npy": b"n"})
    source = open_source(tmp_path / "in")
    copied(source, decided(source, re_pair={0: 1, 1: 0}), tmp_path / "out")
    assert tar_files(tmp_path / "out" / "0.tar") == {
        "a.webp": picture(1, "WEBP"),
        "a.txt": b"one",
        "b.jpg": picture(0, "JPEG"),
        "b.json": b'{"caption":  "two"}',
        "b.npy": b"n",
    }


def test_captions_of_one_tar_sample_that_part_ways_get_samples_of_their_own(tmp_path):
    metadata = json.dumps({"caption": ["zero", "one", "two"], "url": "u"}).encode()
    files = {"a.png": picture(0), "a.json": metadata, "a~2.png": picture(1), "a~2.json": b'{"caption": "mine"}'}
    write_tar(tmp_path / "in" / "0.tar", files)
    source = open_source(tmp_path / "in")
    copied(source, fates(source, {"0/a/1": "drop", "0/a/3": "0/a~2"}), tmp_path / "out")
    copy = tar_files(tmp_path / "out" / "0.tar")
    assert json.loads(copy["a.json"]) == {"caption": ["one"], "url": "u"}
    assert copy["a.png"] == picture(0)
    assert json.loads(copy["a~3.json"]) == {"caption": ["two"], "url": "u"}
    assert copy["a~3.png"] == picture(1)
    assert copy["a~2.json"] == files["a~2.json"]


def test_captions_of_one_file_that_part_ways_get_files_of_their_own(tmp_path):
    files = {
        "d/a.png": picture(0),
        "d/a.txt": "zero\r\n\r\none\r\ntwo\r\n",
        "b.jpg": picture(1, "JPEG"),
        "b.txt": "mine",
    }
    write_files(tmp_path / "in", files)
    source = open_source(tmp_path / "in")
    copied(source, fates(source, {"d/a.png/1": "drop", "d/a.png/4": "b.jpg"}), tmp_path / "out")
    (tmp_path / "out" / "provenance.parquet").unlink()
    assert {str(f.relative_to(tmp_path / "out")): f.read_bytes() for f in (tmp_path / "out").rglob("*.*")} == {
        "d/a.png": picture(0), "d/a.txt": b"\r\none\r\n", "d/a~2.jpg": picture(1, "JPEG"), "d/a~2.txt": b"\r\ntwo\r\n",
        "b.jpg": picture(1, "JPEG"), "b.txt": b"mine",
    }  # fmt: skip


def test_pictures_that_share_a_text_file_go_on_sharing_it_unless_they_keep_different_lines(tmp_path):
    write_files(tmp_path / "in", {"a.jpg": picture(0, "JPEG"), "a.png": picture(1), "a.txt": "one\ntwo"})
    source = open_source(tmp_path / "in")
    copied(source, fates(source, {}), tmp_path / "same")
    assert [(s.image_id, s.captions) for s in samples(open_source(tmp_path / "same"))] == [
        ("a.jpg", ("one", "two")),
        ("a.png", ("one", "two")),
    ]
    copied(source, fates(source, {"a.png/1": "drop"}), tmp_path / "other")
    assert [(s.image_id, s.captions) for s in samples(open_source(tmp_path / "other"))] == [
        ("a.jpg", ("one", "two")),
        ("a~2.png", ("two",)),
    ]


def test_a_name_that_is_not_utf8_is_accounted_for_once(tmp_path):
    folder = made("folder", tmp_path / "in")
    for extension in (b"png", b"txt"):
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9." + extension)).write_bytes(b"a")
    source = open_source(folder)
    _, account = write_copy(source, list(decided(source).values()), tmp_path / "out")
    assert account.not_audited == {"file name is not UTF-8": 1, "captions without a picture": 1}


def test_caption_and_json_sidecars_go_with_their_pictures(tmp_path):
    files = {
        "a.png": picture(0), "a.caption": "one\ntwo", "b.png": picture(1), "b.txt": "three", "b.json": b'{"url": "u"}',
        "c.png": picture(2), "c.json": b'{"caption": ["four", "five"], "n": 1}', "d.png": picture(3),
        "d.png.txt": "six",
    }  # fmt: skip
    write_files(tmp_path / "in", files)
    source = open_source(tmp_path / "in")
    copied(source, fates(source, {"a.png/1": "drop", "c.png/2": "drop"}), tmp_path / "out")
    out = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir() if file.name != "provenance.parquet"}
    assert out["a.caption"] == b"two"
    assert json.loads(out["c.json"]) == {"caption": ["four"], "n": 1}
    assert (out["b.json"], out["d.png.txt"]) == (b'{"url": "u"}', b"six")
    assert set(out) == set(files)


def test_a_copy_of_a_folder_may_lie_beside_it(tmp_path, monkeypatch):
    write_files(tmp_path / "in", {"a.png": picture(0), "a.txt": b"a dog"})
    monkeypatch.chdir(tmp_path / "in")
    source = open_source(tmp_path / "in")
    copied(source, fates(source, {}), Path("../out"))
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"a dog"


def test_caption_files_that_keep_all_captions_stay_byte_for_byte(tmp_path):
    odd = b'\xef\xbb\xbf{"caption":"caf\\u00e9","n":1.10,\r\n"alt":"x"}\r\n'
    listed = b'{"caption":["a","","b"],\n"n":1E400}'
    files = {"a.png": picture(0), "a.json": odd, "b.png": picture(1), "b.json": listed}
    write_files(tmp_path / "in", files)
    source = open_source(tmp_path / "in")
    copied(source, fates(source, {}), tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files
    copied(source, fates(source, {"b.png/1": "drop"}), tmp_path / "less")
    assert (tmp_path / "less" / "b.json").read_bytes() == b'{"caption": ["", "b"], "n": 1E400}'


@pytest.mark.parametrize(
    ("text", "left"),
    [("a\r\nb", "a"), ("a\nb", "a"), ("a\r\nb\r\n", "a\r\n"), ("a\r\n\r\nb", "a\r\n"), ("b\r\na\r\nb", "b\r\na")],
)
def test_a_caption_file_whose_last_line_is_dropped_ends_as_it_ended(text, left, tmp_path):
    write_files(tmp_path / "in", {"a.png": picture(0), "a.txt": text})
    source = open_source(tmp_path / "in")
    (sample,) = samples(source)
    copied(source, fates(source, {sample.caption_ids[-1]: "drop"}), tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_bytes() == left.encode()


VALUES = ("x", "y", "N/A", "", None, 3)
"""What a cell or a list may hold where captions are expected; the first two are captions."""


@pytest.mark.parametrize("keep_unaudited", [False, True])
@pytest.mark.parametrize("form", ["list", "columns", "parquet", "tar"])
def test_the_copy_and_the_provenance_agree_on_every_value_of_a_row(form, keep_unaudited, tmp_path):
    """Every list of two values, and some of three, with every decision about its captions."""
    lists = [list(pair) for pair in product(VALUES, repeat=2)] + [["x", "y", "N/A"], ["N/A", "x", "y"], ["x"], ["N/A"]]
    if form != "tar":
        lists.append([])
    if form in ("columns", "parquet"):
        lists = [pair for pair in lists if len(pair) == 2]
    if form == "parquet":
        lists = [pair for pair in lists if 3 not in pair]
    for number, actions in enumerate(product(("keep", "drop", "other"), repeat=2)):
        folder, out = tmp_path / f"in{number}", tmp_path / f"out{number}"
        source, other = _of_values(form, lists, folder)
        chosen = {
            name: other if actions[caption == "y"] == "other" else actions[caption == "y"]
            for sample in samples(source)
            for caption, name in zip(sample.captions, sample.caption_ids, strict=True)
            if sample.image_id != other
        }
        copied(source, fates(source, chosen), out, keep_unaudited=keep_unaudited)
        said = pq.read_table(out / "provenance.parquet").to_pylist()
        assert not any(str(tmp_path) in row["caption_id"] for row in said)
        values = _values_by_id(form, lists)
        expected = [repr(values[row["caption_id"]]) for row in said if row["action"] != "drop"]
        nothing = [repr(None)] if form in ("columns", "parquet") else []
        found = _values_in_copy(form, out)
        assert sorted(text for text in map(repr, found) if text not in nothing) == sorted(
            text for text in expected if text not in nothing
        )


def _of_values(form: str, lists: list, folder: Path) -> tuple[Source, str]:
    """A source with a row of each list, and before them one whose image captions may get, which is its id."""
    if form == "tar":
        files: list[tuple[str, bytes]] = []
        for number, values in enumerate([["first"], *lists]):
            files.append((f"{number:03d}.png", picture(number)))
            files.append((f"{number:03d}.json", json.dumps({"caption": values}).encode()))
        write_tar(folder / "0.tar", files)
        return open_source(folder), "0/000"
    write_files(folder, {f"{number:03d}.png": picture(number) for number in range(len(lists) + 1)})
    if form == "list":
        rows = [{"image": f"{n:03d}.png", "caption": values} for n, values in enumerate([["first"], *lists])]
        return open_source(write_rows(folder / "t.jsonl", rows)), "000.png"
    pairs = [["first", None], *lists]
    rows = [{"image": f"{n:03d}.png", "en": en, "de": de} for n, (en, de) in enumerate(pairs)]
    path = write_rows(folder / f"t.{'jsonl' if form == 'columns' else 'parquet'}", rows)
    return open_source(path, SourceConfig(caption_col=("en", "de"))), "000.png"


def _values_by_id(form: str, lists: list) -> dict[str, object]:
    """What the ids of captions, and of what is none, stand for."""
    found: dict[str, object] = {}
    for number, values in enumerate([["first", None] if form in ("columns", "parquet") else ["first"], *lists]):
        name = f"0/{number:03d}" if form == "tar" else f"row-{number + 1}"
        behind = ("en", "de") if form in ("columns", "parquet") else range(1, len(values) + 1)
        found |= {f"{name}/{place}": value for place, value in zip(behind, values, strict=True)}
        if not values:
            found[name] = []
    return found


def _values_in_copy(form: str, out: Path) -> list[object]:
    if form == "tar":
        files = tar_files(out / "0.tar").items()
        return [value for name, text in files if name.endswith("json") for value in json.loads(text)["caption"]]
    if form == "parquet":
        cells = pq.read_table(out / "t.parquet").to_pylist()
    else:
        cells = list(map(json.loads, (out / "t.jsonl").read_text().splitlines()))
    if form == "list":
        return [value for row in cells for value in row["caption"] or [[]]]
    return [value for row in cells for value in (row["en"], row["de"])]


def test_captions_of_one_row_of_a_dataset_that_part_ways_get_rows_of_their_own(tmp_path):
    features = datasets.Features(
        {
            "all": datasets.List(datasets.Value("string")), "image": datasets.Image(),
            "en": datasets.Value("string"), "v": datasets.Array2D((1, 2), "float32"),
        }
    )  # fmt: skip
    rows = {
        "all": [["a", "b"], ["c"]], "image": [{"bytes": picture(i), "path": f"{i}.png"} for i in range(2)],
        "en": ["d", "e"], "v": [[[1, 2]], [[3, 4]]],
    }  # fmt: skip
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "in")
    source = open_source(tmp_path / "in", SourceConfig(caption_col=("all", "en")))
    copied(source, fates(source, {"row-1/all/1": "row-2", "row-1/en": "drop"}), tmp_path / "out")
    copy = datasets.load_from_disk(tmp_path / "out")
    assert copy.features == features
    assert copy.cast_column("image", datasets.Image(decode=False)).to_list() == [
        {"all": ["a"], "image": {"bytes": picture(1), "path": "1.png"}, "en": None, "v": [[1, 2]]},
        {"all": ["b"], "image": {"bytes": picture(0), "path": "0.png"}, "en": None, "v": [[1, 2]]},
        {"all": ["c"], "image": {"bytes": picture(1), "path": "1.png"}, "en": "e", "v": [[3, 4]]},
    ]


def test_a_table_with_several_captions_a_row_keeps_those_that_stay(tmp_path):
    pictures(tmp_path / "in")
    two = write_rows(
        tmp_path / "in" / "two.csv",
        [{"image": "k0.png", "caption": "c", "more": "d"}, {"image": "k1.png", "caption": "e", "more": "f"}],
    )
    source = open_source(two, SourceConfig(caption_col=("caption", "more")))
    copied(source, fates(source, {"row-1/more": "drop", "row-2/caption": "k0.png"}), tmp_path / "two")
    with (tmp_path / "two" / "two.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["image", "caption", "more"], ["k0.png", "c", ""], ["k0.png", "e", ""], ["k1.png", "", "f"],
        ]  # fmt: skip
    lists = tmp_path / "in" / "lists.jsonl"
    lists.write_text(json.dumps({"image": "k0.png", "caption": ["a", "", "b"]}) + "\n")
    source = open_source(lists)
    copied(source, fates(source, {"row-1/1": "drop"}), tmp_path / "lists")
    assert json.loads((tmp_path / "lists" / "lists.jsonl").read_text()) == {"image": "k0.png", "caption": ["b"]}


def test_a_pair_of_a_picture_folder_gets_a_picture_of_another_folder_beside_its_own(tmp_path):
    write_files(tmp_path / "in", {"train/0.png": picture(0), "test/0.png": picture(1)})
    for split in ("train", "test"):
        write_rows(tmp_path / "in" / split / "metadata.csv", [{"file_name": "0.png", "caption": split}])
    source = open_source(tmp_path / "in")
    (other,) = (sample.image_id for sample in samples(source) if sample.captions == ("test",))
    copied(source, fates(source, {"train/row-1": other}), tmp_path / "out")
    (loaded,) = datasets.load_dataset(str(tmp_path / "out" / "train")).values()
    assert loaded[0]["caption"] == "train"
    found = {sample.captions[0]: sample.picture for sample in samples(open_source(tmp_path / "out"))}
    assert found == {"train": picture(1), "test": picture(1)}


# What is refused, and a full disk


@pytest.mark.parametrize("form", [form for form in FORMS if "folder" not in form])
def test_a_copy_of_which_everything_was_dropped_is_empty_but_written(form, tmp_path):
    source = open_source(made(form, tmp_path / "source"))
    copied(source, decided(source, drop=dict.fromkeys(range(7))), tmp_path / "out")
    assert set(pq.read_table(tmp_path / "out" / "provenance.parquet")["action"].to_pylist()) == {"drop"}


@pytest.mark.parametrize("form", FORMS)
def test_decisions_that_were_made_for_something_else_are_refused(form, tmp_path):
    source = open_source(made(form, tmp_path / "source"))
    decisions = decided(source)
    name, first = next(iter(decisions.items()))
    changed = Decision(name, "another caption", "keep", first.image_id, "why", 0.1)
    with pytest.raises(DataError, match="but the audit was of 'another caption'"):
        copied(source, decisions | {name: changed}, tmp_path / "out")
    strange = Decision("strange", "c", "keep", "i", "why", 0.1)
    with pytest.raises(DataError, match=r"1 of 8 decisions .*first: 'strange'"):
        copied(source, decisions | {"strange": strange}, tmp_path / "out")
    nowhere = Decision(name, first.caption, "re-pair", "nowhere.png", "why", 0.9, first.image_id)
    with pytest.raises(DataError, match=r"nowhere\.png"):
        copied(source, decisions | {name: nowhere}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("form", ["csv", "webdataset", "folder", "dataset", "zip"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_what_was_there(form, earlier, tmp_path, monkeypatch):
    source = open_source(made(form, tmp_path / "source"))
    decisions = decided(source)
    if earlier:
        copied(source, decisions, tmp_path / "out")
    before = hashes(tmp_path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("truepair.cleaning.provenance.write_parquet", full)
    with pytest.raises(OSError, match="No space left on device"):
        copied(source, decisions, tmp_path / "out")
    assert hashes(tmp_path) == before
    assert not list(tmp_path.glob(".*"))


def test_a_tar_writer_that_finds_no_space_left_leaves_nothing_behind(tmp_path, monkeypatch):
    source = open_source(made("webdataset", tmp_path / "source"))
    added = tarfile.TarFile.addfile

    def full(archive, info, *rest):
        if info.name == "k5.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        added(archive, info, *rest)

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(OSError, match="No space left on device"):
        copied(source, decided(source), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_what_a_kill_left_is_removed_by_the_next_copy(tmp_path):
    source = open_source(made("folder", tmp_path / "source"))
    write_files(tmp_path / ".out.truepair.swap" / "new", {"old.png": b"half"})
    copied(source, decided(source), tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]
    assert not (tmp_path / "out" / "old.png").exists()


def test_a_list_of_captions_never_becomes_a_cell_of_a_csv_file(tmp_path):
    pictures(tmp_path)
    source = open_source(write_rows(tmp_path / "t.csv", table_rows()))
    edit = RowEdit(0, None, {"caption": ["a"]})
    with pytest.raises(ConfigError, match="holds no list"):
        write_table(source.parts[0].table, tmp_path / "o.csv", [(0, edit)], {})


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("root", [True, False])
def test_paths_with_dots_lead_to_the_same_pictures_from_the_copy(ending, root, tmp_path):
    write_files(tmp_path / "photos", {f"{k}.png": picture(k) for k in range(3)})
    names = [f"../photos/{k}.png" for k in range(3)]
    rows = [{"image": name, "caption": f"c{place}"} for place, name in enumerate(names)]
    path = write_rows(tmp_path / "tables" / f"t.{ending}", rows)
    options = {"image_root": str(tmp_path)} if root else {"allow_outside": True}
    source = opened(path, **options)
    before = [sample.picture for sample in samples(source)]
    fixed = copied(source, decided(source, re_pair={2: 0}), tmp_path / "far" / "from" / "here")
    assert fixed[0] == f"t.{ending}"
    again = opened(tmp_path / "far" / "from" / "here" / f"t.{ending}", **options)
    pictures_of = {caption: sample.picture for sample in check(again) for caption in sample.captions}
    assert pictures_of == {"c0": before[0], "c1": before[1], "c2": before[0]}


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("form", ["coco", "karpathy", "hub", "tokens"])
def test_paths_with_dots_in_caption_files_lead_to_the_same_pictures_from_the_copy(form, root, tmp_path):
    write_files(tmp_path / "photos", {f"{k}.png": picture(k) for k in range(3)})
    names = [f"../photos/{k}.png" for k in range(3)]
    folder = tmp_path / "captions"
    folder.mkdir()
    documents = {
        "coco": {
            "images": [{"id": k, "file_name": name} for k, name in enumerate(names)],
            "annotations": [{"id": 10 + k, "image_id": k, "caption": f"c{k}"} for k in range(3)],
        },
        "karpathy": {
            "images": [
                {"filepath": "../photos", "filename": f"{k}.png", "split": "train", "sentids": [k]}
                | {"sentences": [{"raw": f"c{k}", "sentid": k}]}
                for k in range(3)
            ]
        },
    }
    if form in documents:
        (folder / "t.json").write_text(json.dumps(documents[form]))
        path, copy = folder / "t.json", "t.json"
    elif form == "tokens":
        (folder / "t.token").write_text("".join(f"{name}#0\tc{k}\n" for k, name in enumerate(names)))
        path, copy = folder / "t.token", "t.token"
    else:
        up = "../.." if root else ".."  # with an image root they start at the table's folder, which is data/
        rows = [{"image": f"{up}/photos/{k}.png", "caption": f"c{k}"} for k in range(3)]
        write_rows(folder / "data" / "train.parquet", rows)
        path, copy = folder, "."
    options = {"image_root": str(tmp_path)} if root else {"allow_outside": True}
    source = opened(path, **options)
    before = [sample.picture for sample in samples(source)]
    assert len(before) == 3
    copied(source, decided(source, re_pair={2: 0}), tmp_path / "far" / "from" / "here")
    found = check(opened(tmp_path / "far" / "from" / "here" / copy, **options))
    pictures_of = {caption: sample.picture for sample in found for caption in sample.captions}
    assert pictures_of == {"c0": before[0], "c1": before[1], "c2": before[0]}
