import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_sources import write_files, write_shards
from PIL import Image

from truepair.config import DataConfig
from truepair.config.source import SourceConfig
from truepair.data.corpora import load_corpus
from truepair.data.pairs import Pairs, Splits
from truepair.data.source_pairs import FeatureFiles, SourcePairs, first_captions, pairs_of
from truepair.errors import ConfigError, DataError
from truepair.sources.opening import open_source

NO_PICTURES = {"image_col": None, "image_feature_col": "vector"}


def read(path: Path, images: Path | None = None, captions: Path | None = None, **options: object) -> SourcePairs:
    config = SourceConfig(**options)
    return pairs_of(open_source(path, config), config, FeatureFiles(images, captions))


def read_pairs(path: Path, images: Path | None = None, captions: Path | None = None, **options: object) -> Pairs:
    return read(path, images, captions, **options).pairs


def read_splits(path: Path, source: dict[str, object] | None = None, **options: object) -> Splits:
    config = DataConfig(str(path), source=SourceConfig(**(source or {})), text="words", minimum_word_count=1, **options)
    return load_corpus(config).splits


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
    pairs = read_pairs(table)
    assert pairs.captions == ["a cat, asleep", 'two lines:\none "dog"']
    assert pairs.image_of_caption.tolist() == [0, 1]
    assert pairs.image_ids == ["a.png", "b.png"]
    assert pairs.caption_ids == ["row-1", "row-2"]
    assert pairs.pictures is not None
    assert pairs.pictures[1] == picture(1)
    assert pairs.pictures.reference(1) == "row-2"


def test_a_byte_order_mark_and_other_letters_are_read(tmp_path):
    picture_folder(tmp_path, "ä.png")
    table = write(tmp_path / "t.csv", "image,caption\r\nä.png,Ein Kätzchen 猫\r\n", encoding="utf-8-sig")
    assert read_pairs(table).captions == ["Ein Kätzchen 猫"]


def test_a_tsv_with_columns_of_other_names_and_pictures_elsewhere(tmp_path):
    (tmp_path / "pictures").mkdir()
    picture_folder(tmp_path / "pictures", "a.png")
    table = write(tmp_path / "t.TSV", "filepath\ttitle\n\na.png\ta cat, asleep\n\n")
    options = {"image_col": "filepath", "caption_col": ("title",), "image_root": str(tmp_path / "pictures")}
    assert read_pairs(table, **options).captions == ["a cat, asleep"]


def test_pictures_without_features_become_patches(tmp_path):
    picture_folder(tmp_path, "black.png")
    (tmp_path / "white.png").write_bytes(picture(255))
    pairs = read_pairs(write(tmp_path / "t.csv", "image,caption\nblack.png,night\nwhite.png,snow\n"))
    assert pairs.images.take(torch.arange(2)).values.shape == (2, 36, 192)
    assert first_values(pairs) == [-0.5, 0.5]


def test_jsonl_with_features_of_both_sides_and_no_pictures(tmp_path):
    table = write_lines(
        tmp_path / "t.jsonl",
        {"vector": [1.0, 2], "caption": "a", "words": [0.5, 0.25, 1]},
        {"vector": [3, 4], "caption": "b", "words": [0, 0, 0]},
    )
    for options in (NO_PICTURES, {"image_feature_col": "vector"}):  # there is no column of a usual name either
        pairs = read_pairs(table, caption_feature_col="words", **options)
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
    assert read_pairs(path, **NO_PICTURES).images.take(torch.tensor([2])).values.tolist() == [[5.0, 6.0]]


@pytest.mark.parametrize("is_struct", [False, True])
def test_parquet_with_the_pictures_inside(tmp_path, is_struct):
    cells = [picture(0), picture(255), picture(0)]
    if is_struct:
        images = pa.array([{"bytes": cell, "path": f"{row}.png"} for row, cell in enumerate(cells)])
    else:
        images = pa.array(cells)
    pairs = read_pairs(write_parquet(tmp_path / "t.parquet", image=images, caption=["a", "b", "c"]))
    assert pairs.image_of_caption.tolist() == [0, 1, 0]  # identical bytes are one image
    assert pairs.image_ids == ["row-1", "row-2"]
    assert first_values(pairs) == [-0.5, 0.5]
    assert pairs.pictures is not None
    assert pairs.pictures[1] == cells[1]


def test_parquet_structs_that_only_name_their_files(tmp_path):
    picture_folder(tmp_path, "a.png", "b.png")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": None, "path": name} for name in ("b.png", "a.png")], type=kind)
    pairs = read_pairs(write_parquet(tmp_path / "t.parquet", image=images, caption=["b", "a"]))
    assert pairs.image_ids == ["b.png", "a.png"]


def test_rows_with_the_same_path_are_captions_of_one_image_in_the_tables_order(tmp_path):
    picture_folder(tmp_path, "a.png", "b.png")
    table = write(tmp_path / "t.csv", "image,caption\nb.png,one\na.png,two\nb.png,three\n")
    pairs = read_pairs(table)
    assert len(pairs.images) == 2
    assert pairs.captions == ["one", "two", "three"]
    assert pairs.image_of_caption.tolist() == [0, 1, 0]
    assert pairs.image_ids == ["b.png", "a.png"]


def test_rows_with_the_same_image_id_are_captions_of_one_image(tmp_path):
    table = write_lines(
        tmp_path / "t.jsonl",
        {"id": 7, "key": "x", "vector": [1], "caption": "one"},
        {"id": 8, "key": "y", "vector": [2], "caption": "two"},
        {"id": 7, "key": "z", "vector": [1], "caption": "three"},
    )
    pairs = read_pairs(table, image_id_col="id", caption_id_col="key", **NO_PICTURES)
    assert pairs.image_of_caption.tolist() == [0, 1, 0]
    assert pairs.image_ids == ["7", "8"]
    assert pairs.caption_ids == ["x", "y", "z"]


def test_feature_files_have_one_row_a_distinct_image_and_one_row_a_caption(tmp_path):
    table = write(tmp_path / "t.csv", "image,caption\nb.png,one\na.png,two\nb.png,three\n")
    np.save(tmp_path / "images.npy", np.array([[1.0], [2.0]], dtype=np.float32))
    np.save(tmp_path / "captions.npy", np.array([[1.0], [2.0], [3.0]], dtype=np.float32))
    # The pictures do not exist, and are not looked at.
    pairs = read_pairs(table, tmp_path / "images.npy", tmp_path / "captions.npy")
    assert first_values(pairs) == [1.0, 2.0]
    assert pairs.caption_inputs is not None
    assert len(pairs.caption_inputs) == 3


def test_lists_and_several_columns_of_captions_are_pairs_to_the_end(tmp_path):
    picture_folder(tmp_path, "a.png", "b.png")
    table = write_lines(
        tmp_path / "t.jsonl",
        {"image": "a.png", "en": "a dog", "all": ["x", "", "y"]},
        {"image": "b.png", "en": None, "all": ["z"]},
    )
    found = read(table, caption_col=("en", "all"))
    assert found.pairs.captions == ["a dog", "x", "y", "z"]
    assert found.pairs.caption_ids == ["row-1/en", "row-1/all/1", "row-1/all/3", "row-2/all/1"]
    assert found.pairs.image_of_caption.tolist() == [0, 0, 0, 1]
    assert [skip.reason for skip in found.skipped] == ["empty caption", "empty caption"]


def test_features_of_images_go_with_lists_of_captions_and_those_of_captions_do_not(tmp_path):
    table = write_lines(
        tmp_path / "t.jsonl",
        {"vector": [1], "words": [5], "caption": ["a", "b"]},
        {"vector": [2], "words": [6], "caption": ["c"]},
    )
    pairs = read_pairs(table, **NO_PICTURES)
    assert (pairs.captions, first_values(pairs)) == (["a", "b", "c"], [1.0, 2.0])
    with pytest.raises(ConfigError, match="has rows with several captions, and features of captions are one a row"):
        read_pairs(table, caption_feature_col="words", **NO_PICTURES)


# Other sources than tables


def test_tar_shards_and_folders_are_pairs_in_the_order_of_reading(tmp_path):
    write_shards(tmp_path / "shards", shards=2, samples_a_shard=2)
    found = read(tmp_path / "shards")
    assert found.pairs.image_ids == [f"{shard:05d}/{shard:05d}{place:04d}" for shard in range(2) for place in range(2)]
    assert found.known_splits is None
    write_files(tmp_path / "photos", {"b.png": picture(9), "b.txt": "one\ntwo", "a.png": picture(0), "a.txt": "three"})
    pairs = read_pairs(tmp_path / "photos")
    assert (pairs.captions, pairs.image_of_caption.tolist()) == (["three", "one", "two"], [0, 1, 1])
    assert pairs.pictures[1] == picture(9)
    with pytest.raises(ConfigError, match="is no table, and only a table has features: leave them out"):
        read(tmp_path / "photos", tmp_path / "images.npy")


def test_all_splits_of_a_saved_dataset_are_known_by_their_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    made = {}
    for place, split in enumerate(("train", "validation", "test")):
        cells = [{"bytes": picture(10 * place + row), "path": None} for row in range(2)]
        made[split] = datasets.Dataset.from_dict({"image": cells, "caption": [f"{split} {row}" for row in range(2)]})
    datasets.DatasetDict(made).save_to_disk(tmp_path / "d")
    found = read(tmp_path / "d")
    assert found.pairs.caption_ids == [f"{split}/row-{row}" for split in made for row in (1, 2)]
    assert found.known_splits == ["train", "train", "dev", "dev", "test", "test"]
    splits = read_splits(tmp_path / "d")
    assert [part.captions for part in (splits.train, splits.dev, splits.test)] == [
        [f"{split} {row}" for row in range(2)] for split in made
    ]
    only = read(tmp_path / "d", split="validation")
    assert only.known_splits == ["dev", "dev"]


def test_splits_that_are_not_all_three_are_noted_and_not_used(tmp_path):
    write_files(tmp_path / "train", {f"{number}.png": picture(number) for number in range(20)})
    rows = [{"file_name": f"{number}.png", "text": "a dog"} for number in range(20)]
    write_lines(tmp_path / "train" / "metadata.jsonl", *rows)
    corpus = load_corpus(DataConfig(str(tmp_path)))
    assert len(corpus.splits.train) == 16
    assert f"{tmp_path} has the split train only, so that pairs are split at random, by image" in corpus.notes
    assert "captions are read from the column 'text' (--caption-col for another)" in corpus.notes


# Splits


def split_table(path: Path, *splits: str | None) -> Path:
    records = [{"vector": [row], "caption": f"caption {row}", "part": name} for row, name in enumerate(splits)]
    return write_lines(path, *records)


SPLIT = NO_PICTURES | {"split_col": "part"}


@pytest.mark.parametrize("development", ["dev", "val", " Valid", "VALIDATION", "development"])
def test_a_split_column_may_use_any_usual_name(tmp_path, development):
    table = split_table(tmp_path / "t.jsonl", "Train", "test", development, "train")
    splits = read_splits(table, SPLIT)
    assert splits.train.captions == ["caption 0", "caption 3"]
    assert splits.dev.captions == ["caption 2"]
    assert splits.test.captions == ["caption 1"]
    assert splits.name == "t"
    assert first_values(splits.train) == [0.0, 3.0]
    assert splits.train.image_ids == ["row-1", "row-4"]
    found = read(table, **SPLIT)
    assert found.known_splits == ["train", "test", "dev", "train"]
    assert list(found.split_of_pair) == ["Train", "test", development, "train"]


def captioned_images(path: Path, images: int, captions: int = 3) -> Path:
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.repeat(np.arange(images), captions)).tolist()
    return write_lines(path, *({"id": i, "vector": [i], "caption": f"of {i}, row {k}"} for k, i in enumerate(rows)))


BY_ID = NO_PICTURES | {"image_id_col": "id"}


def test_a_random_split_is_by_image_and_loses_nothing(tmp_path):
    table = captioned_images(tmp_path / "forty.jsonl", images=40)
    splits = read_splits(table, BY_ID, development_share=0.2, test_share=0.1, split_seed=3)
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
    tests = [list(read_splits(table, BY_ID, split_seed=seed).test.image_ids) for seed in (5, 5, 6)]
    assert tests[0] == tests[1]
    assert tests[0] != tests[2]


def test_pictures_follow_their_image_into_its_split(tmp_path):
    names = [f"{i}.png" for i in range(10)]
    picture_folder(tmp_path, *names)
    table = write(tmp_path / "t.csv", "image,caption\n" + "".join(f"{name},of {name}\n" for name in names))
    for part in (splits := read_splits(table)).train, splits.dev, splits.test:
        assert part.pictures is not None
        for image, name in enumerate(part.image_ids):
            assert part.pictures[image] == (tmp_path / name).read_bytes()


# What is left out


def broken_table(folder: Path) -> Path:
    picture_folder(folder, "a.png", "b.png")
    (folder / "broken.png").write_bytes(picture()[:30])
    return write(
        folder / "t.csv", "image,caption\na.png,one\ngone.png,two\nbroken.png,three\nb.png,four\ngone.png,five\n"
    )


def test_unreadable_pictures_are_left_out_and_listed_with_their_captions(tmp_path):
    found = read(broken_table(tmp_path))
    pairs = found.pairs
    assert pairs.captions == ["one", "four"]
    assert pairs.image_ids == ["a.png", "b.png"]
    assert pairs.caption_ids == ["row-1", "row-4"]
    assert pairs.image_of_caption.tolist() == [0, 1]
    assert first_values(pairs) == pytest.approx([-0.5, 1 / 255 - 0.5], abs=1e-3)
    assert [(skip.reason, skip.caption_ids) for skip in found.skipped] == [
        ("missing picture", ("row-2", "row-5")),
        ("unreadable picture", ("row-3",)),
    ]
    assert "cannot be decoded" in found.skipped[1].detail


def test_a_corpus_counts_what_was_left_out(tmp_path):
    broken_table(tmp_path)
    with (tmp_path / "t.csv").open("a") as file:
        file.write("".join(f"{name}.png,a dog\n" for name in "cdefghij") + "a.png,\n")
    picture_folder(tmp_path, *(f"{name}.png" for name in "abcdefghij"))
    corpus = load_corpus(DataConfig(str(tmp_path / "t.csv")))
    assert sum(len(part) for part in (corpus.splits.train, corpus.splits.dev, corpus.splits.test)) == 10
    assert [skip.reason for skip in corpus.skipped] == ["empty caption", "missing picture", "unreadable picture"]


@pytest.mark.parametrize("largest", [64, 63])
def test_huge_pictures_are_left_out_by_the_number_of_pixels_that_is_asked_for(largest, tmp_path):
    picture_folder(tmp_path, "a.png")
    write_files(tmp_path, {"b.png": encoded_square(2)})
    table = write(tmp_path / "t.csv", "image,caption\nb.png,small\na.png,large\n")
    found = read(table, largest_pixels=largest)
    assert found.pairs.captions == (["small", "large"] if largest == 64 else ["small"])
    assert [skip.reason for skip in found.skipped] == ([] if largest == 64 else ["huge picture"])


def encoded_square(side: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (side, side)).save(written, "PNG")
    return written.getvalue()


def test_rows_keep_their_split_when_others_are_left_out(tmp_path):
    picture_folder(tmp_path, "a.png", "b.png", "c.png")
    rows = "gone.png,0,train\na.png,1,test\nb.png,2,train\nc.png,3,dev\n"
    table = write(tmp_path / "t.csv", f"image,caption,split\n{rows}")
    splits = read_splits(table, {"split_col": "split"})
    assert [part.captions for part in (splits.train, splits.dev, splits.test)] == [["2"], ["3"], ["1"]]


def test_features_stay_with_their_rows_when_others_are_left_out(tmp_path):
    table = write(tmp_path / "t.csv", "image,caption\nb.png,\na.png,two\nb.png,three\nc.png, \nd.png,five\n")
    np.save(tmp_path / "images.npy", np.arange(4, dtype=np.float32)[:, None])
    np.save(tmp_path / "captions.npy", np.arange(5, dtype=np.float32)[:, None])
    pairs = read_pairs(table, tmp_path / "images.npy", tmp_path / "captions.npy")
    assert pairs.image_ids == ["b.png", "a.png", "d.png"]
    assert first_values(pairs) == [0.0, 1.0, 3.0]
    assert pairs.captions == ["two", "three", "five"]
    assert pairs.caption_inputs.take(torch.arange(3)).values.flatten().tolist() == [1.0, 2.0, 4.0]


def test_all_pictures_unreadable_is_an_error_that_names_the_root(tmp_path):
    table = write(tmp_path / "t.csv", "image,caption\nx/a.png,one\nx/b.png,two\n")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match=r"all of its first 2 rows: missing picture .*elsewhere/x/a.png"):
        read(table, image_root=str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=rf"relative paths start at {tmp_path}: name the right folder with --imag"):
        read(table)


def test_a_source_of_which_no_caption_can_be_read_is_refused_with_the_first_reason(tmp_path):
    table = write_lines(tmp_path / "t.jsonl", {"vector": [1], "caption": ""}, {"vector": [2], "caption": None})
    with pytest.raises(DataError, match=r"can be read \(2 left out; the first is .*row-1: empty caption\)"):
        read(table, **NO_PICTURES)


# At most N captions of an image


def test_the_first_captions_of_each_image_can_be_kept_alone(tmp_path):
    records = [{"id": i, "vector": [i], "caption": f"{i}{k}", "part": "train"} for k in range(3) for i in range(2)]
    found = read(write_lines(tmp_path / "t.jsonl", *records), split_col="part", **BY_ID)
    kept = first_captions(found, 2)
    assert kept.pairs.captions == ["00", "10", "01", "11"]
    assert kept.pairs.image_of_caption.tolist() == [0, 1, 0, 1]
    assert kept.known_splits == ["train"] * 4
    with pytest.raises(ConfigError, match="captions_per_image is 0, but each image keeps at least 1 caption"):
        first_captions(found, 0)


def test_images_without_any_caption_that_is_kept_stay_out(tmp_path):
    table = write_lines(tmp_path / "t.jsonl", *({"vector": [i], "caption": "" if i == 1 else "c"} for i in range(3)))
    pairs = first_captions(read(table, **NO_PICTURES), 1).pairs
    assert (len(pairs.images), first_values(pairs)) == (2, [0.0, 2.0])


# Errors: what, where, the values, the next step


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"vector": [1], "caption": "b"}, "'vector' has 2 numbers in row 1 but 1 in row 2"),
        ({"vector": [1, float("nan")], "caption": "b"}, r"NaN.* in 1 of 2 rows \(first: row 2\)"),
        ({"vector": [1, float("inf")], "caption": "b"}, r"first: row 2"),
        ({"vector": [1, 1e300], "caption": "b"}, r"first: row 2"),
        ({"vector": [1, "two"], "caption": "b"}, "lists of something else than numbers"),
        ({"vector": [1, [2]], "caption": "b"}, "lists of something else than numbers"),
        ({"vector": None, "caption": "b"}, "row 2 of column 'vector' holds None, not a list of numbers"),
        ({"caption": "b"}, "row 2 of column 'vector' holds None"),
    ],
)
def test_faulty_json_features_are_refused(tmp_path, second, message):
    table = write_lines(tmp_path / "t.jsonl", {"vector": [1, 2], "caption": "a"}, second)
    with pytest.raises(DataError, match=message):
        read(table, **NO_PICTURES)


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
        read(table, **NO_PICTURES)


def test_features_in_a_csv_cell_are_refused(tmp_path):
    table = write(tmp_path / "t.csv", 'vector,caption\n"[1, 2]",a\n')
    with pytest.raises(DataError, match=r"not a list of numbers; features come from lists in JSONL, Parquet or Arrow"):
        read(table, **NO_PICTURES)


def test_a_parquet_row_without_a_picture_is_left_out(tmp_path):
    images = pa.array([picture(), None], type=pa.binary())
    found = read(write_parquet(tmp_path / "t.parquet", image=images, caption=["a", "b"]))
    assert found.pairs.captions == ["a"]
    assert [(skip.reason, skip.caption_ids) for skip in found.skipped] == [("missing picture", ("row-2",))]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pa.array([1, 2]), "column 'image' is of type int64; a picture is bytes, {bytes, path} or a path"),
        (pa.array([{"url": "a"}, {"url": "b"}]), "of type struct<url: string>; a picture is bytes, {bytes, path} or"),
    ],
)
def test_an_image_column_of_another_type_is_refused(tmp_path, images, message):
    with pytest.raises(DataError, match=message):
        read(write_parquet(tmp_path / "t.parquet", image=images, caption=["a", "b"]))


def test_caption_ids_must_be_unique_and_ids_present(tmp_path):
    options = NO_PICTURES | {"caption_id_col": "key"}
    record = {"vector": [1], "caption": "a", "key": "k"}
    with pytest.raises(DataError, match="two captions have the id 'k'; ids of captions must be unique"):
        read(write_lines(tmp_path / "t.jsonl", record, {**record, "key": "l"}, record), **options)
    with pytest.raises(DataError, match="row 2 has no value in column 'key'"):
        read(write_lines(tmp_path / "t.jsonl", record, {**record, "key": ""}), **options)


def test_one_image_id_cannot_have_two_paths_or_two_vectors(tmp_path):
    picture_folder(tmp_path, "a.png", "b.png")
    by_path = write(tmp_path / "t.csv", "image,caption,id\na.png,one,7\nb.png,two,7\n")
    with pytest.raises(DataError, match=r"rows 1 and 2 have the same image id '7' but different pictures \(a.png and"):
        read(by_path, image_id_col="id")
    records = [{"id": 7, "vector": [1], "caption": "a"}, {"id": 7, "vector": [2], "caption": "b"}]
    with pytest.raises(DataError, match="rows 1 and 2 are of the same image but differ in column 'vector'"):
        read(write_lines(tmp_path / "t.jsonl", *records), **BY_ID)


def test_feature_files_of_another_length_are_refused_with_both_counts(tmp_path):
    table = write(tmp_path / "t.csv", "image,caption\nb.png,one\na.png,two\nb.png,three\n")
    np.save(tmp_path / "three.npy", np.zeros((3, 2), dtype=np.float32))
    np.save(tmp_path / "two.npy", np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"three.npy has 3 rows but there are 2 distinct images in .*t.csv, by first"):
        read(table, tmp_path / "three.npy")
    with pytest.raises(DataError, match=r"two.npy has 2 rows but there are 3 rows in .*t.csv"):
        read(table, tmp_path / "two.npy", tmp_path / "two.npy")


def test_no_image_side_at_all_is_refused(tmp_path):
    table = write(tmp_path / "t.csv", "caption\na cat\n")
    with pytest.raises(ConfigError, match=r"nothing to see an image by: .*\(--image-col\).*\(--image-feature-col, "):
        read(table, image_col=None)


def test_unknown_and_missing_splits_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a row is in split 'holdout' \(column 'part'\); known are train, training"):
        read_splits(split_table(tmp_path / "a.jsonl", "train", "holdout"), SPLIT)
    with pytest.raises(DataError, match=r"b has no pairs in split dev \(there are: train, test\)"):
        read_splits(split_table(tmp_path / "b.jsonl", "train", "test"), SPLIT)
    with pytest.raises(DataError, match=r"a row is in split None \(column 'part'\)"):
        read_splits(split_table(tmp_path / "c.jsonl", "train", None), SPLIT)


def test_an_image_in_two_splits_is_refused(tmp_path):
    table = write_lines(
        tmp_path / "t.jsonl",
        {"id": "a", "vector": [0], "caption": "one", "part": "train"},
        {"id": "b", "vector": [1], "caption": "two", "part": "dev"},
        {"id": "a", "vector": [0], "caption": "three", "part": "test"},
    )
    with pytest.raises(DataError, match=r"image 'a' is in split 'train' \(caption 'row-1'\) and in 'test'"):
        read_splits(table, BY_ID | {"split_col": "part"})


def test_shares_that_leave_no_split_are_refused(tmp_path):
    table = captioned_images(tmp_path / "t.jsonl", images=4)
    with pytest.raises(ConfigError, match=r"4 images are too few .*--test-share 0.1\): give .* \(--split-col\)"):
        read_splits(table, BY_ID)
    for shares in ((0.0, 0.5), (0.5, 0.5), (-0.1, 0.2)):
        with pytest.raises(ConfigError, match="must be above 0, and below 1 together"):
            read_splits(table, BY_ID, development_share=shares[0], test_share=shares[1])
