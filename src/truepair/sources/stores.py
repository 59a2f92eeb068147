"""Files of object stores and web servers (``s3://``, ``gs://``, ``hf://``, ``https://`` …), as locations for readers.

`located` is the way in: a path on this machine stays a `pathlib.Path`, an address becomes a `StorePath`, which has the
few methods of `Path` that reading needs. fsspec, and what it needs for a protocol, is imported when an address is
opened; it reads credentials where it always does.

A shard or a table is fetched whole, into a cache (see `truepair.sources.shard_cache`): a reader goes through it several
times. A picture that is a file is read directly, and so are a few bytes of a large file: one picture of a tar file, the
captions of a Parquet file.
"""

from __future__ import annotations

import errno
import hashlib
import io
import posixpath
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from truepair.config.source import SourceConfig
from truepair.errors import ConfigError
from truepair.sources.shard_cache import ShardCache, usual_cache
from truepair.sources.store_errors import WEB, StoreError, may_pass, message_of, status_of

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PAUSES = (1.0, 4.0, 16.0)
"""Seconds to wait before a request is sent again."""
_PIECE = 8 << 20
"""Bytes of a file that one request fetches."""
_AT_ONCE = 8
"""Requests that are under way together."""
_BUFFER = 1 << 20
_SILENCE = 60.0
"""Seconds without a byte after which a web server counts as gone."""
_VERSIONS = (
    *("ETag", "etag", "blob_id", "md5Hash", "Content-MD5", "Digest", "generation"),
    *("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created"),
)
"""What stores call the checksum, the version or the time of a file, the surest first."""
_PACKAGES = {
    "s3": "'truepair[stores]' (s3fs)",
    "s3a": "'truepair[stores]' (s3fs)",
    "gs": "'truepair[stores]' (gcsfs)",
    "gcs": "'truepair[stores]' (gcsfs)",
    "hf": "huggingface_hub",
}


@dataclass(frozen=True)
class Entry:
    """A file in a store.

    Attributes:
        size: In bytes; None if the store does not say.
        version: Checksum, version or time of the file, as the store calls it; empty if it says nothing.
    """

    size: int | None
    version: str

    def __str__(self) -> str:
        size = "size unknown" if self.size is None else f"{self.size:,} bytes"
        return f"{size}, {self.version}" if self.version else size


def is_address(path: object) -> bool:
    """Whether a path is of a store: it begins with a protocol.

    >>> is_address("s3://bucket/photos.csv"), is_address("photos.csv"), is_address("C:/photos.csv")
    (True, False, False)
    """
    return isinstance(path, StorePath) or bool(_ADDRESS.match(str(path)))


def located(path: str | Path | StorePath, cache_size: float = SourceConfig.cache_size) -> Path | StorePath:
    """A path on this machine, or the location behind an address.

    Args:
        path: Either.
        cache_size: See `truepair.config.source.SourceConfig`.

    Raises:
        ConfigError: If the address has a part that is no path, or the package for its protocol is missing.
    """
    if isinstance(path, StorePath):
        return path
    if not is_address(path):
        return Path(path)
    address = str(path).rstrip("/")
    if protocol_of(address) in WEB and re.search(r"[?#]|://[^/]*@", address):
        raise ConfigError(
            f"{re.sub(r'[?#].*|(?<=://)[^/]*@', '', address)} was given with a query or a password, which would be "
            "written to what is made of it: leave that out, or download the file first"
        )
    return StorePath(Store(address, usual_cache(cache_size)), address)


def pure_path(path: Path | StorePath) -> PurePath:
    """The path alone, to be compared and taken apart; of an address without its protocol."""
    return path if isinstance(path, Path) else path.inside


def protocol_of(address: str) -> str:
    """What stands before ``://``, in small letters."""
    return address.partition("://")[0].lower()


def on_disk(location: Path | StorePath) -> Path:
    """The file on this machine: itself, or a whole copy of it, which is fetched unless there is one.

    Raises:
        StoreError: If it is not there, or the store fails.
        DataError: If there is no room for the copy.
    """
    return location if isinstance(location, Path) else location.store.copy(location.address)


def for_parts(location: Path | StorePath) -> Path | io.BufferedReader:
    """What a few parts of a file are read from: the file, a copy if there is one, or an open file that asks for ranges.

    Raises:
        StoreError: If it is not there, or the store fails.
    """
    return location if isinstance(location, Path) else location.store.for_parts(location.address)


def ahead(work: Callable[[Asked], Answer], items: Iterable[Asked]) -> Iterator[Answer]:
    """What `work` gives for each item, in their order; a few that come next are under way in other threads."""
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch")
    waiting: deque[Future[Answer]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * _AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Store:
    """A file system of fsspec, which is asked again where that may help, and what it has said of its files.

    What it says of a file counts until the store is opened again: a file that changes meanwhile is an error when it is
    fetched, not another file.
    """

    def __init__(self, address: str, cache: ShardCache) -> None:
        self.cache = cache
        self.has_listings = protocol_of(address) not in WEB
        self._system = _file_system(address)
        self._entries: dict[str, Entry | None] = {}
        self._listings: dict[str, dict[str, Entry]] = {}
        self._has_ranges = True

    def entry(self, address: str) -> Entry | None:
        """What is known of a file; None if there is none.

        Raises:
            StoreError: If the store fails or refuses.
        """
        if address not in self._entries:
            listing = self._listing_above(address)
            self._entries[address] = self._asked(address) if listing is None else listing.get(address)
        return self._entries[address]

    def look_up(self, addresses: Iterable[str]) -> None:
        """Ask for several files together."""
        for _ in ahead(self.entry, addresses):
            pass

    def listing(self, folder: str) -> Mapping[str, Entry]:
        """Every file in a folder and those below it, by address, sorted.

        Raises:
            StoreError: If the store fails or refuses.
        """
        if folder not in self._listings:
            above = self._listing_above(folder)
            if above is None:
                self._listings[folder] = self._found(folder)
            else:
                self._listings[folder] = {at: entry for at, entry in above.items() if at.startswith(f"{folder}/")}
        return self._listings[folder]

    def read(self, address: str, start: int | None = None, end: int | None = None) -> bytes:
        """A file, or some bytes of it, of which fewer come where it ends before.

        Raises:
            FileNotFoundError: If it is not there.
            StoreError: If the store fails or refuses.
        """
        entry = self._entries.get(address)
        size = None if entry is None else entry.size
        stop = size if end is None else (end if size is None else min(end, size))

        def read() -> bytes:
            content = self._content(address, start, end)
            if start is not None and end is not None and len(content) > end - start:
                self._has_ranges = False  # the server has sent the whole file
                content = content[start:end]
            if size is not None and stop is not None and len(content) != max(0, stop - (start or 0)):
                raise EOFError(f"{len(content):,} of {stop - (start or 0):,} bytes came")
            return content

        return self._attempt(address, read)

    def copy(self, address: str) -> Path:
        """See `on_disk`."""
        entry = self._there(address)
        return self.cache.copy(
            _copy_name(address, entry), entry.size or 0, lambda file: self._fetch(address, entry, file)
        )

    def for_parts(self, address: str) -> Path | io.BufferedReader:
        """See the function of that name."""
        entry = self._there(address)
        if entry.size is None or self.cache.has(_copy_name(address, entry)):
            return self.copy(address)
        return io.BufferedReader(_Ranges(self, address, entry.size), _BUFFER)

    def _there(self, address: str) -> Entry:
        entry = self.entry(address)
        if entry is None:
            raise StoreError(message_of(address, 404))
        return entry

    def _listing_above(self, address: str) -> Mapping[str, Entry] | None:
        """The listing of a folder that an address lies in, if one was made."""
        return next((found for at, found in self._listings.items() if address.startswith(f"{at}/")), None)

    def _asked(self, address: str) -> Entry | None:
        try:
            info = self._attempt(address, lambda: self._system.info(self._inside(address)))
        except FileNotFoundError:
            return None
        return _entry(info) if info["type"] == "file" else None

    def _found(self, folder: str) -> dict[str, Entry]:
        if not self.has_listings:
            raise StoreError(
                f"{folder} cannot be listed, as it lies on a web server: name a table, or tar files as {{000..099}}.tar"
            )
        inside = self._inside(folder)
        try:
            found = self._attempt(folder, lambda: self._system.find(inside, detail=True))
        except FileNotFoundError:
            return {}
        names = {name.removeprefix(inside).lstrip("/"): info for name, info in found.items() if name != inside}
        files = {name: info for name, info in names.items() if info["type"] == "file" and not name.endswith("/")}
        return {f"{folder}/{name}": _entry(info) for name, info in sorted(files.items())}

    def _fetch(self, address: str, entry: Entry, file: BinaryIO) -> None:
        """Write a whole file; see if it is still the same."""
        try:
            self._write(address, entry.size, file)
        except FileNotFoundError as error:
            raise StoreError(message_of(address, 404)) from error
        self._system.invalidate_cache()
        now = self._asked(address)
        if now != entry:
            raise StoreError(f"{address} was changed while it was read (it was {entry}, and is {now}): run it again")

    def _write(self, address: str, size: int | None, file: BinaryIO) -> None:
        """Several pieces of the file are under way together, if the server gives any."""
        if size is not None and self._has_ranges:
            file.write(self.read(address, 0, _PIECE))
        if size is None or not self._has_ranges:
            self._attempt(address, lambda: self._stream(address, size, file))
        else:
            for piece in ahead(lambda start: self.read(address, start, start + _PIECE), range(_PIECE, size, _PIECE)):
                file.write(piece)

    def _stream(self, address: str, size: int | None, file: BinaryIO) -> None:
        file.seek(0)
        file.truncate()
        self._system.get_file(self._inside(address), file)
        if size is not None and file.tell() != size:
            raise EOFError(f"{file.tell():,} of {size:,} bytes came")

    def _content(self, address: str, start: int | None, end: int | None) -> bytes:
        return bytes(self._system.cat_file(self._inside(address), start=start, end=end))

    def _inside(self, address: str) -> str:
        """The address as the file system takes it."""
        return str(self._system._strip_protocol(address))

    def _attempt(self, address: str, ask: Callable[[], Answer]) -> Answer:
        """An answer of the store, which is asked again after errors that may pass.

        Raises:
            FileNotFoundError: If it says that there is no such file.
            StoreError: If it refuses, or fails every time.
        """
        for attempt, pause in enumerate((*_PAUSES, None), start=1):
            try:
                return ask()
            except Exception as error:  # each store's library has errors of its own
                status = status_of(error)
                if status == 404:
                    raise FileNotFoundError(errno.ENOENT, "not there", address) from error
                if pause is None or not may_pass(error, status):
                    raise StoreError(message_of(address, status, error, attempt)) from error
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


class StorePath:
    """A file or folder of a store, with the methods of `pathlib.Path` that reading needs.

    Attributes:
        store: Where it is.
        address: With its protocol, without a slash at its end.
    """

    def __init__(self, store: Store, address: str) -> None:
        self.store = store
        self.address = address

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"StorePath({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __truediv__(self, name: str) -> StorePath:
        written = quote(name, safe="/") if protocol_of(self.address) in WEB else name
        return StorePath(self.store, f"{self.address}/{written}")

    @property
    def inside(self) -> PurePosixPath:
        """The address without its protocol."""
        return PurePosixPath(self.address.partition("://")[2])

    @property
    def name(self) -> str:
        """See `pathlib.PurePath.name`; so are the next ones."""
        return self.inside.name

    @property
    def stem(self) -> str:  # noqa: D102
        return self.inside.stem

    @property
    def suffix(self) -> str:  # noqa: D102
        return self.inside.suffix

    @property
    def parent(self) -> StorePath:  # noqa: D102
        return self._at(self.inside.parent)

    @property
    def version(self) -> str:
        """Size, and checksum, version or time, in words.

        Raises:
            StoreError: If the file is not there, or the store fails.
        """
        return str(self.store._there(self.address))

    def with_suffix(self, suffix: str) -> StorePath:  # noqa: D102
        return self._at(self.inside.with_suffix(suffix))

    def sibling(self, address: str) -> StorePath:
        """Another address of the same store."""
        return StorePath(self.store, address)

    def led(self, written: str) -> StorePath | None:
        """Where a path that is written in a table leads from this folder; None if out of the store.

        Args:
            written: A path, or an address of the same protocol.
        """
        if is_address(written):
            is_here = protocol_of(written) == protocol_of(self.address)
            return self.sibling(written.rstrip("/")) if is_here else None
        path = self / written
        return path._at(PurePosixPath(posixpath.normpath(path.inside))) if not written.startswith("/") else None

    def is_below(self, folder: StorePath) -> bool:
        """Whether it lies in a folder, or in one below that; a path with ``..`` lies in none."""
        return ".." not in self.inside.parts and self.inside.is_relative_to(folder.inside)

    def exists(self) -> bool:  # noqa: D102
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:  # noqa: D102
        return self.store.entry(self.address) is not None

    def is_dir(self) -> bool:
        """Whether there are files below it; never on a web server, which has no listings."""
        return self.store.has_listings and not self.is_file() and bool(self.store.listing(self.address))

    def files(self) -> list[str]:
        """The paths of all files below it, from here on, sorted."""
        return [at.removeprefix(f"{self.address}/") for at in self.store.listing(self.address)]

    def glob(self, pattern: str) -> Iterator[StorePath]:
        """Files below it whose path matches, part by part."""
        parts = pattern.split("/")
        for name in self.files():
            found = name.split("/")
            if len(found) == len(parts) and all(map(fnmatchcase, found, parts)):
                yield self / name

    def rglob(self, pattern: str) -> Iterator[StorePath]:
        """Files below it whose name matches."""
        return (self / name for name in self.files() if fnmatchcase(name.rpartition("/")[2], pattern))

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """A copy of the file, which is fetched whole, open for reading."""
        return on_disk(self).open("rb")

    def read_bytes(self) -> bytes:
        """The file, straight from the store.

        Raises:
            FileNotFoundError: If it is not there.
            StoreError: If the store fails or refuses.
        """
        return self.store.read(self.address)

    def read_text(self, encoding: str) -> str:  # noqa: D102
        return self.read_bytes().decode(encoding)

    def _at(self, inside: PurePosixPath) -> StorePath:
        return StorePath(self.store, f"{self.address.partition('://')[0]}://{inside}")


class _Ranges(io.RawIOBase):
    """A file of a store of which ranges are read."""

    def __init__(self, store: Store, address: str, size: int) -> None:
        self._store = store
        self._address = address
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), self._size)
        if end <= self._place:
            return 0
        content = self._store.read(self._address, self._place, end)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def _file_system(address: str) -> Any:
    """The file system of fsspec for an address.

    Raises:
        ConfigError: If there is none for the protocol, or a package is missing.
    """
    import fsspec

    protocol = protocol_of(address)
    options: dict[str, Any] = {}
    try:
        if protocol in WEB:
            import aiohttp

            # The usual limit is five minutes for a whole file; proxies and .netrc count.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
            options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
        system, _ = fsspec.url_to_fs(address, **options)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        hint = f"pip install {package}" if package else str(error)
        raise ConfigError(f"{address} needs a package that is not installed: {hint}") from error
    except ValueError as error:
        raise ConfigError(
            f"{address} cannot be opened ({error}); known are s3://, gs://, hf:// and https://"
        ) from error
    system.invalidate_cache()  # of an earlier store in this process
    return system


def _entry(info: Mapping[str, Any]) -> Entry:
    name = next((name for name in _VERSIONS if info.get(name)), None)
    if name is None:
        return Entry(info.get("size"), "")
    value = info[name]
    if isinstance(value, datetime):  # some listings have seconds for it
        value = value.timestamp()
    return Entry(info.get("size"), f"{name} {value}")


def _copy_name(address: str, entry: Entry) -> str:
    """What a copy is called: another version of the file has another name."""
    digest = hashlib.sha256(f"{address}\n{entry}".encode()).hexdigest()
    return f"{digest[:32]}{PurePosixPath(address).suffix}"
