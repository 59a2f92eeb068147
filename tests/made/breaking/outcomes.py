"""What a command leaves: its files without what no two runs have in common, and what is wrong with them."""

import hashlib
import json
import re
import shutil
import sqlite3
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open

MEASURED = {"seconds", "cpu_seconds", "peak_memory_mb", "images_per_second", "hardware"}
"""Keys of values that differ from run to run."""
TIMES = {"time", "made", "decided", "decided_at"}
"""Columns that say when something was done."""
_LOCK = re.compile(r"lock$")
_DATES = re.compile(rb"\d{4}-\d\d-\d\d[T ]?(\d\d:\d\d(:\d\d)?)?( ?UTC|Z)?")
_MEASURES = re.compile(rb"\"?(seconds|peak_memory_mb)\"?[^0-9]{0,40}[\d.]+|[\d.,]+ (s|seconds|minutes|MB)\b")
_RANDOM_NAME = re.compile(r"[0-9a-f]{8,}")

Outcome = dict[str, str]
"""By path, the hash of a file without what differs from run to run."""


def hashes(folder: Path) -> Outcome:
    """Every file below a folder, with the hash of its bytes."""
    return {name: _hash(path.read_bytes()) for name, path in _files(folder).items()}


def outcome(folder: Path) -> Outcome:
    """Every file below a folder but for locks, with the hash of what two runs have in common.

    Random parts of names count as equal.
    """
    return {
        _RANDOM_NAME.sub("#", name): _hash(content_of(path))
        for name, path in _files(folder).items()
        if not _LOCK.search(name)
    }


def leftovers(folder: Path) -> list[str]:
    """Files and folders that are only there while something is being written."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))]
    return [name for name in names if is_unfinished(name) and not _LOCK.search(name)]


def is_unfinished(name: str) -> bool:
    """Whether a path says of itself that it is no result yet, or no longer one."""
    temporary = (".part", ".tmp", "-journal", "-wal", "-shm")
    return any(part.startswith(".") or part.endswith(temporary) for part in Path(name).parts)


def half_written(folder: Path) -> list[str]:
    """Files under final names that an independent reader cannot read to their end."""
    found = []
    for name, path in _files(folder).items():
        check = _CHECKS.get(path.suffix)
        if check is None or is_unfinished(name) or _LOCK.search(name):
            continue
        try:
            check(path)
        except Exception as error:
            found.append(f"{name} ({type(error).__name__}: {error})"[:200])
    return found


def content_of(path: Path) -> bytes:
    """A file's content without what differs from run to run; damaged files as they are."""
    normal = _NORMAL.get(path.suffix)
    if path.name == "provenance.parquet":
        normal = _parquet_without_times
    try:
        return path.read_bytes() if normal is None else normal(path)
    except (ValueError, OSError, KeyError, sqlite3.Error):
        return path.read_bytes()


def without_measurements(value: Any) -> Any:
    """The same without the values of `MEASURED`; names of files without what is random in them."""
    if isinstance(value, dict):
        kept = {key: without_measurements(item) for key, item in value.items() if key not in MEASURED}
        if isinstance(kept.get("files"), dict):
            kept["files"] = json.loads(_RANDOM_NAME.sub("#", json.dumps(kept["files"])))
        return kept
    return [without_measurements(item) for item in value] if isinstance(value, list) else value


def _files(folder: Path) -> dict[str, Path]:
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    return {
        (path.relative_to(folder).as_posix() if path != folder else path.name): path for path in paths if path.is_file()
    }


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(path: Path) -> bytes:
    return json.dumps(without_measurements(json.loads(path.read_text(encoding="utf-8"))), sort_keys=True).encode()


def _json_lines(path: Path) -> bytes:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(json.dumps(without_measurements(json.loads(line)), sort_keys=True) for line in lines).encode()


def _page(path: Path) -> bytes:
    return _MEASURES.sub(b"#", _DATES.sub(b"#", path.read_bytes()))


def _tensors(path: Path) -> bytes:
    content = hashlib.sha256()
    with safe_open(path, framework="np") as file:
        header = file.metadata() or {}
        structure = re.sub(r'\["(cpu_)?seconds", [^\]]*\]', "#", header.get("structure", ""))
        content.update(structure.encode())
        for name in sorted(file.keys()):
            content.update(name.encode() + file.get_tensor(name).tobytes())
    return content.digest()


def _parquet_without_times(path: Path) -> bytes:
    table = pq.read_table(path)
    return repr(table.drop_columns([name for name in table.column_names if name in TIMES]).to_pydict()).encode()


def _database(path: Path) -> bytes:
    """The rows, without times; of a copy, because a reader may finish what a killed writer began."""
    with tempfile.TemporaryDirectory() as folder:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as connection:
            connection.row_factory = sqlite3.Row
            sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            rows = {
                name: [
                    {key: row[key] for key in row.keys() if key not in TIMES | {"page"}}  # noqa: SIM118, no mapping
                    for row in connection.execute(f"SELECT * FROM {name} ORDER BY 1")
                ]
                for (name,) in map(tuple, tables)
            }
    if sound != "ok":
        raise ValueError(sound)
    return json.dumps(rows).encode()


def _check_lines(path: Path) -> None:
    """All lines but a last one without its end, which readers of logs leave out."""
    for line in path.read_bytes().decode().split("\n")[:-1]:
        json.loads(line)


def _check_text(path: Path) -> None:
    content = path.read_bytes()
    content.decode()
    if not content.endswith(b"\n"):
        raise ValueError("ends within a line")


def _check_page(path: Path) -> None:
    closing_tag = b"</svg>" if path.suffix == ".svg" else b"</html>"
    if not path.read_bytes().rstrip().endswith(closing_tag):
        raise ValueError(f"ends without {closing_tag.decode()}")


def _check_tar(path: Path) -> None:
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and len(archive.extractfile(member).read()) != member.size:  # type: ignore[union-attr]
                raise ValueError(f"{member.name} is cut")
    if not content.endswith(bytes(1024)):
        raise ValueError("has no end of archive")


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise ValueError("has a damaged member")


_NORMAL: Mapping[str, Callable[[Path], bytes]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".html": _page,
    ".safetensors": _tensors,
    ".sqlite": _database,
}
_CHECKS: Mapping[str, Callable[[Path], Any]] = {
    ".csv": _check_text,
    ".html": _check_page,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": _check_lines,
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".parquet": pq.read_table,
    ".safetensors": _tensors,
    ".sqlite": _database,
    ".svg": _check_page,
    ".tar": _check_tar,
    ".zip": _check_zip,
}
