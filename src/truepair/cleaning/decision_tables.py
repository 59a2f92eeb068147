"""Decisions from a table that somebody wrote, with a spreadsheet or a program of their own."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from truepair.cleaning.audit_folder import NONE, AuditFolder
from truepair.cleaning.decisions_db import Action, HandDecision, now
from truepair.errors import DataError
from truepair.sources.table_files import open_table

_ACTIONS = ("keep", "drop", "re-pair")


def read_decisions(path: Path, audit: AuditFolder) -> dict[str, HandDecision]:
    """Decisions by caption id.

    Args:
        path: A table with the columns ``caption_id``, ``action`` and, if anything is re-paired, ``image_id``.
        audit: What they are about.

    Raises:
        DataError: If a column is missing, a pair is unknown or decided twice, an action is none, or a pair that is to
            be re-paired has no image of the corpus.
    """
    table = open_table(path)
    missing = [name for name in ("caption_id", "action") if name not in table.names]
    if missing:
        raise DataError(f"{path} has no column {' and no column '.join(missing)} (there are: {', '.join(table.names)})")
    has_images = "image_id" in table.names
    cells = table.columns(["caption_id", "action", *(["image_id"] if has_images else [])])
    images = cells["image_id"] if has_images else [None] * len(table)
    known = set(audit.findings["caption_id"].to_pylist())
    time, found = now(), dict[str, HandDecision]()
    rows = zip(cells["caption_id"], cells["action"], images, strict=True)
    for row, (name, action, image) in enumerate(rows, start=1):
        caption_id, image_id = str(name), None if image in (None, "") else str(image)
        if caption_id not in known:
            raise DataError(f"{path}: row {row} is about {caption_id!r}, which {audit.findings_file} does not have")
        if caption_id in found:
            raise DataError(f"{path}: row {row} decides about {caption_id!r} a second time")
        if action not in _ACTIONS:
            raise DataError(f"{path}: row {row} has the action {action!r}; there are {', '.join(_ACTIONS)}")
        if action == "re-pair" and (image_id is None or audit.number_of_image(image_id) == NONE):
            raise DataError(
                f"{path}: row {row} gives {caption_id!r} the image {image_id!r}, which the corpus does not have"
            )
        found[caption_id] = HandDecision(cast(Action, action), image_id if action == "re-pair" else None, time)
    return found
