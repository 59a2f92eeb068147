import pytest

from truepair.errors import DataError
from truepair.files.lines import lines_of


def test_only_a_line_feed_ends_a_line_and_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffone\u2028two\x0bthree\r\n\r\n four \nfive".encode())
    assert list(lines_of(path)) == ["one\u2028two\x0bthree", "", " four ", "five"]
    assert list(lines_of(path, keep_ends=True)) == ["one\u2028two\x0bthree\r\n", "\r\n", " four \n", "five"]


def test_a_missing_file_and_another_encoding_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*lines.txt: No such file or directory; check the folder"):
        list(lines_of(tmp_path / "lines.txt"))
    (tmp_path / "lines.txt").write_bytes(b"a dog\na caf\xe9\n")
    with pytest.raises(DataError, match=r"lines.txt, line 2 is not UTF-8"):
        list(lines_of(tmp_path / "lines.txt"))
