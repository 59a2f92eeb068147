"""JSON: files of a run's folder, replaced atomically and checked when read, and the one parser of foreign JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truepair.errors import CheckpointError, DataError
from truepair.files.replacing import replacing

MOST_NESTED = 100
"""Lists in lists that JSON may have; Python's own limit depends on the version and on the stack."""


def parsed_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text, which may be anybody's.

    Args:
        text: In UTF-8, if it is bytes.
        where: What the text is called in messages.

    Raises:
        DataError: If it is no JSON, is nested more than `MOST_NESTED` deep, or has an integer of more digits than
            Python reads (4,300).
    """
    try:
        value = json.loads(text)
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
