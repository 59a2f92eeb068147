"""Records of CSV and TSV files, as text and as cells, and the character that separates these."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from truepair.errors import DataError

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
"""What may stand between cells, and what it is called."""

_STATED = re.compile(r'("?)sep=(?P<delimiter>\\t|[^"\r\n])\1\s*', re.IGNORECASE)
_LONGEST_CELL = min(sys.maxsize, 2**31 - 1)
"""Characters; the csv module's own limit of 131,072, one for the whole process, refuses long captions."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a file.

    Attributes:
        text: As it stands in the file, with its line end; of the header also the line above that states the delimiter.
        cells: What it says; empty for a blank line.
    """

    text: str
    cells: list[str]


def stated_delimiter(line: str) -> str | None:
    r"""What a first line for Excel states that stands between cells; None if the line is no such one.

    >>> stated_delimiter("sep=;\r\n"), stated_delimiter("image;caption\r\n")
    (';', None)
    """
    found = _STATED.fullmatch(line)
    return found["delimiter"].replace("\\t", "\t") if found else None


def records(lines: Iterable[str], delimiter: str, where: str) -> Iterator[Record]:
    """The records of a file, the header among them, blank lines and a first line that states the delimiter left out.

    Args:
        lines: With their ends.
        delimiter: What stands between cells.
        where: What the file is called in messages.

    Raises:
        DataError: If a quotation mark is left open, or stands where none may.
    """
    text: list[str] = []
    lines = iter(lines)
    first = next(lines, "")
    above = "" if stated_delimiter(first) is None else first
    number_above = 1 if above else 0
    rest = lines if above or not first else chain([first], lines)

    def remembered() -> Iterator[str]:
        for line in rest:
            text.append(line)
            yield line

    # strict: an unclosed quote is an error; otherwise it would silently swallow the rest of the file.
    reader = csv.reader(remembered(), delimiter=delimiter, strict=True, skipinitialspace=delimiter == "|")
    number = 0
    try:
        while (cells := _next_row(reader)) is not None:
            if cells:
                yield Record(above + "".join(text), cells)
                above = ""
                number += 1
            text.clear()
    except csv.Error as error:
        line = reader.line_num + number_above
        raise DataError(
            f"{where}: row {number} (ending in line {line}) cannot be parsed: {error}; captions "
            "that contain quotation marks or the delimiter need quotes, with quotation marks doubled"
        ) from error


def _next_row(reader: Any) -> list[str] | None:
    """The next row; None behind the last."""
    usual = csv.field_size_limit(_LONGEST_CELL)
    try:
        row: list[str] | None = next(reader, None)
        return row
    finally:
        csv.field_size_limit(usual)


def detected_delimiter(lines: Sequence[str], usual: str, wanted: Sequence[str]) -> str:
    r"""What separates the cells of a file: what gives the wanted columns, or else columns that all rows have.

    >>> detected_delimiter(["a;b\n", "1;2,5\n"], ",", ["a"])
    ';'

    Args:
        lines: The first ones, with their ends.
        usual: The delimiter that the file's extension stands for; it wins where others do no better.
        wanted: Columns that the user named; may be empty.
    """
    best, best_score = usual, (-1, -1, -1)
    for delimiter in dict.fromkeys([usual, *DELIMITERS]):
        rows: list[list[str]] = []
        with suppress(DataError):  # the lines may end within quotes; a quote that is really open is told later
            for record in records(lines, delimiter, ""):
                rows.append(record.cells)
        if not rows:
            continue
        header = [name.strip().lower() for name in rows[0]]
        found = sum(name.strip().lower() in header for name in wanted)
        even = sum(len(row) == len(header) for row in rows[1:]) if len(header) > 1 else -1
        score = (found, min(len(header), 2), even)
        if score > best_score:
            best, best_score = delimiter, score
    return best
