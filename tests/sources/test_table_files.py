import gzip
import json
import pickle
import random

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from made_sources import check, opened, picture, reasons, samples, skipped, write_files, write_rows

from truepair.cleaning.row_edits import RowEdit
from truepair.cleaning.table_writers import write_rows as write_rows_of_copy
from truepair.errors import DataError
from truepair.sources import shard_cache, table_files
from truepair.sources.shard_cache import ShardCache
from truepair.sources.table_files import ArrowTable, DelimitedTable, open_table

CAPTIONS = ["a dog, running; fast", "two | three", "a\ttab", 'the "sea"\nand sand']


def write_table(folder, name, text, encoding="utf-8"):
    """A table, and the pictures 0.png … 3.png beside it."""
    write_files(folder, {f"{number}.png": picture(number) for number in range(4)} | {name: text.encode(encoding)})
    return folder / name


def captions_of(source):
    return [sample.captions[0] for sample in check(source)]


# Delimiters


@pytest.mark.parametrize(
    ("name", "delimiter", "called"),
    [
        ("t.csv", ",", None),
        ("t.csv", ";", "a semicolon"),
        ("t.csv", "\t", "a tab"),
        ("t.csv", "|", "a vertical bar"),
        ("t.tsv", "\t", None),
        ("t.tsv", ",", "a comma"),
    ],
)
def test_what_stands_between_cells_is_found_and_said_if_it_is_unusual(name, delimiter, called, tmp_path):
    write_files(tmp_path, {f"{number}.png": picture(number) for number in range(4)})
    rows = [{"filepath": f"{number}.png", "title": caption} for number, caption in enumerate(CAPTIONS)]
    table = write_rows(tmp_path / name, rows, delimiter=delimiter)
    for options in ({}, {"image_col": "filepath", "caption_col": ("title",)}, {"delimiter": delimiter}):
        source = opened(table, **options)
        assert captions_of(source) == CAPTIONS
        told = [note for note in source.notes if "between its cells" in note]
        assert told == ([] if called is None else [f"{table} has {called} between its cells (--delimiter for another)"])


def test_a_delimiter_that_is_given_is_used_whatever_the_header_looks_like(tmp_path):
    text = "image,caption;note|text\n0.png,a;b|c\n1.png,d;e|f\n"
    assert captions_of(opened(write_table(tmp_path, "t.csv", text), caption_col=("caption;note|text",))) == [
        "a;b|c",
        "d;e|f",
    ]
    text = "image~caption\n0.png~a, b\n"
    assert captions_of(opened(write_table(tmp_path, "u.csv", text), delimiter="~")) == ["a, b"]
    text = "image\tcaption, long\n0.png\ta, b\n"
    source = opened(write_table(tmp_path, "v.csv", text), delimiter="\\t", caption_col=("caption, long",))
    assert captions_of(source) == ["a, b"]
    with pytest.raises(DataError, match="no column 'image'"):
        opened(write_table(tmp_path, "w.csv", "image,caption\n0.png,a\n"), delimiter=";")


def test_the_columns_that_are_asked_for_decide_between_delimiters(tmp_path):
    table = write_table(tmp_path, "t.csv", "a,b;c,image;caption\n1,2;3,0.png;dog\n")
    with pytest.raises(DataError, match=r"no column 'image'; it has 'a', 'b;c', 'image;caption'"):
        opened(table)
    assert DelimitedTable(table, ["caption"]).delimiter == ";"


def test_a_space_behind_a_bar_is_not_part_of_names_and_captions_and_an_odd_row_is_a_fault_of_its_own(tmp_path):
    """results.csv of Flickr30K on Kaggle, one row of which lacks a bar."""
    text = "image_name| comment_number| comment\n" + "".join(
        f"{image}.png| {number}| A dog , {image} {number} .\n" for image in range(2) for number in range(3)
    )
    table = write_table(tmp_path, "results.csv", text + "2.png| 4   A man on a bike .\n")
    for options in ({}, {"image_col": "image_name", "caption_col": ("comment",)}):
        source = opened(table, **options)
        assert [sample.captions for sample in check(source)] == [
            tuple(f"A dog , {image} {number} ." for number in range(3)) for image in range(2)
        ]
        (fault,) = skipped(source)
        assert (fault.where, fault.reason) == (f"{table}: row-7", "damaged row")
        assert fault.detail == "2 cells where the header names 3 (image_name, comment_number, comment)"
        assert fault.caption_ids == ("row-7",)
    assert "captions are read from the column 'comment' (--caption-col for another)" in opened(table).notes


def test_rows_of_another_width_are_faults_up_to_half_of_the_table(tmp_path):
    good, bad = "0.png,fine\n", "1.png,a cat, asleep\n"
    for count in (1, 2):
        source = opened(write_table(tmp_path, f"{count}.csv", "image,caption\n" + 2 * good + count * bad))
        assert [sample.captions for sample in check(source)] == [("fine", "fine")]
        assert reasons(source) == ["damaged row"] * count
    message = (
        r"3 of 5 rows have more or fewer cells than the header \(first: row 3, 3 cells where the header names 2 "
        r"\(image, caption\)\); captions that contain the delimiter or a line break need quotes, and --delimiter names"
    )
    with pytest.raises(DataError, match=message):
        opened(write_table(tmp_path, "3.csv", "image,caption\n" + 2 * good + 3 * bad))


@pytest.mark.parametrize("line", ["sep=;\n", "SEP=;\r\n", '"sep=;"\r\n', "sep=; \n"])
def test_a_first_line_that_states_the_delimiter_is_no_header_and_stays_in_copies(line, tmp_path):
    rows = ["0.png;a, b\n", '1.png;"c;\nd"\n', "2.png;e\n"]
    table = write_table(tmp_path, "t.csv", line + "image;caption\n" + "".join(rows))
    source = opened(table)
    assert captions_of(source) == ["a, b", "c;\nd", "e"]
    assert source.notes == [f"{table} has a semicolon between its cells (--delimiter for another)"]
    write_rows_of_copy(source.parts[0].table, tmp_path / "copy.csv", [(0, RowEdit(0)), (1, RowEdit(1))], {})
    assert (tmp_path / "copy.csv").read_bytes().decode() == line + "image;caption\n" + "".join(rows[:2])


def test_rows_that_change_below_a_stated_delimiter_have_the_quotes_of_the_header(tmp_path):
    table = write_table(tmp_path, "t.csv", 'sep=;\n"image";"caption"\n"0.png";"a"\n"1.png";"b"\n')
    source = opened(table)
    edits = [(0, RowEdit(0, None, {"caption": "c"})), (1, RowEdit(1))]
    write_rows_of_copy(source.parts[0].table, tmp_path / "copy.csv", edits, {})
    assert (tmp_path / "copy.csv").read_text() == 'sep=;\n"image";"caption"\n"0.png";"c"\n"1.png";"b"\n'


def test_a_delimiter_that_is_stated_counts_before_what_looks_right_and_behind_one_that_is_given(tmp_path):
    stated, text = {"t": "~", "u": "\t"}, "image{0}caption,x\n0.png{0}a,b\n"
    for name, delimiter in stated.items():
        table = write_table(tmp_path, f"{name}.csv", f"sep={delimiter}\n" + text.format(delimiter))
        assert captions_of(opened(table, caption_col=("caption,x",))) == ["a,b"]
    table = write_table(tmp_path, "v.csv", "sep=\\t\n" + text.format("\t"))
    assert captions_of(opened(table, caption_col=("caption,x",))) == ["a,b"]
    table = write_table(tmp_path, "w.csv", "sep=;\nimage|caption\n0.png|a;b\n")
    assert captions_of(opened(table, delimiter="|")) == ["a;b"]


def test_lines_below_a_stated_delimiter_are_counted_as_they_stand_in_the_file(tmp_path):
    with pytest.raises(DataError, match=r"row 1 \(ending in line 3\) cannot be parsed"):
        opened(write_table(tmp_path, "t.csv", 'sep=;\nimage;caption\n0.png;"a" b\n'))
    with pytest.raises(DataError, match="has no rows"):
        opened(write_table(tmp_path, "u.csv", "sep=;\n"))


@pytest.mark.parametrize(
    "text", ["image , caption\n0.png , a\n 1.png,b\n", "image | caption\n0.png | a\n1.png\t | b\n"]
)
def test_blanks_around_cells_are_no_part_of_paths(text, tmp_path):
    source = opened(write_table(tmp_path, "t.csv", text))
    assert [sample.picture for sample in check(source)] == [picture(0), picture(1)]
    assert not skipped(source)


def test_a_path_with_blanks_around_it_is_taken_as_written_where_that_is_there(tmp_path):
    table = write_table(tmp_path, "t.csv", "image,caption\n 0.png,a\n  ,b\n")
    write_files(tmp_path, {" 0.png": picture(7)})
    source = opened(table)
    assert [sample.picture for sample in check(source)] == [picture(7)]
    assert reasons(source) == ["missing picture"]


def test_a_caption_that_goes_on_behind_the_lines_that_are_looked_at_hides_no_delimiter(tmp_path):
    for start in range(1, 21):
        rows = [{"image": f"{row % 4}.png", "caption": f"c{row}"} for row in range(start)]
        rows.append({"image": "0.png", "caption": "line; one\n" * 30})
        table = write_rows(tmp_path / "t.csv", rows)
        assert DelimitedTable(table).names == ["image", "caption"]


# Cells


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_cells_are_as_written_whatever_ends_a_line(end, tmp_path):
    rows = [{"image": f"{number}.png", "caption": text} for number, text in enumerate(CAPTIONS)]
    write_table(tmp_path, "unused.csv", "")
    assert captions_of(opened(write_rows(tmp_path / "t.csv", rows, line_end=end))) == CAPTIONS


@pytest.mark.parametrize("missing", ["", "  ", "nan", "NaN", "null", "NULL", "None", "N/A", "<NA>"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_captions_that_are_empty_or_say_that_they_are_missing_are_left_out_and_told(kind, missing, tmp_path):
    write_table(tmp_path, "unused.csv", "")
    captions = [missing, "Two children play", "null pointers and N/A signs", missing]
    rows = [{"image": f"{number}.png", "caption": caption} for number, caption in enumerate(captions)]
    source = opened(write_rows(tmp_path / f"t.{kind}", rows))
    assert captions_of(source) == captions[1:3]
    assert reasons(source) == ["caption that says it is missing" if missing.strip() else "empty caption"] * 2
    assert [skip.where for skip in skipped(source)] == [f"{source.path}: row-1", f"{source.path}: row-4"]


def test_one_empty_caption_among_thousands_of_rows_is_one_row_less(tmp_path):
    write_table(tmp_path, "unused.csv", "")
    text = "image,caption\n" + "".join(f"{row % 4}.png,{'' if row == 1234 else f'dog {row}'}\n" for row in range(3000))
    source = opened(write_table(tmp_path, "t.csv", text))
    assert sum(len(sample.captions) for sample in samples(source)) == 2999
    assert reasons(source) == ["empty caption"]


def test_columns_without_a_name_are_nothing_to_read(tmp_path):
    """As spreadsheets and pandas write them."""
    for header, row in (
        ("image,caption,,", "0.png,c,,"),
        (",image,caption", "0,0.png,c"),
        ("image,caption,", "0.png,c,"),
    ):
        assert captions_of(opened(write_table(tmp_path, "t.csv", f"{header}\n{row}\n"))) == ["c"]


def test_a_caption_longer_than_the_csv_modules_own_limit_is_read(tmp_path):
    long = "dog, " * 40_000
    assert captions_of(opened(write_table(tmp_path, "t.csv", f'image,caption\n0.png,"{long}"\n'))) == [long]


def test_missing_numbers_and_null_in_cells_of_other_kinds_are_empty(tmp_path):
    write_table(tmp_path, "unused.csv", "")
    (tmp_path / "t.jsonl").write_text(
        '{"image": "0.png", "caption": NaN}\n{"image": "1.png"}\n{"image": "2.png", "caption": "c"}\n'
    )
    assert reasons(opened(tmp_path / "t.jsonl")) == ["empty caption", "empty caption"]
    captions = pa.array([float("nan"), None, 3.5])
    pq.write_table(pa.table({"image": [f"{i}.png" for i in range(3)], "caption": captions}), tmp_path / "t.parquet")
    assert reasons(opened(tmp_path / "t.parquet")) == ["empty caption", "empty caption", "caption is not text"]


# Compression, encodings, JSON


def rows_of(count=4):
    return [{"image": f"{number}.png", "caption": f"caption {number}, ünï"} for number in range(count)]


def compressed(path, content):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(content)
    return path


@pytest.mark.parametrize("ending", [".gz", ".zst", ".GZ"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
def test_compressed_text_is_read_as_it_is_plain(kind, ending, tmp_path):
    write_table(tmp_path, "unused.csv", "")
    if kind == "json":
        (tmp_path / "t.json").write_text(json.dumps(rows_of()))
    else:
        write_rows(tmp_path / f"t.{kind}", rows_of())
    plain = opened(tmp_path / f"t.{kind}")
    path = tmp_path / f"t.{kind}{ending}"
    content = (tmp_path / f"t.{kind}").read_bytes()
    path.write_bytes(gzip.compress(content)) if ending == ".GZ" else compressed(path, content)
    assert captions_of(opened(path)) == captions_of(plain) == [row["caption"] for row in rows_of()]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_text_that_is_cut_or_no_such_thing_is_refused(ending, tmp_path):
    write_table(tmp_path, "unused.csv", "")
    tables = {"csv": b"image,caption\n" + b"0.png,c\n" * 99_999, "json": b"[" + b'{"a": 1},' * 99_999}
    for kind, text in tables.items():
        whole = compressed(tmp_path / f"w.{kind}{ending}", text).read_bytes()
        (tmp_path / f"cut.{kind}{ending}").write_bytes(whole[: len(whole) // 2])
        (tmp_path / f"no.{kind}{ending}").write_bytes(text[:20])
        for name in ("cut", "no"):
            with pytest.raises(DataError, match=rf"{name}\.{kind}\{ending} cannot be read"):
                opened(tmp_path / f"{name}.{kind}{ending}")


def test_a_json_list_of_objects_is_a_table_and_anything_else_is_named(tmp_path):
    rows = [{"image": "0.png", "caption": ["a", "b"]}, {"caption": "c", "image": "1.png", "more": {"x": [1]}}]
    source = opened(write_table(tmp_path, "t.json", json.dumps(rows)))
    assert [sample.caption_ids for sample in check(source)] == [("row-1/1", "row-1/2"), ("row-2",)]
    for text, message in {
        '{"data": [], "info": 1}': "is an object with 'data', 'info'; a JSON file is read as a list of objects, as",
        '"text"': "is no list",
        "[]": "has no rows",
        '[{"image": "0.png"}, 3]': "item 2 is not a JSON object but 3",
        '[{"image": "0.png"}]': "has no column 'caption'; it has 'image'; say which one holds the captions with --capt",
        "[": "is not JSON",
        '{"image":\n': "is not JSON",
        '{"image": "0.png", "caption": "a"}\n{"image": "1.png"}\n': "has a JSON object a line: rename it to .jsonl",
    }.items():
        with pytest.raises(DataError, match=message):
            opened(write_table(tmp_path, "t.json", text))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_another_encoding_than_utf8_is_refused_with_what_stands_there(name, encoding, tmp_path):
    text = "image,caption\n0.png,café\n" if name == "t.csv" else '{"image": "0.png", "caption": "café"}\n'
    with pytest.raises(DataError, match=r"is not UTF-8 \(at b'.*save it as UTF-8"):
        opened(write_table(tmp_path, name, text, encoding))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": ' + "[" * 50_000, "line 1 is nested too deeply|line 1 is not JSON"),
        ('{"image": ' + "[" * 500 + "]" * 500 + ', "caption": "c"}', "line 1 is nested too deeply"),
        ('{"image": "0.png", "caption": ' + "9" * 5_000 + "}", "line 1 has a number of more than 4,300 digits"),
        ("{not json}", "line 1 is not JSON"),
        ("[1, 2]", r"line 1 is not a JSON object but \[1, 2\]"),
        ("", "has no rows"),
    ],
)
def test_lines_that_are_no_json_objects_are_refused_in_one_sentence(line, message, tmp_path):
    with pytest.raises(DataError, match=message) as refused:
        opened(write_table(tmp_path, "t.jsonl", line + "\n"))
    assert len(str(refused.value)) < 600


def test_a_number_of_many_digits_that_python_still_reads_is_no_caption(tmp_path):
    source = opened(write_table(tmp_path, "t.jsonl", '{"image": "0.png", "caption": ' + "9" * 4_000 + "}\n"))
    (skip,) = skipped(source)
    assert skip.reason == "caption is not text"
    assert len(skip.detail) < 200


def test_a_path_that_is_too_long_for_any_disk_is_a_picture_that_is_not_there(tmp_path):
    for kind in ("csv", "jsonl"):
        write_table(tmp_path, "unused.csv", "")
        rows = [{"image": name, "caption": "c"} for name in ("a" * 100_000, "a/" * 50_000, "0.png")]
        source = opened(write_rows(tmp_path / f"t.{kind}", rows))
        assert [sample.image_id for sample in check(source)] == ["0.png"]
        assert set(reasons(source)) <= {"missing picture", "unreadable picture"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,caption\n", "has no rows"),
        ("", "has no rows"),
        ('image,caption\n0.png,"a cat\n', r"row 1 \(ending in line 2\) cannot be parsed: unexpected end of data"),
        ('image,caption\n0.png,"a cat" asleep\n', r"row 1 \(ending in line 2\) cannot be parsed"),
        ("image,caption,caption\n0.png,a,b\n", "the header names 'caption' more than once"),
    ],
)
def test_a_faulty_csv_is_refused(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        opened(write_table(tmp_path, "t.csv", text))


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.arrow", "t.json"])
def test_no_damage_makes_opening_fail_with_another_error(name, tmp_path):
    write_table(tmp_path, "unused.csv", "")
    if name == "t.json":
        (tmp_path / name).write_text(json.dumps(rows_of()))
    elif name == "t.arrow":
        feather.write_feather(pa.Table.from_pylist(rows_of()), tmp_path / name)
    else:
        write_rows(tmp_path / name, rows_of())
    content = (tmp_path / name).read_bytes()
    generator = random.Random(0)
    for _ in range(60):
        damaged = bytearray(content[: generator.randrange(len(content))] if generator.random() < 0.3 else content)
        for _ in range(generator.randint(1, 4)):
            if damaged:
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            samples(opened(tmp_path / name))
        except DataError as error:
            assert len(str(error)) < 2_000  # noqa: PT017, no other error may leave


# Parquet and Arrow


def test_columns_of_every_type_of_text_are_text(tmp_path):
    write_table(tmp_path, "unused.csv", "")
    paths, captions = [f"{number}.png" for number in range(4)], [f"c{number}" for number in range(4)]
    kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()]
    for kind in kinds:
        columns = {
            "image": pa.array(paths, pa.string()).cast(kind),
            "caption": pa.array(captions, pa.string()).cast(kind),
            "when": pa.array([0, 1, 2, 3], pa.timestamp("us", "UTC")),
            "what": pa.array([{"a": [1]}] * 4),
            "id": pa.array([10, 11, 12, 13], pa.uint8()),
        }
        for name in ("t.parquet", "t.arrow"):
            if name == "t.parquet":
                pq.write_table(pa.table(columns), tmp_path / name)
            else:
                with pa.ipc.new_file(tmp_path / name, pa.table(columns).schema) as file:
                    file.write_table(pa.table(columns))
            source = opened(tmp_path / name, image_id_col="id", caption_id_col="when")
            assert [sample.image_id for sample in check(source)] == ["10", "11", "12", "13"]
            assert captions_of(source) == captions


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), "binary_view", "dictionary"])
def test_columns_of_every_type_of_bytes_are_pictures(kind, tmp_path):
    kind = {"binary_view": pa.binary_view(), "dictionary": pa.dictionary(pa.int32(), pa.binary())}.get(kind, kind)
    cells = pa.array([picture(0), picture(0)], pa.binary()).cast(kind)
    pq.write_table(pa.table({"image": cells, "caption": ["a", "b"]}), tmp_path / "t.parquet")
    (sample,) = check(opened(tmp_path / "t.parquet"))
    assert (sample.picture, sample.captions, sample.image_id) == (picture(0), ("a", "b"), "row-1")


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)])
def test_lists_of_every_type_are_captions(kind, tmp_path):
    write_table(tmp_path, "unused.csv", "")
    columns = {"image": ["0.png", "1.png"], "sentences": pa.array([["a", "b"], ["c", "d"]], kind)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert [sample.captions for sample in check(opened(tmp_path / "t.parquet"))] == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("name", ["t.arrow", "t.feather"])
def test_arrow_files_and_streams_are_tables(name, is_stream, tmp_path):
    columns = pa.table({"image": [picture(0), picture(1), picture(0)], "caption": ["a", "b", "c"]})
    new = pa.ipc.new_stream if is_stream else pa.ipc.new_file
    with new(tmp_path / name, columns.schema) as file:
        file.write_table(columns, max_chunksize=2)
    source = opened(tmp_path / name)
    assert [(sample.picture, sample.captions) for sample in check(source)] == [
        (picture(0), ("a", "c")),
        (picture(1), ("b",)),
    ]
    assert source.picture("row-3") == picture(0)


def test_several_files_are_one_table_if_they_have_the_same_columns(tmp_path):
    for number in range(3):
        pq.write_table(
            pa.table({"caption": [f"c{number}{row}" for row in range(2)], "n": [1, 2]}), tmp_path / f"{number}.parquet"
        )
    table = ArrowTable(tmp_path, [tmp_path / f"{number}.parquet" for number in range(3)])
    assert (len(table), table.rows_of_file()) == (6, [2, 2, 2])
    assert table.columns(["caption"])["caption"] == ["c00", "c01", "c10", "c11", "c20", "c21"]
    batches = [(first, cells.to_pylist()) for first, cells in table.batches("caption", range(2, 4), 1)]
    assert batches == [(2, ["c10"]), (3, ["c11"])]
    assert [table.cell("caption", row) for row in (5, 0, 3)] == ["c21", "c00", "c11"]
    pq.write_table(pa.table({"caption": ["x"]}), tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"has the columns caption, but .*0.parquet has caption, n"):
        ArrowTable(tmp_path, [tmp_path / f"{number}.parquet" for number in range(3)])


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.list_(pa.float16(), 2), pa.large_list(pa.int32())]
)
def test_vectors_are_lists_of_any_type_of_number(kind, tmp_path):
    numbers = [[1, 2], [3, 4], [5, 6]]
    if kind.value_type == pa.float16():
        numbers = [[np.float16(value) for value in row] for row in numbers]
    pq.write_table(pa.table({"vector": pa.array(numbers, type=kind)}), tmp_path / "t.parquet", row_group_size=2)
    found = open_table(tmp_path / "t.parquet").vectors("vector")
    assert found.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found.dtype == (np.float16 if kind.value_type == pa.float16() else np.float32)


@pytest.fixture
def parts(tmp_path):
    """Two files of one table, in row groups of 3 and 4, each row another picture."""
    files = []
    for part, (rows, group) in enumerate([(7, 3), (9, 4)]):
        cells = [{"bytes": f"{part} {row}".encode() * 50, "path": None} for row in range(rows)]
        files.append(tmp_path / f"part-{part}.parquet")
        pq.write_table(pa.table({"image": cells, "caption": ["a dog"] * rows}), files[-1], row_group_size=group)
    return files


@pytest.mark.parametrize("largest", [0, 1 << 26])
@pytest.mark.parametrize("is_copied", [False, True])
def test_cells_in_any_order_are_those_in_order(parts, largest, is_copied, tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "_LARGEST_KEPT", largest)
    monkeypatch.setattr(table_files, "_MOST_MAPPED", 2)
    table = ArrowTable(tmp_path, parts)
    in_order = [cell.as_py() for _, cells in table.batches("image", range(16), 3) for cell in cells]
    if is_copied:
        table.copies = ShardCache(tmp_path / "copies", 10**6)
    for row in [*random.Random(0).sample(range(16), 16), 15, 0]:
        assert table.cell("image", row) == in_order[row]


def test_a_row_group_is_copied_once_for_all_processes_and_again_if_its_file_changed(parts, tmp_path, monkeypatch):
    copies = ShardCache(tmp_path / "copies", 10**6)
    table = ArrowTable(tmp_path, parts)
    table.copies = copies
    for row in [15, 0, 14, 2, 6]:
        table.cell("image", row)
    assert len([*copies.folder.iterdir()]) == 4

    another = pickle.loads(pickle.dumps(table))
    with monkeypatch.context() as patch:
        patch.setattr(ShardCache, "_write", None)
        assert another.cell("image", 1) == table.cell("image", 1)

    pq.write_table(pq.read_table(parts[0]).slice(1), parts[0], row_group_size=3)
    changed = ArrowTable(tmp_path, parts)
    changed.copies = copies
    assert changed.cell("image", 0) == table.cell("image", 1)


def test_copies_without_room_are_an_error_and_old_ones_go_first(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_cache, "_IN_USE", -1.0)
    table = ArrowTable(tmp_path, parts)
    table.copies = ShardCache(tmp_path / "copies", 1)
    for row in range(16):
        table.cell("image", row)
    assert len([*table.copies.folder.iterdir()]) == 1

    (tmp_path / "a file").touch()
    table = ArrowTable(tmp_path, parts)
    table.copies = ShardCache(tmp_path / "a file", 10**6)
    with pytest.raises(DataError, match=r"no copy of .* can be kept in .*a file .*--cache-size.*TRUEPAIR_CACHE"):
        table.cell("image", 0)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
@pytest.mark.parametrize("column", ["image_id", "caption_id"])
def test_a_row_whose_name_is_not_utf8_is_left_out(name, column, tmp_path):
    """JSON can spell half of a surrogate pair."""
    rows = [{"image": f"{n}.png", "caption": "c", "image_id": f"i{n}", "caption_id": f"c{n}"} for n in range(3)]
    rows[1][column] = "\ud83d"
    lines = [json.dumps(row) for row in rows]
    text = "\n".join(lines) if name == "t.jsonl" else f"[{', '.join(lines)}]"
    table = write_table(tmp_path, name, text)
    source = opened(table, image_id_col="image_id", caption_id_col="caption_id")
    assert [(sample.image_id, sample.caption_ids) for sample in check(source)] == [("i0", ("c0",)), ("i2", ("c2",))]
    (fault,) = skipped(source)
    called = "row-2" if column == "caption_id" else "c1"
    assert (fault.where, fault.reason, fault.caption_ids) == (f"{table}: {called}", "damaged row", (called,))
    assert fault.detail == rf"'\ud83d' in column '{column}' is not UTF-8"


def test_a_damaged_row_group_is_not_taken_for_a_full_disk(tmp_path):
    path = tmp_path / "damaged.parquet"
    pq.write_table(
        pa.table({"image": [random.Random(0).randbytes(9000)]}), path, compression="zstd", use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    content[40:70] = b"\xff" * 30
    path.write_bytes(content)
    table = ArrowTable(tmp_path, [path])
    table.copies = ShardCache(tmp_path / "copies", 10**6)
    with pytest.raises(OSError, match="corrupt data page"):
        table.cell("image", 0)
    assert not [*table.copies.folder.iterdir()]


def test_files_that_are_no_tables_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"ends in '.xlsx'; tables are read from .csv, .tsv, .jsonl, .ndjson, .parquet"):
        open_table(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match="there is no table"):
        open_table(tmp_path / "t.csv")
    for name in ("t.parquet", "t.arrow"):
        (tmp_path / name).write_bytes(b"not a table")
        with pytest.raises(DataError, match=rf"{name} cannot be read \(.*\); is it damaged\?"):
            open_table(tmp_path / name)


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path):
    pq.write_table(pa.table([["a.png"], ["b.png"], ["a dog"]], ["image", "image", "caption"]), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="has 'image' as the name of several columns: rename all but one"):
        open_table(tmp_path / "t.parquet").schema  # noqa: B018
