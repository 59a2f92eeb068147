"""Folders that truepair wrote: where one lies among the files of a corpus, nothing in it belongs to the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from truepair.files.names import (
    AUDIT,
    EMBEDDINGS,
    EXPORT,
    FINDINGS,
    INDEX,
    ISSUES,
    PARTS,
    PLAN,
    READY,
    RUN,
    SHARE_FOLDERS,
    STORE,
)
from truepair.sources.stores import StorePath

RECORDS = dict.fromkeys((STORE, INDEX, EXPORT), b'"truepair"') | {RUN: b'"recipe"'}
"""Files of feature stores, indexes, exports and runs, each with a key that stands near its beginning."""
MARKS = frozenset({FINDINGS, *RECORDS, PARTS, EMBEDDINGS})
"""Names of which every folder that truepair wrote has one."""

_HEAD = 4096


def is_output(folder: Path | StorePath) -> bool:
    """Whether a folder holds an audit, a feature store, an index, an export or a run, finished or not.

    A cleaned copy is none of these: it is a corpus again.
    """
    return _is_audit(folder) or _is_recorded(folder) or _is_recorded(folder / EMBEDDINGS)


def is_table_of_audit(file: Path | StorePath) -> bool:
    """Whether a table is one of an audit, which may lie among the tables of a corpus."""
    return file.name in (FINDINGS, ISSUES) and _is_audit(file.parent)


def outside_outputs(names: Iterable[str], root: Path | StorePath) -> Iterator[str]:
    """The files that do not lie in a folder that truepair wrote; the root itself may be one.

    Args:
        names: Paths from the root on, with ``/``.
        root: The folder of a corpus.
    """
    known = {"": False}

    def is_inside(folder: str) -> bool:
        if folder not in known:
            known[folder] = is_inside(folder.rpartition("/")[0]) or is_output(root / folder)
        return known[folder]

    return (name for name in names if not is_inside(name.rpartition("/")[0]))


def _is_audit(folder: Path | StorePath) -> bool:
    return (folder / FINDINGS).is_file() and any(found.is_file() for found in (folder / AUDIT, folder / READY / AUDIT))


def _is_recorded(folder: Path | StorePath) -> bool:
    """Whether a folder holds the record of what truepair made there, or of what it is making."""
    records = [(folder / name, key) for name, key in RECORDS.items()]
    plans = [folder / PARTS / PLAN]
    if isinstance(folder, Path):  # in a store, where nothing is made, to look would be to list
        plans += (folder / PARTS).glob(f"{SHARE_FOLDERS}/{PLAN}")
    return any(_has(file, key) for file, key in [*records, *((plan, b'"source"') for plan in plans)])


def _has(file: Path | StorePath, key: bytes) -> bool:
    """Whether a key stands near the beginning of a file; in one that cannot be read it does not."""
    if not file.is_file():
        return False
    try:
        if isinstance(file, StorePath):
            return key in file.store.read(file.address, 0, _HEAD)
        with file.open("rb") as stored:
            return key in stored.read(_HEAD)
    except OSError:
        return False
