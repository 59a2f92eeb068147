"""Changes of a file: of its bytes, and of what its format holds. A list of them is a test case that can be shrunk."""

import json
import re
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MAGICS = (
    *(
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"BM",
        b"II*\0",
        b"PK\x03\x04",
        b"PAR1",
    ),
    *(b"ARROW1\0\0", b"\x93NUMPY\x01\0", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"SQLite format 3\0", b"\xef\xbb\xbf"),
    *(b"\xff\xfe", b"version https://git-lfs.github.com/spec/v1\n"),
)
_TEXTS = (
    *(
        b"\0",
        b"\xed\xa0\x80",
        b"\xff",
        b'"',
        b"\\",
        b"\r",
        b"\n\n",
        b",,,,",
        b"\t",
        b"{",
        b"]",
        b"1e999",
        b"NaN",
        b"-1",
    ),
    *(b'"\\ud800"', b"[" * 50_000, b"9" * 6_000, b"null", b"''", b"\xe2\x80\xae", b"a" * 200_000, b"\n" * 5_000),
)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        2**31,
        2**63,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "\ud800",
        "\0",
        "../nowhere",
        "/nowhere",
    ),
    *([], {}, [None], [[]], {"": {}}, "x" * 100_000, "1e999", [1, "a"], "2024-13-45", -(2**63), 0.5, "NaN", " "),
)
_NESTED = 3_000


@dataclass(frozen=True)
class Mutation:
    """One change, the same every time it is made.

    Attributes:
        kind: Its name in `_KINDS`.
        seed: Of the random numbers that say where and what.
    """

    kind: str
    seed: int


def drawn(suffix: str, random: np.random.Generator) -> list[Mutation]:
    """One to three changes for a file of a format."""
    kinds = [*_BYTES, *_OF_FORMAT.get(suffix, ()) * 4]
    return [Mutation(str(random.choice(kinds)), int(random.integers(2**31))) for _ in range(random.integers(1, 4))]


def mutated(content: bytes, mutations: Sequence[Mutation]) -> bytes:
    """A file's content after some changes; one that cannot be made of it is left out."""
    for mutation in mutations:
        with suppress(Exception):  # an earlier change may have left nothing that a library reads
            content = _KINDS[mutation.kind](content, np.random.default_rng(mutation.seed))
    return content


def _place(content: bytes, random: np.random.Generator) -> int:
    """A place in the content: often one of the first or last bytes, where formats say what they are."""
    length = max(len(content), 1)
    which = random.integers(4)
    if which == 0:
        return int(random.integers(min(length, 64)))
    if which == 1:
        return int(length - 1 - random.integers(min(length, 64)))
    return int(random.integers(length))


def _flip(content: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(random.integers(1, 9)):
        changed[_place(content, random)] ^= 1 << random.integers(8)
    return bytes(changed)


def _cut(content: bytes, random: np.random.Generator) -> bytes:
    return content[: _place(content, random)]


def _zeros(content: bytes, random: np.random.Generator) -> bytes:
    place, length = _place(content, random), int(random.integers(1, 512))
    return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]


def _doubled(content: bytes, random: np.random.Generator) -> bytes:
    place, length = _place(content, random), int(random.integers(1, 4096))
    return content[: place + length] + content[place:]


def _removed(content: bytes, random: np.random.Generator) -> bytes:
    place, length = _place(content, random), int(random.integers(1, 512))
    return content[:place] + content[place + length :]


def _inserted(content: bytes, random: np.random.Generator) -> bytes:
    place = _place(content, random)
    return content[:place] + random.bytes(int(random.integers(1, 64))) + content[place:]


def _text(content: bytes, random: np.random.Generator) -> bytes:
    place = _place(content, random)
    return content[:place] + _TEXTS[random.integers(len(_TEXTS))] + content[place:]


def _magic(content: bytes, random: np.random.Generator) -> bytes:
    magic = _MAGICS[random.integers(len(_MAGICS))]
    return magic + content[len(magic) :]


def _length(content: bytes, random: np.random.Generator) -> bytes:
    place = _place(content, random)
    number = random.choice([2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 0])
    size = 4 if number < 2**32 and random.integers(2) else 8
    order = "little" if random.integers(2) else "big"
    return content[:place] + int(number).to_bytes(size, order) + content[place + size :]  # type: ignore[arg-type]


def _empty(content: bytes, random: np.random.Generator) -> bytes:
    return b""


def _value(content: bytes, random: np.random.Generator) -> bytes:
    """Another value at one place of a JSON document, or of one line of JSON."""
    text = content.decode()
    lines = text.split("\n")
    try:
        return json.dumps(_changed(json.loads(text), random)).encode()
    except json.JSONDecodeError:
        place = int(random.integers(len(lines)))
        lines[place] = json.dumps(_changed(json.loads(lines[place]), random))
        return "\n".join(lines).encode()


def _nested(content: bytes, random: np.random.Generator) -> bytes:
    """A JSON number or text becomes lists in lists."""
    found = [match.span() for match in re.finditer(rb'(?<=[:\[,] )?("[^"]*"(?!:)|\d+)', content)]
    start, end = found[random.integers(len(found))]
    return content[:start] + b"[" * _NESTED + b"]" * _NESTED + content[end:]


def _changed(document: Any, random: np.random.Generator) -> Any:
    """The document with one node replaced, left out or renamed."""
    nodes = list(_nodes(document))
    if not nodes:
        return _VALUES[random.integers(len(_VALUES))]
    holder, key = nodes[random.integers(len(nodes))]
    how = random.integers(5)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[f"{key}?"] = holder.pop(key)
    elif how == 2:
        other, place = nodes[random.integers(len(nodes))]
        holder[key] = json.loads(json.dumps(other[place]))
    else:
        holder[key] = _VALUES[random.integers(len(_VALUES))]
    return document


def _nodes(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _nodes(item)


def _header(content: bytes, random: np.random.Generator) -> bytes:
    """Another value in the JSON header of a safetensors file, or in the JSON within it."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    inner = header.get("__metadata__", {})
    if "structure" in inner and random.integers(2):
        inner["structure"] = json.dumps(_changed(json.loads(inner["structure"]), random))
    else:
        header = _changed(header, random)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + content[8 + size :]


def _table(content: bytes, random: np.random.Generator) -> bytes:
    """A Parquet table with a column of another type, with nulls, left out, renamed or doubled; or without rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(content))
    place = int(random.integers(len(table.column_names)))
    name, how = table.column_names[place], random.integers(7)
    if how == 0:
        table = table.drop_columns([name])
    elif how == 1:
        table = table.rename_columns([f"{old}?" if old == name else old for old in table.column_names])
    elif how == 2:
        table = table.slice(0, int(random.integers(3)))
    elif how == 3:
        table = table.append_column(name, table[name])
    elif how == 4:
        table = pa.concat_tables([table, table])
    else:
        values = table[name].to_pylist()
        worst = [None, "", -1, 2**40, float("nan"), "\0", "x" * 100_000, b"", [1.0], {"bytes": None}]
        new = worst[random.integers(len(worst))]
        every = random.integers(2)
        kind = table[name].type
        column = pa.array([new] * len(values)) if every else pa.array([new, *values[1:]], kind)
        table = table.set_column(place, name, column)
    written = pa.BufferOutputStream()
    pq.write_table(table, written)
    return bytes(written.getvalue())


def _array(content: bytes, random: np.random.Generator) -> bytes:
    """An ``.npy`` file of another shape, type or size, or with values that are none."""
    import io

    array = np.load(io.BytesIO(content), allow_pickle=False)
    changes: list[Callable[[], Any]] = [
        lambda: array[:0], lambda: array[:1], lambda: array.T, lambda: array.reshape(-1), lambda: array.astype("U4"),
        lambda: array.astype(bool), lambda: array.astype(np.complex64), lambda: np.float64(3.0),
        lambda: array[..., None],
        lambda: np.where(np.arange(array.size).reshape(array.shape) == 1, np.inf, array),
        lambda: -array.astype(np.int64),
        lambda: array.astype(">f8"), lambda: np.concatenate([array, array]), lambda: array.astype(object),
        lambda: array.astype("f8") * 1e300, lambda: np.zeros(3, [("a", "i4")]), lambda: array.astype("M8[s]"),
    ]  # fmt: skip
    written = io.BytesIO()
    np.save(written, changes[random.integers(len(changes))](), allow_pickle=True)
    return written.getvalue()


def _rows(content: bytes, random: np.random.Generator) -> bytes:
    """A database with another value in a cell, without a table, or with another version."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.sqlite"
        path.write_bytes(content)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("PRAGMA writable_schema = ON")
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            table = str(random.choice(tables))
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            column, how = str(random.choice(columns)), random.integers(6)
            connection.execute("DROP TRIGGER IF EXISTS history_is_never_changed")
            if how == 0:
                connection.execute(f"DROP TABLE {table}")
            elif how == 1:
                connection.execute(f"PRAGMA user_version = {random.integers(-5, 5)}")
            elif how == 2:
                connection.execute(f"DELETE FROM {table}")
            else:
                value = random.choice(["", "x", "-1", "1e999", "\ud83d", "99999999999999999999"][:4])
                connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        return path.read_bytes()


_BYTES: Mapping[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "flip": _flip,
    "cut": _cut,
    "zeros": _zeros,
    "doubled": _doubled,
    "removed": _removed,
    "inserted": _inserted,
    "text": _text,
    "magic": _magic,
    "length": _length,
    "empty": _empty,
}
_KINDS = _BYTES | {
    "value": _value,
    "nested": _nested,
    "header": _header,
    "table": _table,
    "array": _array,
    "rows": _rows,
}
_OF_FORMAT: Mapping[str, tuple[str, ...]] = {
    ".json": ("value", "value", "nested"),
    ".jsonl": ("value", "value", "nested"),
    ".csv": ("text", "text"),
    ".tsv": ("text", "text"),
    ".txt": ("text", "text"),
    ".token": ("text", "text"),
    ".toml": ("text", "text"),
    ".safetensors": ("header", "header"),
    ".parquet": ("table", "table"),
    ".npy": ("array", "array"),
    ".sqlite": ("rows", "rows"),
}
