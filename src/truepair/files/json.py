"""JSON: files of a run's folder, replaced atomically and checked when read; foreign JSON, parsed and written again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from truepair.errors import CheckpointError, DataError
from truepair.files.replacing import replacing

MOST_NESTED = 100
"""Lists in lists that JSON may have; Python's own limit depends on the version and on the stack."""


class _Number(float):
    """A number with a point or an exponent, and how it is written: ``1.10``, ``1E400``."""

    token: str


_PARTS = (dict, list, _Number)


def parsed_json(text: str | bytes, where: str, *, keep_numbers: bool = False) -> Any:
    """The value of a JSON text, which may be anybody's.

    Args:
        text: In UTF-8, if it is bytes.
        where: What the text is called in messages.
        keep_numbers: Whether `json_text` is to write numbers as they are written here.

    Raises:
        DataError: If it is no JSON, is nested more than `MOST_NESTED` deep, or has an integer of more digits than
            Python reads (4,300).
    """
    try:
        value = json.loads(text, parse_float=_number if keep_numbers else None)
    except RecursionError:
        raise DataError(
            f"{where} is nested too deeply: more than {MOST_NESTED} lists or objects in each other"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where} is not JSON ({error})") from error
    except ValueError:
        raise DataError(f"{where} has a number of more than {sys.get_int_max_str_digits():,} digits") from None
    if _depth_exceeds(value, MOST_NESTED):
        raise _too_deep(where)
    return value


def json_text(value: Any, *, is_ascii: bool = False, indent: int | None = None) -> str:
    r"""A value as JSON in which letters stay letters, unless one is half of a surrogate pair, which UTF-8 cannot hold.

    >>> json_text({"a": "ü"}), json_text(["ü", chr(0xD83D)])
    ('{"a": "ü"}', '["\\u00fc", "\\ud83d"]')

    Args:
        value: What `parsed_json` gives.
        is_ascii: Whether all letters beyond ASCII are escaped.
        indent: Blanks before what a list or an object holds, which then has lines of its own; one line if not given.
    """
    text = "".join(_pieces(value, json.JSONEncoder(ensure_ascii=is_ascii).encode, indent))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join(_pieces(value, json.JSONEncoder().encode, indent))
    return text


def write_json(path: Path, value: Any) -> None:
    """A JSON file, replaced atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, holds: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """What `write_json` wrote; None if there is no such file.

    Args:
        path: The file.
        holds: Keys that must be there, each with the type of its value, or with the keys of an inner object.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = parsed_json(path.read_bytes(), "it")
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    wrong = _misfit(content, holds or {}, "")
    if wrong is not None:
        raise damaged(path, wrong)
    return content


def damaged(path: Path, why: Exception | str) -> CheckpointError:
    """The error for a file of a run that is not what it should be."""
    return CheckpointError(f"{path} is damaged ({why}): restore it, or delete the folder and train again")


def _misfit(value: Any, expected: Any, name: str) -> str | None:
    """The first place where `value` is not as `expected`; None if there is none."""
    if not isinstance(expected, Mapping):
        return None if isinstance(value, expected) else f"{name} is {value!r}"
    if not isinstance(value, dict):
        return f"{name or 'it'} is {value!r}"
    inner = (_misfit(value.get(key), type_, f"{name}.{key}".lstrip(".")) for key, type_ in expected.items())
    return next((wrong for wrong in inner if wrong is not None), None)


def _number(token: str) -> float:
    """A number; one that Python would write in another way remembers how it was written."""
    value = float(token)
    if repr(value) == token:
        return value
    number = _Number(token)
    number.token = token
    return number


def _pieces(value: Any, encode: Callable[[Any], str], indent: int | None, depth: int = 1) -> Iterator[str]:
    """What `json.dumps` writes, piece by piece, with numbers as they were written."""
    if isinstance(value, _Number):
        yield value.token
    elif isinstance(value, dict | list) and value and (indent is not None or _has_parts(value)):
        start, end = "{}" if isinstance(value, dict) else "[]"
        line = "" if indent is None else "\n" + " " * indent * depth
        yield start + line
        for place, item in enumerate(value):
            if place:
                yield ", " if indent is None else "," + line
            if isinstance(value, dict):
                yield encode(item) + ": "
            yield from _pieces(value[item] if isinstance(value, dict) else item, encode, indent, depth + 1)
        yield ("" if indent is None else line[:-indent]) + end
    else:
        yield encode(value)


def _has_parts(value: dict[str, Any] | list[Any]) -> bool:
    """Whether a list or an object holds what `_pieces` writes by itself; the encoder is faster with all the rest."""
    return any(isinstance(item, _PARTS) for item in (value.values() if isinstance(value, dict) else value))


def _too_deep(where: str) -> DataError:
    return DataError(f"{where} is nested too deeply: more than {MOST_NESTED} lists or objects in each other")


def _depth_exceeds(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            inner
            for item in level
            if isinstance(item, list | dict)
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return False
    return True
