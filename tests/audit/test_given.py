import numpy as np
import pytest
import torch
from embedding_samples import encoded, picture

from truepair.audit.given import TableOfPictures, given
from truepair.config import DataConfig, EmbedConfig, SourceConfig
from truepair.data.arrays import PairsInMemory
from truepair.errors import ConfigError, DataError

VECTORS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
TEXTS = [f"a dog {row}" for row in range(6)]


def test_each_kind_is_told_from_the_others(tmp_path, world):
    assert given("photos.csv", None, {"caption_col": "title"}) == DataConfig(
        "photos.csv", SourceConfig(caption_col=("title",))
    )
    assert given(world, None, {}) == PairsInMemory(world)
    assert isinstance(given(VECTORS, torch.from_numpy(VECTORS), {}), PairsInMemory)
    assert isinstance(given(VECTORS, TEXTS, {}), PairsInMemory)
    assert isinstance(given({"image_emb": VECTORS, "caption_emb": VECTORS}, None, {}), PairsInMemory)
    assert isinstance(given(["a.png"] * 6, TEXTS, {}), TableOfPictures)
    assert isinstance(given([encoded(picture(0))] * 6, TEXTS, {}), TableOfPictures)
    assert isinstance(given({"photo": [picture(0)] * 6, "title": TEXTS}, None, {}), TableOfPictures)


def test_columns_and_frames_of_pandas_are_arrays_too():
    pandas = pytest.importorskip("pandas")
    column, frame = pandas.Series(list(VECTORS)), pandas.DataFrame(VECTORS, columns=list("abcd"))
    found = given(column, frame, {}).pairs
    for inputs in (found.images, found.caption_inputs):
        np.testing.assert_array_equal(inputs.take(torch.arange(6)).values.numpy(), VECTORS)
    assert isinstance(given(pandas.Series(["a.png"] * 6), pandas.Series(TEXTS), {}), TableOfPictures)


def test_arrays_and_tables_of_the_same_embeddings_are_the_same_pairs():
    arrays = given(VECTORS, VECTORS, {"caption_texts": TEXTS})
    table = given({"image_emb": VECTORS, "text_emb": VECTORS, "caption": TEXTS}, None, {})
    for one, other in zip(
        (arrays.pairs.images, arrays.pairs.caption_inputs),
        (table.pairs.images, table.pairs.caption_inputs),
        strict=True,
    ):
        a, b = (inputs.take(torch.arange(6)) for inputs in (one, other))
        torch.testing.assert_close(a.values, b.values)
    assert arrays.vocabulary == table.vocabulary
    assert arrays.pairs.image_ids == table.pairs.image_ids


@pytest.mark.parametrize(
    ("data", "captions", "options", "message"),
    [
        (VECTORS, None, {}, r"type ndarray \(of shape \(6, 4\)\), but PairLab takes a path.*give captions as well"),
        (42, None, {}, r"data is of type int \(42\), but PairLab takes a path"),
        ("photos.csv", TEXTS, {}, r"images is of type str \('photos.csv'\), but an array or a list"),
        (VECTORS, 3.5, {}, "captions is of type float"),
        (VECTORS, np.array(3.5), {}, "captions is of type ndarray"),
        ("photos.csv", None, {"image_colum": "x"}, "no option image_colum; there are image_col, "),
        (
            VECTORS,
            VECTORS,
            {"image_col": "x"},
            "an array of embeddings has no option image_col; there are image_of_caption",
        ),
        (VECTORS, TEXTS, {"caption_texts": TEXTS}, "captions are texts already"),
        (DataConfig(), None, {"image_col": "x"}, "image_col: say that in the DataConfig"),
    ],
)
def test_what_is_not_taken_is_refused_in_words(data, captions, options, message):
    with pytest.raises(ConfigError, match=message):
        given(data, captions, options)


def test_a_misspelt_column_is_answered_before_anything_is_embedded():
    with pytest.raises(DataError, match=r"the table has no column 'titel'.*did you mean --caption-col title"):
        given({"image": ["a.png"], "title": ["a dog"]}, None, {"caption_col": "titel"})


def test_errors_of_reading_speak_of_the_table_and_paths_start_at_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = given({"image": ["a.png", "b.png"], "caption": ["a dog", "a cat"]}, None, {})
    (tmp_path / "out").mkdir()
    with pytest.raises(
        DataError, match=r"^the table: no picture can be read of all of its first 2 rows: missing picture"
    ):
        data.stored(tmp_path / "out", EmbedConfig())
    assert data.options.image_root == str(tmp_path)


def test_a_list_of_pictures_that_is_longer_than_its_captions_is_refused():
    with pytest.raises(DataError, match="equally many rows, but 'image' has 2, 'caption' has 1"):
        given(["a.png", "b.png"], ["a dog"], {})
