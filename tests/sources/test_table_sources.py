import json
import os
import re
import subprocess
import sys
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sources import (
    HARD_CAPTIONS,
    check,
    everything,
    opened,
    picture,
    reasons,
    samples,
    skipped,
    write_files,
    write_rows,
)

from truepair.errors import DataError
from truepair.sources import blocks
from truepair.sources.protocol import Sample, Skipped

KINDS = ("csv", "tsv", "jsonl", "parquet")


def with_pictures(folder, count=8):
    return write_files(folder, {f"pics/{number}.png": picture(number) for number in range(count)})


def rows_of(count=8):
    return [{"image": f"pics/{i}.png", "caption": HARD_CAPTIONS[i % len(HARD_CAPTIONS)]} for i in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_captions_and_pictures_come_back_as_written(kind, tmp_path):
    with_pictures(tmp_path)
    found = check(opened(write_rows(tmp_path / f"t.{kind}", rows_of())))
    assert [sample.captions for sample in found] == [(caption,) for caption in HARD_CAPTIONS]
    assert [sample.picture for sample in found] == [picture(number) for number in range(8)]
    assert [sample.image_id for sample in found] == [f"pics/{number}.png" for number in range(8)]
    assert [sample.caption_ids for sample in found] == [(f"row-{row}",) for row in range(1, 9)]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_byte_order_marks_and_carriage_returns_are_no_part_of_names_and_captions(kind, tmp_path):
    with_pictures(tmp_path)
    table = write_rows(tmp_path / f"t.{kind}", rows_of(), encoding="utf-8-sig", line_end="\r\n")
    assert [sample.captions[0] for sample in check(opened(table))] == list(HARD_CAPTIONS)


def test_rows_with_the_same_path_are_one_picture_where_the_first_of_them_stands(tmp_path):
    with_pictures(tmp_path)
    rows = [{"image": f"pics/{i}.png", "caption": f"c{row}"} for row, i in enumerate([3, 1, 3, 0, 1], start=1)]
    found = check(opened(write_rows(tmp_path / "t.csv", rows)))
    assert [(s.image_id, s.captions, s.caption_ids, s.reference) for s in found] == [
        ("pics/3.png", ("c1", "c3"), ("row-1", "row-3"), "row-1"),
        ("pics/1.png", ("c2", "c5"), ("row-2", "row-5"), "row-2"),
        ("pics/0.png", ("c4",), ("row-4",), "row-4"),
    ]


def test_columns_of_ids_name_images_and_captions(tmp_path):
    with_pictures(tmp_path)
    rows = [
        {"id": "x", "who": "A", "image": "pics/0.png", "caption": "one"},
        {"id": "y", "who": "B", "image": "pics/0.png", "caption": "two"},
        {"id": "z", "who": "A", "image": "pics/0.png", "caption": "three"},
    ]
    source = opened(write_rows(tmp_path / "t.csv", rows), image_id_col="who", caption_id_col="id")
    assert [(s.image_id, s.caption_ids) for s in check(source)] == [("A", ("x", "z")), ("B", ("y",))]


def test_several_columns_and_lists_give_several_captions_with_ids_of_their_own(tmp_path):
    with_pictures(tmp_path)
    rows = [
        {"image": "pics/0.png", "en": "a dog", "all": ["a", "", "b"]},
        {"image": "pics/1.png", "en": None, "all": "alone"},
        {"image": "pics/2.png", "en": "c", "all": []},
    ]
    source = opened(write_rows(tmp_path / "t.jsonl", rows), caption_col=("en", "all"))
    assert [(s.captions, s.caption_ids) for s in check(source)] == [
        (("a dog", "a", "b"), ("row-1/en", "row-1/all/1", "row-1/all/3")),
        (("alone",), ("row-2/all",)),
        (("c",), ("row-3/en",)),
    ]
    assert reasons(source) == ["empty caption"] * 3
    one = opened(tmp_path / "t.jsonl", caption_col=("all",))
    assert [s.caption_ids for s in check(one)] == [("row-1/1", "row-1/3"), ("row-2",)]


def test_a_parquet_column_of_lists_gives_several_captions(tmp_path):
    with_pictures(tmp_path)
    write_rows(tmp_path / "t.parquet", [{"image": "pics/0.png", "caption": ["a", "b"]}])
    assert check(opened(tmp_path / "t.parquet"))[0].caption_ids == ("row-1/1", "row-1/2")


def test_what_cannot_be_read_is_skipped_with_a_reason_to_count_by_and_in_its_place(tmp_path):
    with_pictures(tmp_path, 2)
    write_files(tmp_path, {"pics/zero.png": b"", "pics/folder/x": b"x"})
    os.mkfifo(tmp_path / "pics" / "pipe.png")
    images = [
        "pics/0.png", "pics/none.png", "pics/folder", "pics/zero.png", "pics/pipe.png", None, 7, "../../secret.png",
        "pics/../../../etc/passwd", "http://example.invalid/a.png", "a" * 5000 + ".png", "nul\0.png", "pics/1.png",
    ]  # fmt: skip
    table = write_rows(tmp_path / "in" / "t.jsonl", [{"image": image, "caption": "c"} for image in images])
    source = opened(table, image_root=str(tmp_path))
    found = everything(source)
    assert [item.image_id if isinstance(item, Sample) else item.reason for item in found] == [
        "pics/0.png", "missing picture", "a folder, not a picture", "empty picture", "missing picture",
        "no picture named", "picture is not a path", "outside the image root", "outside the image root",
        "picture is an address, which is not fetched", "unreadable picture", "picture is not a path", "pics/1.png",
    ]  # fmt: skip
    assert found[1].where == f"{table}: row-2"
    assert str(tmp_path / "pics" / "none.png") in found[1].detail
    with pytest.raises(DataError, match="missing picture"):
        source.picture("row-2")


def test_a_missing_picture_takes_all_of_its_captions_with_it_once(tmp_path):
    with_pictures(tmp_path, 1)
    rows = [{"image": "gone.png", "caption": c} for c in "abc"] + [{"image": "pics/0.png", "caption": "d"}]
    source = opened(write_rows(tmp_path / "t.csv", rows))
    assert [s.captions for s in check(source)] == [("d",)]
    (skip,) = skipped(source)
    assert skip.reason == "missing picture"
    assert "3 captions" in skip.detail


def test_captions_that_are_blank_or_no_text_are_skipped_one_by_one(tmp_path):
    with_pictures(tmp_path, 4)
    captions = ["fine", " \t\n", None, 7, "half \ud800", {"a": 1}]
    rows = [{"image": "pics/0.png", "caption": caption} for caption in captions]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = opened(path)
    assert [s.captions for s in check(source)] == [("fine",)]
    assert reasons(source) == [
        "empty caption",
        "empty caption",
        "caption is not text",
        "caption is not UTF-8",
        "caption is not text",
    ]


def test_absolute_paths_lead_anywhere_unless_an_image_root_bounds_them(tmp_path):
    write_files(tmp_path, {"a/x.png": picture(0), "b/y.png": picture(1)})
    paths = [str(tmp_path / "a" / "x.png"), str(tmp_path / "b" / "y.png")]
    table = write_rows(tmp_path / "t" / "t.csv", [{"image": path, "caption": "c"} for path in paths])
    assert len(check(opened(table))) == 2
    bounded = opened(table, image_root=str(tmp_path / "a"))
    assert [s.image_id for s in check(bounded)] == paths[:1]
    assert reasons(bounded) == ["outside the image root"]


def test_a_root_whose_name_begins_another_folders_name_does_not_open_that_folder(tmp_path):
    write_files(tmp_path, {"pics/0.png": picture(0), "pics2/1.png": picture(1)})
    table = write_rows(tmp_path / "t.csv", [{"image": "../pics2/1.png", "caption": "c"}])
    assert reasons(opened(table, image_root=str(tmp_path / "pics"))) == ["outside the image root"]


def embedded(path, kind, count=150, **options):
    cells = [None if i == 0 else picture(i) for i in range(count)]
    if kind == "struct":
        cells = [cell and {"bytes": cell, "path": "image.jpg"} for cell in cells]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, kind), "caption": [f"c{i}" for i in range(count)]})
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), "struct"])
@pytest.mark.parametrize("row_group_size", [7, 1000])
def test_pictures_in_parquet_cells_are_found_whatever_the_row_groups_and_each_row_is_one(
    kind, row_group_size, tmp_path, monkeypatch
):
    monkeypatch.setattr(blocks, "PICTURES_A_BLOCK", 40)
    source = opened(embedded(tmp_path / "t.parquet", kind, row_group_size=row_group_size))
    found = check(source)
    assert source.shards() == ["00000", "00001", "00002", "00003"]
    assert [s.picture for s in found] == [picture(number) for number in range(1, 150)]
    assert [s.image_id for s in found] == [f"row-{row}" for row in range(2, 151)]
    assert reasons(source) == ["missing picture"]


def test_pictures_in_cells_with_the_same_id_are_one(tmp_path):
    cells = pa.array([picture(0), picture(0), picture(1)], pa.binary())
    pq.write_table(pa.table({"image": cells, "caption": ["a", "b", "c"], "id": [5, 5, 6]}), tmp_path / "t.parquet")
    found = check(opened(tmp_path / "t.parquet", image_id_col="id"))
    assert [(s.image_id, s.captions, s.picture) for s in found] == [
        ("5", ("a", "b"), picture(0)),
        ("6", ("c",), picture(1)),
    ]


def test_a_struct_without_bytes_names_no_file_outside_the_root(tmp_path):
    write_files(tmp_path, {"secret.png": picture(0), "lists/0.png": picture(1)})
    cells = pa.array(
        [{"bytes": None, "path": path} for path in ("../secret.png", "0.png")],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    pq.write_table(pa.table({"image": cells, "caption": ["a", "b"]}), tmp_path / "lists" / "t.parquet")
    source = opened(tmp_path / "lists" / "t.parquet")
    assert [sample.picture for sample in samples(source)] == [picture(1)]
    assert [item.reason for item in everything(source) if isinstance(item, Skipped)] == ["outside the image root"]
    assert len(samples(opened(tmp_path / "lists" / "t.parquet", allow_outside=True))) == 2


def test_a_struct_without_bytes_names_files(tmp_path):
    with_pictures(tmp_path, 2)
    cells = pa.array(
        [{"bytes": None, "path": f"pics/{i}.png"} for i in (0, 1, 0)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    pq.write_table(pa.table({"image": cells, "caption": ["a", "b", "c"]}), tmp_path / "t.parquet")
    assert [s.captions for s in check(opened(tmp_path / "t.parquet"))] == [("a", "c"), ("b",)]


def test_a_damaged_parquet_file_gives_what_comes_before_the_damage(tmp_path):
    path = embedded(tmp_path / "t.parquet", pa.binary(), row_group_size=50, compression="none", use_dictionary=False)
    whole = samples(opened(path))
    content = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(2).column(0)
    content[group.data_page_offset : group.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    source = opened(path)
    found = everything(source)
    assert [item for item in found if isinstance(item, Sample)] == whole[:99]
    assert found[-1].reason == "damaged table"
    with pytest.raises(DataError, match="cannot be read"):
        source.picture("row-150")


def test_shards_are_blocks_of_pictures_that_together_are_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "PICTURES_A_BLOCK", 3)
    with_pictures(tmp_path)
    source = opened(write_rows(tmp_path / "t.csv", rows_of() + rows_of()))
    assert source.shards() == ["00000", "00001", "00002"]
    assert [len(list(source.read(shard))) for shard in source.shards()] == [3, 3, 2]
    assert sum(len(s.captions) for s in check(source)) == 16
    with pytest.raises(DataError, match="there is no shard '00003'"):
        next(source.read("00003"))


def test_one_sample_is_read_without_the_pictures_behind_it(tmp_path):
    with_pictures(tmp_path, 2)
    source = opened(write_rows(tmp_path / "t.csv", rows_of(2)))
    reading = source.read("00000")
    next(reading)
    (tmp_path / "pics" / "1.png").unlink()
    assert next(reading).reason == "missing picture"


PEAK = """
import re, sys
from pathlib import Path
from truepair.sources.table_files import ArrowTable
from truepair.sources.table_pictures import PathRule, StoredPictures
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
pictures = StoredPictures(ArrowTable(Path(sys.argv[1])), "image", PathRule(Path(), Path(), False))
before = peak()
found = list(pictures.of_rows([3, 2000]))
print(peak() - before, found == [b"\\0\\3" * 2**15, b"\\7\\xd0" * 2**15])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_a_huge_row_group_is_not_read_at_once(tmp_path):
    cells = pa.array([i.to_bytes(2, "big") * 2**15 for i in range(2048)], pa.binary())  # 128 MB
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": cells}), path, compression="none", use_dictionary=False, write_batch_size=16)
    printed = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True).stdout
    kilobytes, are_right = printed.split()
    assert are_right == "True"
    assert int(kilobytes) < 40 * 1024


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_col": "imag"}, "no column 'imag'; it has 'image', 'caption', 'id'; did you mean --image-col image?"),
        ({"caption_col": ("caption", "Text")}, "no column 'Text'"),
        ({"image_id_col": "image_id"}, "no column 'image_id'"),
        ({"caption_id_col": "ID"}, "did you mean --caption-id-col id?"),
        (
            {"split_col": "part"},
            "no column 'part'; it has 'image', 'caption', 'id'; say which one it is with --split-col",
        ),
        ({"image_feature_col": "Image"}, "did you mean --image-feature-col image?"),
        ({"caption_feature_col": "vector"}, "say which one it is with --caption-feature-col"),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(columns, message, tmp_path):
    table = write_rows(tmp_path / "t.csv", [{"image": "a.png", "caption": "c", "id": "1"}])
    with pytest.raises(DataError, match=re.escape(message)):
        opened(table, **columns)


def test_ids_that_are_missing_twice_or_contradictory_are_refused(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("image,caption,id,who\n1.png,a,x,A\n2.png,b,x,A\n3.png,c,,B\n")
    with pytest.raises(DataError, match="row 3 has no value in column 'id'"):
        opened(table, caption_id_col="id")
    table.write_text("image,caption,id,who\n1.png,a,x,A\n2.png,b,x,A\n")
    with pytest.raises(DataError, match="two captions have the id 'x'"):
        opened(table, caption_id_col="id")
    with pytest.raises(DataError, match=r"rows 1 and 2 have the same image id 'A' but different pictures \(1.png and"):
        opened(table, image_id_col="who")


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "latin.csv").write_bytes("image,caption\n1.png,caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        opened(tmp_path / "latin.csv")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"bad.parquet cannot be read .*is it damaged\?"):
        opened(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"image": [1, 2], "caption": ["a", "b"]}), tmp_path / "numbers.parquet")
    with pytest.raises(DataError, match="column 'image' is of type int64"):
        opened(tmp_path / "numbers.parquet")
    with pytest.raises(DataError, match="does not exist; give a table"):
        opened(tmp_path / "none.csv")
    table = write_rows(tmp_path / "t.csv", [{"image": "a.png", "caption": "c"}])
    with pytest.raises(DataError, match="is not a folder"):
        opened(table, image_root=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("reference", ["row-0", "row-3", "row-", "2", "row-x", "", "row-²"])
def test_references_to_no_row_are_refused(reference, tmp_path):
    with_pictures(tmp_path, 2)
    source = opened(write_rows(tmp_path / "t.csv", rows_of(2)))
    with pytest.raises(DataError, match="has no row"):
        source.picture(reference)


# Columns that are found by their usual names


@pytest.mark.parametrize(
    ("image", "caption"),
    [
        ("Image", "Caption"), ("FILE NAME", "Title"), ("filepath", "title"), ("image_name", "comment"), ("jpg", "txt"),
        ("Picture", "TEXT"), ("path", "sentence"), ("img", "description"), (" image ", " caption "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_columns_are_found_by_their_usual_names_in_any_case_and_said(image, caption, kind, tmp_path):
    with_pictures(tmp_path, 2)
    rows = [{"number": i, image: f"pics/{i}.png", caption: f"c{i}"} for i in range(2)]
    source = opened(write_rows(tmp_path / f"t.{kind}", rows))
    assert [sample.captions for sample in check(source)] == [("c0",), ("c1",)]
    names = [name.strip() if kind == "csv" else name for name in (image, caption)]
    assert source.notes == [
        f"{what} are read from the column {name!r} ({flag} for another)"
        for what, name, flag, usual in zip(
            ("pictures", "captions"), names, ("--image-col", "--caption-col"), ("image", "caption"), strict=True
        )
        if name != usual
    ]


def test_the_most_usual_name_wins_and_a_named_column_is_not_noted(tmp_path):
    with_pictures(tmp_path, 2)
    rows = [{"url": "http://example.invalid/0", "text": "no", "caption": "c", "image": "pics/0.png", "path": "x"}]
    table = write_rows(tmp_path / "t.csv", rows)
    source = opened(table)
    assert [sample.captions for sample in check(source)] == [("c",)]
    assert source.notes == []
    named = opened(table, image_col="image", caption_col=("text",))
    assert [sample.captions for sample in check(named)] == [("no",)]
    assert named.notes == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.png", "words": "c"}, "no column 'caption'; it has 'image', 'words'; say which one holds the"),
        ({"photograph": "a.png", "caption": "c"}, "no column 'image'; it has 'photograph', 'caption'; say which one"),
    ],
)
def test_columns_without_usual_names_are_asked_for_with_the_flag(row, message, tmp_path):
    with pytest.raises(DataError, match=message):
        opened(write_rows(tmp_path / "t.csv", [row]))


def test_a_named_column_in_another_case_is_proposed(tmp_path):
    table = write_rows(tmp_path / "t.csv", [{"Image": "a.png", "Alt Text": "c"}])
    with pytest.raises(DataError, match=r"no column 'image'; .*did you mean --image-col Image\?"):
        opened(table, image_col="image")
    with pytest.raises(DataError, match=r'did you mean --caption-col "Alt Text"\?'):
        opened(table, caption_col=("alt_text",))


# Paths


@pytest.mark.parametrize("kind", KINDS)
def test_paths_of_windows_are_paths(kind, tmp_path):
    with_pictures(tmp_path, 2)
    rows = [{"image": name, "caption": name} for name in ("pics\\0.png", ".\\pics\\1.png")]
    source = opened(write_rows(tmp_path / f"t.{kind}", rows))
    assert [(s.image_id, s.picture) for s in check(source)] == [
        ("pics\\0.png", picture(0)),
        (".\\pics\\1.png", picture(1)),
    ]


ODD_NAMES = (
    "my dog #1.png", "a?b=c.png", "100%25.png", "\U0001f436.png", "[x]{1..3}*.png", "n" * 240 + ".png",
    "it's; $HOME.png", "a\\b.png", "com,ma.png", 'quo"te.png', " spaces .png", "~user.png", "-rf.png",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_odd_names_are_names(kind, tmp_path):
    write_files(tmp_path, {name: picture(number) for number, name in enumerate(ODD_NAMES)})
    rows = [{"image": name, "caption": f"c{number}"} for number, name in enumerate(ODD_NAMES)]
    found = check(opened(write_rows(tmp_path / f"t.{kind}", rows)))
    assert [(s.image_id, s.picture) for s in found] == [(name, picture(i)) for i, name in enumerate(ODD_NAMES)]


@pytest.mark.parametrize(("on_disk", "written"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_letters_with_accents_are_found_however_they_are_composed(on_disk, written, tmp_path):
    write_files(tmp_path, {unicodedata.normalize(on_disk, "Münch é.png"): picture(0)})
    rows = [{"image": unicodedata.normalize(written, "Münch é.png"), "caption": "c"}]
    assert [s.picture for s in check(opened(write_rows(tmp_path / "t.csv", rows)))] == [picture(0)]


def test_paths_upwards_need_an_image_root_above_them_or_leave_to_lie_outside(tmp_path):
    write_files(tmp_path, {"img/0.png": picture(0), "img/1.png": picture(1)})
    table = write_rows(tmp_path / "lists" / "p.csv", [{"image": f"../img/{i}.png", "caption": "c"} for i in range(2)])
    assert reasons(opened(table)) == ["outside the image root"] * 2
    for options in (
        {"image_root": str(tmp_path)}, {"image_root": str(tmp_path / "img")}, {"allow_outside": True},
        {"image_root": str(tmp_path / "lists"), "allow_outside": True},
    ):  # fmt: skip
        assert [s.picture for s in check(opened(table, **options))] == [picture(0), picture(1)]


def test_absolute_paths_outside_the_image_root_are_read_with_leave(tmp_path):
    write_files(tmp_path, {"a/x.png": picture(0), "b/y.png": picture(1)})
    paths = [str(tmp_path / "a" / "x.png"), str(tmp_path / "b" / "y.png")]
    table = write_rows(tmp_path / "t" / "t.csv", [{"image": path, "caption": "c"} for path in paths])
    assert len(check(opened(table, image_root=str(tmp_path / "a"), allow_outside=True))) == 2


# Equal pictures in cells


def test_equal_bytes_in_cells_without_ids_are_one_image_called_by_its_first_row(tmp_path):
    numbers = [0, 1, 0, 2, 1]
    cells = pa.array([picture(number) for number in numbers], pa.binary())
    pq.write_table(pa.table({"image": cells, "caption": list("abcde")}), tmp_path / "t.parquet", row_group_size=2)
    found = check(opened(tmp_path / "t.parquet"))
    assert [(s.image_id, s.captions, s.reference) for s in found] == [
        ("row-1", ("a", "c"), "row-1"),
        ("row-2", ("b", "e"), "row-2"),
        ("row-4", ("d",), "row-4"),
    ]


def test_rows_without_a_picture_are_images_of_their_own(tmp_path):
    cells = pa.array([None, picture(0), None], pa.binary())
    pq.write_table(pa.table({"image": cells, "caption": list("abc")}), tmp_path / "t.parquet")
    source = opened(tmp_path / "t.parquet")
    assert [s.image_id for s in check(source)] == ["row-2"]
    assert [skip.where for skip in skipped(source)] == [f"{source.path}: row-1", f"{source.path}: row-3"]


def test_splits_are_those_of_the_column_that_is_named(tmp_path):
    with_pictures(tmp_path, 3)
    rows = [{"image": f"pics/{i}.png", "caption": "c", "part": part} for i, part in enumerate(["train", "val", None])]
    source = opened(write_rows(tmp_path / "t.jsonl", rows), split_col="part")
    assert [s.split for s in check(source)] == ["train", "val", None]
