"""Names of rows: counted from 1, as people count them, where places in a list count from 0."""

from __future__ import annotations

import re

from truepair.errors import DataError

_NAME = re.compile(r"row-([1-9][0-9]{0,17})")


def row_name(row: int) -> str:
    """The name of a row that is counted from 0.

    >>> row_name(0)
    'row-1'
    """
    return f"row-{row + 1}"


def row_of(name: str, rows: int, path: object) -> int:
    """The row, counted from 0, of a name.

    Args:
        name: ``row-N``.
        rows: How many there are.
        path: What they are in, for the message.

    Raises:
        DataError: If there is no such row.
    """
    match = _NAME.fullmatch(name)
    if match is None or int(match[1]) > rows:
        raise DataError(f"{path} has no row {name!r}; it has {rows:,} rows, from 'row-1'")
    return int(match[1]) - 1
