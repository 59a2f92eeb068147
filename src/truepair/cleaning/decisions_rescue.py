"""Decisions of a ``review.sqlite`` that is damaged or locked: whatever rows of it can still be read."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from truepair.cleaning.decisions_db import ACTIONS, HandDecision, HandDecisions
from truepair.errors import DataError

_BESIDE = ("-journal", "-wal")
"""What SQLite keeps beside a database of which a write was cut off."""
_MOST_PROBES = 10_000
"""Rows that are asked for one by one, between what can be read from the front and from the back."""
_SMALLEST_ROW = 20
"""Bytes."""
_TABLES = (
    "SELECT count(*) FROM sqlite_master WHERE name IN ('decisions', 'history') AND type = 'table' AND rootpage > 0"
)
_COLUMNS = "caption_id, action, image_id, time"
_FAULTS = (sqlite3.Error, UnicodeDecodeError)  # the latter of the names in a message of SQLite's
_PAGE, _PAGES = 4096, slice(28, 32)
"""Bytes of a page, and where the first one says how many there are (sqlite.org/fileformat2.html)."""


@dataclass(frozen=True)
class Rescued:
    """What could be read.

    Attributes:
        decisions: By caption id.
        from_history: How many of them the table of decisions had lost, and the history had not. If a step after them
            is lost, they are older than what was decided last.
        lost: How many rows of the table of decisions could not be read, at most; those of the history that replaced
            them are not taken off.
    """

    decisions: dict[str, HandDecision]
    from_history: int
    lost: int


def rescued_decisions(path: Path) -> Rescued:
    """Read what can be read of a database of decisions, whatever findings it is about.

    A copy is read, in a temporary folder; nothing is written to the file or beside it, and no lock is waited for. Where
    its first page is damaged, which says what tables there are, it is read with the first page of a new database.

    Raises:
        DataError: If there is no such file, or it holds no decision that can be read.
    """
    if not path.is_file():
        raise DataError(f"there is no {path}: nothing was decided in this audit")
    with TemporaryDirectory() as folder:
        copy = Path(folder, "review.sqlite")
        for suffix in ("", *_BESIDE):
            if (beside := path.with_name(path.name + suffix)).is_file():
                shutil.copyfile(beside, copy.with_name(copy.name + suffix))
        found = _read(copy)
        if found is None or found.lost:
            _replace_first_page(copy)
            again = _read(copy)
            found = again if found is None or (again and len(again.decisions) > len(found.decisions)) else found
    if found is None or not found.decisions:
        raise DataError(f"{path} holds no decision that can be read: move it away to start over")
    return found


def _read(path: Path) -> Rescued | None:
    """What a database that may be damaged holds; None if it cannot be opened or has no table of decisions."""
    most = path.stat().st_size // _SMALLEST_ROW
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.text_factory = bytes  # what is no UTF-8 is a row that cannot be read, not the end of reading
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA writable_schema = ON")  # a file that was cut short is opened, too
            # A view of the same name, which somebody may have made, could compute without end.
            tables = connection.execute(_TABLES).fetchone()[0]
            connection.execute(f"SELECT {_COLUMNS} FROM decisions LIMIT 0")
        except _FAULTS:
            return None
        if tables != 2:
            return None
        decided, lost = _rows(connection, "decisions", most)
        decisions = {name: one for name, one in decided if one is not None}
        if not lost:
            return Rescued(decisions, 0, 0)
        last = dict(_rows(connection, "history", most)[0])  # the last step about a caption is what holds
        added = {name: one for name, one in last.items() if one is not None and name not in decisions}
        return Rescued(decisions | added, len(added), lost)


def _rows(connection: sqlite3.Connection, table: str, most: int) -> tuple[list[tuple[str, HandDecision | None]], int]:
    """The rows of a table that can be read, in their order, and at most how many cannot: of `most`.

    Rows are read from the front up to what is damaged, from the back down to it, and one by one between these.
    """
    found: dict[int, tuple[Any, ...]] = {}
    _scan(connection, f"SELECT rowid, {_COLUMNS} FROM {table} NOT INDEXED ORDER BY rowid", found)
    front = max(found, default=0)
    has_ended = _scan(connection, f"SELECT rowid, {_COLUMNS} FROM {table} NOT INDEXED ORDER BY rowid DESC", found)
    lost = 0
    if not has_ended:
        behind = min((row for row in found if row > front), default=front + most + 1)
        for row in range(front + 1, min(behind, front + 1 + min(most, _MOST_PROBES))):
            one = f"SELECT rowid, {_COLUMNS} FROM {table} WHERE rowid = {row}"
            lost += not _scan(connection, one, found)
    rows = [_decision(found[row]) for row in sorted(found)]
    return [row for row in rows if row is not None], lost + rows.count(None)


def _scan(connection: sqlite3.Connection, query: str, found: dict[int, tuple[Any, ...]]) -> bool:
    """Add the rows of a query by their number, up to the first that fails; whether none did."""
    try:
        for number, *cells in connection.execute(query):
            found[number] = tuple(cells)
    except _FAULTS:
        return False
    return True


def _decision(cells: tuple[Any, ...]) -> tuple[str, HandDecision | None] | None:
    """A caption's id and what is decided about it, None for nothing any more; None if the row makes no sense."""
    try:
        name, action, image_id, time = (cell if cell is None else cell.decode("utf-8") for cell in cells)
    except (AttributeError, UnicodeDecodeError):  # a number, or no text
        return None
    if name is None or time is None or action not in ACTIONS or (image_id is not None) != (action == "re-pair"):
        return None
    return name, None if action == "clear" else HandDecision(action, image_id, time)


def _replace_first_page(path: Path) -> None:
    """Give a database the first page of a new one: the tables of all databases of a version stand at the same pages."""
    new = path.with_name("new.sqlite")
    HandDecisions(new, "", new)
    page = bytearray(new.read_bytes()[:_PAGE])
    content = path.read_bytes()
    page[_PAGES] = (len(content) // _PAGE).to_bytes(4, "big")
    path.write_bytes(bytes(page) + content[_PAGE:])
    for suffix in _BESIDE:  # of the former first page
        path.with_name(path.name + suffix).unlink(missing_ok=True)
