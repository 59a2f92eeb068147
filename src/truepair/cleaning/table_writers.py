"""Rows of a table into another of the same format: what stays the same stays byte for byte, or value for value."""

from __future__ import annotations

import codecs
import csv
import io
import zipfile
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.cleaning.row_edits import RowEdit
from truepair.errors import ConfigError
from truepair.files.json import json_text, parsed_json
from truepair.sources.delimited import records, stated_delimiter
from truepair.sources.picture_files import Location
from truepair.sources.stores import on_disk
from truepair.sources.table_files import ArrowTable, DelimitedTable, JsonLinesTable, RowsTable, Table, mapped
from truepair.sources.text_files import opened_bytes, opened_text, written_bytes

_ROWS_AT_A_TIME = 1000
Cells = Mapping[str, Any]
"""Values of some columns of a row."""


def write_rows(
    table: Table, target: Path, edits: Sequence[tuple[int, RowEdit]], images: Mapping[int, Cells | pa.Table]
) -> None:
    """Write a table of the same format, compression and columns.

    CSV, TSV and JSONL: rows that do not change stay as they stand in the file, with their quotes and line ends. JSON:
    values stay, and numbers as they are written. Parquet and Arrow: values, types, column order and metadata stay, but
    that a column whose captions were dropped may be empty; Parquet is copied a row group at a time.

    Args:
        table: The source.
        target: The file to write, or, of an Arrow dataset, the file of its only part.
        edits: Places of the rows that stay, increasing, with what becomes of each.
        images: By donor, the cells of the image columns; see `image_cells`.

    Raises:
        ConfigError: If a row of a CSV or TSV file would get a list.
    """
    if isinstance(table, DelimitedTable):
        _write_lines(target, _delimited_lines(table, edits, images), table.path)
    elif isinstance(table, JsonLinesTable):
        _write_lines(target, _json_lines(table, edits, images), table.path)
    elif isinstance(table, ArrowTable):
        _write_arrow(table, target, edits, images)
    elif isinstance(table, RowsTable):
        _write_objects(table.path, target, edits, images)
    else:
        raise ConfigError(f"no copy can be made of {table.path}")


def image_cells(table: Table, rows: Sequence[int], columns: Sequence[str]) -> dict[int, Cells | pa.Table]:
    """What rows that lend their image lend: of Arrow and Parquet a table of one row, else values by column."""
    if not rows:
        return {}
    if isinstance(table, ArrowTable):
        wanted = sorted(set(rows))
        found: dict[int, Cells | pa.Table] = {}
        for first, block in _blocks(table, columns):
            for row in wanted[bisect_left(wanted, first) : bisect_left(wanted, first + len(block))]:
                found[row] = block.slice(row - first, 1)
        return found
    cells = table.columns(columns)
    return {row: {name: cells[name][row] for name in columns} for row in rows}


def _write_lines(target: Path, lines: Iterator[str], source: Location) -> None:
    with source.open("rb") as stored:
        has_mark = stored.read(3) == codecs.BOM_UTF8
    with written_bytes(target) as file:
        if has_mark:
            file.write(codecs.BOM_UTF8)
        for line in _ended(lines):
            file.write(line.encode("utf-8"))


def _ended(lines: Iterator[str]) -> Iterator[str]:
    """Lines of which every one but the last ends, also where the last one of the source has moved."""
    end = "\n"
    before = next(lines, None)
    for line in lines:
        if before is not None:
            if before.endswith(("\n", "\r")):
                end = "\r\n" if before.endswith("\r\n") else before[-1]
            yield before if before.endswith(("\n", "\r")) else before + end
        before = line
    if before is not None:
        yield before if before.endswith(("\n", "\r")) else before + end


def _delimited_lines(
    table: DelimitedTable, edits: Sequence[tuple[int, RowEdit]], images: Mapping[int, Cells | pa.Table]
) -> Iterator[str]:
    with opened_text(table.path) as file:
        header = next(records(file, table.delimiter, str(table.path)), None)
    if header is None:
        return
    yield header.text
    above, _, below = header.text.partition("\n")
    names = header.text if stated_delimiter(above) is None else below
    quoting: Literal[0, 1] = csv.QUOTE_ALL if names.lstrip().startswith('"') else csv.QUOTE_MINIMAL
    for (text, cells), edit in _edited(table.records(), edits):
        if edit.donor is None and edit.captions is None:
            yield text
            continue
        changed = dict(zip(table.names, cells, strict=True)) | _changes(edit, images)
        if any(isinstance(value, list) for value in changed.values()):
            raise ConfigError(f"{table.path}: a cell of a CSV file holds no list")
        written = io.StringIO()
        end = "\r\n" if text.endswith("\r\n") else "\n"
        csv.writer(written, delimiter=table.delimiter, quoting=quoting, lineterminator=end).writerow(
            ["" if value is None else value for value in changed.values()]
        )
        yield written.getvalue()


def _json_lines(
    table: JsonLinesTable, edits: Sequence[tuple[int, RowEdit]], images: Mapping[int, Cells | pa.Table]
) -> Iterator[str]:
    for (text, _), edit in _edited(table.objects(), edits):
        if edit.donor is None and edit.captions is None:
            yield text
        else:
            end = "\r\n" if text.endswith("\r\n") else "\n"
            item = parsed_json(text, str(table.path), keep_numbers=True)
            yield json_text(item | _changes(edit, images)) + end


def _edited(rows: Iterator[Any], edits: Sequence[tuple[int, RowEdit]]) -> Iterator[tuple[Any, RowEdit]]:
    """The rows that stay, each with what becomes of it; one may stay several times."""
    wanted = iter(edits)
    next_edit = next(wanted, None)
    for place, row in enumerate(rows):
        while next_edit is not None and next_edit[0] == place:
            yield row, next_edit[1]
            next_edit = next(wanted, None)
        if next_edit is None:
            return


def _changes(edit: RowEdit, images: Mapping[int, Cells | pa.Table]) -> dict[str, Any]:
    lent = {} if edit.donor is None else images[edit.donor]
    assert not isinstance(lent, pa.Table)
    return {**lent, **(edit.captions or {})}


def _write_objects(
    path: Location, target: Path, edits: Sequence[tuple[int, RowEdit]], images: Mapping[int, Cells | pa.Table]
) -> None:
    """A JSON list of objects, indented as the source is."""
    with opened_bytes(path) as file:
        text = file.read().decode("utf-8-sig")
    rows = parsed_json(text, str(path), keep_numbers=True)
    kept = [rows[place] | _changes(edit, images) for place, edit in edits]
    write_json_like(target, kept, text)


def write_json_like(target: Path, document: Any, text: str) -> None:
    """A JSON file that is laid out as another one: on one line, or indented.

    Args:
        target: The file to write.
        document: What it says.
        text: The other one.
    """
    lines = text.splitlines()
    second = next((line for line in lines[1:] if line.strip()), "")
    indent = len(second) - len(second.lstrip()) if len(lines) > 1 else None
    is_ascii = text.isascii() and "\\u" in text
    written = json_text(document, is_ascii=is_ascii, indent=indent or None)
    with written_bytes(target) as file:
        file.write((written + ("\n" if text.endswith("\n") else "")).encode("utf-8"))


def _write_arrow(
    table: ArrowTable, target: Path, edits: Sequence[tuple[int, RowEdit]], images: Mapping[int, Cells | pa.Table]
) -> None:
    blocks = _blocks(table, None)
    places = [place for place, _ in edits]
    schema = _schema(table.schema, edits)
    if table.is_parquet:
        with pq.ParquetWriter(target, schema, compression=_compression(table)) as writer:
            for first, block in blocks:
                writer.write_table(_kept(block, first, places, edits, images, schema))
        return
    is_file = table.path.name.lower().endswith((".arrow", ".feather")) and not _is_stream(table.path)
    make = pa.ipc.new_file if is_file else pa.ipc.new_stream
    with pa.OSFile(str(target), "wb") as stored, make(stored, schema) as writer:
        for first, block in blocks:
            writer.write_table(_kept(block, first, places, edits, images, schema), max_chunksize=_ROWS_AT_A_TIME)


def _schema(schema: pa.Schema, edits: Sequence[tuple[int, RowEdit]]) -> pa.Schema:
    """The schema of the copy: the source's, in which columns that get cells without a value may have such."""
    emptied = {name for _, edit in edits for name, cell in (edit.captions or {}).items() if cell is None}
    for name in emptied:
        place = schema.get_field_index(name)
        schema = schema.set(place, schema.field(place).with_nullable(True))
    return schema


def _compression(table: ArrowTable) -> str | dict[str, str]:
    """How the first row group of a Parquet table is compressed: all its columns alike, or each in its own way."""
    with _opened_parquet(table.files[0]) as parquet:
        metadata = parquet.metadata
        if not metadata.num_row_groups or not metadata.num_columns:
            return "snappy"  # pyarrow's own choice
        chunks = [metadata.row_group(0).column(place) for place in range(metadata.num_columns)]
    found = {
        chunk.path_in_schema: "NONE" if chunk.compression == "UNCOMPRESSED" else chunk.compression for chunk in chunks
    }
    return next(iter(found.values())) if len(set(found.values())) == 1 else found


def _kept(
    block: pa.Table,
    first: int,
    places: Sequence[int],
    edits: Sequence[tuple[int, RowEdit]],
    images: Mapping[int, Cells | pa.Table],
    schema: pa.Schema,
) -> pa.Table:
    """The rows of a block that stay, edited; `schema` says which columns may have cells without a value."""
    low, high = bisect_left(places, first), bisect_left(places, first + len(block))
    here = edits[low:high]
    kept = block.take(pa.array([place - first for place, _ in here], pa.int64()))
    lent = [images[edit.donor] for _, edit in here if edit.donor is not None]
    for name in lent[0].column_names if lent and isinstance(lent[0], pa.Table) else ():
        # Donors stand behind the block's own rows, so that one "take" serves every type of column.
        field = block.schema.field(name)
        given = [chunk.cast(field.type) for table in lent for chunk in table[name].chunks]
        both = pa.chunked_array([*block[name].chunks, *given], field.type)
        donor = iter(range(len(block), len(block) + len(lent)))
        rows = [place - first if edit.donor is None else next(donor) for place, edit in here]
        kept = kept.set_column(block.schema.get_field_index(name), field, both.take(pa.array(rows, pa.int64())))
    changed = {name for _, edit in here for name in edit.captions or {}}
    for name in sorted(changed):
        field = block.schema.field(name)
        cells = kept[name].to_pylist()
        for row, (_, edit) in enumerate(here):
            if edit.captions is not None and name in edit.captions:
                cells[row] = edit.captions[name]
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        kept = kept.set_column(block.schema.get_field_index(name), field, pa.array(cells, kind).cast(field.type))
    for place, field in enumerate(kept.schema):
        if schema.field(place).nullable and not field.nullable:
            kept = kept.set_column(place, field.with_nullable(True), kept[field.name])
    return kept


def _blocks(table: ArrowTable, columns: Sequence[str] | None) -> Iterator[tuple[int, pa.Table]]:
    """A table's row groups, or some rows at a time, each with the number of its first row."""
    first = 0
    for file in table.files:
        if table.is_parquet:
            with _opened_parquet(file) as parquet:
                for group in range(parquet.num_row_groups):
                    block = parquet.read_row_group(group, columns=None if columns is None else list(columns))
                    yield first, block if columns is None else block.select(list(columns))
                    first += len(block)
        else:
            whole = mapped(file) if columns is None else mapped(file).select(list(columns))
            for start in range(0, len(whole), _ROWS_AT_A_TIME):
                block = whole.slice(start, _ROWS_AT_A_TIME)
                yield first, block
                first += len(block)


def _opened_parquet(file: Location) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(file.read_bytes()) if isinstance(file, zipfile.Path) else on_disk(file))


def _is_stream(path: Location) -> bool:
    """Whether an Arrow file is a stream, which does not begin with the magic bytes of a file."""
    with path.open("rb") as file:
        return file.read(6) != b"ARROW1"
