"""Text files that hold one thing a line, as corpora ship them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from truepair.errors import DataError


def lines_of(path: Path) -> Iterator[str]:
    """Lines without their ends. Only a line feed is one: captions contain others of those that str.splitlines obeys.

    Raises:
        DataError: If the file cannot be read, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield line.removeprefix(codecs.BOM_UTF8).decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}, line {number:,} is not UTF-8 ({error}); convert the file") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the folder and the file's name") from error
