"""Which tar files a path stands for, and which of them are missing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from braceexpand import braceexpand

from truepair.errors import DataError
from truepair.sources.stores import StorePath, pure_path

_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)
_LONGEST_GAP = 10_000


@dataclass(frozen=True)
class TarShard:
    """A tar file.

    Attributes:
        name: Its path without ``.tar``, from the folder on that all of them are in.
        path: Where it is.
        missing: Names of files that should stand before it (of the last file, also behind it) and are not there.
    """

    name: str
    path: Path | StorePath
    missing: tuple[str, ...]


def tar_shards(path: Path | StorePath) -> list[TarShard]:
    """The tar files that a path stands for, numbers in their order.

    A folder stands for the ``.tar`` files right in it, and one is missing if its number lies between those of others
    (img2dataset numbers shards from 0, without gaps). A pattern such as ``shards/{00000..00010}.tar`` names each file.

    Raises:
        DataError: If there is no tar file.
    """
    if path.is_dir():
        globbed: Iterator[Path | StorePath] = path.glob("*.tar")
        found = sorted(globbed, key=_by_number)
        names = [file.stem for file in found]
        missing = [[], *(_between(*pair) for pair in pairwise(names))]
        shards = [TarShard(*shard) for shard in zip(names, found, map(tuple, missing), strict=False)]
    else:
        shards = _of_pattern(path)
    if not shards:
        raise DataError(f"there are no .tar files in {path}" if path.is_dir() else f"there is no file {path}")
    return shards


def _of_pattern(path: Path | StorePath) -> list[TarShard]:
    try:
        written = list(braceexpand(str(path), escape=False)) if "{" in str(path) else [str(path)]
    except ValueError as error:
        raise DataError(
            f"{path} is no pattern of file names ({error}); write for instance {{00000..00010}}.tar"
        ) from error
    files = [path.sibling(file) if isinstance(path, StorePath) else Path(file) for file in written]
    if isinstance(path, StorePath):
        path.store.look_up(written)
    folder = os.path.commonpath([pure_path(file.parent) for file in files])
    shards: list[TarShard] = []
    missing: list[str] = []
    for file in files:
        name = pure_path(file).relative_to(folder).with_suffix("").as_posix()
        if file.is_file():
            shards.append(TarShard(name, file, tuple(missing)))
            missing = []
        else:
            missing.append(name)
    if missing and shards:
        last = shards.pop()
        shards.append(TarShard(last.name, last.path, (*last.missing, *missing)))
    return shards


def _by_number(file: Path | StorePath) -> tuple[str, int, str]:
    numbered = _NUMBERED.fullmatch(file.stem)
    return (numbered[1], int(numbered[2]), file.stem) if numbered else (file.stem, -1, file.stem)


def _between(before: str, after: str) -> Sequence[str]:
    """The names between two numbered ones; none if they are numbered for something else, such as a date."""
    first, last = _NUMBERED.fullmatch(before), _NUMBERED.fullmatch(after)
    if first is None or last is None or first[1] != last[1]:
        return []
    numbers = range(int(first[2]) + 1, int(last[2]))
    width = len(first[2])
    return [f"{first[1]}{number:0{width}d}" for number in numbers] if len(numbers) <= _LONGEST_GAP else []
