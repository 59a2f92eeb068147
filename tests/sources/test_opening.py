import gzip
import json
import os
import subprocess
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sources import (
    check,
    everything,
    opened,
    picture,
    reasons,
    samples,
    skipped,
    write_files,
    write_rows,
    write_shards,
)

from truepair.config.source import SourceConfig
from truepair.errors import ConfigError, DataError
from truepair.sources.demo import DEMO, DEMO_OPTIONS, demo_source
from truepair.sources.folders import FolderSource
from truepair.sources.opening import description_of, open_source, reopened
from truepair.sources.protocol import KINDS, Source
from truepair.sources.tables import TableSource
from truepair.sources.webdataset import WebDatasetSource


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "CSV"])
def test_a_table_is_a_table_and_gets_its_options(kind, tmp_path):
    write_files(tmp_path / "pics", {"0.png": picture(0)})
    row = {"id": "x", "who": "A", "file": "0.png", "en": "a dog", "de": "ein Hund"}
    table = write_rows(tmp_path / f"t.{kind}", [row])
    source = opened(
        table,
        image_col="file",
        caption_col=("en", "de"),
        image_root=str(tmp_path / "pics"),
        image_id_col="who",
        caption_id_col="id",
    )
    assert isinstance(source, TableSource)
    assert isinstance(source, Source)
    assert (source.kind, source.path) == ("table", table)
    (sample,) = samples(source)
    assert (sample.image_id, sample.caption_ids) == ("A", ("x/en", "x/de"))


def test_tar_files_are_shards_however_they_are_named(tmp_path):
    write_shards(tmp_path, shards=2)
    for path in (tmp_path, tmp_path / "00000.tar", tmp_path / "{00000..00001}.tar", str(tmp_path)):
        source = open_source(path)
        assert isinstance(source, WebDatasetSource)
        assert source.kind == "webdataset"


def test_a_folder_of_pictures_is_a_folder_also_with_img2datasets_lists_in_it(tmp_path):
    """What ``--output_format files`` writes."""
    for number in range(2):
        text = json.dumps({"caption": f"c{number}", "status": "success"})
        files = {"jpg": picture(number, "JPEG"), "txt": f"c{number}", "json": text}
        write_files(tmp_path / "00000", {f"00000000{number}.{name}": content for name, content in files.items()})
    rows = {"url": ["u"] * 3, "status": ["success", "success", "failed_to_download"], "key": ["0", "1", "000000002"]}
    pq.write_table(pa.table(rows | {"error_message": [None, None, "HTTP Error 404"]}), tmp_path / "00000.parquet")
    write_files(tmp_path, {"00000_stats.json": '{"count": 3}'})
    source = open_source(tmp_path)
    assert isinstance(source, FolderSource)
    assert [sample.captions for sample in check(source)] == [("c0",), ("c1",)]
    assert [(skip.where, skip.reason, skip.detail) for skip in skipped(source)] == [
        ("00000/000000002", "failed to download", "HTTP Error 404")
    ]


def test_img2datasets_parquet_files_hold_the_pictures_in_a_column_that_is_found(tmp_path):
    """What ``--output_format parquet`` writes: one file, or a folder of them."""
    rows = {"url": ["u", "v"], "status": ["success", "failed_to_download"], "key": ["0", "1"], "caption": ["c", "d"]}
    cells = pa.array([picture(0, "JPEG"), None], pa.binary())
    for number in range(2):
        pq.write_table(pa.table(rows | {"jpg": cells}), tmp_path / f"{number:05d}.parquet")
    one, folder = open_source(tmp_path / "00001.parquet"), open_source(tmp_path)
    assert [sample.captions for sample in check(one)] == [("c",)]
    assert "pictures are read from the column 'jpg' (--image-col for another)" in one.notes
    assert reasons(one) == ["missing picture"]
    assert folder.kind == "parquet folder"
    assert [sample.caption_ids for sample in check(folder)] == [("00000/row-1",), ("00001/row-1",)]


def test_the_list_of_downloads_is_not_taken_for_the_pictures(tmp_path):
    write_shards(tmp_path, shards=1)
    rows = {"url": ["u"], "status": ["success"], "key": ["0"], "caption": ["c"]}
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    with pytest.raises(DataError, match=r"img2dataset's list of downloads.*open .*00000\.tar"):
        open_source(tmp_path / "00000.parquet")
    assert open_source(tmp_path).kind == "webdataset"
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(DataError, match=rf"img2dataset's list of downloads.*open {tmp_path}$"):
        open_source(tmp_path / "00000.parquet")


def test_options_that_a_source_does_not_have_are_refused(tmp_path):
    write_shards(tmp_path / "shards", shards=1)
    write_files(tmp_path / "pictures", {"a.png": picture(0), "a.txt": "c"})
    write_rows(tmp_path / "t.csv", [{"image": "a.png", "caption": "c"}])
    write_files(tmp_path, {"tokens.txt": "a.png#0\tc\n", "coco.json": '{"images": [], "annotations": []}'})
    with pytest.raises(ConfigError, match="tar shards, which has no --split, --image-root; leave that out"):
        opened(tmp_path / "shards", split="train", image_root=str(tmp_path))
    with pytest.raises(ConfigError, match="a folder of pictures with caption files, which has no --caption-col"):
        opened(tmp_path / "pictures", caption_col=("text",))
    with pytest.raises(ConfigError, match="a table, which has no --split"):
        opened(tmp_path / "t.csv", split="train")
    with pytest.raises(ConfigError, match="a token file, which has no --delimiter"):
        opened(tmp_path / "tokens.txt", delimiter=",")
    with pytest.raises(ConfigError, match="COCO captions, which has no --image-id-col"):
        opened(tmp_path / "coco.json", image_id_col="id")


@pytest.mark.parametrize(
    ("name", "message"),
    [("none", "does not exist"), ("a.tar.gz", "a compressed tar file"), ("a.pdf", "of no known kind")],
)
def test_anything_else_is_refused(name, message, tmp_path):
    if name != "none":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / name)
    with pytest.raises(DataError, match="holds no pictures"):
        open_source(tmp_path)


def test_a_delimiter_is_one_character():
    assert SourceConfig(delimiter="\\t").delimiter == "\\t"
    with pytest.raises(ConfigError, match="delimiter is '--', but it is one character"):
        SourceConfig(delimiter="--")
    with pytest.raises(ConfigError, match="largest_pixels is 0, but it must be at least 1"):
        SourceConfig(largest_pixels=0)


# Archives


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_zip_with_a_table_and_its_pictures_is_that_table(tmp_path):
    table = "file_name,text\nimg/a.png,a dog\nimg/gone.png,b\n../img/a.png,c\n"
    files = {"set/img/a.png": picture(0), "set/list.csv": table, "__MACOSX/set/._list.csv": "x", "set/.hidden.csv": "x"}
    source = open_source(zipped(tmp_path / "a.zip", files))
    assert source.kind == "table"
    assert source.path == tmp_path / "a.zip"
    (sample,) = check(source)
    assert (sample.picture, sample.captions, sample.image_id) == (picture(0), ("a dog",), "img/a.png")
    assert reasons(source) == ["missing picture", "missing picture"]


def test_paths_do_not_lead_out_of_a_zip(tmp_path):
    table = "image,caption\na.png,in\n../secret.png,out\n/etc/hostname,out\n"
    write_files(tmp_path, {"secret.png": picture(1)})
    source = open_source(zipped(tmp_path / "a.zip", {"a.png": picture(0), "list.csv": table}))
    assert [sample.captions for sample in check(source)] == [("in",)]
    assert set(reasons(source)) <= {"outside the archive", "missing picture"}


def test_a_zip_of_a_folder_of_pictures_with_caption_files_is_that_folder(tmp_path):
    files = {
        "photos/b/dog.jpg": picture(0, "JPEG"), "photos/b/dog.txt": "a dog\nwet", "photos/a.png": picture(1),
        "photos/a.json": '{"caption": "from json"}', "__MACOSX/photos/._a.png": b"x",
    }  # fmt: skip
    source = open_source(zipped(tmp_path / "a.zip", files))
    assert source.kind == "folder"
    assert [(sample.image_id, sample.captions) for sample in check(source)] == [
        ("a.png", ("from json",)),
        ("b/dog.jpg", ("a dog", "wet")),
    ]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "json", "csv.gz"])
def test_every_kind_of_table_is_read_in_a_zip(kind, tmp_path):
    rows = [{"image": "a.png", "caption": "a dog"}]
    if kind == "json":
        (tmp_path / "t.json").write_text(json.dumps(rows))
    elif kind == "csv.gz":
        (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"image,caption\na.png,a dog\n"))
    else:
        write_rows(tmp_path / f"t.{kind}", rows)
    files = {f"t.{kind}": (tmp_path / f"t.{kind}").read_bytes(), "a.png": picture(0)}
    assert [sample.captions for sample in check(open_source(zipped(tmp_path / "a.zip", files)))] == [("a dog",)]


def test_a_token_file_in_a_zip_is_read(tmp_path):
    files = {"x/Images/a.jpg": picture(0, "JPEG"), "x/Flickr8k.token.txt": "a.jpg#0\ta dog\na.jpg#1\tb\n"}
    source = open_source(zipped(tmp_path / "a.zip", files))
    assert (source.kind, [sample.captions for sample in check(source)]) == ("tokens", [("a dog", "b")])


def test_json_and_text_beside_the_pictures_of_a_zip_are_captions_and_no_tables(tmp_path):
    files = {f"{n}.{kind}": picture(n) for n, kind in enumerate(["png"] * 30)}
    files |= {f"{n}.json": '{"caption": "c"}' for n in range(15)}
    files |= {f"{n}.txt": "image,caption\nb" for n in range(15, 30)}
    source = open_source(zipped(tmp_path / "a.zip", files))
    assert (source.kind, len(check(source))) == ("folder", 30)


def test_zips_that_cannot_be_read_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"holds 0.tar, which is not read inside an archive: unpack it"):
        open_source(zipped(tmp_path / "tar.zip", {"0.tar": b"x"}))
    tables = {"a.csv": "image,caption\na.png,c\n", "b.csv": "image,caption\na.png,c\n"}
    with pytest.raises(DataError, match=r"holds several tables \(a.csv, b.csv\): unpack it"):
        open_source(zipped(tmp_path / "two.zip", tables))
    with pytest.raises(DataError, match="holds no pictures"):
        open_source(zipped(tmp_path / "none.zip", {"readme.md": "x"}))
    whole = zipped(tmp_path / "whole.zip", {"a.csv": "image,caption\na.png,c\n", "a.png": picture(0)}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as a zip archive"):
        open_source(tmp_path / "cut.zip")
    (tmp_path / "magic.zip").write_bytes(b"PK\x07\x08" + whole[4:])  # of the table, its first member
    with pytest.raises(DataError, match=r"a.csv cannot be read \(Bad magic number .*damaged or encrypted"):
        open_source(tmp_path / "magic.zip")


def test_a_damaged_picture_in_a_zip_is_told_and_the_others_are_read(tmp_path):
    pictures = {f"{number}.png": picture(number) for number in range(2)}
    table = "image,caption\n0.png,zero\n1.png,one\n"
    content = zipped(tmp_path / "a.zip", pictures | {"t.csv": table}).read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(picture(1)[:60], bytes(60), 1))
    source = open_source(tmp_path / "a.zip")
    assert [sample.captions for sample in samples(source)] == [("zero",)]
    assert reasons(source) == ["unreadable picture"]


# Descriptions


def kinds_of_sources(folder):
    """One small source of every kind, and the options that it is opened with."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    cells = {"image": [{"bytes": picture(0), "path": None}], "caption": ["c"]}
    made = datasets.Dataset.from_dict(cells).cast_column("image", datasets.Image())
    made.save_to_disk(folder / "saved")
    (folder / "hub" / "data").mkdir(parents=True)
    made.to_parquet(folder / "hub" / "data" / "train-00000-of-00001.parquet")
    write_files(folder / "pictures", {"0.png": picture(0), "metadata.jsonl": ""})
    write_rows(folder / "pictures" / "metadata.jsonl", [{"file_name": "0.png", "caption": "c"}])
    write_files(folder / "plain", {"0.png": picture(0), "0.txt": "c"})
    write_shards(folder / "shards", shards=1)
    image = {"filename": "0.png", "split": "train", "sentences": [{"raw": "c", "sentid": 0}]}
    coco = {"images": [{"id": 7, "file_name": "0.png"}], "annotations": [{"id": 1, "image_id": 7, "caption": "c"}]}
    write_files(
        folder / "files",
        {
            "0.png": picture(0), "k.json": json.dumps({"images": [image]}), "c.json": json.dumps(coco),
            "t.token": "0.png#0\tc\n", "t.csv": "image,caption\n0.png,c\n",
        },
    )  # fmt: skip
    return {
        "table": folder / "files" / "t.csv",
        "imagefolder": folder / "pictures",
        "parquet folder": folder / "hub",
        "dataset": folder / "saved",
        "coco": folder / "files" / "c.json",
        "karpathy": folder / "files" / "k.json",
        "tokens": folder / "files" / "t.token",
        "folder": folder / "plain",
        "webdataset": folder / "shards",
    }


def test_every_kind_is_opened_described_and_opened_again_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = kinds_of_sources(tmp_path)
    assert set(paths) == set(KINDS)
    for kind, path in paths.items():
        source = open_source(path)
        found = check(source)
        assert (source.kind, source.path, bool(found)) == (kind, path, True)
        relative = os.path.relpath(path)
        described = json.loads(json.dumps(description_of(open_source(relative), relative, SourceConfig())))
        assert described["kind"] == kind
        monkeypatch.chdir("/")
        assert everything(reopened(described)) == found
        monkeypatch.chdir(tmp_path)


def test_a_description_keeps_every_option(tmp_path, monkeypatch):
    monkeypatch.chdir(write_files(tmp_path, {"pics/a.png": picture(0), "t.csv": "f;t;who\na.png;x, y;A\n"}))
    options = SourceConfig(
        image_col="f", caption_col=("t",), image_id_col="who", image_root="pics", delimiter=";", largest_pixels=99
    )
    described = description_of(open_source("t.csv", options), "t.csv", options)
    monkeypatch.chdir("/")
    again = reopened(json.loads(json.dumps(described)))
    assert [(sample.image_id, sample.captions) for sample in check(again)] == [("A", ("x, y",))]
    assert (again.options.largest_pixels, again.options.delimiter) == (99, ";")


def test_a_description_of_another_version_is_refused_by_what_is_unknown():
    with pytest.raises(DataError, match="has caption_cols, which this version of truepair does not know: audit it ag"):
        reopened({"kind": "table", "path": "t.csv", "caption_cols": ["caption"]})
    with pytest.raises(DataError, match="has no path"):
        reopened({"kind": "table"})


def test_the_demo_is_a_source_and_is_opened_again_by_its_name():
    source = demo_source()
    described = description_of(source, DEMO, DEMO_OPTIONS)
    assert (described["path"], described["kind"]) == (DEMO, "table")
    again = reopened(described)
    assert isinstance(again, TableSource)
    assert (len(again), again.shards()) == (len(source), source.shards())
    first = next(iter(again.read("00000", pictures=False)))
    assert source.picture(first.reference)[:4] in (b"RIFF", b"\x89PNG")


def test_reading_loads_no_torch():
    script = "import sys, truepair.sources.opening, truepair.sources.first_look; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
