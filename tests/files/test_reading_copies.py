import csv

import pytest

from truepair.errors import DataError
from truepair.files.reading_copies import guarded, read_reading_copy, unguarded, write_reading_copy
from truepair.sources.protocol import Skipped
from truepair.sources.skipped import read_skipped, write_skipped

HOSTILE = [
    '=HYPERLINK("http://evil.example","click")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1+1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\0=1+1",
    "＝1+1",
    "'=1+1",
    "''=1+1",
]
HARMLESS = ["", "a dog", "'tis a dog", "a = b", "3.jpg", "a\r\nb", 'a "b", c;d', "''", "'"]


@pytest.mark.parametrize("cell", HOSTILE)
def test_no_cell_begins_as_a_formula_does(cell):
    assert guarded(cell) == f"'{cell}"
    assert unguarded(guarded(cell)) == cell


@pytest.mark.parametrize("cell", HARMLESS)
def test_other_cells_stay_as_they_are(cell):
    assert guarded(cell) == cell
    assert unguarded(cell) == cell


def test_what_is_written_is_read_and_safe_in_between(tmp_path):
    path = tmp_path / "a.csv"
    rows = [[cell, other] for cell in HOSTILE + HARMLESS for other in ("=x", "y")]
    write_reading_copy(path, ("one", "two"), rows)
    assert list(read_reading_copy(path, ("one", "two"))) == rows
    with path.open(encoding="utf-8", newline="") as file:
        assert not [cell for row in csv.reader(file) for cell in row if cell[:1] in tuple("=+-@\t\r\n\0＝＋－＠")]
    assert [path] == list(tmp_path.iterdir())


def test_what_was_skipped_is_read_as_it_was_and_written_safely(tmp_path):
    skipped = [Skipped("=1+1.jpg", "unreadable picture", "-2"), Skipped("row 3", "empty caption", "@x")]
    write_skipped(skipped, tmp_path / "skipped.csv")
    assert read_skipped(tmp_path / "skipped.csv") == skipped
    assert '"\'=1+1.jpg","unreadable picture","\'-2"' in (tmp_path / "skipped.csv").read_text()


def test_half_of_a_surrogate_pair_is_spelled_out(tmp_path):
    write_skipped([Skipped("\ud83d.jpg", "missing picture", "ü")], tmp_path / "skipped.csv")
    assert read_skipped(tmp_path / "skipped.csv") == [Skipped(r"\ud83d.jpg", "missing picture", "ü")]


def test_files_of_earlier_versions_are_read(tmp_path):
    (tmp_path / "skipped.csv").write_text("where,reason,detail\r\n=1.jpg,empty picture,\r\n")
    assert read_skipped(tmp_path / "skipped.csv") == [Skipped("=1.jpg", "empty picture", "")]


@pytest.mark.parametrize(
    "content", [b"", b"other,names\n", b"where,reason,detail\nonly one\n", b'where,reason,detail\n"open', b"\xff\xfe"]
)
def test_a_damaged_file_is_said_in_a_sentence(tmp_path, content):
    path = tmp_path / "skipped.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"skipped\.csv is damaged \("):
        read_skipped(path)
