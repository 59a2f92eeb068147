import gc
import json
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sources import (
    HARD_CAPTIONS,
    check,
    hashes,
    opened,
    picture,
    reasons,
    samples,
    skipped,
    write_files,
    write_rows,
)

from truepair.errors import ConfigError, DataError
from truepair.sources import blocks

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


def pairs_of_the_library(dataset, caption="caption"):
    """Each picture as it is stored, and its caption, as the library reads them."""
    plain = dataset.cast_column("image", datasets.Image(decode=False))
    found = []
    for row in plain:
        cell = row["image"]
        data = cell["bytes"]
        if data is None:
            with open(cell["path"], "rb") as file:  # noqa: PTH123, the library may name other things than paths
                data = file.read()
        found.append((data, row[caption]))
    return found


def pairs_of_ours(source):
    return [(sample.picture, sample.captions[0]) for sample in check(source)]


def test_a_saved_dataset_comes_back_as_it_was_encoded(tmp_path):
    made().save_to_disk(tmp_path / "d")
    before = hashes(tmp_path)
    source = opened(tmp_path / "d")
    found = check(source)
    assert source.kind == "dataset"
    assert [sample.captions for sample in found] == [(caption,) for caption in HARD_CAPTIONS]
    assert [sample.picture for sample in found] == [picture(number) for number in range(8)]
    assert [sample.image_id for sample in found] == [f"row-{row}" for row in range(1, 9)]
    assert hashes(tmp_path) == before


@pytest.mark.parametrize("shards", [1, 3])
def test_the_library_reads_the_same_pairs_of_a_saved_dataset(shards, tmp_path):
    made().save_to_disk(tmp_path / "d", num_shards=shards)
    theirs = pairs_of_the_library(datasets.load_from_disk(tmp_path / "d"))
    assert pairs_of_ours(opened(tmp_path / "d")) == theirs


def test_the_library_reads_the_same_pairs_of_every_split(tmp_path):
    datasets.DatasetDict({"train": made(5), "test": made(2)}).save_to_disk(tmp_path / "d")
    theirs = datasets.load_from_disk(tmp_path / "d")
    for split in ("train", "test"):
        assert pairs_of_ours(opened(tmp_path / "d", split=split)) == pairs_of_the_library(theirs[split])


def test_all_splits_are_read_unless_one_is_asked_for(tmp_path):
    # The same pictures in both splits: the part's name keeps them apart.
    datasets.DatasetDict({"train": made(3), "test": made(2)}).save_to_disk(tmp_path / "d")
    found = check(opened(tmp_path / "d"))
    assert [sample.caption_ids for sample in found] == [
        *((f"train/row-{row}",) for row in range(1, 4)),
        *((f"test/row-{row}",) for row in range(1, 3)),
    ]
    assert [sample.split for sample in found] == ["train"] * 3 + ["test"] * 2
    assert [sample.image_id for sample in check(opened(tmp_path / "d", split="test"))] == ["test/row-1", "test/row-2"]
    with pytest.raises(ConfigError, match="has the splits train, test; there is no --split dev"):
        opened(tmp_path / "d", split="dev")
    datasets.DatasetDict({"train": made(3)}).save_to_disk(tmp_path / "one")
    assert len(check(opened(tmp_path / "one"))) == 3


def test_a_saved_dataset_of_one_split_knows_its_name_and_has_no_other(tmp_path):
    made(2).save_to_disk(tmp_path / "plain")
    assert {sample.split for sample in check(opened(tmp_path / "plain"))} == {None}
    with pytest.raises(ConfigError, match=r"is of one split \(without a name\): leave --split out"):
        opened(tmp_path / "plain", split="train")


# The library leaves CSV files open, and asks the hub for nothing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_folder_of_pictures_with_metadata_is_a_dataset_as_the_library_reads_it(kind, tmp_path):
    write_files(tmp_path / "d", {f"sub/{number}.png": picture(number) for number in range(8)})
    rows = [{"file_name": f"sub/{number}.png", "text": HARD_CAPTIONS[number]} for number in range(8)]
    write_rows(tmp_path / "d" / f"metadata.{kind}", rows)
    before = hashes(tmp_path)
    source = opened(tmp_path / "d", caption_col=("text",))
    assert source.kind == "imagefolder"
    ours = pairs_of_ours(source)
    assert ours == [(picture(number), HARD_CAPTIONS[number]) for number in range(8)]
    assert [sample.image_id for sample in samples(source)] == [f"sub/{number}.png" for number in range(8)]
    assert hashes(tmp_path) == before
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "d"), split="train")
    assert sorted(pairs_of_the_library(theirs, "text")) == sorted(ours)
    gc.collect()


def test_metadata_of_each_split_lies_in_the_folder_of_the_split_and_so_do_its_pictures(tmp_path):
    for split, numbers in {"train": range(3), "validation": range(3, 5)}.items():
        write_files(tmp_path / split, {f"{number}.png": picture(number) for number in numbers})
        rows = [{"file_name": f"{number}.png", "text": f"c{number}"} for number in numbers]
        write_rows(tmp_path / split / "metadata.jsonl", rows)
    source = opened(tmp_path)
    found = check(source)
    assert [sample.image_id for sample in found] == [
        *(f"train/{number}.png" for number in range(3)),
        *(f"validation/{number}.png" for number in (3, 4)),
    ]
    assert [sample.split for sample in found] == ["train"] * 3 + ["validation"] * 2
    assert "captions are read from the column 'text' (--caption-col for another)" in source.notes
    assert [sample.split for sample in check(opened(tmp_path, split="validation"))] == ["validation"] * 2
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path))
    assert pairs_of_ours(opened(tmp_path, split="train")) == pairs_of_the_library(theirs["train"], "text")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_split_that_lost_all_of_its_rows_is_passed_over_unless_all_did(kind, tmp_path):
    write_files(tmp_path / "train", {"0.png": picture(0)})
    write_rows(tmp_path / "train" / f"metadata.{kind}", [{"file_name": "0.png", "text": "c"}])
    empty = tmp_path / "test" / f"metadata.{kind}"
    header = {"csv": b"file_name,text\n", "jsonl": b""}
    write_files(tmp_path / "test", {f"metadata.{kind}": header.get(kind, b"")})
    if kind == "parquet":
        pq.write_table(pa.table({"file_name": pa.array([], pa.string()), "text": pa.array([], pa.string())}), empty)
    source = opened(tmp_path)
    assert [sample.image_id for sample in check(source)] == ["train/0.png"]
    assert f"{empty} has no rows" in source.notes
    with pytest.raises(DataError, match=rf"^{empty} has no rows$"):
        opened(tmp_path, split="test")
    with pytest.raises(DataError, match=rf"^{empty} has no rows$"):
        opened(tmp_path / "test")


def test_two_tables_of_one_folder_are_refused(tmp_path):
    write_files(tmp_path, {"0.png": picture(0)})
    for kind in ("jsonl", "csv"):
        write_rows(tmp_path / f"metadata.{kind}", [{"file_name": "0.png", "text": "c"}])
    with pytest.raises(DataError, match=r"has several of metadata.jsonl, metadata.csv, metadata.parquet: keep one"):
        opened(tmp_path)


def test_parquet_files_of_the_hub_are_a_dataset_as_the_library_reads_it(tmp_path):
    (tmp_path / "d" / "data").mkdir(parents=True)
    write_files(tmp_path / "d", {"README.md": "---\nlicense: mit\n---\nA dataset.\n"})
    for number in range(2):
        made(4).to_parquet(tmp_path / "d" / "data" / f"train-0000{number}-of-00002.parquet")
    made(3).to_parquet(tmp_path / "d" / "data" / "test-00000-of-00001.parquet")
    source = opened(tmp_path / "d")
    found = check(source)
    assert source.kind == "parquet folder"
    assert [sample.image_id for sample in found][:5] == [
        *(f"data/test-00000-of-00001/row-{row}" for row in range(1, 4)),
        "data/train-00000-of-00002/row-1",
        "data/train-00000-of-00002/row-2",
    ]
    assert [sample.split for sample in found] == ["test"] * 3 + ["train"] * 8
    theirs = datasets.load_dataset(str(tmp_path / "d"))
    for split in ("train", "test"):
        assert pairs_of_ours(opened(tmp_path / "d", split=split)) == pairs_of_the_library(theirs[split])
    with pytest.raises(ConfigError, match="has the splits test, train; there is no --split dev"):
        opened(tmp_path / "d", split="dev")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001", "train"),
        ("validation_0001_of_0002", "validation"),
        ("train.00003", "train"),
        ("test", "test"),
        ("val", "val"),
        ("00000", None),
        ("part-2", "part"),
        ("photos", None),
    ],
)
def test_the_name_of_a_parquet_file_says_its_split(name, split, tmp_path):
    rows = {"jpg": pa.array([picture(0)], pa.binary()), "caption": ["c"]}
    pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
    assert [sample.split for sample in check(opened(tmp_path))] == [split]


def test_parquet_files_of_a_folder_that_name_their_pictures_start_at_the_folder(tmp_path):
    write_files(tmp_path, {"images/0.png": picture(0)})
    write_rows(tmp_path / "data" / "train.parquet", [{"image": "images/0.png", "caption": "c"}])
    assert [sample.picture for sample in check(opened(tmp_path))] == [picture(0)]


def test_parquet_files_of_unlike_columns_are_refused_by_name(tmp_path):
    write_files(tmp_path, {"0.png": picture(0)})
    write_rows(tmp_path / "a.parquet", [{"image": "0.png", "caption": "c"}])
    write_rows(tmp_path / "b.parquet", [{"image": "0.png", "title": "c"}])
    with pytest.raises(DataError, match=r"b.parquet has no column 'caption'; it has 'image', 'title'; say which one"):
        opened(tmp_path)


def test_several_columns_and_lists_give_several_captions(tmp_path):
    made(3, en=["a", "", "c"], all=[["x", "y"], ["z"], []]).save_to_disk(tmp_path / "d")
    source = opened(tmp_path / "d", caption_col=("en", "all"))
    assert [sample.caption_ids for sample in check(source)] == [
        ("row-1/en", "row-1/all/1", "row-1/all/2"),
        ("row-2/all/1",),
        ("row-3/en",),
    ]
    assert [(skip.where, skip.reason) for skip in skipped(source)] == [
        (f"{tmp_path / 'd'}: row-2/en", "empty caption"),
        (f"{tmp_path / 'd'}: row-3/all", "empty caption"),
    ]


@pytest.mark.parametrize("name", ["captions", "sentences", "Caption"])
def test_a_column_of_lists_under_a_usual_name_is_found_and_said(name, tmp_path):
    """Flickr30K on the hub has five captions a row."""
    five = [[f"caption {number} of {row}" for number in range(5)] for row in range(2)]
    made(2, **{name: five}).save_to_disk(tmp_path / "d")
    source = opened(tmp_path / "d")
    assert [sample.captions for sample in check(source)] == [tuple(captions) for captions in five]
    assert source.notes == [f"captions are read from the column {name!r} (--caption-col for another)"]


def test_rows_without_a_picture_are_skipped(tmp_path):
    cells = [{"bytes": b"", "path": None}, None, {"bytes": picture(0), "path": None}, {"bytes": b"none", "path": None}]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict({"image": cells, "caption": list("abcd")}, features).save_to_disk(tmp_path / "d")
    source = opened(tmp_path / "d")
    assert [sample.picture for sample in check(source)] == [picture(0), b"none"]
    assert reasons(source) == ["empty picture", "missing picture"]


def test_a_picture_that_was_deleted_since_is_skipped(tmp_path):
    write_files(tmp_path / "d", {f"{number}.png": picture(number) for number in range(2)})
    write_rows(tmp_path / "d" / "metadata.jsonl", [{"file_name": f"{i}.png", "caption": f"c{i}"} for i in range(2)])
    source = opened(tmp_path / "d")
    (tmp_path / "d" / "1.png").unlink()
    assert [sample.captions for sample in samples(source)] == [("c0",)]
    assert reasons(source) == ["missing picture"]
    with pytest.raises(DataError, match="missing picture"):
        source.picture("row-2")


def test_bytes_are_pictures_paths_are_files_and_other_columns_are_neither(tmp_path):
    write_files(tmp_path / "d", {"a.png": picture(1)})
    rows = {"image": [picture(0)], "caption": ["c"], "path": ["a.png"], "number": [1]}
    features = datasets.Features(
        {"image": datasets.Value("binary")} | {name: datasets.Value("string") for name in ("caption", "path")}
        | {"number": datasets.Value("int64")}
    )  # fmt: skip
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "d")
    assert check(opened(tmp_path / "d"))[0].picture == picture(0)
    assert check(opened(tmp_path / "d", image_col="path"))[0].picture == picture(1)
    with pytest.raises(DataError, match=r"column 'number' is of type int64; a picture is bytes, {bytes, path} or a pa"):
        opened(tmp_path / "d", image_col="number")


def test_shards_are_blocks_of_rows_over_all_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "PICTURES_A_BLOCK", 3)
    datasets.DatasetDict({"train": made(5), "test": made(3)}).save_to_disk(
        tmp_path / "d", num_shards={"train": 2, "test": 1}
    )
    source = opened(tmp_path / "d")
    assert [len(list(source.read(shard))) for shard in source.shards()] == [3, 3, 2]
    check(source)


def test_a_dataset_saved_with_a_format_is_read_as_it_is_stored(tmp_path):
    made(2).with_format("numpy").save_to_disk(tmp_path / "d")
    assert [sample.captions[0] for sample in check(opened(tmp_path / "d"))] == list(HARD_CAPTIONS[:2])


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_card_that_names_files_on_a_server_is_not_looked_at(name, tmp_path):
    card = "configs:\n- config_name: default\n  data_files: https://example.invalid/x.parquet\n"
    write_files(tmp_path / "d", {name: f"---\n{card}---\n" if name == "README.md" else card, "a.png": picture(0)})
    assert reasons(opened(tmp_path / "d")) == ["picture without captions"]


def test_a_dataset_without_splits_is_refused_and_one_with_an_empty_split_is_read(tmp_path):
    write_files(tmp_path / "none", {"dataset_dict.json": '{"splits": []}'})
    with pytest.raises(DataError, match="none has no splits; is the dataset complete"):
        opened(tmp_path / "none")
    datasets.DatasetDict({"train": made(2), "test": made(2).select([])}).save_to_disk(tmp_path / "d")
    assert len(check(opened(tmp_path / "d"))) == 2


def test_cells_without_bytes_name_files_from_the_folder_of_the_dataset_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "d", {"in.png": picture(1)})
    write_files(tmp_path, {"far.png": picture(2), "in.png": b"of the folder that the command runs in"})
    paths = ["x.png", "in.png", str(tmp_path / "far.png"), "gone.png"]
    cells = [{"bytes": picture(0), "path": paths[0]}, *({"bytes": None, "path": path} for path in paths[1:])]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind), "caption": list("abcd")}), tmp_path / "d" / "t.parquet")
    for path in (tmp_path / "d" / "t.parquet", tmp_path / "d"):
        source = opened(path)
        assert [sample.picture for sample in check(source)] == [picture(0), picture(1), picture(2)]
        assert reasons(source) == ["missing picture"]


def test_file_names_that_start_elsewhere_than_at_their_table_are_missing_pictures(tmp_path):
    write_files(tmp_path / "Images" / "train", {f"{number}.png": picture(number) for number in range(2)})
    rows = [{"file_name": f"Images/train/{number}.png", "text": "c"} for number in range(2)]
    write_rows(tmp_path / "Images" / "train" / "metadata.jsonl", rows)
    assert reasons(opened(tmp_path / "Images")) == ["missing picture"] * 2
    assert len(check(opened(tmp_path / "Images", image_root=str(tmp_path)))) == 2


@pytest.mark.parametrize("name", ["../other", "/tmp/other", "a/b", "a\\\\b", "..", "", 3])
def test_names_that_lead_out_of_a_dataset_are_refused(tmp_path, name):
    """A copy would be written to where they lead."""
    datasets.DatasetDict({"train": made()}).save_to_disk(tmp_path / "in" / "saved")
    datasets.DatasetDict({"train": made()}).save_to_disk(tmp_path / "in")
    (tmp_path / "in" / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", name]}))
    with pytest.raises(DataError, match=r"dataset_dict\.json names .*, which is nothing beside it"):
        opened(tmp_path / "in" / "saved")
    (tmp_path / "in" / "train" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match=r"state\.json names .*, which is nothing beside it"):
        opened(tmp_path / "in")


def test_what_is_no_dataset_is_refused(tmp_path):
    made(1).save_to_disk(tmp_path / "d")
    with pytest.raises(
        DataError, match=r"no column 'img'; it has 'image', 'caption'; did you mean --image-col image\?"
    ):
        opened(tmp_path / "d", image_col="img")
    with pytest.raises(DataError, match="has no row 'row-2'"):
        opened(tmp_path / "d").picture("row-2")
    with pytest.raises(DataError, match="has no part 'train'"):
        opened(tmp_path / "d").picture("train/row-1")
    with pytest.raises(ConfigError, match="a dataset, which has no --delimiter"):
        opened(tmp_path / "d", delimiter=";")
    with pytest.raises(DataError, match="does not exist"):
        opened(tmp_path / "none")
    with pytest.raises(DataError, match="holds no pictures"):
        opened(write_files(tmp_path / "other", {"a.bin": b"x"}))
    arrow = next((tmp_path / "d").glob("*.arrow"))
    arrow.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"d cannot be read \(.*\); is it damaged\?"):
        opened(tmp_path / "d")
    arrow.unlink()
    with pytest.raises(DataError, match=r"\.arrow is missing, which .*state.json lists"):
        opened(tmp_path / "d")
    for text, message in {
        "{}": "does not list the data files",
        "[1]": "is no JSON object",
        "{": "is not JSON",
        '{"_data_files": []}': "has no rows",
        '{"_data_files": [3]}': "does not list the data files",
    }.items():
        (tmp_path / "d" / "state.json").write_text(text)
        with pytest.raises(DataError, match=message):
            opened(tmp_path / "d")
