import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from truepair.cleaning.decisions import Decision
from truepair.cleaning.manifest import write_pairs, write_table
from truepair.cleaning.table_copy import copy_rows
from truepair.config import DataConfig, TableColumns
from truepair.data.tables import SkippedRow, load_table
from truepair.errors import DataError

ROWS = [
    {"id": "a", "image": "1.png", "caption": 'a dog, "big"\nand wet', "extra": "x"},
    {"id": "b", "image": "2.png", "caption": "a cat", "extra": ""},
    {"id": "c", "image": "1.png", "caption": "the dog again", "extra": "ü"},
    {"id": "d", "image": "3.png", "caption": "a tree", "extra": "z"},
    {"id": "e", "image": "4.png", "caption": "a house", "extra": "z"},
]
COLUMNS = TableColumns(caption_id="id")
DROP_B = {"b": ("drop", "2.png")}
RE_PAIR_D = {"d": ("re-pair", "1.png")}


def decisions(changes: dict[str, tuple[str, str]]) -> list[Decision]:
    return [
        Decision(
            row["id"],
            row["caption"],
            *changes.get(row["id"], ("keep", row["image"])),
            "why",
            0.9 if row["id"] in changes else 0.1,
            row["image"] if changes.get(row["id"], ("keep",))[0] == "re-pair" else None,
        )
        for row in ROWS
    ]


def written(kind: str, path: Path, rows: list[dict] = ROWS) -> Path:
    path = path.with_suffix(f".{kind}")
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == "parquet":
        table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
        table = table.replace_schema_metadata({"made by": "hand"})
        pq.write_table(table, path, row_group_size=2)
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def rows_of(path: Path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def data_of(table: Path, **more: object) -> DataConfig:
    np.save(table.parent / "images.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
    return DataConfig(path=str(table), columns=COLUMNS, image_features=str(table.parent / "images.npy"), **more)


def repaired(table: Path, out: Path, changes: dict[str, tuple[str, str]]) -> Path:
    data = data_of(table)
    pairs = load_table(table, COLUMNS, image_features=data.image_features)
    out.mkdir(exist_ok=True)
    return write_table(data, pairs, decisions(changes), [], out)[0]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_cleaned_table_has_the_same_format_columns_and_order_without_what_was_dropped(kind, tmp_path):
    table = written(kind, tmp_path / "in")
    before = table.read_bytes()
    kept = repaired(table, tmp_path / "out", DROP_B)
    assert kept.suffix == table.suffix
    assert rows_of(kept) == [row for row in ROWS if row["id"] != "b"]
    assert table.read_bytes() == before
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_re_paired_row_takes_its_image_from_the_first_row_that_has_it_and_keeps_the_rest(kind, tmp_path):
    kept = repaired(written(kind, tmp_path / "in"), tmp_path / "out", RE_PAIR_D)
    assert rows_of(kept) == [row | {"image": "1.png"} if row["id"] == "d" else row for row in ROWS]
    with (tmp_path / "out" / "re_paired.csv").open(newline="") as file:
        (change,) = csv.DictReader(file)
    assert (change["caption_id"], change["former_image_id"], change["image_id"]) == ("d", "3.png", "1.png")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_applying_twice_equals_applying_once(kind, tmp_path):
    table = written(kind, tmp_path / "in")
    once = repaired(table, tmp_path / "out", DROP_B)
    first = once.read_bytes()
    assert repaired(table, tmp_path / "out", DROP_B).read_bytes() == first  # again into the same folder

    again = table.with_name(f"copy{table.suffix}")
    again.write_bytes(first)  # and on what is clean already
    data = DataConfig(path=str(again), columns=TableColumns(image_id="image", caption_id="id", image=None))
    features = np.zeros((3, 2), dtype=np.float32)
    np.save(tmp_path / "three.npy", features)
    pairs = load_table(again, data.columns, image_features=tmp_path / "three.npy")
    (tmp_path / "twice").mkdir()
    assert write_table(data, pairs, decisions(DROP_B), [], tmp_path / "twice")[0].read_bytes() == first


def test_untouched_jsonl_lines_stay_as_they_were_byte_for_byte(tmp_path):
    source, target = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lines = ['{"caption":  "spaced",   "n": 1.0}', '{"n":1e3,"caption":"\\u00fc"}', '{"caption": "third"}']
    source.write_text("\n".join(lines) + "\n")
    copy_rows(source, target, [1, 2], {}, [])
    assert target.read_text() == lines[1] + "\n" + lines[2] + "\n"


def test_csv_keeps_its_byte_order_mark_and_line_ends(tmp_path):
    source, target = tmp_path / "a.csv", tmp_path / "b.csv"
    source.write_bytes(b'\xef\xbb\xbfimage,caption\r\n1.png,"a, b"\r\n2.png,c\r\n')
    copy_rows(source, target, [0], {}, [])
    assert target.read_bytes() == b'\xef\xbb\xbfimage,caption\r\n1.png,"a, b"\r\n'


def test_parquet_keeps_schema_metadata_and_embedded_pictures(tmp_path):
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    source, target = tmp_path / "a.parquet", tmp_path / "b.parquet"
    cells = [{"bytes": bytes([n]) * 9, "path": None} for n in range(5)]
    vectors = pa.array([[n, n + 1] for n in range(5)], pa.list_(pa.float16(), 2))
    table = pa.table({"image": pa.array(cells, picture), "n": range(5), "v": vectors})
    pq.write_table(table.replace_schema_metadata({"made by": "hand"}), source, row_group_size=2)
    copy_rows(source, target, [0, 3, 4], {3: 1}, ["image", "v"])
    copied = pq.read_table(target)
    assert copied.schema.equals(pq.read_schema(source), check_metadata=True)
    assert copied["n"].to_pylist() == [0, 3, 4]
    assert copied["image"].to_pylist() == [cells[0], cells[1], cells[4]]
    assert copied["v"].to_pylist() == [[0, 1], [1, 2], [4, 5]]


def test_feature_files_beside_the_table_follow_its_rows(tmp_path):
    table = written("csv", tmp_path / "in")
    np.save(tmp_path / "captions.npy", np.arange(10, dtype=np.float16).reshape(5, 2))
    data = data_of(table, caption_features=str(tmp_path / "captions.npy"))
    pairs = load_table(table, COLUMNS, image_features=data.image_features, caption_features=data.caption_features)
    (tmp_path / "out").mkdir()
    changes = {"a": ("drop", "1.png"), "e": ("re-pair", "2.png")}
    kept = write_table(data, pairs, decisions(changes), [], tmp_path / "out")[0]
    cleaned = load_table(
        kept,
        COLUMNS,
        image_features=tmp_path / "out" / "kept_image_features.npy",
        caption_features=tmp_path / "out" / "kept_caption_features.npy",
    )
    seen = {name: cleaned.images.take(torch.tensor([i])).values[0].tolist() for i, name in enumerate(cleaned.image_ids)}
    assert seen == {"1.png": [0, 1], "2.png": [2, 3], "3.png": [4, 5]}
    assert cleaned.caption_inputs.take(torch.arange(4)).values.tolist() == [[2, 3], [4, 5], [6, 7], [8, 9]]


def test_rows_with_unreadable_pictures_are_dropped_and_listed_and_unaudited_rows_are_kept(tmp_path):
    table = written("csv", tmp_path / "in")
    data = DataConfig(path=str(table), columns=COLUMNS)
    pairs = load_table(table, COLUMNS, image_features=data_of(table).image_features)
    (tmp_path / "out").mkdir()
    some = [decision for decision in decisions(DROP_B) if decision.caption_id in "ab"]
    kept = write_table(data, pairs, some, [SkippedRow(4, "3.png", "broken")], tmp_path / "out")[0]
    assert [row["id"] for row in rows_of(kept)] == ["a", "c", "e"]
    with (tmp_path / "out" / "dropped.csv").open(newline="") as file:
        reasons = {row["caption_id"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons == {"b": "why", "row-4": "the picture is unreadable: broken"}


def test_writing_over_the_input_is_refused_even_through_a_link(tmp_path):
    table = written("csv", tmp_path / "kept")
    before = table.read_bytes()
    with pytest.raises(DataError, match="is the input itself"):
        repaired(table, tmp_path, DROP_B)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="is the input itself"):
        repaired(table, tmp_path / "link", DROP_B)
    assert table.read_bytes() == before


def test_a_table_that_was_not_audited_is_refused(tmp_path):
    other = [ROWS[0], ROWS[1] | {"caption": "something else"}, *ROWS[2:]]
    with pytest.raises(DataError, match=r"row 2 \(b\) says 'something else', but the audit was of 'a cat'"):
        repaired(written("csv", tmp_path / "in", other), tmp_path / "out", DROP_B)


def test_pairs_from_no_table_become_a_csv(tmp_path, world):
    fates = [
        Decision(name, caption, "drop" if name == "caption 3" else "keep", "an image", "why", 0.5)
        for name, caption in zip(world.caption_ids, world.captions, strict=True)
    ]
    kept = rows_of(write_pairs(world, fates, tmp_path)[0])
    assert len(kept) == 39
    assert kept[3] == {"caption_id": "caption 4", "image_id": "an image", "caption": world.captions[4]}
