import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sources import picture, samples, write_files, write_rows, write_shards

from truepair.errors import ConfigError, DataError
from truepair.sources.folders import FolderSource
from truepair.sources.opening import open_source
from truepair.sources.protocol import Source
from truepair.sources.tables import TableSource
from truepair.sources.webdataset import WebDatasetSource


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "CSV"])
def test_a_table_is_a_table_and_gets_its_options(kind, tmp_path):
    write_files(tmp_path / "pics", {"0.png": picture(0)})
    row = {"id": "x", "who": "A", "file": "0.png", "en": "a dog", "de": "ein Hund"}
    table = write_rows(tmp_path / f"t.{kind}", [row])
    source = open_source(
        table,
        image_col="file",
        caption_cols=("en", "de"),
        image_root=tmp_path / "pics",
        image_id_col="who",
        caption_id_col="id",
    )
    assert isinstance(source, TableSource)
    assert isinstance(source, Source)
    (sample,) = samples(source)
    assert (sample.image_id, sample.caption_ids) == ("A", ("x/en", "x/de"))


def test_tar_files_are_shards_however_they_are_named(tmp_path):
    write_shards(tmp_path, shards=2)
    for path in (tmp_path, tmp_path / "00000.tar", tmp_path / "{00000..00001}.tar", str(tmp_path)):
        source = open_source(path)
        assert isinstance(source, WebDatasetSource)
        assert source.kind == "webdataset"


def test_a_folder_of_pictures_is_a_folder_also_with_img2datasets_lists_in_it(tmp_path):
    write_files(tmp_path, {"00000/0.jpg": picture(0, "JPEG"), "00000/0.txt": "c"})
    pq.write_table(pa.table({"url": ["u"], "status": ["success"], "key": ["0"]}), tmp_path / "00000.parquet")
    assert isinstance(open_source(tmp_path), FolderSource)


def test_datasets_are_told_by_their_files(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    cells = [{"bytes": picture(0), "path": None}]
    made = datasets.Dataset.from_dict({"image": cells, "text": ["c"]}).cast_column("image", datasets.Image())
    made.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": made, "dev": made}).save_to_disk(tmp_path / "splits")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    made.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    write_files(tmp_path / "pictures" / "train", {"0.png": picture(0), "metadata.jsonl": ""})
    write_rows(tmp_path / "pictures" / "train" / "metadata.jsonl", [{"file_name": "0.png", "text": "c"}])
    for name in ("saved", "splits", "hub", "pictures"):
        source = open_source(tmp_path / name, caption_cols=("text",), split="dev" if name == "splits" else None)
        assert source.kind == "dataset"
        assert [(sample.picture, sample.captions) for sample in samples(source)] == [(picture(0), ("c",))]


def test_the_list_of_downloads_is_not_taken_for_the_pictures(tmp_path):
    write_shards(tmp_path, shards=1)
    rows = {"url": ["u"], "status": ["success"], "key": ["0"], "caption": ["c"]}
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    with pytest.raises(DataError, match=r"img2dataset's list of downloads.*open .*00000\.tar"):
        open_source(tmp_path / "00000.parquet")
    pq.write_table(pa.table(rows | {"jpg": [picture(0, "JPEG")]}), tmp_path / "00001.parquet")  # its Parquet format
    assert len(samples(open_source(tmp_path / "00001.parquet", image_col="jpg"))) == 1


def test_options_that_a_source_does_not_have_are_refused(tmp_path):
    write_shards(tmp_path / "shards", shards=1)
    write_files(tmp_path / "pictures", {"a.png": picture(0), "a.txt": "c"})
    write_rows(tmp_path / "t.csv", [{"image": "a.png", "caption": "c"}])
    with pytest.raises(ConfigError, match="tar shards, which has no split, image_root"):
        open_source(tmp_path / "shards", split="train", image_root=tmp_path)
    with pytest.raises(ConfigError, match="a folder of pictures, which has no caption_cols"):
        open_source(tmp_path / "pictures", caption_cols=("text",))
    with pytest.raises(ConfigError, match="a table, which has no split"):
        open_source(tmp_path / "t.csv", split="train")


@pytest.mark.parametrize(
    ("name", "message"),
    [("none", "is not there"), ("a.tar.gz", "a compressed tar file"), ("a.pdf", "of no known kind")],
)
def test_anything_else_is_refused(name, message, tmp_path):
    if name != "none":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / name)
    with pytest.raises(DataError, match="holds no pictures"):
        open_source(tmp_path)
