import json

import pytest

from truepair.errors import CheckpointError, DataError
from truepair.files.json import MOST_NESTED, json_text, parsed_json, read_json, write_json


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


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_values_are_written_as_json_writes_them(indent, is_ascii):
    for value in (
        {"ü": [1, 2.5, [], {}, [[]]], "b": {"c": None, "d": [True, '"\n']}},
        [],
        "ü",
        3,
        [{"a": 1}, {"a": 2}],
    ):
        assert json_text(value, is_ascii=is_ascii, indent=indent) == json.dumps(
            value, ensure_ascii=is_ascii, indent=indent
        )


def test_half_of_a_surrogate_pair_is_escaped_and_with_it_all_letters(tmp_path):
    assert json_text({"ü": ["\ud83d"]}, indent=1) == '{\n "\\u00fc": [\n  "\\ud83d"\n ]\n}'
    assert json_text(["🐕"]) == '["🐕"]'


def test_numbers_are_written_as_they_were_read():
    text = '{"a": [1.10, 1E400, -1e-400, 0.1234567890123456789, 12345678901234567890.0, 1.0, 7], "b": -0.0}'
    assert json_text(parsed_json(text, "t", keep_numbers=True)) == text
    assert parsed_json(text, "t", keep_numbers=True) == parsed_json(text, "t")
