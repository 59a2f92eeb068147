"""CSV files that people look at, written so that a spreadsheet shows their cells and runs none of them.

What a user's own table or a program reads is never written so: there a cell is what it was.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from truepair.errors import DataError
from truepair.files.replacing import replacing

_RUN = re.compile("'*[=+\\-@\t\r\n\0＝＋－＠]")
"""How a cell begins that a spreadsheet may take for a formula (OWASP ASVS 1.2.10), also behind apostrophes."""


def guarded(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: with an apostrophe in front where it might.

    >>> guarded("=1+1"), guarded("'=1+1"), guarded("'tis a dog"), guarded("a = b")
    ("'=1+1", "''=1+1", "'tis a dog", 'a = b')
    """
    return f"'{cell}" if _RUN.match(cell) else cell


def unguarded(cell: str) -> str:
    """What `guarded` was given.

    >>> unguarded("'=1+1"), unguarded("''=1+1"), unguarded("'tis a dog"), unguarded("=1+1")
    ('=1+1', "'=1+1", "'tis a dog", '=1+1')
    """
    return cell[1:] if cell.startswith("'") and _RUN.match(cell) else cell


def write_reading_copy(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A CSV file with guarded cells, replaced atomically; every cell stands in quotation marks.

    Half of a surrogate pair, which UTF-8 cannot hold, is spelled out.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([guarded(cell) for cell in row] for row in rows)


def read_reading_copy(path: Path, header: Sequence[str]) -> Iterator[list[str]]:
    """The rows of what `write_reading_copy` wrote.

    Raises:
        DataError: If it is no such file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, strict=True)
            if next(rows, None) != list(header):
                raise DataError(f"{path} is damaged (it does not begin with {', '.join(header)}): make it again")
            for row in rows:
                if len(row) != len(header):
                    raise DataError(f"{path} is damaged (line {rows.line_num} has {len(row)} cells): make it again")
                yield [unguarded(cell) for cell in row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged ({error}): make it again") from error
