import csv
import io

import numpy as np
import pyarrow.parquet as pq
import pytest

from truepair.embedding.store import (
    ImageRow,
    PairRow,
    Part,
    RowWriter,
    finish_part,
    finished_part,
    join_parts,
    parts_of,
    temporary_folder,
)
from truepair.errors import DataError
from truepair.sources.facts import PictureFacts
from truepair.sources.protocol import Skipped


def numbers(rows: int, *shape: int, start: int = 0) -> np.ndarray:
    count = rows * int(np.prod(shape))
    return np.arange(start, start + count, dtype=np.float16).reshape(rows, *shape)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_rows_written_in_blocks_are_the_file_that_numpy_saves(tmp_path, shape):
    whole = numbers(23, *shape)
    with RowWriter(tmp_path / "rows.npy") as rows:
        for block in np.split(whole, [4, 4, 20]):
            rows.append(block)
    np.save(tmp_path / "expected.npy", whole)
    assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


def test_no_rows_make_no_file(tmp_path):
    with RowWriter(tmp_path / "rows.npy"):
        pass
    assert not (tmp_path / "rows.npy").exists()


def write_part(folder, first, images, captions_an_image, skipped=(), has_captions=True):
    temporary = temporary_folder(folder)
    names = [f"i{image}" for image in range(first, first + images)]
    pairs = [
        PairRow(f"{name}#{place}", f'caption {place} of {name}, "quoted"', image, name)
        for image, name in enumerate(names)
        for place in range(captions_an_image)
    ]
    with RowWriter(temporary / "images.npy") as rows:
        if images:
            rows.append(numbers(images, 2, 3, start=first))
    with RowWriter(temporary / "captions.npy") as rows:
        if pairs and has_captions:
            rows.append(numbers(len(pairs), 4, start=first))
    look = PictureFacts("ab", 2**64 - 1 - first, 40, 30, is_blank=False)
    done = Part(folder, images, len(pairs), 1, 0.5, tuple(skipped))
    finish_part(temporary, done, [ImageRow(name, f"at {name}", look) for name in names], pairs)
    return done


def test_a_part_is_read_as_it_was_written(tmp_path):
    assert finished_part(tmp_path / "0") is None
    done = write_part(tmp_path / "0", 0, 2, 2, [Skipped("row 3", "missing picture", "x.png")])
    assert finished_part(tmp_path / "0") == done
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_what_an_interrupted_part_left_is_emptied(tmp_path):
    (temporary_folder(tmp_path / "0") / "images.npy").write_bytes(b"half")
    assert list(temporary_folder(tmp_path / "0").iterdir()) == []


def test_joined_parts_are_one_after_another_with_images_numbered_through(tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    write_part(folders[0], 0, 2, 2, [Skipped('row 9, "a"', "missing picture", "line\nbreak")])
    write_part(folders[1], 2, 0, 0, [Skipped("row 10", "unreadable picture")])  # a shard of which nothing was left
    write_part(folders[2], 2, 3, 1)
    write_part(folders[3], 5, 1, 2)
    store = tmp_path / "store"
    store.mkdir()
    join_parts(folders, store)
    assert {path.name for path in store.iterdir()} == {
        "images.npy",
        "captions.npy",
        "images.parquet",
        "pairs.parquet",
        "skipped.csv",
    }
    np.testing.assert_array_equal(
        np.load(store / "images.npy"), np.concatenate([numbers(n, 2, 3, start=s) for n, s in ((2, 0), (3, 2), (1, 5))])
    )
    np.testing.assert_array_equal(
        np.load(store / "captions.npy"), np.concatenate([numbers(n, 4, start=s) for n, s in ((4, 0), (3, 2), (2, 5))])
    )
    images = pq.read_table(store / "images.parquet").to_pylist()
    assert [image["image_id"] for image in images] == ["i0", "i1", "i2", "i3", "i4", "i5"]
    assert images[5] == {
        "image_id": "i5",
        "reference": "at i5",
        "sha256": "ab",
        "difference_hash": 2**64 - 6,
        "width": 40,
        "height": 30,
        "is_blank": False,
    }
    pairs = pq.read_table(store / "pairs.parquet").to_pylist()
    assert [pair["image"] for pair in pairs] == [0, 0, 1, 1, 2, 3, 4, 5, 5]
    assert all(images[pair["image"]]["image_id"] == pair["image_id"] for pair in pairs)
    assert list(csv.reader(io.StringIO((store / "skipped.csv").read_text()))) == [
        ["where", "reason", "detail"],
        ['row 9, "a"', "missing picture", "line\nbreak"],
        ["row 10", "unreadable picture", ""],
    ]


def test_captions_that_stay_words_have_no_file(tmp_path):
    write_part(tmp_path / "0", 0, 2, 1, has_captions=False)
    (tmp_path / "store").mkdir()
    join_parts([tmp_path / "0"], tmp_path / "store")
    assert not (tmp_path / "store" / "captions.npy").exists()


def test_a_part_that_went_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"0 is missing: .*Run the same command again"):
        list(parts_of([tmp_path / "0"]))
