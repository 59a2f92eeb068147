import pyarrow as pa
import pytest

from truepair.audit.image_facts import image_facts
from truepair.errors import DataError
from truepair.files.parquet import read_parquet, write_parquet


@pytest.fixture
def path(tmp_path):
    names = pa.array([f"image {number}" for number in range(200)])
    write_parquet(pa.table({"image_id": names, "width": pa.array(range(200), pa.int64())}), tmp_path / "images.parquet")
    return tmp_path / "images.parquet"


def test_what_was_written_is_read_whole_or_by_column(path):
    assert read_parquet(path).column_names == ["image_id", "width"]
    assert read_parquet(path, ["width"], is_full=True)["width"].to_pylist() == list(range(200))
    with pytest.raises(DataError, match=r"images\.parquet cannot be read as Parquet with the columns height"):
        read_parquet(path, ["height"])
    with pytest.raises(DataError, match=r"cannot be read as Parquet \(.*\): is it damaged\?"):
        read_parquet(path.with_name("none.parquet"))


def test_zeroed_bytes_anywhere_are_an_error_or_change_no_type(path):
    whole = path.read_bytes()
    refused = []
    for start in range(0, len(whole), 37):
        path.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
        try:
            table = read_parquet(path, is_full=True)
            assert [column.to_pylist() for column in table.columns]
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(said.startswith(str(path)) for said in refused)


def test_a_missing_cell_is_refused_where_none_may_be(path):
    write_parquet(pa.table({"a": pa.array([1, None, 3])}), path)
    assert read_parquet(path)["a"].null_count == 1
    with pytest.raises(DataError, match="has no a in 1 of 3 rows: is it damaged"):
        read_parquet(path, is_full=True)


def test_facts_of_a_damaged_store_are_refused_in_one_sentence(path, world):
    with pytest.raises(DataError, match=r"images\.parquet cannot be read as Parquet with the columns"):
        image_facts(world, path.parent, 0)
