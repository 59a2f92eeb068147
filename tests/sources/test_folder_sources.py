import os
import re
from pathlib import Path

import pytest
from made_sources import HARD_CAPTIONS, check, everything, hashes, picture, reasons, skipped, write_files, write_rows
from PIL import features

from truepair.errors import DataError
from truepair.sources import blocks
from truepair.sources.decoding import decoded
from truepair.sources.folders import FolderSource, caption_lines
from truepair.sources.opening import open_source


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


def test_other_kinds_of_caption_files_are_read_and_the_text_file_counts_first(tmp_path):
    write_files(
        tmp_path,
        {
            "a.png": picture(0), "a.txt": "from txt", "a.caption": "from caption", "a.json": '{"caption": "from json"}',
            "b.png": picture(1), "b.caption": "one\r\n\r\ntwo", "b.json": '{"caption": "from json"}',
            "c.png": picture(2), "c.json": '{"caption": ["x", "", 3, "y"], "url": "u"}',
            "d.png": picture(3), "d.png.txt": "behind .png", "e.JPG": picture(4, "JPEG"), "e.TXT": "in capitals",
        },
    )  # fmt: skip
    source = FolderSource(tmp_path)
    assert [(sample.captions, sample.caption_ids) for sample in check(source)] == [
        (("from txt",), ("a.png/1",)),
        (("one", "two"), ("b.png/1", "b.png/3")),
        (("x", "y"), ("c.png/1", "c.png/4")),
        (("behind .png",), ("d.png/1",)),
        (("in capitals",), ("e.JPG/1",)),
    ]
    assert not skipped(source)


def test_json_counts_only_without_text_files_also_where_these_are_called_after_the_whole_picture(tmp_path):
    write_files(tmp_path, {f"{name}.jpg": picture(0, "JPEG") for name in "abc"})
    write_files(tmp_path, {"a.jpg.txt": "from txt", "a.json": '{"width": 96}', "b.jpg.txt": "from txt"})
    write_files(tmp_path, {"b.caption": "from caption", "c.jpg.json": '{"caption": "x"}', "c.caption": "from caption"})
    found = check(FolderSource(tmp_path))
    assert [sample.captions for sample in found] == [("from txt",), ("from txt",), ("from caption",)]
    assert not skipped(FolderSource(tmp_path))


def test_a_caption_in_json_that_is_half_of_a_surrogate_pair_is_left_out(tmp_path):
    write_files(tmp_path, {"a.png": picture(0), "a.json": r'{"caption": "a dog \ud83d"}', "b.png": picture(1)})
    write_files(tmp_path, {"b.json": r'{"caption": "a dog", "alt": "\ud83d"}'})
    source = FolderSource(tmp_path)
    assert [item.image_id for item in check(source)] == ["b.png"]
    assert [item.reason for item in skipped(source)] == ["caption is not UTF-8"]


def test_json_beside_a_picture_that_says_no_caption_is_told(tmp_path):
    names = {
        "a": "{",
        "b": '{"url": "u"}',
        "c": '{"caption": null}',
        "d": "[1]",
        "e": '{"caption": []}',
        "g": "[" * 9999,
    }
    for name, text in names.items():
        write_files(tmp_path, {f"{name}.png": picture(0), f"{name}.json": text})
    write_files(tmp_path, {"f.png": picture(0), "f.txt": "fine", "alone.json": '{"caption": "no picture"}'})
    source = FolderSource(tmp_path)
    assert [sample.captions for sample in check(source)] == [("fine",)]
    assert reasons(source) == ["metadata is not JSON", *["empty caption"] * 4, "metadata is not JSON"]


def test_every_kind_of_picture_that_pillow_writes_has_its_usual_extensions(tmp_path):
    kinds = {"0.webp": "WEBP", "1.tiff": "TIFF", "2.tif": "TIFF", "3.bmp": "BMP", "4.gif": "GIF", "5.jfif": "JPEG"}
    kinds |= {"6.jpe": "JPEG", "7.avif": "AVIF"} if features.check("avif") else {"6.jpe": "JPEG"}
    write_files(tmp_path, {name: picture(0, kind) for name, kind in kinds.items()})
    write_files(tmp_path, {f"{number}.txt": f"c{number}" for number in range(len(kinds))})
    found = check(FolderSource(tmp_path))
    assert [sample.image_id for sample in found] == list(kinds)
    assert {decoded(sample.picture).mode for sample in found} == {"RGB"}


def test_a_folder_that_holds_a_table_of_nearly_the_right_name_says_how_to_name_it(tmp_path):
    pictures = {f"{number}.jpg": picture(number, "JPEG") for number in range(2)}
    rows = [{"file_name": name, "text": "c"} for name in pictures]
    for name, right in {"metadata1000.jsonl": "metadata.jsonl", "Metadata.csv": "metadata.csv"}.items():
        folder = write_files(tmp_path / right, pictures)
        write_rows(folder / name, rows)
        with pytest.raises(
            DataError, match=rf"pictures without captions; {name} is not read: rename it to {right}, or"
        ):
            open_source(folder)
        (folder / name).rename(folder / right)
        assert [sample.captions for sample in check(open_source(folder))] == [("c",), ("c",)]


@pytest.mark.parametrize("name", ["captions.csv", "labels.tsv", "captions.jsonl", "captions.csv.gz", "a.arrow"])
def test_a_folder_of_pictures_without_captions_says_which_table_to_open(name, tmp_path):
    write_files(tmp_path, {f"images/{number}.jpg": picture(number, "JPEG") for number in range(2)} | {name: "x"})
    write_files(tmp_path, {"skipped.csv": "where\n", ".hidden.csv": "a,b\n", "below/other.csv": "a,b\n"})
    said = f"{tmp_path} holds pictures without captions; if they are in {name}, open {tmp_path / name} itself"
    with pytest.raises(DataError, match=rf"^{re.escape(said)}$"):
        open_source(tmp_path)
    write_files(tmp_path, {"z.csv": "a,b\n"})
    with pytest.raises(DataError, match=re.escape(f"open that itself: {tmp_path / name}, {tmp_path / 'z.csv'}")):
        open_source(tmp_path)
    write_files(tmp_path, {"images/1.txt": "one of them has a caption"})
    assert [sample.image_id for sample in check(open_source(tmp_path))] == ["images/1.jpg"]


def test_pointers_of_git_lfs_are_told(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    write_files(tmp_path, {"a.png": pointer, "a.txt": "c", "b.png": picture(0), "b.txt": "c"})
    assert reasons(FolderSource(tmp_path)) == ["Git LFS pointer, not a picture"]


@pytest.mark.parametrize("name", ["my dog #1", "a?b=c", "100%25", "Mu\u0308nch", "🐶", "[x]{1..3}*", "n" * 200])
def test_odd_names_are_names(name, tmp_path):
    write_files(tmp_path, {f"{name}.jpg": picture(0, "JPEG"), f"{name}.txt": "c", "sub dir/e.jpg": b"x"})
    source = FolderSource(tmp_path)
    assert [sample.image_id for sample in check(source)] == [f"{name}.jpg"]
