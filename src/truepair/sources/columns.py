"""Columns that a user names and a file has, or does not have."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from truepair.errors import DataError


def check_columns(path: Path, present: Sequence[str], wanted: Iterable[str]) -> None:
    """Refuse a column that is not there.

    Raises:
        DataError: If one is missing; the message names those that are there, and one with a similar name.
    """
    for name in wanted:
        if name in present:
            continue
        lower = {column.lower(): column for column in present}
        close = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"did you mean {lower[close[0]]!r}?" if close else "say which columns hold pictures and captions"
        raise DataError(f"{path} has no column {name!r}; it has {', '.join(map(repr, present))}; {hint}")
