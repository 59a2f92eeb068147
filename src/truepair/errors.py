"""What truepair raises. Each message says what, where, the values and the next step."""

from __future__ import annotations

import errno
import re

_OF_ERRNO = {
    errno.ENOSPC: "the disk is full: make room, then run the same command again",
    errno.EDQUOT: "the disk quota is used up: make room, then run the same command again",
    errno.EFBIG: "the file would be larger than the file system or 'ulimit -f' allows: choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "it may not be read or written: change its permissions, or choose another folder",
    errno.EPERM: "it may not be read or written: change its permissions, or choose another folder",
    errno.EMFILE: "too many files are open: raise the limit ('ulimit -n 4096'), or use fewer --workers",
    errno.ENFILE: "too many files are open on this machine: end other programs, or use fewer --workers",
    errno.ENAMETOOLONG: "the name is too long for the file system: choose a shorter one",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EEXIST: "a file is there already: choose another path",
    errno.EISDIR: "it is a folder, not a file: choose another path",
    errno.ENOENT: "there is no such file or folder: was it moved or deleted?",
    errno.ELOOP: "its links lead in a circle: mend them, or choose another path",
    errno.EIO: "the disk or its connection fails: check it, then run the same command again",
    errno.ESTALE: "the file server has lost it: mount the file system again, then run the same command again",
    errno.ETIMEDOUT: "it did not answer in time: check the connection, then run the same command again",
}
"""What errors of the file system mean, and what to do."""


class TruepairError(ValueError):
    """Anything that the user can mend; the command line prints its message and exits with 1."""


class DataError(TruepairError):
    """A file, a table or an array does not hold what it should."""


class ConfigError(TruepairError):
    """An option is unknown, out of range or contradicts another."""


class TooFewImagesError(ConfigError):
    """A corpus cannot be split.

    Attributes:
        images: How many it has.
    """

    def __init__(self, images: int, said: str) -> None:
        """Keep the number beside what is said."""
        super().__init__(said)
        self.images = images


class CheckpointError(TruepairError):
    """A checkpoint is damaged or belongs to another run."""


class TrainingError(TruepairError):
    """Training cannot go on, for instance because the loss is no longer a number."""


def said_by(error: BaseException) -> str:
    """What an error says, on one line and without what Python puts around it.

    >>> said_by(OSError(28, "No space left on device", "features/images.npy"))
    'No space left on device: features/images.npy'
    """
    if not isinstance(error, OSError) or not error.strerror:
        return " ".join(str(error).split()) or type(error).__name__
    said = re.sub(r"\[[Ee]rrno \d+\] ?", "", error.strerror).rstrip(". ")  # of Arrow, whose text has it once more
    file = name_of_file(error)
    return said if file is None or file in said else f"{said}: {file}"


def name_of_file(error: OSError) -> str | None:
    """The file that an error of the system is about, at most 200 characters of it; None if it names none."""
    named = error.filename
    if named is None:  # Arrow has it in its text
        found = re.search(r"local file '(.*?)'", error.strerror or "")
        named = found and found[1]
    if named is None or isinstance(named, int):
        return None
    text = named.decode("utf-8", "backslashreplace") if isinstance(named, bytes) else str(named)
    name = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return name if len(name) <= 200 else f"{name[:100]}…{name[-99:]}"


def of_system(error: OSError) -> str:
    """What an error of the file system means, of which file, and what to do.

    >>> of_system(OSError(28, "No space left on device", "features/images.npy"))
    'features/images.npy: the disk is full: make room, then run the same command again'
    """
    meaning = _OF_ERRNO.get(error.errno or 0)
    if meaning is None:
        return f"a file cannot be read or written ({said_by(error)})"
    file = name_of_file(error)
    return meaning if file is None else f"{file}: {meaning}"
