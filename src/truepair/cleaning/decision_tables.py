"""Decisions as a table: read from one that somebody wrote, with a spreadsheet or a program, and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import pyarrow as pa

from truepair.cleaning.audit_folder import NONE, AuditFolder
from truepair.cleaning.decisions_db import Action, HandDecision, now
from truepair.errors import ConfigError, DataError
from truepair.files.parquet import write_parquet
from truepair.files.reading_copies import unguarded, write_reading_copy
from truepair.sources.table_files import DelimitedTable, open_table

_ACTIONS = ("keep", "drop", "re-pair")
_COLUMNS = ("caption_id", "action", "image_id")
_WRITTEN = (".csv", ".parquet")


def check_table(path: Path) -> None:
    """Refuse a name that `write_decisions` cannot write.

    Raises:
        ConfigError: If it ends in something else than .csv or .parquet, or there is something of that name already.
    """
    if path.suffix.lower() not in _WRITTEN:
        raise ConfigError(f"{path} ends in {path.suffix!r}; decisions are written to {' or '.join(_WRITTEN)}")
    if path.exists():
        raise ConfigError(f"{path} is there already: choose another name, or move it away")


def write_decisions(decisions: Mapping[str, HandDecision], path: Path, audit: AuditFolder) -> int:
    """Write the table that `read_decisions` reads; as CSV one that is safe to open in a spreadsheet.

    Returns:
        How many decisions are left out, because they are about a pair or an image that the audit does not have.

    Raises:
        DataError: If that is all of them.
    """
    known = set(audit.findings["caption_id"].to_pylist())
    rows = [
        (name, one.action, one.image_id)
        for name, one in decisions.items()
        if name in known and (one.image_id is None or audit.number_of_image(one.image_id) != NONE)
    ]
    if not rows:
        raise DataError(f"none of {len(decisions):,} decisions is about a pair of {audit.findings_file}")
    if path.suffix.lower() == ".csv":
        write_reading_copy(path, _COLUMNS, [(name, action, image_id or "") for name, action, image_id in rows])
    else:
        columns = zip(*rows, strict=True)
        write_parquet(pa.table([pa.array(column, pa.string()) for column in columns], _COLUMNS), path)
    return len(decisions) - len(rows)


def read_decisions(path: Path, audit: AuditFolder) -> dict[str, HandDecision]:
    """Decisions by caption id.

    Args:
        path: A table with the columns ``caption_id``, ``action`` and, if anything is re-paired, ``image_id``.
        audit: What they are about.

    Raises:
        DataError: If a column is missing, a pair is unknown or decided twice, an action is none, or a pair that is to
            be re-paired has no other image of the corpus.
    """
    table = open_table(path)
    missing = [name for name in ("caption_id", "action") if name not in table.names]
    if missing:
        raise DataError(f"{path} has no column {' and no column '.join(missing)} (there are: {', '.join(table.names)})")
    has_images = "image_id" in table.names
    cells = table.columns(["caption_id", "action", *(["image_id"] if has_images else [])])
    images = cells["image_id"] if has_images else [None] * len(table)
    own = dict(zip(*(audit.findings[name].to_pylist() for name in ("caption_id", "image_id")), strict=True))
    time, found = now(), dict[str, HandDecision]()
    rows = zip(cells["caption_id"], cells["action"], images, strict=True)
    for row, (name, action, image) in enumerate(rows, start=1):
        caption_id, image_id = str(name), None if image in (None, "") else str(image)
        if isinstance(table, DelimitedTable):
            where = f"{path}: row {row}"
            caption_id = _meant(caption_id, own.__contains__, where)
            image_id = image_id and _meant(image_id, lambda one: audit.number_of_image(one) != NONE, where)
        if caption_id not in own:
            raise DataError(f"{path}: row {row} is about {caption_id!r}, which {audit.findings_file} does not have")
        if caption_id in found:
            raise DataError(f"{path}: row {row} decides about {caption_id!r} a second time")
        if action not in _ACTIONS:
            raise DataError(f"{path}: row {row} has the action {action!r}; there are {', '.join(_ACTIONS)}")
        if action == "re-pair":
            if image_id is None:
                raise DataError(
                    f"{path}: row {row} re-pairs {caption_id!r}, but its image_id is empty: fill in the image that the "
                    f"caption gets, by its image_id in {audit.findings_file}"
                )
            if audit.number_of_image(image_id) == NONE:
                raise DataError(
                    f"{path}: row {row} gives {caption_id!r} the image {image_id!r}, which the corpus does not have"
                )
            if image_id == own[caption_id]:
                raise DataError(
                    f"{path}: row {row} re-pairs {caption_id!r} with {image_id!r}, which is its image already: keep it "
                    "instead"
                )
        found[caption_id] = HandDecision(cast(Action, action), image_id if action == "re-pair" else None, time)
    return found


def _meant(cell: str, is_known: Callable[[str], bool], where: str) -> str:
    """The name that a cell of a CSV file means: what it says, or what `write_decisions` put an apostrophe before."""
    bare = unguarded(cell)
    if bare == cell or not is_known(bare):
        return cell
    if is_known(cell):
        raise DataError(f"{where} may mean {bare!r} or {cell!r}: give the decisions as a .parquet or .jsonl table")
    return bare
