"""Text files that hold one thing a line, as corpora ship them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from truepair.errors import DataError

LONGEST_LINE = 256_000_000
"""Bytes of a line of a text file: more are no line, whatever the file is called."""


def lines_of(path: Path, *, keep_ends: bool = False) -> Iterator[str]:
    """Lines. Only a line feed ends one: captions contain others of those that str.splitlines obeys.

    Args:
        path: The file, in UTF-8, with or without a byte order mark.
        keep_ends: Whether lines keep their ends, as the csv module needs them: a quoted field may contain one.

    Raises:
        DataError: If the file cannot be read, a line is not UTF-8, or is longer than `LONGEST_LINE`.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), b""), 1):
                if len(line) == LONGEST_LINE:
                    raise DataError(f"{path}, line {number:,} is endless: more than {LONGEST_LINE:,} bytes")
                try:
                    text = line.removeprefix(codecs.BOM_UTF8).decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}, line {number:,} is not UTF-8 ({error}); convert the file") from error
                yield text if keep_ends else text.rstrip("\r\n")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the folder and the file's name") from error
