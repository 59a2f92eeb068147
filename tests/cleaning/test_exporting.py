import errno
import json
import resource
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sources import (
    check,
    hashes,
    picture,
    samples,
    tar_files,
    write_files,
    write_rows,
    write_shards,
    write_tar,
)

from truepair.cleaning import exporting
from truepair.cleaning.decisions import Decision
from truepair.cleaning.exporting import export
from truepair.errors import ConfigError, DataError
from truepair.sources.opening import open_source
from truepair.sources.protocol import Source

KINDS = ("webdataset", "folder", "csv", "tsv", "jsonl", "parquet", "embedded", "dataset")


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Eight pictures, a caption each, as any kind of source; number 3's picture is missing where it can be."""
    root = tmp_path / "source"

    def made(kind: str) -> Path:
        captions = [f'caption {i}, "quoted"\tяркий' for i in range(8)]
        if kind == "webdataset":
            for shard in range(2):
                files = {}
                for i in range(4 * shard, 4 * shard + 4):
                    files |= {
                        f"k{i}.jpg": picture(i, "JPEG"),
                        f"k{i}.json": b'{"n": 1}',
                        f"k{i}.txt": captions[i].encode(),
                    }
                files.pop("k3.jpg", None)
                write_tar(root / f"{shard:05d}.tar", files)
            return root
        if kind == "folder":
            write_files(root, {f"in/k{i}.png": picture(i) for i in range(8) if i != 3})
            return write_files(root, {f"in/k{i}.txt": f"{captions[i]}\r\n" for i in range(8)})
        if kind == "dataset":
            datasets = pytest.importorskip("datasets")
            datasets.disable_progress_bars()
            cells = [None if i == 3 else {"bytes": picture(i), "path": f"{i}.png"} for i in range(8)]
            features = datasets.Features(
                {"n": datasets.Value("int8"), "image": datasets.Image(), "caption": datasets.Value("string")}
            )
            rows = {"n": range(8), "image": cells, "caption": captions}
            datasets.Dataset.from_dict(rows, features).save_to_disk(root / "d")
            return root / "d"
        if kind == "embedded":
            root.mkdir()
            cells = pa.array([None if i == 3 else picture(i) for i in range(8)], pa.binary())
            table = pa.table({"image": cells, "caption": captions, "n": range(8)})
            pq.write_table(table, root / "t.parquet", row_group_size=3)
            return root / "t.parquet"
        write_files(root, {f"k{i}.png": picture(i) for i in range(8) if i != 3})
        rows = [{"image": f"k{i}.png", "caption": captions[i], "n": i} for i in range(8)]
        return write_rows(root / f"t.{kind}", rows)

    return made


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


def reopened(target: Path, kind: str, source: Path) -> Source:
    if kind in ("csv", "tsv", "jsonl", "parquet", "embedded"):
        return open_source(target / source.name, image_root=source.parent)
    return open_source(target)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cleaned_copy_is_a_source_of_the_same_kind_without_what_was_dropped(kind, make, tmp_path):
    path = make(kind)
    source, before = open_source(path), hashes(tmp_path / "source")
    found = check(source)
    assert len(found) == 7
    written = export(source, decided(source, drop={1}, re_pair={4: 0}), tmp_path / "out")

    copy = check(reopened(tmp_path / "out", kind, path))
    pairs = sorted((caption, sample.picture) for sample in copy for caption in sample.captions)
    expected = [(sample.captions[0], sample.picture) for place, sample in enumerate(found) if place != 1]
    expected[3] = (found[4].captions[0], found[0].picture)
    assert pairs == sorted(expected)
    assert hashes(tmp_path / "source") == before
    assert sorted(written) == sorted(file for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_provenance_says_what_became_of_every_pair(kind, make, tmp_path):
    source = open_source(make(kind))
    found = samples(source)
    decisions = decided(source, drop={1}, re_pair={4: 0})
    del decisions[found[6].caption_ids[0]]
    (checked,) = found[5].caption_ids
    decisions[checked] = replace(decisions[checked], rule="by hand", time="2025-01-02")
    *_, file = export(source, decisions, tmp_path / "out", time="2026-03-04", model={"how": "cross-fitting"})
    rows = {row.pop("caption_id"): row for row in pq.read_table(file).to_pylist()}
    assert file.name == "provenance.parquet"
    assert len(rows) == 8
    assert rows[found[0].caption_ids[0]] == {
        "action": "keep", "image_id": found[0].image_id, "former_image_id": None, "mismatch_probability": 0.1,
        "rule": "why", "time": "2026-03-04", "model": '{"how": "cross-fitting"}',
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
    assert lost["rule"].startswith("not audited")


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_nothing_behind(kind, make, tmp_path):
    """The limit on a file's size makes the writing itself fail, as a full disk does."""
    source = open_source(make(kind))
    decisions, before = decided(source), hashes(tmp_path / "source")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.raises(DataError, match=r"the copy .*out was not made .*nothing of it is left"):
            export(source, decisions, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]
    assert hashes(tmp_path / "source") == before
    assert export(source, decisions, tmp_path / "out")


def test_a_writer_that_finds_no_space_left_leaves_nothing_behind(make, tmp_path, monkeypatch):
    source = open_source(make("webdataset"))
    added = tarfile.TarFile.addfile

    def full(archive, info, *rest):
        if info.name == "k5.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        added(archive, info, *rest)

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(DataError, match="No space left on device"):
        export(source, decided(source), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_what_a_kill_left_is_removed_by_the_next_copy(make, tmp_path):
    source = open_source(make("folder"))
    write_files(tmp_path / ".out.part", {"old.png": b"half"})
    export(source, decided(source), tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]
    assert not (tmp_path / "out" / "old.png").exists()


def test_files_of_kept_samples_stay_byte_for_byte_with_their_names_and_order(tmp_path):
    write_shards(tmp_path / "in", shards=2)
    source = open_source(tmp_path / "in")
    export(source, decided(source, drop={0}), tmp_path / "out")
    for shard in ("00000.tar", "00001.tar"):
        before, after = tar_files(tmp_path / "in" / shard), tar_files(tmp_path / "out" / shard)
        assert list(after.items()) == [file for file in before.items() if not file[0].startswith("000000000")]


def test_a_re_paired_sample_keeps_its_key_and_text_and_gets_the_other_pictures_extension(tmp_path):
    files = {"a.jpg": picture(0, "JPEG"), "a.txt": b"one", "a.png": b"second", "b.webp": picture(1, "WEBP")}
    write_tar(tmp_path / "in" / "0.tar", files | {"b.json": b'{"caption":  "two"}', "b.npy": b"n"})
    source = open_source(tmp_path / "in")
    export(source, decided(source, re_pair={0: 1, 1: 0}), tmp_path / "out")
    assert tar_files(tmp_path / "out" / "0.tar") == {
        "a.webp": picture(1, "WEBP"),
        "a.txt": b"one",
        "b.jpg": picture(0, "JPEG"),
        "b.json": b'{"caption":  "two"}',
        "b.npy": b"n",
    }


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


def test_captions_of_one_tar_sample_that_part_ways_get_samples_of_their_own(tmp_path):
    metadata = json.dumps({"caption": ["zero", "one", "two"], "url": "u"}).encode()
    files = {"a.png": picture(0), "a.json": metadata, "a~2.png": picture(1), "a~2.json": b'{"caption": "mine"}'}
    write_tar(tmp_path / "in" / "0.tar", files)
    source = open_source(tmp_path / "in")
    export(source, fates(source, {"0/a/1": "drop", "0/a/3": "0/a~2"}), tmp_path / "out")
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
    export(source, fates(source, {"d/a.png/1": "drop", "d/a.png/4": "b.jpg"}), tmp_path / "out")
    (tmp_path / "out" / "provenance.parquet").unlink()
    assert {str(f.relative_to(tmp_path / "out")): f.read_bytes() for f in (tmp_path / "out").rglob("*.*")} == {
        "d/a.png": picture(0), "d/a.txt": b"\r\none\r\n", "d/a~2.jpg": picture(1, "JPEG"), "d/a~2.txt": b"\r\ntwo\r\n",
        "b.jpg": picture(1, "JPEG"), "b.txt": b"mine",
    }  # fmt: skip


def test_pictures_that_share_a_text_file_go_on_sharing_it_unless_they_keep_different_lines(tmp_path):
    write_files(tmp_path / "in", {"a.jpg": picture(0, "JPEG"), "a.png": picture(1), "a.txt": "one\ntwo"})
    source = open_source(tmp_path / "in")
    export(source, fates(source, {}), tmp_path / "same")
    assert [(s.image_id, s.captions) for s in samples(open_source(tmp_path / "same"))] == [
        ("a.jpg", ("one", "two")),
        ("a.png", ("one", "two")),
    ]
    export(source, fates(source, {"a.png/1": "drop"}), tmp_path / "other")
    assert [(s.image_id, s.captions) for s in samples(open_source(tmp_path / "other"))] == [
        ("a.jpg", ("one", "two")),
        ("a~2.png", ("two",)),
    ]


def test_captions_of_one_row_of_a_dataset_that_part_ways_get_rows_of_their_own(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
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
    source = open_source(tmp_path / "in", caption_cols=("all", "en"))
    export(source, fates(source, {"row-1/all/1": "row-2", "row-1/en": "drop"}), tmp_path / "out")
    copy = datasets.load_from_disk(tmp_path / "out")
    assert copy.features == features
    assert copy.cast_column("image", datasets.Image(decode=False)).to_list() == [
        {"all": ["a"], "image": {"bytes": picture(1), "path": "1.png"}, "en": None, "v": [[1, 2]]},
        {"all": ["b"], "image": {"bytes": picture(0), "path": "0.png"}, "en": None, "v": [[1, 2]]},
        {"all": ["c"], "image": {"bytes": picture(1), "path": "1.png"}, "en": "e", "v": [[3, 4]]},
    ]


def test_a_folder_of_pictures_with_metadata_becomes_a_saved_dataset(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_files(tmp_path / "in", {f"{number}.png": picture(number) for number in range(3)})
    write_rows(tmp_path / "in" / "metadata.jsonl", [{"file_name": f"{i}.png", "caption": f"c{i}"} for i in range(3)])
    source = open_source(tmp_path / "in")
    export(source, decided(source, drop={1}), tmp_path / "out")
    assert [(s.captions, s.picture) for s in check(open_source(tmp_path / "out"))] == [
        (("c0",), picture(0)),
        (("c2",), picture(2)),
    ]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_a_copy_of_which_everything_was_dropped_is_empty_but_written(kind, make, tmp_path):
    source = open_source(make(kind))
    export(source, decided(source, drop=set(range(7))), tmp_path / "out")
    assert set(pq.read_table(tmp_path / "out" / "provenance.parquet")["action"].to_pylist()) == {"drop"}


def test_a_table_with_several_captions_a_row_has_no_cleaned_copy(tmp_path):
    write_files(tmp_path / "in", {"a.png": picture(0)})
    two = write_rows(tmp_path / "in" / "two.csv", [{"image": "a.png", "caption": "c", "more": "d"}])
    lists = write_rows(tmp_path / "in" / "lists.jsonl", [{"image": "a.png", "caption": ["c"]}])
    for source in (open_source(two, caption_cols=("caption", "more")), open_source(lists)):
        with pytest.raises(ConfigError, match="rows with several captions"):
            export(source, decided(source), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_that_were_made_for_something_else_are_refused(kind, make, tmp_path):
    source = open_source(make(kind))
    decisions = decided(source)
    name, first = next(iter(decisions.items()))
    changed = Decision(name, "another caption", "keep", first.image_id, "why", 0.1)
    with pytest.raises(DataError, match="but the audit was of 'another caption'"):
        export(source, decisions | {name: changed}, tmp_path / "out")
    strange = Decision("strange", "c", "keep", "i", "why", 0.1)
    with pytest.raises(DataError, match=r"1 of 8 decisions .*first: 'strange'"):
        export(source, decisions | {"strange": strange}, tmp_path / "out")
    nowhere = Decision(name, first.caption, "re-pair", "nowhere.png", "why", 0.9, first.image_id)
    with pytest.raises(DataError, match=r"nowhere\.png"):
        export(source, decisions | {name: nowhere}, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_a_target_that_is_in_use_or_in_the_source_is_refused(make, tmp_path):
    path = make("folder")
    source = open_source(path)
    decisions, before = decided(source), hashes(tmp_path)
    write_files(tmp_path / "used", {"mine.txt": "x"})
    for target in (tmp_path / "used", tmp_path / "used" / "mine.txt", path):
        with pytest.raises(DataError, match="exists and is not an empty folder"):
            export(source, decisions, target)
    (tmp_path / "link").symlink_to(path)
    for target in (path / "out", tmp_path / "link" / "out"):
        with pytest.raises(DataError, match="which is only read"):
            export(source, decisions, target)
    (tmp_path / "empty").mkdir()
    assert export(source, decisions, tmp_path / "empty")
    assert before.items() <= hashes(tmp_path).items()


def test_a_source_of_an_unknown_kind_has_no_copy(tmp_path):
    class Other:
        kind = "other"
        path = tmp_path / "file"

        def shards(self):
            return []

        def read(self, shard):
            return iter(())

        def picture(self, reference):
            return b""

    with pytest.raises(ConfigError, match="'other'"):
        exporting.export(Other(), {}, tmp_path / "out")
