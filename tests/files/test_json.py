import pytest

from truepair.errors import CheckpointError, DataError
from truepair.files.json import MOST_NESTED, parsed_json, read_json, write_json


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 5_000 + "]" * 5_000, "t is nested too deeply: more than 100 lists or objects in each other"),
        ('{"a":' * 101 + "1" + "}" * 101, "t is nested too deeply: more than 100 lists or objects in each other"),
        ("[" * 1_000_000, "t is nested too deeply: more than 100 lists or objects in each other"),
        ("9" * 5_000, "t has a number of more than 4,300 digits"),
        ("{", "t is not JSON (Expecting property name"),
        (b'"\xff"', "t is not JSON ('utf-8' codec"),
    ],
)
def test_foreign_json_has_limits(text, said):
    with pytest.raises(DataError) as refused:
        parsed_json(text, "t")
    assert str(refused.value).startswith(said)
    assert refused.value.__cause__ is None or not isinstance(refused.value.__cause__, RecursionError)


def test_json_within_the_limits_is_read():
    deep = "[" * MOST_NESTED + "]" * MOST_NESTED
    for text in (deep, deep.encode(), "9" * 4_300, '{"a": 1e400}', b'\xef\xbb\xbf{"a": 1}'):
        parsed_json(text, "t")
