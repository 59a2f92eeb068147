import os
from pathlib import Path

import pytest
from made_sources import HARD_CAPTIONS, check, everything, hashes, picture, reasons, skipped, write_files

from truepair.errors import DataError
from truepair.sources import blocks
from truepair.sources.folders import FolderSource, caption_lines


def test_each_line_that_is_not_blank_is_a_caption_of_the_picture_of_that_name(tmp_path):
    lines = [caption for caption in HARD_CAPTIONS if "\n" not in caption]
    write_files(tmp_path, {"a/dog.jpg": picture(0, "JPEG"), "a/dog.txt": "\n\n".join(lines), "b.png": picture(1)})
    write_files(tmp_path, {"b.txt": b"\xef\xbb\xbfone\r\n\r\n two \r\n"})
    found = check(FolderSource(tmp_path))
    assert [sample.image_id for sample in found] == ["a/dog.jpg", "b.png"]
    assert found[0].captions == tuple(lines)
    assert found[0].caption_ids == tuple(f"a/dog.jpg/{2 * place + 1}" for place in range(len(lines)))
    assert found[0].picture == picture(0, "JPEG")
    assert found[1].captions == ("one", " two ")
    assert found[1].caption_ids == ("b.png/1", "b.png/3")


def test_every_kind_of_picture_is_found_in_any_case_sorted_and_hidden_files_are_passed_over(tmp_path):
    names = ["A.JPG", "b.JpEg", "c.png", "d.webp", "e.GIF", "f.bmp", "g.tif", "h.tiff", "x.y.png"]
    write_files(tmp_path, dict.fromkeys(names, picture(0)))
    write_files(tmp_path, {name.rpartition(".")[0] + ".txt": f"a {name}" for name in names})
    write_files(tmp_path, {".hidden.png": b"x", ".folder/a.png": b"x", "notes.md": b"x", "._A.JPG": b"x"})
    (tmp_path / "loop").symlink_to(tmp_path)
    found = check(FolderSource(tmp_path))
    assert [sample.image_id for sample in found] == names
    assert [sample.captions for sample in found] == [(f"a {name}",) for name in names]
    assert not skipped(FolderSource(tmp_path))


def test_pictures_of_one_name_share_their_captions(tmp_path):
    write_files(tmp_path, {"a.jpg": picture(0, "JPEG"), "a.png": picture(1), "a.txt": "both"})
    found = check(FolderSource(tmp_path))
    assert [(sample.captions, sample.caption_ids) for sample in found] == [
        (("both",), ("a.jpg/1",)),
        (("both",), ("a.png/1",)),
    ]


def test_what_is_alone_or_broken_is_counted(tmp_path):
    write_files(
        tmp_path,
        {
            "01.png": picture(0), "02.txt": "no picture", "03.png": picture(0), "03.txt": " \n\n", "04.png": b"",
            "04.txt": "c", "05.png": picture(0), "05.txt": "café".encode("latin-1"), "06.png": picture(0),
            "06.txt": "wide".encode("utf-16"), "07.png": picture(0), "07.txt": "wide".encode("utf-16-le"),
            "08.png": picture(0), "08.txt": "fine", "09.png": picture(0), "09.txt/inside.md": "a folder",
        },
    )  # fmt: skip
    (tmp_path / "10.png").symlink_to(tmp_path / "gone.png")
    write_files(tmp_path, {"10.txt": "c"})
    source = FolderSource(tmp_path)
    assert [sample.image_id for sample in check(source)] == ["08.png"]
    assert reasons(source) == [
        "picture without captions", "captions without a picture", "empty caption", "empty picture",
        "caption is not UTF-8", "caption is not UTF-8", "caption is not UTF-8", "picture without captions",
        "missing picture",
    ]  # fmt: skip
    assert skipped(source)[1].where == "02.txt"


def test_a_name_that_is_not_utf8_is_counted_and_spelled_out(tmp_path):
    for name in (b"caf\xe9.png", b"caf\xe9.txt", b"alone\xe9.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(picture(0) if b"png" in name else b"c")
    source = FolderSource(tmp_path)
    assert [(skip.where, skip.reason) for skip in skipped(source)] == [
        (r"alone\udce9.txt", "file name is not UTF-8"),
        (r"caf\udce9.png", "file name is not UTF-8"),
    ]


def test_shards_are_blocks_read_one_picture_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "PICTURES_A_BLOCK", 2)
    write_files(
        tmp_path, {f"{i}.{kind}": picture(i) if kind == "png" else "c" for i in range(5) for kind in ("png", "txt")}
    )
    source = FolderSource(tmp_path)
    assert source.shards() == ["00000", "00001", "00002"]
    check(source)
    reading = source.read("00000")
    next(reading)
    (tmp_path / "1.png").unlink()
    assert next(reading).reason == "missing picture"
    with pytest.raises(DataError, match="missing picture"):
        source.picture("1.png")


def test_reading_changes_nothing(tmp_path):
    write_files(tmp_path, {"a.png": picture(0), "a.txt": "c"})
    before = hashes(tmp_path)
    everything(FolderSource(tmp_path))
    assert hashes(tmp_path) == before


@pytest.mark.parametrize("reference", ["../secret.png", "/etc/passwd", "a.txt", "", "sub/../../secret.png"])
def test_references_lead_to_no_other_files(reference, tmp_path):
    write_files(tmp_path, {"in/a.png": picture(0), "in/a.txt": "c", "secret.png": b"s"})
    with pytest.raises(DataError, match="is not the path of a picture"):
        FolderSource(tmp_path / "in").picture(reference)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no pictures"):
        FolderSource(write_files(tmp_path, {"a.txt": "c"}))
    with pytest.raises(DataError, match="there is no folder"):
        FolderSource(tmp_path / "none")


def test_only_a_line_feed_ends_a_line():
    assert caption_lines("a\u2028b\x0bc\rd\r\ne".encode()) == {1: "a\u2028b\x0bc\rd", 2: "e"}
