import numpy as np
import pyarrow as pa
import pytest
import torch

from truepair.config import SourceConfig
from truepair.data.arrays import pairs_of_arrays, pairs_of_table
from truepair.errors import DataError

IMAGES = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
CAPTIONS = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)


def values(inputs):
    return inputs.take(torch.arange(len(inputs))).values.numpy()


@pytest.mark.parametrize(
    "of",
    [
        np.asarray,
        torch.from_numpy,
        lambda array: array.tolist(),
        lambda array: torch.from_numpy(array.copy()).requires_grad_(),
    ],
)
def test_arrays_of_any_kind_are_pairs_row_by_row(of):
    pairs = pairs_of_arrays(of(IMAGES), of(CAPTIONS)).pairs
    np.testing.assert_allclose(values(pairs.images), IMAGES, rtol=1e-6)
    np.testing.assert_allclose(values(pairs.caption_inputs), CAPTIONS, rtol=1e-6)
    assert pairs.image_of_caption.tolist() == [0, 1, 2, 3]
    assert list(pairs.image_ids) == ["image-0", "image-1", "image-2", "image-3"]


def test_half_precision_stays_and_bfloat16_is_read():
    half = pairs_of_arrays(IMAGES.astype(np.float16), torch.from_numpy(CAPTIONS).bfloat16()).pairs
    assert half.images.array.dtype == np.float16
    np.testing.assert_allclose(values(half.caption_inputs), CAPTIONS, rtol=1e-2)


def test_equal_rows_of_images_are_one_image():
    pairs = pairs_of_arrays(IMAGES[[2, 0, 2, 1]], CAPTIONS).pairs
    assert pairs.image_of_caption.tolist() == [0, 1, 0, 2]
    np.testing.assert_array_equal(values(pairs.images), IMAGES[[2, 0, 1]])
    assert list(pairs.image_ids) == ["image-0", "image-1", "image-3"]


def test_rows_with_one_id_are_one_image():
    pairs = pairs_of_arrays(IMAGES[[0, 1, 0, 3]], CAPTIONS, image_ids=["a", 7, "a", "d"]).pairs
    assert pairs.image_of_caption.tolist() == [0, 1, 0, 2]
    assert list(pairs.image_ids) == ["a", "7", "d"]
    with pytest.raises(DataError, match="rows 0 and 2 of images have the id 'a' but different vectors"):
        pairs_of_arrays(IMAGES, CAPTIONS, image_ids=["a", "b", "a", "d"])


def test_captions_are_paired_as_they_are_said_to_be():
    pairs = pairs_of_arrays(IMAGES[:2], CAPTIONS, image_of_caption=[1, 0, 1, 1], caption_ids="wxyz").pairs
    assert pairs.image_of_caption.tolist() == [1, 0, 1, 1]
    assert list(pairs.caption_ids) == ["w", "x", "y", "z"]


def test_texts_are_read_beside_vectors_where_words_are_frequent():
    found = pairs_of_arrays(IMAGES, CAPTIONS, caption_texts=["a dog", "a cat", "a cow", "a fox"])
    assert found.vocabulary is not None
    assert found.pairs.caption_inputs.take(torch.tensor([0])).vectors is not None
    assert pairs_of_arrays(IMAGES, CAPTIONS, caption_texts=["w", "x", "y", "z"]).vocabulary is None
    with pytest.raises(DataError, match="no word occurs 4 times in the 4 captions: give more pairs, or embeddings"):
        pairs_of_arrays(IMAGES, caption_texts=["w", "x", "y", "z"])


BAD = IMAGES.copy()
BAD[2, 1] = np.nan


@pytest.mark.parametrize(
    ("images", "captions", "options", "message"),
    [
        (np.zeros((0, 3)), CAPTIONS, {}, r"images is empty \(shape \(0, 3\)\)"),
        ([], CAPTIONS, {}, r"images is empty \(shape \(0,\)\)"),
        (IMAGES[0], CAPTIONS, {}, r"images has shape \(3,\), but embeddings are \[rows, dim\].*array\[None, :\]"),
        (IMAGES[None], CAPTIONS, {}, r"images has shape \(1, 4, 3\)"),
        (BAD, CAPTIONS, {}, r"images holds NaN or infinite values in 1 of 4 rows \(first: row 2"),
        (IMAGES * np.float64(1e300), CAPTIONS, {}, "images holds NaN or infinite values in 4 of 4 rows"),
        (IMAGES, CAPTIONS * np.inf, {}, "captions holds NaN or infinite values in 4 of 4 rows"),
        (np.arange(12).reshape(4, 3), CAPTIONS, {}, r"images holds whole numbers \(int64\).*image_of_caption"),
        (np.array([["a"]]), CAPTIONS, {}, r"images holds <U1 values \(first: .*'a'"),
        ([[1.0, 2.0], [1.0]], CAPTIONS, {}, r"images cannot be read as an array \[rows, dim\]"),
        (IMAGES[:2], CAPTIONS, {}, r"images has 2 rows and captions 4, but .* numpy.repeat\(numpy.arange\(2\), 2\)"),
        (IMAGES, None, {}, "there are images but no captions"),
        (
            IMAGES,
            CAPTIONS,
            {"image_of_caption": [0, 1, 2, 4]},
            "out of range at 1 of 4 captions .*caption 3 points to image 4",
        ),
        (IMAGES, CAPTIONS, {"image_of_caption": [0.0, 1.0, 2.0, 3.0]}, "image_of_caption is float64 of shape"),
        (IMAGES, CAPTIONS, {"image_of_caption": [0, 1]}, "image_of_caption has 2 entries, but captions has 4 rows"),
        (IMAGES, CAPTIONS, {"image_ids": ["a"]}, "image_ids has 1 entries, but images has 4 rows"),
        (IMAGES, CAPTIONS, {"caption_ids": ["a", "b", "b", "c"]}, "caption_ids are unique, but 'b' is there 2 times"),
        (IMAGES, CAPTIONS, {"caption_texts": ["a"]}, "caption_texts has 1 entries, but captions has 4 rows"),
        (
            IMAGES,
            CAPTIONS,
            {"caption_texts": ["a", None, 3, "b"]},
            "something else than a text in 2 of 4 rows .*row 1, None",
        ),
    ],
)
def test_bad_arrays_are_refused_in_words(images, captions, options, message):
    with pytest.raises(DataError, match=message):
        pairs_of_arrays(images, captions, **options)


def table(**columns):
    vectors = {"image_emb": pa.array(IMAGES.tolist()), "text_emb": pa.array(CAPTIONS.tolist())}
    return pa.table(vectors | columns)


COLUMNS = {"image_col": None, "image_feature_col": "image_emb", "caption_feature_col": "text_emb"}


def test_a_table_of_embeddings_is_pairs():
    pairs = pairs_of_table(table(key=["a", "b", "c", "d"]), SourceConfig(**COLUMNS, caption_id_col="key")).pairs
    np.testing.assert_array_equal(values(pairs.images), IMAGES)
    assert list(pairs.caption_ids) == ["a", "b", "c", "d"]
    assert list(pairs.captions) == [f"caption {row}" for row in range(4)]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"caption": ["a", None, "c", "d"]},
            {"caption_col": ("caption",)},
            "column 'caption' has something else than a text in 1 of 4",
        ),
        (
            {"caption": [["a"], ["b"], ["c"], ["d"]]},
            {"caption_col": ("caption",)},
            r"text in 4 of 4 rows \(first: row 1, \['a'\]",
        ),
        ({"a": ["a"] * 4, "b": ["b"] * 4}, {"caption_col": ("a", "b")}, "caption_col names the columns 'a', 'b'"),
        ({}, {"caption_id_col": "key"}, "the table has no column 'key'"),
        ({"key": ["a", None, "c", "d"]}, {"caption_id_col": "key"}, "the table: row 2 has no value in column 'key'"),
        ({"text_emb": pa.array([[1.0], [2.0], None, [3.0]])}, {}, "the table: row 3 has no value in column 'text_emb'"),
        ({"text_emb": pa.array([[1.0], [2.0, 3.0], [2.0], [3.0]])}, {}, "has 1 numbers in row 1 but 2 in row 2"),
        ({"text_emb": pa.array([[1.0], [float("nan")], [2.0], [3.0]])}, {}, "NaN, .* in 1 of 4 rows .first: row 2"),
    ],
)
def test_bad_tables_are_refused_in_words(columns, options, message):
    with pytest.raises(DataError, match=message):
        pairs_of_table(table(**columns), SourceConfig(**COLUMNS, **options))
