import builtins
import gc
import socket

import pytest
from made_sources import (
    HARD_CAPTIONS,
    check,
    hashes,
    picture,
    reasons,
    samples,
    skipped,
    write_files,
    write_rows,
)

from truepair.errors import ConfigError, DataError
from truepair.sources import blocks
from truepair.sources.datasets import DatasetSource

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline_with_a_cache_of_its_own(tmp_path_factory, monkeypatch):
    """Asking for any address is an error, and nothing is written to the user's cache."""

    def refuse(*arguments, **options):
        raise AssertionError(f"asked for {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def made(count=8, **columns):
    pictures = [{"bytes": picture(i), "path": None} for i in range(count)]
    columns = columns or {"caption": [HARD_CAPTIONS[i % len(HARD_CAPTIONS)] for i in range(count)]}
    return datasets.Dataset.from_dict({"image": pictures, **columns}).cast_column("image", datasets.Image())


def test_a_saved_dataset_comes_back_as_it_was_encoded(tmp_path):
    made().save_to_disk(tmp_path / "d")
    before = hashes(tmp_path)
    found = check(DatasetSource(tmp_path / "d"))
    assert [sample.captions for sample in found] == [(caption,) for caption in HARD_CAPTIONS]
    assert [sample.picture for sample in found] == [picture(number) for number in range(8)]
    assert [sample.image_id for sample in found] == [f"row-{row}" for row in range(1, 9)]
    assert hashes(tmp_path) == before


def test_a_split_is_asked_for_where_there_are_several(tmp_path):
    datasets.DatasetDict({"train": made(3), "test": made(2)}).save_to_disk(tmp_path / "d")
    assert len(check(DatasetSource(tmp_path / "d", split="test"))) == 2
    with pytest.raises(ConfigError, match=r"has the splits train, test; say which is meant \(split\)"):
        DatasetSource(tmp_path / "d")
    with pytest.raises(ConfigError, match="there is no split 'dev'"):
        DatasetSource(tmp_path / "d", split="dev")
    datasets.DatasetDict({"train": made(3)}).save_to_disk(tmp_path / "one")
    assert len(check(DatasetSource(tmp_path / "one"))) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves CSV files open
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_folder_of_pictures_with_metadata_is_a_dataset(kind, tmp_path):
    write_files(tmp_path / "d", {f"sub/{number}.png": picture(number) for number in range(8)})
    rows = [{"file_name": f"sub/{number}.png", "text": HARD_CAPTIONS[number]} for number in range(8)]
    write_rows(tmp_path / "d" / f"metadata.{kind}", rows)
    before = hashes(tmp_path)
    found = check(DatasetSource(tmp_path / "d", caption_cols=("text",)))
    assert {sample.captions[0]: sample.picture for sample in found} == {
        caption: picture(number) for number, caption in enumerate(HARD_CAPTIONS)
    }
    assert hashes(tmp_path) == before
    gc.collect()


def test_parquet_files_of_the_hub_are_a_dataset(tmp_path):
    (tmp_path / "d" / "data").mkdir(parents=True)
    made().to_parquet(tmp_path / "d" / "data" / "train-00000-of-00001.parquet")
    assert [sample.picture for sample in check(DatasetSource(tmp_path / "d"))] == [picture(i) for i in range(8)]


def test_several_columns_and_lists_give_several_captions(tmp_path):
    made(3, en=["a", "", "c"], all=[["x", "y"], ["z"], []]).save_to_disk(tmp_path / "d")
    source = DatasetSource(tmp_path / "d", caption_cols=("en", "all"))
    assert [sample.caption_ids for sample in check(source)] == [
        ("row-1/en", "row-1/all/1", "row-1/all/2"),
        ("row-2/all/1",),
        ("row-3/en",),
    ]
    assert [(skip.where, skip.reason) for skip in skipped(source)] == [
        (f"{tmp_path / 'd'}: row-2/en", "empty caption"),
        (f"{tmp_path / 'd'}: row-3/all", "empty caption"),
    ]


def test_rows_without_a_picture_are_skipped(tmp_path):
    cells = [{"bytes": b"", "path": None}, None, {"bytes": picture(0), "path": None}, {"bytes": b"none", "path": None}]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict({"image": cells, "caption": list("abcd")}, features).save_to_disk(tmp_path / "d")
    source = DatasetSource(tmp_path / "d")
    assert [sample.picture for sample in check(source)] == [picture(0), b"none"]
    assert reasons(source) == ["empty picture", "missing picture"]


def test_a_picture_that_was_deleted_since_is_skipped(tmp_path):
    write_files(tmp_path / "d", {f"{number}.png": picture(number) for number in range(2)})
    write_rows(tmp_path / "d" / "metadata.jsonl", [{"file_name": f"{i}.png", "caption": f"c{i}"} for i in range(2)])
    source = DatasetSource(tmp_path / "d")
    (tmp_path / "d" / "1.png").unlink()
    assert [sample.captions for sample in samples(source)] == [("c0",)]
    assert reasons(source) == ["missing picture"]
    with pytest.raises(DataError, match="missing picture"):
        source.picture("row-2")


def test_bytes_are_pictures_and_other_columns_are_not(tmp_path):
    rows = {"image": [picture(0)], "caption": ["c"], "path": ["a.png"]}
    features = datasets.Features(
        {"image": datasets.Value("binary"), "caption": datasets.Value("string"), "path": datasets.Value("string")}
    )
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "d")
    assert check(DatasetSource(tmp_path / "d"))[0].picture == picture(0)
    with pytest.raises(DataError, match=r"column 'path' is Value\('string'\), not Image or bytes"):
        DatasetSource(tmp_path / "d", image_col="path")


def test_shards_are_blocks_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "PICTURES_A_BLOCK", 3)
    made().save_to_disk(tmp_path / "d")
    source = DatasetSource(tmp_path / "d")
    assert [len(list(source.read(shard))) for shard in source.shards()] == [3, 3, 2]
    check(source)


def test_a_dataset_saved_with_a_format_is_read_as_it_is_stored(tmp_path):
    made(2).with_format("numpy").save_to_disk(tmp_path / "d")
    assert [sample.captions[0] for sample in check(DatasetSource(tmp_path / "d"))] == list(HARD_CAPTIONS[:2])


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_card_that_names_files_on_a_server_is_refused(name, tmp_path):
    card = "configs:\n- config_name: default\n  data_files: https://example.invalid/x.parquet\n"
    write_files(tmp_path / "d", {name: f"---\n{card}---\n" if name == "README.md" else card, "a.png": picture(0)})
    with pytest.raises(DataError, match="files lie elsewhere"):
        DatasetSource(tmp_path / "d")


def test_what_is_no_dataset_is_refused(tmp_path):
    made(1).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r"no column 'img'; it has 'image', 'caption'; did you mean 'image'\?"):
        DatasetSource(tmp_path / "d", image_col="img")
    with pytest.raises(DataError, match="has no row 'row-2'"):
        DatasetSource(tmp_path / "d").picture("row-2")
    with pytest.raises(DataError, match="there is no folder"):
        DatasetSource(tmp_path / "none")
    with pytest.raises(DataError, match="cannot be read as a Hugging Face dataset"):
        DatasetSource(write_files(tmp_path / "other", {"a.bin": b"x"}))
    with pytest.raises(ConfigError, match="caption_cols is empty"):
        DatasetSource(tmp_path / "d", caption_cols=())
    next((tmp_path / "d").glob("*.arrow")).write_bytes(b"broken")
    with pytest.raises(DataError, match="cannot be read as a Hugging Face dataset"):
        DatasetSource(tmp_path / "d")


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    imported = builtins.__import__

    def without_datasets(name, *rest):
        if name == "datasets":
            raise ModuleNotFoundError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(ConfigError, match=r"pip install 'truepair\[hf\]'"):
        DatasetSource(tmp_path)
