"""``skipped.csv``: what was left out of a source, beside what was made of the rest."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from truepair.files.replacing import replacing
from truepair.sources.protocol import Skipped

SKIPPED = "skipped.csv"


def write_skipped(skipped: Iterable[Skipped], path: Path) -> None:
    """One row each: ``where``, ``reason``, ``detail``; replaced atomically."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("where", "reason", "detail"))
        rows.writerows((skip.where, skip.reason, skip.detail) for skip in skipped)


def read_skipped(path: Path) -> list[Skipped]:
    """What `write_skipped` wrote; ids of captions are not in it."""
    with path.open(encoding="utf-8", newline="") as file:
        return [Skipped(row["where"], row["reason"], row["detail"]) for row in csv.DictReader(file)]
