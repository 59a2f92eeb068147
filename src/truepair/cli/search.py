"""``truepair search``: what an index holds for a text or a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import parse, together
from truepair.cli.serving import Listening, Served, serve
from truepair.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa
    from fastapi import FastAPI

MAIN = ("index", "query", "image", "like", "queries", "column", "k", "find", "where", "out", "page")
_SHOWN = 80


@dataclass(frozen=True)
class Search:
    """Search an index that 'truepair index' made; every hit has the probability that it is what was looked for.

    The probability is learned from the index's own pairs: that a hit is the very picture (or caption) that the query
    was made for, if every second query has an answer in the index.

    For example:
      truepair search index/ "two dogs in the snow"
      truepair search index/ --image holiday.jpg --k 5
      truepair search index/ --like photo-17.jpg --where "width > 300 and split = 'train'"
      truepair search index/ --queries queries.csv --column text --out hits.parquet
      truepair search index/ --page
    """

    index: Positional[Path]
    """The folder of the index."""
    query: Positional[str | None] = None
    """What to look for, in words."""
    image: tuple[Path, ...] = ()
    """A picture to look for, or several."""
    like: tuple[str, ...] = ()
    """The id of an image or a caption of the index, to find what is like it."""
    queries: Path | None = None
    """A file of queries: one a line, or a table (.csv, .tsv, .jsonl, .parquet) with --column."""
    column: str = "caption"
    """Tables of queries: the column that holds them."""
    k: int | None = None
    """Hits of a query: 10 by default, or as many as there are."""
    find: Literal["images", "captions"] | None = None
    """What to find: by default a picture finds captions, everything else images."""
    where: str | None = None
    """Only rows that pass: columns compared with =, <>, <, >, IN, LIKE and IS NULL, joined by AND, OR and NOT."""
    out: Path | None = None
    """Write the hits to this file (.csv, .jsonl or .parquet) in place of printing them."""
    page: bool = False
    """Search in a browser: a page with a text box, a place to drop a picture, and the hits as pictures. It is served on
    this computer only, to whoever has the address that is printed. Needs 'truepair[review]'."""
    port: int = 0
    """With --page: the port to listen on; 0 takes a free one."""
    browser: bool = True
    """With --page: open it in a browser, if run in a terminal."""
    allow_host: tuple[str, ...] = ()
    """With --page: a name by which browsers come to it besides 127.0.0.1; may be given several times, see
    SECURITY.md."""

    def __post_init__(self) -> None:
        """Refuse a port or a name that cannot be."""
        self.listening()

    def listening(self) -> Listening:
        """Where the page is served."""
        return Listening(self.port, self.browser, self.allow_host)


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, search, print or write."""
    parsed = parse(Search, "search", together(arguments, "--allow-host"), main=MAIN)
    if parsed.page:
        _serve(parsed, output)
        return
    if parsed.listening() != Listening():
        raise ConfigError(
            "--port, --no-browser and --allow-host are options of the page: add --page, or leave them out"
        )
    if sum((parsed.query is not None, *map(bool, (parsed.image, parsed.like, parsed.queries)))) != 1:
        raise ConfigError('give one of: a query in words (truepair search INDEX "…"), --image, --like, --queries')
    if parsed.out is not None and parsed.out.suffix not in _WRITERS:
        raise ConfigError(f"--out is {parsed.out}, but hits are written as {', '.join(_WRITERS)}")
    if parsed.out is not None and parsed.out.exists():
        raise ConfigError(f"--out is {parsed.out}, which is there already: choose another file, or delete that one")
    if parsed.out is not None and not parsed.out.parent.is_dir():
        raise ConfigError(f"--out is {parsed.out}, but there is no folder {parsed.out.parent}: make it first")
    from truepair.search.index import open_index

    index = open_index(parsed.index)
    texts = None if parsed.query is None else [parsed.query]
    if parsed.queries is not None:
        texts = read_queries(parsed.queries, parsed.column)
    hits = index.search(
        texts,
        images=list(parsed.image) or None,
        like=list(parsed.like) or None,
        find=parsed.find,
        k=parsed.k,
        where=parsed.where,
        tell=lambda said: output.note(f"note: {said}"),
    )
    asked = texts or [str(path) for path in parsed.image] or list(parsed.like)
    if parsed.out is None:
        output.line("\n".join(hit_lines(hits, asked)))
    else:
        _WRITERS[parsed.out.suffix](hits, parsed.out)
        output.line(f"{len(hits):,} hits of {len(asked):,} queries: {parsed.out}")
    rows = None if parsed.out is not None else hits.to_pylist()
    output.summary({"queries": len(asked), "hits": rows, "out": parsed.out})


def _serve(parsed: Search, output: Output) -> None:
    """The page."""
    others = parsed.queries, parsed.out, parsed.where, parsed.find, parsed.k
    if parsed.image or parsed.like or any(other is not None for other in others):
        raise ConfigError(
            "--page asks for all that itself: give it no --image, --like, --queries, --out, --where, --find or --k"
        )

    def make() -> FastAPI:
        from truepair.review.search_app import make_search_app

        return make_search_app(parsed.index, hosts=parsed.allow_host)

    query = "" if parsed.query is None else f"#{urlencode({'text': parsed.query})}"
    page = Served("search", make, "search?token={token}" + query, "Ctrl-C ends it", {"index": parsed.index})
    serve(page, parsed.listening(), output)


def hit_lines(hits: pa.Table, asked: Sequence[str]) -> list[str]:
    """The hits of each query, a line a hit, and a sentence where nothing fits."""
    rows, lines = hits.to_pylist(), list[str]()
    for number, query in enumerate(asked):
        found = [row for row in rows if row["query"] == number]
        if len(asked) > 1:
            lines += ["", f"{number + 1}. {query[:_SHOWN]}"] if lines else [f"{number + 1}. {query[:_SHOWN]}"]
        if not found:
            lines.append("no row passes the filter")
            continue
        if found[0]["fits"] is False:
            lines.append(
                "nothing in this index seems to fit: its best hits score less than those of nearly all of the index's "
                "own pairs"
            )
        width = max(len(row["id"]) for row in found)
        for row in found:
            lines.append(
                f"{row['rank']:3}  {_percent(row['probability'])}  {row['score']:6.3f}  {row['id']:<{width}}  "
                f"{' '.join((row['caption'] or '').split())[:_SHOWN]}"
            )
    return lines


def read_queries(path: Path, column: str) -> list[str]:
    """The queries of a file.

    Raises:
        DataError: If it cannot be read, or has no such column.
    """
    from truepair.errors import DataError
    from truepair.files.lines import lines_of
    from truepair.sources.table_files import is_table, open_table

    if not path.exists():
        raise DataError(f"{path} does not exist; give a file with one query a line, or a table")
    if not is_table(path):
        return [line for line in lines_of(path) if line.strip()]
    table = open_table(path, [column])
    if column not in table.names:
        raise DataError(f"{path} has no column {column!r}; there are {', '.join(table.names)}: name one with --column")
    values = table.columns([column])[column]
    return ["" if value is None else str(value) for value in values]


def _percent(probability: float | None) -> str:
    return "    -" if probability is None or math.isnan(probability) else f"{probability:5.1%}"


def _write_csv(hits: pa.Table, path: Path) -> None:
    from pyarrow import csv

    from truepair.files.replacing import replacing

    with replacing(path) as temporary:
        csv.write_csv(hits, temporary)


def _write_lines(hits: pa.Table, path: Path) -> None:
    import json

    from truepair.files.replacing import replacing

    with replacing(path) as temporary:
        lines = (json.dumps(row, ensure_ascii=False) for row in hits.to_pylist())
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_parquet(hits: pa.Table, path: Path) -> None:
    from truepair.files.parquet import write_parquet

    write_parquet(hits, path)


_WRITERS: dict[str, Any] = {".csv": _write_csv, ".jsonl": _write_lines, ".parquet": _write_parquet}
