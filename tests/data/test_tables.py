import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from truepair.config import TableColumns
from truepair.data.pairs import Pairs
from truepair.data.tables import SkippedRow, load_table, load_table_splits
from truepair.errors import ConfigError, DataError

NO_PICTURES = TableColumns(image=None, image_feature="vector")


def picture(shade: int = 0) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(written, "PNG")
    return written.getvalue()


def picture_folder(folder: Path, *names: str) -> Path:
    for shade, name in enumerate(names):
        (folder / name).write_bytes(picture(shade))
    return folder


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def write_lines(path: Path, *records: object) -> Path:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def write_parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def first_values(pairs: Pairs) -> list[float]:
    """The first number of each image's input, one an image."""
    return pairs.images.take(torch.arange(len(pairs.images))).values.flatten(1)[:, 0].tolist()


# What a table may look like


def test_a_csv_with_commas_and_line_breaks_in_captions(tmp_path):
    picture_folder(tmp_path, "a.png", "b.png")
    table = write(tmp_path / "t.csv", 'image,caption\na.png,"a cat, asleep"\nb.png,"two lines:\none ""dog"""\n')
    pairs = load_table(table)
    assert pairs.captions == ["a cat, asleep", 'two lines:\none "dog"']
    assert pairs.image_of_caption.tolist() == [0, 1]
    assert pairs.image_ids == ["a.png", "b.png"]
    assert pairs.caption_ids == ["row-1", "row-2"]
    assert pairs.pictures is not None
    assert pairs.pictures[1] == picture(1)


def test_a_byte_order_mark_and_other_letters_are_read(tmp_path):
    picture_folder(tmp_path, "ä.png")
    table = write(tmp_path / "t.csv", "image,caption\r\nä.png,Ein Kätzchen 猫\r\n", encoding="utf-8-sig")
    assert load_table(table).captions == ["Ein Kätzchen 猫"]


def test_a_tsv_with_columns_of_other_names_and_pictures_elsewhere(tmp_path):
    (tmp_path / "pictures").mkdir()
    picture_folder(tmp_path / "pictures", "a.png")
    table = write(tmp_path / "t.TSV", "filepath\ttitle\n\na.png\ta cat, asleep\n\n")
    columns = TableColumns(image="filepath", caption="title")
    pairs = load_table(table, columns, image_root=tmp_path / "pictures")
    assert pairs.captions == ["a cat, asleep"]


def test_pictures_without_features_become_patches(tmp_path):
    picture_folder(tmp_path, "black.png")
    (tmp_path / "white.png").write_bytes(picture(255))
    table = write(tmp_path / "t.csv", "image,caption\nblack.png,night\nwhite.png,snow\n")
    pairs = load_table(table)
    assert pairs.images.take(torch.arange(2)).values.shape == (2, 36, 192)
    assert first_values(pairs) == [-0.5, 0.5]


def test_patches_can_be_written_to_a_file(tmp_path):
    picture_folder(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", "image,caption\na.png,night\n")
    pairs = load_table(table, patch_file=tmp_path / "patches.npy")
    assert np.load(tmp_path / "patches.npy").shape == (1, 36, 192)
    assert len(pairs.images) == 1


def test_jsonl_with_features_of_both_sides_and_no_pictures(tmp_path):
    table = write_lines(
        tmp_path / "t.jsonl",
        {"vector": [1.0, 2], "caption": "a", "words": [0.5, 0.25, 1]},
        {"vector": [3, 4], "caption": "b", "words": [0, 0, 0]},
    )
    columns = TableColumns(image=None, image_feature="vector", caption_feature="words")
    pairs = load_table(table, columns)
    assert pairs.images.take(torch.tensor([1, 0])).values.tolist() == [[3.0, 4.0], [1.0, 2.0]]
    assert pairs.caption_inputs is not None
    assert pairs.caption_inputs.take(torch.tensor([0])).values.tolist() == [[0.5, 0.25, 1.0]]
    assert pairs.pictures is None
    assert pairs.image_ids == ["row-1", "row-2"]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.list_(pa.float16(), 2), pa.large_list(pa.int32())]
)
def test_parquet_features_of_any_numeric_list_type(tmp_path, kind):
    numbers = [[1, 2], [3, 4], [5, 6]]
    if kind.value_type == pa.float16():
        numbers = [[np.float16(value) for value in row] for row in numbers]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"vector": pa.array(numbers, type=kind), "caption": list("abc")}), path, row_group_size=2)
    assert load_table(path, NO_PICTURES).images.take(torch.tensor([2])).values.tolist() == [[5.0, 6.0]]


@pytest.mark.parametrize("is_struct", [False, True])
def test_parquet_with_the_pictures_inside(tmp_path, is_struct):
    cells = [picture(0), picture(255), picture(0)]
    if is_struct:
        images = pa.array([{"bytes": cell, "path": f"{row}.png"} for row, cell in enumerate(cells)])
    else:
        images = pa.array(cells)
    pairs = load_table(write_parquet(tmp_path / "t.parquet", image=images, caption=["a", "b", "c"]))
    assert pairs.image_of_caption.tolist() == [0, 1, 0]  # identical bytes are one image
    assert pairs.image_ids == ["row-1", "row-2"]
    assert first_values(pairs) == [-0.5, 0.5]
    assert pairs.pictures is not None
    assert pairs.pictures[1] == cells[1]


def test_parquet_structs_that_only_name_their_files(tmp_path):
    picture_folder(tmp_path, "a.png", "b.png")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": None, "path": name} for name in ("b.png", "a.png")], type=kind)
    pairs = load_table(write_parquet(tmp_path / "t.parquet", image=images, caption=["b", "a"]))
    assert pairs.image_ids == ["b.png", "a.png"]


def test_rows_with_the_same_path_are_captions_of_one_image(tmp_path):
    picture_folder(tmp_path, "a.png", "b.png")
    table = write(tmp_path / "t.csv", "image,caption\nb.png,one\na.png,two\nb.png,three\n")
    pairs = load_table(table)
    assert len(pairs.images) == 2
    assert pairs.image_of_caption.tolist() == [0, 1, 0]
    assert pairs.image_ids == ["b.png", "a.png"]


def test_rows_with_the_same_image_id_are_captions_of_one_image(tmp_path):
    table = write_lines(
        tmp_path / "t.jsonl",
        {"id": 7, "key": "x", "vector": [1], "caption": "one"},
        {"id": 8, "key": "y", "vector": [2], "caption": "two"},
        {"id": 7, "key": "z", "vector": [1], "caption": "three"},
    )
    columns = TableColumns(image=None, image_feature="vector", image_id="id", caption_id="key")
    pairs = load_table(table, columns)
    assert pairs.image_of_caption.tolist() == [0, 1, 0]
    assert pairs.image_ids == ["7", "8"]
    assert pairs.caption_ids == ["x", "y", "z"]


def test_feature_files_have_one_row_a_distinct_image_and_one_row_a_caption(tmp_path):
    table = write(tmp_path / "t.csv", "image,caption\nb.png,one\na.png,two\nb.png,three\n")
    np.save(tmp_path / "images.npy", np.array([[1.0], [2.0]], dtype=np.float32))
    np.save(tmp_path / "captions.npy", np.array([[1.0], [2.0], [3.0]], dtype=np.float32))
    pairs = load_table(
        table, image_features=tmp_path / "images.npy", caption_features=tmp_path / "captions.npy"
    )  # the pictures do not exist, and nobody looks at them
    assert first_values(pairs) == [1.0, 2.0]
    assert pairs.caption_inputs is not None
    assert len(pairs.caption_inputs) == 3


# Splits


def split_table(path: Path, *splits: str) -> Path:
    records = [{"vector": [row], "caption": f"caption {row}", "part": name} for row, name in enumerate(splits)]
    return write_lines(path, *records)


SPLIT = TableColumns(image=None, image_feature="vector", split="part")


@pytest.mark.parametrize("development", ["dev", "val", " Valid", "VALIDATION", "development"])
def test_a_split_column_may_use_any_usual_name(tmp_path, development):
    table = split_table(tmp_path / "t.jsonl", "Train", "test", development, "train")
    splits = load_table_splits(table, SPLIT)
    assert splits.train.captions == ["caption 0", "caption 3"]
    assert splits.dev.captions == ["caption 2"]
    assert splits.test.captions == ["caption 1"]
    assert splits.name == "t"
    assert first_values(splits.train) == [0.0, 3.0]
    assert splits.train.image_ids == ["row-1", "row-4"]
    assert load_table(table, SPLIT, split="validation").captions == ["caption 2"]


def captioned_images(path: Path, images: int, captions: int = 3) -> Path:
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.repeat(np.arange(images), captions)).tolist()
    return write_lines(path, *({"id": i, "vector": [i], "caption": f"of {i}, row {k}"} for k, i in enumerate(rows)))


BY_ID = TableColumns(image=None, image_feature="vector", image_id="id")


def test_a_random_split_is_by_image_and_loses_nothing(tmp_path):
    table = captioned_images(tmp_path / "t.jsonl", images=40)
    splits = load_table_splits(table, BY_ID, development_share=0.2, test_share=0.1, seed=3, name="forty")
    parts = (splits.train, splits.dev, splits.test)
    assert [len(part.images) for part in parts] == [28, 8, 4]
    assert [len(part) for part in parts] == [84, 24, 12]
    assert splits.name == "forty"
    ids = [set(part.image_ids) for part in parts]
    assert set.union(*ids) == {str(i) for i in range(40)}
    assert not (ids[0] & ids[1] | ids[0] & ids[2] | ids[1] & ids[2])
    for part in parts:
        for caption, image in zip(part.captions, part.image_of_caption.tolist(), strict=True):
            assert caption.startswith(f"of {part.image_ids[image]},")
        assert [str(int(value)) for value in first_values(part)] == list(part.image_ids)


def test_the_same_seed_gives_the_same_split_and_another_seed_another(tmp_path):
    table = captioned_images(tmp_path / "t.jsonl", images=40)
    tests = [list(load_table_splits(table, BY_ID, seed=seed).test.image_ids) for seed in (5, 5, 6)]
    assert tests[0] == tests[1]
    assert tests[0] != tests[2]


def test_pictures_follow_their_image_into_its_split(tmp_path):
    names = [f"{i}.png" for i in range(10)]
    picture_folder(tmp_path, *names)
    table = write(tmp_path / "t.csv", "image,caption\n" + "".join(f"{name},of {name}\n" for name in names))
    for part in (splits := load_table_splits(table)).train, splits.dev, splits.test:
        assert part.pictures is not None
        for image, name in enumerate(part.image_ids):
            assert part.pictures[image] == (tmp_path / name).read_bytes()


# Unreadable pictures


def broken_table(folder: Path) -> Path:
    picture_folder(folder, "a.png", "b.png")
    (folder / "broken.png").write_bytes(picture()[:30])
    return write(
        folder / "t.csv", "image,caption\na.png,one\ngone.png,two\nbroken.png,three\nb.png,four\ngone.png,five\n"
    )


def test_unreadable_pictures_are_left_out_counted_and_listed(tmp_path):
    skipped: list[SkippedRow] = []
    pairs = load_table(broken_table(tmp_path), skipped=skipped)
    assert pairs.captions == ["one", "four"]
    assert pairs.image_ids == ["a.png", "b.png"]
    assert pairs.caption_ids == ["row-1", "row-4"]
    assert pairs.image_of_caption.tolist() == [0, 1]
    assert first_values(pairs) == pytest.approx([-0.5, 1 / 255 - 0.5], abs=1e-3)
    assert [(row.row, row.picture) for row in skipped] == [(2, "gone.png"), (3, "broken.png"), (5, "gone.png")]
    assert "cannot be read" in skipped[0].why
    assert "cannot be decoded" in skipped[1].why


def test_unreadable_pictures_are_an_error_if_nobody_asks_for_the_list(tmp_path):
    with pytest.raises(DataError, match=r"2 of the pictures are unreadable, in 3 of 5 rows \(first: row 2, gone.png"):
        load_table(broken_table(tmp_path))


def test_rows_keep_their_split_when_others_are_skipped(tmp_path):
    picture_folder(tmp_path, "a.png", "b.png", "c.png")
    rows = "gone.png,0,train\na.png,1,test\nb.png,2,train\nc.png,3,dev\n"
    table = write(tmp_path / "t.csv", f"image,caption,split\n{rows}")
    splits = load_table_splits(table, TableColumns(split="split"), skipped=[])
    assert [part.captions for part in (splits.train, splits.dev, splits.test)] == [["2"], ["3"], ["1"]]


def test_all_pictures_unreadable_is_an_error_that_names_the_root(tmp_path):
    table = write(tmp_path / "t.csv", "image,caption\nx/a.png,one\nx/b.png,two\n")
    with pytest.raises(DataError, match=r"all pictures are unreadable.*row 1, x/a.png.*image_root is '/elsewhere'"):
        load_table(table, image_root="/elsewhere", skipped=[])
    with pytest.raises(DataError, match=r"image_root is '.*'; is that where they are"):
        load_table(table, skipped=[])


# Errors: what, where, the values, the next step


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,caption\na.png,\n", r"row 1 has an image but no caption \(column 'caption' is empty\)"),
        ("image,caption\na.png,ok\na.png,  \n", r"row 2 has an image but no caption"),
        ("image,caption\na.png,ok\n,a cat\n", r"row 2 has a caption but no image \(column 'image' is empty\)"),
        ("image,Captions\na.png,ok\n", r"no column 'caption'; it has 'image', 'Captions'; did you mean 'Captions'\?"),
        ("image,xyz\na.png,ok\n", r"no column 'caption'.*say which column holds it \(columns.caption\)"),
        ("image,caption\n", "has no rows"),
        ("", "has no rows"),
        ("image,caption\na.png,a cat, asleep\n", r"row 1 has 3 fields but the header names 2"),
        ('image,caption\na.png,"a cat\n', r"row 1 \(ending in line 2\) cannot be parsed: unexpected end of data"),
        ("image,caption,caption\na.png,a,b\n", "the header names 'caption' more than once"),
    ],
)
def test_a_faulty_csv_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load_table(write(tmp_path / "t.csv", text))


def test_a_table_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"not UTF-8 \(at b'.*a.png,\\xe9\\n'\); save it as UTF-8"):
        load_table(write(tmp_path / "t.csv", "image,caption\na.png,é\n", encoding="latin-1"))


def test_an_unknown_extension_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"ends in '.xlsx'; tables are read from .csv, .tsv, .jsonl, .parquet"):
        load_table(tmp_path / "t.xlsx")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_missing_table_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="there is no table"):
        load_table(tmp_path / name)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_table(write(tmp_path / "t.parquet", "not parquet"))


@pytest.mark.parametrize(
    ("line", "message"),
    [("{not json}", "line 2 is not JSON"), ("[1, 2]", r"line 2 is not a JSON object but \[1, 2\]")],
)
def test_a_faulty_json_line_is_refused(tmp_path, line, message):
    good = json.dumps({"vector": [1.0], "caption": "a"})
    with pytest.raises(DataError, match=message):
        load_table(write(tmp_path / "t.jsonl", f"{good}\n{line}\n"), NO_PICTURES)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"vector": [1], "caption": "b"}, "'vector' has 2 numbers in row 1 but 1 in row 2"),
        ({"vector": [1, float("nan")], "caption": "b"}, r"NaN.* in 1 of 2 rows \(first: row 2\)"),
        ({"vector": [1, float("inf")], "caption": "b"}, r"first: row 2"),
        ({"vector": [1, 1e300], "caption": "b"}, r"first: row 2"),
        ({"vector": [1, "two"], "caption": "b"}, "lists of something else than numbers"),
        ({"vector": None, "caption": "b"}, "row 2 of column 'vector' holds None, not a list of numbers"),
        ({"caption": "b"}, "row 2 of column 'vector' holds None"),
        ({"vector": [1, 2]}, "row 2 has an image but no caption"),
        ({"vector": [1, 2], "caption": ["b", "c"]}, r"row 2 .* which is not text; give each caption a row of its own"),
    ],
)
def test_faulty_json_features_and_captions_are_refused(tmp_path, second, message):
    table = write_lines(tmp_path / "t.jsonl", {"vector": [1, 2], "caption": "a"}, second)
    with pytest.raises(DataError, match=message):
        load_table(table, NO_PICTURES)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (pa.array([[1.0, 2.0], [1.0]]), "2 numbers in row 1 but 1 in row 2"),
        (pa.array([[1.0, 2.0], [1.0, float("nan")]]), "first: row 2"),
        (pa.array([[1.0, 2.0], [1.0, None]]), "first: row 2"),
        (pa.array([[1.0, 2.0], None]), "row 2 has no value in column 'vector'"),
        (pa.array([[], []], type=pa.list_(pa.float32())), "the lists of column 'vector' are empty"),
        (pa.array(["1 2", "3 4"]), "of type string, not lists of numbers"),
    ],
)
def test_faulty_parquet_features_are_refused(tmp_path, vectors, message):
    table = write_parquet(tmp_path / "t.parquet", vector=vectors, caption=["a", "b"])
    with pytest.raises(DataError, match=message):
        load_table(table, NO_PICTURES)


def test_features_in_a_csv_cell_are_refused(tmp_path):
    table = write(tmp_path / "t.csv", 'vector,caption\n"[1, 2]",a\n')
    with pytest.raises(DataError, match=r"not a list of numbers; features come from JSONL or Parquet"):
        load_table(table, NO_PICTURES)


def test_a_parquet_row_without_a_picture_is_refused(tmp_path):
    images = pa.array([picture(), None], type=pa.binary())
    with pytest.raises(DataError, match="row 2 has no picture in column 'image'"):
        load_table(write_parquet(tmp_path / "t.parquet", image=images, caption=["a", "b"]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pa.array([1, 2]), "row 1 of column 'image' holds 1; an image is a path, or bytes in Parquet"),
        (pa.array([{"url": "a"}, {"url": "b"}]), "a picture is a struct of bytes and path"),
    ],
)
def test_an_image_column_of_another_type_is_refused(tmp_path, images, message):
    with pytest.raises(DataError, match=message):
        load_table(write_parquet(tmp_path / "t.parquet", image=images, caption=["a", "b"]))


def test_caption_ids_must_be_unique_and_ids_present(tmp_path):
    columns = TableColumns(image=None, image_feature="vector", caption_id="key")
    record = {"vector": [1], "caption": "a", "key": "k"}
    with pytest.raises(DataError, match="rows 1 and 3 have the same caption id 'k'"):
        load_table(write_lines(tmp_path / "t.jsonl", record, {**record, "key": "l"}, record), columns)
    with pytest.raises(DataError, match="row 2 has no value in column 'key'"):
        load_table(write_lines(tmp_path / "t.jsonl", record, {**record, "key": ""}), columns)


def test_one_image_id_cannot_have_two_pictures_or_two_vectors(tmp_path):
    picture_folder(tmp_path, "a.png", "b.png")
    by_path = write(tmp_path / "t.csv", "image,caption,id\na.png,one,7\nb.png,two,7\n")
    with pytest.raises(DataError, match=r"rows 1 and 2 have the same image id '7' .* but different pictures"):
        load_table(by_path, TableColumns(image_id="id"))
    inside = write_parquet(tmp_path / "t.parquet", image=[picture(1), picture(2)], caption=["a", "b"], id=[7, 7])
    with pytest.raises(DataError, match="rows 1 and 2 have the same image id '7'"):
        load_table(inside, TableColumns(image_id="id"))
    records = [{"id": 7, "vector": [1], "caption": "a"}, {"id": 7, "vector": [2], "caption": "b"}]
    with pytest.raises(DataError, match="rows 1 and 2 are of the same image but differ in column 'vector'"):
        load_table(write_lines(tmp_path / "t.jsonl", *records), BY_ID)


def test_feature_files_of_another_length_are_refused_with_both_counts(tmp_path):
    table = write(tmp_path / "t.csv", "image,caption\nb.png,one\na.png,two\nb.png,three\n")
    np.save(tmp_path / "three.npy", np.zeros((3, 2), dtype=np.float32))
    np.save(tmp_path / "two.npy", np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"three.npy has 3 rows but there are 2 distinct images in .*t.csv, by first"):
        load_table(table, image_features=tmp_path / "three.npy")
    with pytest.raises(DataError, match=r"two.npy has 2 rows but there are 3 rows in .*t.csv"):
        load_table(table, image_features=tmp_path / "two.npy", caption_features=tmp_path / "two.npy")


def test_no_image_side_at_all_is_refused(tmp_path):
    table = write(tmp_path / "t.csv", "caption\na cat\n")
    with pytest.raises(ConfigError, match="nothing to see an image by"):
        load_table(table, TableColumns(image=None))


def test_unknown_and_missing_splits_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"row 2 is in split 'holdout' \(column 'part'\); known are train, training"):
        load_table_splits(split_table(tmp_path / "a.jsonl", "train", "holdout"), SPLIT)
    with pytest.raises(DataError, match=r"b has no pairs in split dev \(there are: train, test\)"):
        load_table_splits(split_table(tmp_path / "b.jsonl", "train", "test"), SPLIT)
    table = split_table(tmp_path / "c.jsonl", "train", "test")
    with pytest.raises(DataError, match=r"no rows in split 'val' \(there are: test, train\)"):
        load_table(table, SPLIT, split="val")
    with pytest.raises(ConfigError, match="there is no split 'holdout'; ask for train, dev or test"):
        load_table(table, SPLIT, split="holdout")
    with pytest.raises(ConfigError, match=r"split 'test' was asked for but columns.split is None"):
        load_table(table, NO_PICTURES, split="test")


def test_an_image_in_two_splits_is_refused(tmp_path):
    rows = "a.png,one,train\nb.png,two,dev\na.png,three,test\n"
    table = write(tmp_path / "t.csv", f"image,caption,split\n{rows}")
    np.save(tmp_path / "images.npy", np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"image 'a.png' is in split 'train' \(caption 'row-1'\) and in 'test'"):
        load_table_splits(table, TableColumns(split="split"), image_features=tmp_path / "images.npy")


def test_shares_that_leave_no_split_are_refused(tmp_path):
    table = captioned_images(tmp_path / "t.jsonl", images=4)
    with pytest.raises(ConfigError, match=r"4 images are too few for development_share 0.1 and test_share 0.1"):
        load_table_splits(table, BY_ID)
    for shares in ((0.0, 0.5), (0.5, 0.5), (-0.1, 0.2)):
        with pytest.raises(ConfigError, match="must be above 0, and below 1 together"):
            load_table_splits(table, BY_ID, development_share=shares[0], test_share=shares[1])
