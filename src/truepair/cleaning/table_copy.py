"""Some rows of a CSV, TSV, JSONL or Parquet file into another of the same kind, with all their columns."""

from __future__ import annotations

import codecs
import csv
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def copy_rows(
    source: Path, target: Path, rows: Sequence[int], donors: Mapping[int, int], columns: Sequence[str]
) -> None:
    """Write the chosen rows, in the order of the source; the target appears at once when it is complete.

    Values, column order, delimiter, line ends and byte order mark of text files stay; Parquet files keep their schema
    and its metadata, and are copied one row group at a time.

    Args:
        source: The table; one that `data.table_files.open_table` accepts.
        target: A file with the same extension.
        rows: Which rows, counted from 0 without the header, increasing.
        donors: Row → the row that it takes `columns` from.
        columns: Which columns those are.
    """
    temporary = target.with_name(target.name + ".part")
    kinds = {".csv": _copy_delimited, ".tsv": _copy_delimited, ".jsonl": _copy_json_lines, ".parquet": _copy_parquet}
    kinds[source.suffix.lower()](source, temporary, rows, donors, columns)
    temporary.replace(target)


def _copy_delimited(
    source: Path, target: Path, rows: Sequence[int], donors: Mapping[int, int], columns: Sequence[str]
) -> None:
    with source.open("rb") as file:
        first_line = file.readline()
    encoding = "utf-8-sig" if first_line.startswith(codecs.BOM_UTF8) else "utf-8"
    delimiter = "\t" if source.suffix.lower() == ".tsv" else ","
    with source.open(encoding="utf-8-sig", newline="") as file:
        header, *records = [fields for fields in csv.reader(file, delimiter=delimiter, strict=True) if fields]
    places = [header.index(name) for name in columns]
    with target.open("w", encoding=encoding, newline="") as file:
        line_end = "\r\n" if first_line.endswith(b"\r\n") else "\n"
        writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end)
        writer.writerow(header)
        for row in rows:
            fields = list(records[row])
            for place in places if row in donors else ():
                fields[place] = records[donors[row]][place]
            writer.writerow(fields)


def _copy_json_lines(
    source: Path, target: Path, rows: Sequence[int], donors: Mapping[int, int], columns: Sequence[str]
) -> None:
    with source.open(encoding="utf-8-sig") as file:
        lines = [line.rstrip("\r\n") for line in file if line.strip()]
    with target.open("w", encoding="utf-8") as file:
        for row in rows:
            line = lines[row]
            if row in donors:
                donor = json.loads(lines[donors[row]])
                changed = json.loads(line) | {name: donor.get(name) for name in columns}
                line = json.dumps(changed, ensure_ascii=False)
            file.write(line + "\n")


def _copy_parquet(
    source: Path, target: Path, rows: Sequence[int], donors: Mapping[int, int], columns: Sequence[str]
) -> None:
    wanted = sorted(set(donors.values()))
    place_of_donor = {row: place for place, row in enumerate(wanted)}
    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, file.schema_arrow) as writer:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        given = _rows_of(file, sizes, wanted, columns)
        first = 0
        for group, size in enumerate(sizes):
            here = rows[bisect_left(rows, first) : bisect_left(rows, first + size)]
            table = file.read_row_group(group)
            kept = table.take(pa.array([row - first for row in here], pa.int64()))
            for name in columns if donors else ():
                # Donors stand behind the group's own rows, so that one "take" serves every type of column.
                field = table.schema.field(name)
                both = pa.chunked_array([*table[name].chunks, *given[name].chunks], field.type)
                sources = [size + place_of_donor[donors[row]] if row in donors else row - first for row in here]
                kept = kept.set_column(
                    table.schema.get_field_index(name), field, both.take(pa.array(sources, pa.int64()))
                )
            writer.write_table(kept)
            first += size


def _rows_of(file: pq.ParquetFile, sizes: Sequence[int], rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Some columns of some rows, in order."""
    schema = file.schema_arrow
    parts, first = [pa.schema([schema.field(name) for name in columns]).empty_table()], 0
    for group, size in enumerate(sizes):
        here = [row - first for row in rows[bisect_left(rows, first) : bisect_left(rows, first + size)]]
        if here:
            parts.append(file.read_row_group(group, columns=list(columns)).select(columns).take(pa.array(here)))
        first += size
    return pa.concat_tables(part.replace_schema_metadata(None) for part in parts)
