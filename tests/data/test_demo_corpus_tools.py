"""The reviewed lists of tools/demo_corpus agree with what is shipped."""

import csv
from pathlib import Path

import pyarrow.parquet as pq

from truepair.sources.demo import demo_table

TOOLS = Path(__file__).parents[2] / "tools" / "demo_corpus"


def lines(name: str) -> list[dict[str, str]]:
    with (TOOLS / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_no_blocked_picture_is_shipped_and_every_block_has_a_reason():
    shipped = set(pq.read_table(demo_table(), columns=["id"])["id"].to_pylist())
    blocked = lines("blocked.csv")
    assert not shipped & {line["id"] for line in blocked}
    assert all(line["reason"] and line["review"] in {"1", "2"} for line in blocked)


def test_every_correction_is_in_the_shipped_table():
    table = pq.read_table(demo_table(), columns=["id", "caption", "name", "keywords", "description"]).to_pylist()
    row_of = {row["id"]: row for row in table}
    for correction in lines("corrections.csv"):
        row = row_of[correction["id"]]
        assert correction["before"] not in row[correction["part"]]
        if correction["part"] != "keywords":
            assert row[correction["part"]] == correction["after"]
        assert row["caption"].startswith(row["name"])
