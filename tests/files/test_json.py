import pytest

from truepair.errors import CheckpointError
from truepair.files.json import read_json, write_json


def test_what_was_written_is_read_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.json"
    assert read_json(path) is None
    for value in ({"a": [1, "τ"]}, {"b": None}):
        write_json(path, value)
        assert read_json(path) == value
    assert [path] == list(tmp_path.iterdir())


def test_json_is_checked_as_deep_as_asked(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": {"b": 1.5, "c": None}})
    assert read_json(path, {"a": {"b": float, "c": float | None}}) == {"a": {"b": 1.5, "c": None}}
    with pytest.raises(CheckpointError, match=r"is damaged \(a\.b is 1\.5\)"):
        read_json(path, {"a": {"b": str}})
    with pytest.raises(CheckpointError, match=r"is damaged \(a\.d is None\)"):
        read_json(path, {"a": {"d": int}})


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}}', "\xff"])
def test_what_is_not_json_is_damaged(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"a\.json is damaged \("):
        read_json(path)
