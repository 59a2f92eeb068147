"""Decisions made by hand, in ``review.sqlite`` in the audit's folder: saved one by one, and undone one by one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int8

from truepair.errors import DataError

Action = Literal["keep", "drop", "re-pair"]
"""What can be decided about a pair."""
ACTIONS: tuple[str, ...] = ("clear", "keep", "drop", "re-pair")
"""By code: what `HandDecisions.codes_at` gives. "clear" is no decision: the rule decides."""

_APPLICATION = 0x74705256  # "tpRV"
_PATIENCE = 5.0
"""Seconds to wait for another process that writes to the same database."""
_OF_FOREIGN_FILES = ("PRAGMA trusted_schema = OFF", "PRAGMA cell_size_check = ON")
"""What SQLite advises for a file that somebody else may have made (sqlite.org/security.html)."""
_FIRST = """
CREATE TABLE audit (findings TEXT NOT NULL, made TEXT NOT NULL);
CREATE TABLE decisions (
    caption_id TEXT PRIMARY KEY,
    rank INTEGER NOT NULL UNIQUE,
    action TEXT NOT NULL CHECK (action IN ('keep', 'drop', 're-pair')),
    image_id TEXT CHECK ((image_id IS NOT NULL) = (action = 're-pair')),
    who TEXT NOT NULL DEFAULT 'by hand',
    time TEXT NOT NULL,
    step INTEGER NOT NULL REFERENCES history (step)
);
CREATE TABLE history (
    step INTEGER PRIMARY KEY AUTOINCREMENT,
    page TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('decide', 'undo', 'redo')),
    of_step INTEGER REFERENCES history (step),
    caption_id TEXT NOT NULL,
    rank INTEGER NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('clear', 'keep', 'drop', 're-pair')),
    image_id TEXT,
    former_step INTEGER REFERENCES history (step),
    time TEXT NOT NULL
);
CREATE INDEX history_of_page ON history (page, step);
CREATE TRIGGER history_is_never_changed BEFORE UPDATE ON history
BEGIN SELECT RAISE(ABORT, 'history is append-only'); END;
CREATE TRIGGER history_is_never_shortened BEFORE DELETE ON history
BEGIN SELECT RAISE(ABORT, 'history is append-only'); END;
"""
_MIGRATIONS: tuple[str, ...] = (_FIRST,)
"""Script n makes version n + 1 of version n, and a new database is of version 0; scripts are only ever appended."""
_KINDS: dict[str, tuple[Any, ...]] = {
    "audit": (str, str),
    "decisions": (str, int, str, str | None, str, str, int),
    "history": (int, str, str, int | None, str, int, str, str | None, int | None, str),
}
"""What the columns of each table hold; SQLite itself takes anything."""
_OF_FILES = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOLFS,
)
"""What SQLite says where the file is not to blame, but its place."""
# decisions.step is the "decide" step that the decision comes from. In history, action and image_id are what holds after
# a step, and former_step is where the decision before it came from.


@dataclass(frozen=True)
class HandDecision:
    """What somebody decided about a pair.

    Attributes:
        action: What to do.
        image_id: The image that the caption gets, if the action is ``"re-pair"``; None otherwise.
        time: When, UTC, ISO 8601.
    """

    action: Action
    image_id: str | None
    time: str


@dataclass(frozen=True)
class Change:
    """What a step, an undo or a redo did.

    Attributes:
        caption_id: Of which pair.
        rank: Its rank in the findings, from 1.
        decision: What is decided about it now; None if nothing.
        was_superseded: True if an undo or redo left it alone because another page has decided it since.
    """

    caption_id: str
    rank: int
    decision: HandDecision | None
    was_superseded: bool = False


class HandDecisions:
    """The decisions about one audit; safe to use from several threads, processes and pages at once.

    Every call is one transaction of its own, committed before it returns. Pages see each other's decisions; undo and
    redo are of the steps of the page that asks, also after a restart.
    """

    def __init__(self, path: Path, digest: str, findings: Path) -> None:
        """Open the database, or make it.

        Args:
            path: The database.
            digest: Of the findings that decisions are about, see `audit_folder.digest_of`.
            findings: Where these are, for messages.

        Raises:
            DataError: If the database is of other findings or a newer version, is none, is damaged or locked, or cannot
                be made.
        """
        self.path = path
        self._uri = path.resolve().as_uri()
        self.codes_at = lru_cache(maxsize=8)(self._codes_at)
        try:
            with self._transaction(mode="rwc") as connection:
                _prepare(connection, path, digest, findings)
        except sqlite3.Error as error:
            raise DataError(fault_of(path, error)) from error

    def decide(self, page: str, rank: int, caption_id: str, action: str, image_id: str | None = None) -> Change:
        """Decide about a pair, or take the decision back.

        Args:
            page: Who asks; undo and redo follow it.
            rank: The pair's rank in the findings, from 1.
            caption_id: The pair's name.
            action: One of `ACTIONS`.
            image_id: The image it gets, with ``"re-pair"``; None with all others.
        """
        with self._transaction() as connection:
            current = _current(connection, caption_id)
            now = "clear" if current is None else current["action"]
            if (now, None if current is None else current["image_id"]) != (action, image_id):
                former = None if current is None else current["step"]
                step = _append(connection, page, "decide", None, caption_id, rank, action, image_id, former)
                _put(connection, step)
            return _change(connection, caption_id, rank)

    def undo(self, page: str) -> Change | None:
        """Take back the last step of a page that is not undone; None if there is none.

        The pair gets the decision back that it had before. If another page has decided it since, that stays.
        """
        return self._step_back_or_on(page, "undo")

    def redo(self, page: str) -> Change | None:
        """Make the page's last undone step again; None if there is none, or the page has decided something since."""
        return self._step_back_or_on(page, "redo")

    def _step_back_or_on(self, page: str, kind: Literal["undo", "redo"]) -> Change | None:
        with self._transaction() as connection:
            done, undone = steps_to_undo_and_redo(_steps_of(connection, page))
            steps = done if kind == "undo" else undone
            if not steps:
                return None
            step = _step(connection, steps[-1])
            current = _current(connection, step["caption_id"])
            after_it = None if step["action"] == "clear" else step["step"]
            expected, target = (after_it, step["former_step"]) if kind == "undo" else (step["former_step"], after_it)
            current_step = None if current is None else current["step"]
            was_superseded = current_step != expected
            if was_superseded:
                target = current_step
            holds = None if target is None else _step(connection, target)
            action, image_id = ("clear", None) if holds is None else (holds["action"], holds["image_id"])
            names = step["caption_id"], step["rank"]
            _append(connection, page, kind, step["step"], *names, action, image_id, current_step)
            if target is None:
                connection.execute("DELETE FROM decisions WHERE caption_id = ?", (step["caption_id"],))
            else:
                _put(connection, target)
            return _change(connection, *names, was_superseded=was_superseded)

    def last_step(self) -> int:
        """The number of the last step; 0 before the first."""
        with self._connection() as connection:
            return int(connection.execute("SELECT coalesce(max(step), 0) FROM history").fetchone()[0])

    def _codes_at(self, step: int, pairs: int) -> Int8[np.ndarray, " pairs"]:
        """What was decided about each pair after a step, as numbers of `ACTIONS`; history never changes, so cached.

        Args:
            step: After which step; 0 for none.
            pairs: How many pairs the findings have.
        """
        codes = np.zeros(pairs, dtype=np.int8)
        with self._connection() as connection:
            rows = connection.execute("SELECT rank, action FROM history WHERE step <= ? ORDER BY step", (step,))
            last = {row["rank"]: row["action"] for row in rows}
        for rank, action in last.items():
            if not (isinstance(rank, int) and 0 < rank <= pairs and action in ACTIONS):
                raise sqlite3.DatabaseError(f"the pair of rank {rank!r} of {pairs} is decided as {action!r}")
            codes[rank - 1] = ACTIONS.index(action)
        codes.flags.writeable = False
        return codes

    def of_ranks(self, ranks: Sequence[int]) -> dict[int, HandDecision]:
        """The decisions about some pairs, by rank; pairs without one are left out."""
        marks = ", ".join("?" * len(ranks))
        with self._connection() as connection:
            rows = connection.execute(f"SELECT * FROM decisions WHERE rank IN ({marks})", list(ranks))
            return {row["rank"]: _decision(row) for row in rows}

    def all(self) -> dict[str, HandDecision]:
        """All decisions, by caption id."""
        with self._connection() as connection:
            return {row["caption_id"]: _decision(row) for row in connection.execute("SELECT * FROM decisions")}

    def decided(self, up_to_rank: int) -> int:
        """How many of the pairs up to a rank are decided."""
        with self._connection() as connection:
            found = connection.execute("SELECT count(*) FROM decisions WHERE rank <= ?", (up_to_rank,))
            return int(found.fetchone()[0])

    @contextmanager
    def _connection(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        uri = f"{self._uri}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            try:
                for pragma in _OF_FOREIGN_FILES:
                    connection.execute(pragma)
                yield connection
            except UnicodeDecodeError as error:  # of the names in a message of SQLite's
                raise sqlite3.DatabaseError("names in it are no UTF-8") from error

    @contextmanager
    def _transaction(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        """Reads and writes that nobody comes between; all of them, or none after an error (closing rolls back)."""
        with self._connection(mode) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")


def decisions_of(path: Path, digest: str, findings: Path) -> dict[str, HandDecision]:
    """All decisions of a database, by caption id; none if there is no database.

    Args:
        path: The database.
        digest: Of the findings that decisions must be about.
        findings: Where these are, for messages.

    Raises:
        DataError: If it is damaged or locked, or of other findings or a newer version.
    """
    return HandDecisions(path, digest, findings).all() if path.exists() else {}


def fault_of(path: Path, error: sqlite3.Error) -> str:
    """What is wrong with a database of decisions, and the next step, in a sentence."""
    export = f"'truepair review {path.parent} --export-decisions decisions.csv'"
    kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the rest of the code says more
    if kind == sqlite3.SQLITE_FULL:
        return f"{path}: {error}; nothing was saved: free some space, and try again"
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return (
            f"{path} is locked by another process ({error}); nothing was saved: end that process and try again, or "
            f"save the decisions with {export}"
        )
    if kind in _OF_FILES:
        return (
            f"{path} cannot be opened or written ({error}); nothing was saved: see that the file is there and it and "
            "its folder are writable, and try again"
        )
    return (
        f"{path} is damaged ({error}): save the decisions that can still be read with {export}, for "
        f"'truepair fix --decisions decisions.csv', and move {path.name} away to start over"
    )


def steps_to_undo_and_redo(history: Iterable[Sequence[Any]]) -> tuple[list[int], list[int]]:
    """The steps of a page that can be undone, and those that can be made again; the next one last in each.

    Args:
        history: The page's ``(step, kind, of_step)``, in order.

    Raises:
        sqlite3.DatabaseError: If more is undone or made again than was done.

    >>> steps_to_undo_and_redo([(1, "decide", None), (2, "decide", None), (3, "undo", 2)])
    ([1], [2])
    >>> steps_to_undo_and_redo([(1, "decide", None), (2, "undo", 1), (3, "decide", None)])
    ([3], [])
    """
    done: list[int] = []
    undone: list[int] = []
    for step, kind, _ in history:
        if kind == "decide":
            done.append(step)
            undone.clear()
            continue
        source, target = (done, undone) if kind == "undo" else (undone, done)
        if not source:
            raise sqlite3.DatabaseError(f"step {step} is an {kind} of nothing")
        target.append(source.pop())
    return done, undone


def now() -> str:
    """The time, UTC, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _prepare(connection: sqlite3.Connection, path: Path, digest: str, findings: Path) -> None:
    """Tables in a new database; a check of one that has them, which is brought to the present version."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    present = len(_MIGRATIONS)
    objects = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if (application, version, objects) == (0, 0, 0):
        _migrate(connection, 0)
        connection.execute("INSERT INTO audit VALUES (?, ?)", (digest, now()))
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        return
    if application != _APPLICATION or version < 1:
        raise DataError(
            f"{path} is no database of decisions (application {application:#x}, version {version}; expected "
            f"{_APPLICATION:#x}, 1 to {present}): move it away to start over"
        )
    if version > present:
        raise DataError(
            f"{path} is of version {version}, which a newer truepair wrote; this one reads up to {present}: update "
            "truepair, or move the file away to start over"
        )
    _check_file(connection, version)
    _migrate(connection, version)
    _check_rows(connection)
    known, made = connection.execute("SELECT findings, made FROM audit").fetchone()
    if known != digest:
        raise DataError(
            f"{path} (made {made}) holds decisions about other findings than {findings} has now: was the audit made "
            f"again? Move {path.name} away to start over, or bring those findings back (theirs: {known[:12]}, now: "
            f"{digest[:12]})"
        )


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a database of a version to the present one, within the transaction that is open."""
    if version == len(_MIGRATIONS):
        return
    for script in _MIGRATIONS[version:]:
        for statement in _statements(script):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _check_file(connection: sqlite3.Connection, version: int) -> None:
    """Raise `sqlite3.DatabaseError` if SQLite finds damage, or other tables, views or triggers than of the version."""
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(" ".join(str(found).split()))
    with closing(sqlite3.connect(":memory:")) as made:
        for script in _MIGRATIONS[:version]:
            made.executescript(script)
        if _schema_of(connection) != _schema_of(made):
            raise sqlite3.DatabaseError("its tables are not those of a review")


def _check_rows(connection: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` if a cell holds what no review writes, or steps do not follow from each other."""
    for table in _KINDS:
        for row in connection.execute(f"SELECT * FROM {table}"):  # which also finds text that is no UTF-8
            if not _fits(row, table):
                raise sqlite3.DatabaseError(f"a row of the table {table} is {tuple(row)}")
    if connection.execute("SELECT count(*) FROM audit").fetchone()[0] != 1:
        raise sqlite3.DatabaseError("it does not say which findings it is about")
    if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise sqlite3.DatabaseError("its history has gaps")
    for (page,) in connection.execute("SELECT DISTINCT page FROM history").fetchall():
        steps_to_undo_and_redo(_steps_of(connection, page))


def _fits(row: sqlite3.Row, table: str) -> bool:
    """Whether a row of a table is of the types, and of the actions, that a review writes."""
    kinds = _KINDS[table]
    known = table == "audit" or row["action"] in ACTIONS
    return known and len(kinds) == len(row) and all(map(isinstance, row, kinds))


def _schema_of(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """All that a database defines, as text."""
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'")
    return sorted((row[0], row[1], row[2] or "") for row in rows)


def _steps_of(connection: sqlite3.Connection, page: str) -> Iterable[Sequence[Any]]:
    """What `steps_to_undo_and_redo` takes."""
    return connection.execute("SELECT step, kind, of_step FROM history WHERE page = ? ORDER BY step", (page,))


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, each complete; `executescript` would end the transaction."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _append(connection: sqlite3.Connection, page: str, kind: str, of_step: int | None, *rest: Any) -> int:
    """A row of history; `rest` is caption_id, rank, action, image_id, former_step. Returns its step."""
    cursor = connection.execute(
        "INSERT INTO history (page, kind, of_step, caption_id, rank, action, image_id, former_step, time) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (page, kind, of_step, *rest, now()),
    )
    return int(cursor.lastrowid or 0)


def _put(connection: sqlite3.Connection, step: int) -> None:
    """Make a step's decision the pair's current one."""
    connection.execute(
        "DELETE FROM decisions WHERE caption_id = (SELECT caption_id FROM history WHERE step = ?)", (step,)
    )
    connection.execute(
        "INSERT INTO decisions (caption_id, rank, action, image_id, time, step) "
        "SELECT caption_id, rank, action, image_id, time, step FROM history WHERE step = ? AND action != 'clear'",
        (step,),
    )


def _step(connection: sqlite3.Connection, step: int) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute("SELECT * FROM history WHERE step = ?", (step,)).fetchone()
    if row is None or not _fits(row, "history"):
        raise sqlite3.DatabaseError(f"there is no sound step {step}")
    return row


def _current(connection: sqlite3.Connection, caption_id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM decisions WHERE caption_id = ?", (caption_id,)
    ).fetchone()
    return row


def _change(connection: sqlite3.Connection, caption_id: str, rank: int, *, was_superseded: bool = False) -> Change:
    row = _current(connection, caption_id)
    return Change(caption_id, rank, None if row is None else _decision(row), was_superseded)


def _decision(row: sqlite3.Row) -> HandDecision:
    if not _fits(row, "decisions"):
        raise sqlite3.DatabaseError(f"a row of the table decisions is {tuple(row)}")
    return HandDecision(row["action"], row["image_id"], row["time"])
