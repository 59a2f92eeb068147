"""What lies where in a tar file, also in one that is damaged."""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from truepair.config.source import SourceConfig
from truepair.errors import said_by
from truepair.sources.picture_files import utf8_name

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__(/|$)")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file in a tar file.

    Attributes:
        key: What the files of one sample share: the path up to the first dot of the file's name.
        extension: What stands behind that dot, in lower case: ``jpg``, ``txt``, ``json``.
        info: The header; `offset_data` and `size` say where the content lies.
    """

    key: str
    extension: str
    info: tarfile.TarInfo


@dataclass(frozen=True)
class TarIndex:
    """The members of a tar file that WebDataset would read.

    Attributes:
        members: In the order of the file.
        damage: Why it cannot be read to its end; None if it can.
    """

    members: tuple[Member, ...]
    damage: str | None


def tar_index(path: Path, most: int = SourceConfig.most_members) -> TarIndex:
    """All members whose content is there in full; only headers are read.

    The names are taken apart as WebDataset does; hidden files, names without a dot and ``__meta__`` files are passed
    over.

    Args:
        path: The tar file.
        most: How many headers are read; what follows counts as damage.
    """
    members: list[Member] = []
    try:
        end = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for number, info in enumerate(archive):
                if number >= most:
                    return TarIndex(tuple(members), f"more than {most:,} files (--most-members)")
                if info.size < 0 or info.offset_data + info.size > end:
                    return TarIndex(tuple(members), f"cut off in {utf8_name(info.name)} at byte {end:,}")
                name = _NAME.fullmatch(info.name)
                if name and info.isreg() and not info.issparse() and not _META.match(info.name):
                    members.append(Member(name[1], name[2].lower(), info))
            return TarIndex(tuple(members), _damage_at_the_end(path, archive.offset, end))
    except Exception as error:  # broken headers lead tarfile to raise nearly anything
        return TarIndex(tuple(members), said_by(error))


def _damage_at_the_end(path: Path, offset: int, end: int) -> str | None:
    """A tar file ends with zeros; `tarfile` takes a broken header, a hole or nothing at all for the end, too."""
    with path.open("rb") as file:
        file.seek(offset)
        first = file.read(tarfile.BLOCKSIZE)
        if first != bytes(tarfile.BLOCKSIZE):
            what = "its end is missing" if len(first) < tarfile.BLOCKSIZE else "the next header is broken"
            return f"{what} at byte {offset:,} of {end:,}"
        if any(any(chunk) for chunk in iter(lambda: file.read(_CHUNK), b"")):
            return f"more follows its end at byte {offset:,} of {end:,}"
    return None
