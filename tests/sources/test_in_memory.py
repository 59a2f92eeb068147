import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from embedding_samples import encoded, picture
from PIL import Image

from truepair.config import SourceConfig
from truepair.errors import DataError
from truepair.sources.in_memory import arrow_table, found_by_content, is_table, labelled_like, like

VECTORS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


class Capsule:
    """What PyArrow knows only by its interface, as DuckDB's relations are."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def columns():
    return {"emb": VECTORS, "caption": ["a", None, "c"], "n": [1, 2, 3]}


def frames():
    arrow = pa.table({"emb": list(VECTORS), "caption": ["a", None, "c"], "n": [1, 2, 3]})
    yield columns()
    yield columns() | {"emb": torch.from_numpy(VECTORS)}
    yield arrow
    yield Capsule(arrow)


@pytest.mark.parametrize("data", list(frames()), ids=lambda data: type(data).__name__)
def test_tables_of_any_kind_hold_the_same(data):
    assert is_table(data)
    table = arrow_table(data)
    np.testing.assert_array_equal(np.array(table["emb"].to_pylist(), np.float32), VECTORS)
    assert table["caption"].to_pylist() == ["a", None, "c"]
    assert table["n"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("package", ["pandas", "polars", "duckdb"])
def test_other_libraries_tables_hold_the_same_and_come_back_as_they_went(package):
    library = pytest.importorskip(package)
    arrow = arrow_table(columns())
    data = {
        "pandas": lambda: library.DataFrame({"emb": list(VECTORS), "caption": ["a", None, "c"], "n": [1, 2, 3]}),
        "polars": lambda: library.DataFrame(columns()),
        "duckdb": lambda: library.from_arrow(arrow),
    }[package]()
    table = arrow_table(data)
    np.testing.assert_array_equal(np.array(table["emb"].to_pylist(), np.float32), VECTORS)
    assert table["caption"].to_pylist() == ["a", None, "c"]
    result = like(pa.table({"x": [1.5, None]}), data)
    assert type(result).__module__.split(".")[0] == ("pyarrow" if package == "duckdb" else package)


def test_rows_of_pandas_keep_their_labels():
    pandas = pytest.importorskip("pandas")
    data = pandas.DataFrame({"a": [1, 2]}, index=["x", "y"])
    assert list(labelled_like(pandas.DataFrame({"b": [3, 4]}), data).index) == ["x", "y"]
    assert list(labelled_like(pandas.DataFrame({"b": [3]}), data).index) == [0]


@pytest.mark.parametrize("make", [dict, "pandas"])
def test_pictures_of_pil_become_png_and_paths_texts(make, tmp_path):
    make = pytest.importorskip("pandas").DataFrame if make == "pandas" else make
    pictures = [picture(0), picture(1).convert("CMYK")]
    table = arrow_table(make({"image": pictures, "file": [tmp_path / "a.png", Path("b.png")]}))
    stored = Image.open(io.BytesIO(table["image"][0].as_py()))
    assert stored.format == "PNG"
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(pictures[0]))
    assert Image.open(io.BytesIO(table["image"][1].as_py())).mode == "RGB"
    assert table["file"].to_pylist() == [str(tmp_path / "a.png"), "b.png"]


def test_a_picture_that_pil_cannot_decode_keeps_its_bytes(tmp_path):
    broken = encoded(picture(0, 400, 300))[:200]
    (tmp_path / "broken.png").write_bytes(broken)
    with Image.open(tmp_path / "broken.png") as of_a_file, Image.open(io.BytesIO(broken)) as of_bytes:
        table = arrow_table({"image": [of_a_file, of_bytes]})
    assert table["image"].to_pylist() == [broken, b""]


def test_a_dataset_gives_its_bytes_without_decoding_and_in_its_order():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    cells = [{"bytes": encoded(picture(number)), "path": None} for number in range(3)]
    data = datasets.Dataset.from_dict({"image": cells, "caption": list("abc")}, features=features).select([2, 0])
    assert is_table(data)
    assert arrow_table(data).to_pylist() == [{"image": cells[2], "caption": "c"}, {"image": cells[0], "caption": "a"}]
    with pytest.raises(DataError, match="DatasetDict has the splits 'train': give one of them"):
        arrow_table(datasets.DatasetDict(train=data))
    with pytest.raises(DataError, match="IterableDataset is read once"):
        arrow_table(data.to_iterable_dataset())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "the table has no rows; its columns are none"),
        ({"image": [], "caption": []}, "the table has no rows; its columns are 'image', 'caption'"),
        ({"a": [1, 2], "b": [1]}, "equally many rows, but 'a' has 2, 'b' has 1"),
        ({"a": "text"}, "column 'a' is 'text', not a list"),
        ({"a": ["x", ["y"]]}, r"column 'a' is text but for \['y'\] in row 1, and perhaps more rows"),
        ({"a": ["x", None, 5]}, "column 'a' is text but for 5 in row 2, and perhaps more rows"),
        ({"a": [object()]}, "column 'a' cannot be read as one kind of values"),
        ({1: [1], "1": [2]}, "several columns called '1'"),
        (pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), "several columns called 'a'"),
    ],
)
def test_tables_that_are_none_are_refused_in_words(data, message):
    with pytest.raises(DataError, match=message):
        arrow_table(data)


def found(options=None, **columns):
    return found_by_content(arrow_table(columns), SourceConfig(**options or {}))


TEXTS, BYTES = ["a", "b", "c"], [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("images", "captions"),
    [
        ("image_embedding", "text_embedding"),
        ("img_emb", "txt_feat"),
        ("images", "captions"),
        ("clip_image_vec", "title_vec"),
    ],
)
def test_columns_of_embeddings_are_known_by_type_and_name(images, captions):
    options = found(**{images: VECTORS, captions: VECTORS, "bbox": VECTORS, "id": TEXTS})
    assert (options.image_feature_col, options.caption_feature_col) == (images, captions)
    assert (options.image_col, options.caption_col) == (None, ())


def test_pictures_are_known_by_type_and_then_by_name():
    assert found(scan=BYTES, file=TEXTS, caption=TEXTS).image_col == "scan"
    assert found(file=TEXTS, caption=TEXTS, bbox=VECTORS).image_col == "file"
    assert found(image=BYTES, image_emb=VECTORS, caption=TEXTS).image_col == "image"


@pytest.mark.parametrize(
    ("options", "columns", "message"),
    [
        ({}, {"image": BYTES, "thumb": BYTES}, "several columns of pictures, 'image' and 'thumb': .* image_col"),
        ({}, {"image_emb": VECTORS, "img_vec": VECTORS}, "'image_emb' and 'img_vec': .* image_feature_col"),
        ({}, {"a": VECTORS, "b": VECTORS}, "no column of pictures .*'a', 'b' may hold embeddings: image_feature_col"),
        ({"caption_feature_col": "b"}, {"b": VECTORS, "file": TEXTS}, "no column holds image embeddings"),
    ],
)
def test_columns_that_may_be_meant_are_asked_for(options, columns, message):
    with pytest.raises(DataError, match=message):
        found(options, **columns)
