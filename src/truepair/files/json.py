"""JSON files of a run's folder: replaced atomically, checked when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truepair.errors import CheckpointError
from truepair.files.replacing import replacing


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
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
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
