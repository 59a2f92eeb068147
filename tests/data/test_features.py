import os
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from truepair.data.features import FeatureFile, Features, check_finite, check_same_form
from truepair.data.pairs import Inputs, Pairs, Subset
from truepair.data.text import Vocabulary
from truepair.errors import DataError

ROWS = torch.tensor([3, 0, 3, 4])


def _random(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _file(path: Path, array: np.ndarray) -> FeatureFile:
    np.save(path, array)
    return FeatureFile(path)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 7)])
def test_file_and_array_give_the_rows_asked_for_as_float32(tmp_path, shape, dtype):
    array = _random(shape, dtype)
    for inputs in (Features(array), _file(tmp_path / "a.npy", array)):
        taken = inputs.take(ROWS)
        assert len(inputs) == 5
        assert taken.values.dtype == torch.float32
        np.testing.assert_array_equal(taken.values.numpy(), array[ROWS.numpy()].astype(np.float32))


def test_vectors_have_no_lengths_and_regions_have_all_of_them(tmp_path):
    assert Features(_random((5, 7))).take(ROWS).lengths is None
    for inputs in (Features(_random((5, 2, 7))), _file(tmp_path / "a.npy", _random((5, 2, 7)))):
        assert inputs.take(ROWS).lengths.tolist() == [2, 2, 2, 2]


def test_what_is_taken_is_a_copy():
    array = np.ones((2, 3), dtype=np.float32)
    Features(array).take(torch.tensor([0])).values.zero_()
    assert array.min() == 1


def test_a_feature_file_travels_to_worker_processes(tmp_path):
    array = _random((5, 7))
    copy = pickle.loads(pickle.dumps(_file(tmp_path / "a.npy", array)))
    np.testing.assert_array_equal(copy.take(ROWS).values.numpy(), array[ROWS.numpy()])


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")
def test_reading_a_whole_file_leaves_resident_memory_as_it_was(tmp_path):
    path = tmp_path / "sparse.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(2048, 36, 2048))  # 288 MiB, none of it on disk
    features = FeatureFile(path)
    features.take(torch.arange(32))
    before = _resident_bytes()
    for rows in torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).split(32):
        features.take(rows)
        assert _resident_bytes() - before < 64 * 2**20
    check_finite(features, "features")
    assert _resident_bytes() - before < 64 * 2**20


def test_a_file_that_shrinks_while_in_use_is_an_error(tmp_path):
    path = tmp_path / "a.npy"
    features = _file(path, _random((5, 7)))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4)
    assert features.take(torch.tensor([3])).values.shape == (1, 7)
    with pytest.raises(DataError, match="ends before row 4"):
        features.take(torch.tensor([0, 4]))
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        features.take(torch.tensor([0]))


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_out_of_range_is_refused_instead_of_read_from_elsewhere(tmp_path, row):
    with pytest.raises(IndexError, match=rf"row {row} is out of range: .*a.npy has 5 rows"):
        _file(tmp_path / "a.npy", _random((5, 7))).take(torch.tensor([0, row]))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2), dtype=np.int64), "holds <i8, but features are float16, float32 or float64"),
        (np.zeros((3, 2), dtype=">f4"), "holds >f4"),
        (np.zeros(3, dtype=np.float32), "shape (3,), but features are [rows, dim] or [rows, regions, dim]"),
        (np.zeros((3, 2, 2, 2), dtype=np.float32), "shape (3, 2, 2, 2)"),
        (np.zeros((0, 2), dtype=np.float32), "shape (0, 2), which holds no values"),
        (np.zeros((3, 0, 2), dtype=np.float32), "which holds no values"),
    ],
)
def test_arrays_of_another_form_are_refused_in_memory_and_on_disk(tmp_path, array, message):
    with pytest.raises(DataError, match=re.escape(message)):
        Features(array)
    with pytest.raises(DataError, match=f"a.npy.*{re.escape(message)}"):
        _file(tmp_path / "a.npy", array)


def test_a_truncated_feature_file_is_refused_when_opened(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, _random((5, 7)))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="truncated"):
        FeatureFile(path)


def test_finite_features_pass():
    check_finite(Features(_random((5, 2, 7))), "features")


@pytest.mark.parametrize("rows", [10, 300])  # one block, and several
def test_nan_and_infinity_are_named_by_file_row_and_count(tmp_path, rows):
    array = _random((rows, 2, 4000), "float16")
    array[-3, 1, :5] = np.nan
    array[-1, 0, 0] = np.inf
    message = (
        rf"a.npy holds NaN or infinite values in 2 of {rows:,} rows \(first: row {rows - 3:,} of .*, 5 values; 6 in"
    )
    features = _file(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message):
        check_finite(features, str(features.path))


def test_values_that_overflow_float32_count_as_infinite():
    with np.errstate(over="ignore"), pytest.raises(DataError, match="in 1 of 2 rows"):
        check_finite(Features(np.array([[0.0], [1e300]])), "features")


def test_a_bad_row_of_a_subset_is_named_as_the_row_of_the_whole():
    array = _random((6, 2))
    array[4] = np.nan
    subset = Subset(Features(array), torch.tensor([0, 2, 4]))
    with pytest.raises(DataError, match=r"in 1 of 3 rows .first: row 4 of the array, 2 values"):
        check_finite(subset, "features")


def _pairs(images: Inputs, captions: Inputs | None = None) -> Pairs:
    n = len(images)
    names = [str(i) for i in range(n)]
    return Pairs(images, ["a dog"] * n, torch.arange(n), names, names, captions)


def test_splits_of_one_form_pass_whatever_their_number_of_rows_and_words():
    vocabulary = Vocabulary.build(["a dog"], minimum_count=1)
    train = _pairs(Features(_random((2, 3, 7))), vocabulary.encode(["a dog"] * 2))
    dev = _pairs(Features(_random((4, 3, 7))), vocabulary.encode(["a big dog barks"] * 4))
    check_same_form({"train": train, "dev": dev, "test": replace(train, caption_inputs=None)})


@pytest.mark.parametrize(
    ("other", "message"),
    [((2, 3, 6), "images of 'test' are regions of 3 × 6, but those of 'train' are regions of 3 × 7"),
     ((2, 4, 7), "images of 'test' are regions of 4 × 7, but those of 'train' are regions of 3 × 7"),
     ((2, 7), "images of 'test' are vectors of 7, but those of 'train' are regions of 3 × 7")],
)  # fmt: skip
def test_image_features_that_differ_between_splits_are_refused(other, message):
    train = _pairs(Features(_random((2, 3, 7))))
    with pytest.raises(DataError, match=message):
        check_same_form({"train": train, "dev": train, "test": _pairs(Features(_random(other)))})


def test_captions_that_differ_between_splits_are_refused():
    images = Features(_random((2, 7)))
    words = Vocabulary.build(["a dog"], minimum_count=1).encode(["a dog"] * 2)
    with pytest.raises(DataError, match="caption_inputs of 'dev' are words, but those of 'train' are vectors of 9;"):
        check_same_form({"train": _pairs(images, Features(_random((2, 9)))), "dev": _pairs(images, words)})
