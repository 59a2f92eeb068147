"""``skipped.csv``: what was left out of a source, beside what was made of the rest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from truepair.files.reading_copies import read_reading_copy, write_reading_copy
from truepair.sources.protocol import Skipped

SKIPPED = "skipped.csv"
_HEADER = ("where", "reason", "detail")


def write_skipped(skipped: Iterable[Skipped], path: Path) -> None:
    """One row each: ``where``, ``reason``, ``detail``; replaced atomically, and safe to open in a spreadsheet."""
    rows = ((skip.where, skip.reason, skip.detail) for skip in skipped)
    write_reading_copy(path, _HEADER, rows)


def read_skipped(path: Path) -> list[Skipped]:
    """What `write_skipped` wrote; ids of captions are not in it.

    Raises:
        DataError: If the file is damaged.
    """
    return [Skipped(where, reason, detail) for where, reason, detail in read_reading_copy(path, _HEADER)]
