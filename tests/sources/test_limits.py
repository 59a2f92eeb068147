import io
import json
import os
import stat
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sources import check, opened, picture, reasons, samples, skipped, write_files, write_rows, write_tar
from PIL import Image

from truepair.config.source import LATER, SourceConfig
from truepair.errors import ConfigError, DataError
from truepair.files import lines
from truepair.sources import table_files, text_files
from truepair.sources.decoding import FORMATS, DecodingMemory, decoded, known_formats
from truepair.sources.facts import facts_of
from truepair.sources.first_look import look_first
from truepair.sources.opening import description_of, open_source, reopened
from truepair.sources.picture_files import UnreadablePictureError, encoded_picture
from truepair.sources.versions import contents_of


def sparse(path, size=20_000_000_000):
    """A file that takes no room on disk and 20 GB in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


# Bytes


def test_a_huge_file_among_pictures_is_left_out_unread(tmp_path):
    write_files(tmp_path, {"a.png": picture(0), "a.txt": "fine", "big.txt": "not fine", "c.png": picture(1)})
    sparse(tmp_path / "big.jpg")
    sparse(tmp_path / "c.txt")
    source = opened(tmp_path)
    contents_of(source)
    assert [sample.image_id for sample in samples(source)] == ["a.png"]
    assert reasons(source) == ["huge file", "huge caption"]
    assert "20,000,000,000 bytes are more than 1,000,000,000 (--largest-file)" in skipped(source)[0].detail
    with pytest.raises(DataError, match="huge file"):
        source.picture("big.jpg")


def every_kind(tmp_path):
    """The same two pictures, one of them larger, wherever pictures may lie."""
    small, large = picture(0), picture(1) + bytes(10_000)
    write_files(tmp_path, {"d/0.png": small, "d/1.png": large, "d/0.txt": "a", "d/1.txt": "b"})
    rows = [{"image": f"{number}.png", "caption": "c"} for number in range(2)]
    yield tmp_path / "d"
    yield write_rows(tmp_path / "d" / "t.csv", rows)
    cells = pa.array([small, large], pa.binary())
    pq.write_table(pa.table({"image": cells, "caption": ["a", "b"]}), tmp_path / "t.parquet")
    yield tmp_path / "t.parquet"
    yield write_tar(tmp_path / "t.tar", {"0.png": small, "0.txt": b"a", "1.png": large, "1.txt": b"b"})
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (("0.png", small), ("0.txt", "a"), ("1.png", large), ("1.txt", "b")):
            archive.writestr(name, content)
    yield tmp_path / "t.zip"


def test_a_huge_picture_file_is_left_out_of_every_kind_of_source(tmp_path):
    for path in every_kind(tmp_path):
        assert len(check(opened(path))) == 2
        source = opened(path, largest_file=5_000)
        assert (len(samples(source)), reasons(source)) == (1, ["huge file"]), path


def test_a_huge_caption_is_left_out_of_every_kind_of_source(tmp_path):
    long, files = "x" * 2_000, {"0.png": picture(0), "1.png": picture(1), "1.txt": "b"}
    folder = write_files(tmp_path / "d", files | {"0.txt": long})
    rows = [{"image": f"{number}.png", "caption": caption} for number, caption in enumerate((long, "b"))]
    sidecar = json.dumps({"caption": long})
    members = {name: content if isinstance(content, bytes) else content.encode() for name, content in files.items()}
    sources = [
        folder,
        write_rows(tmp_path / "d" / "t.jsonl", rows),
        write_tar(tmp_path / "0.tar", members | {"0.txt": long.encode()}),
        write_tar(tmp_path / "1.tar", members | {"0.json": sidecar.encode()}),
    ]
    for path in sources:
        assert len(samples(opened(path))) == 2
        source = opened(path, longest_caption=1_000)
        assert [sample.captions for sample in samples(source)] == [("b",)]
        assert reasons(source) == ["huge caption"]
        assert "--longest-caption" in skipped(source)[0].detail


def test_a_file_that_is_one_endless_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_LINE", 1_000)
    monkeypatch.setattr(lines, "LONGEST_LINE", 1_000)
    for name in ("t.csv", "t.jsonl", "captions.txt"):
        with pytest.raises(DataError, match="a line of more than 1,000 characters"):
            opened(sparse(tmp_path / name, 5_000))
    with pytest.raises(DataError, match="line 1 is endless: more than 1,000 bytes"):
        list(lines.lines_of(tmp_path / "t.csv"))
    rows = [{"image": "0.png", "caption": "x" * 900}]
    write_files(tmp_path / "fine", {"0.png": picture(0)})
    assert len(samples(opened(write_rows(tmp_path / "fine" / "t.csv", rows)))) == 1


@pytest.mark.parametrize("name", ["c.json", "c.json.gz"])
def test_a_document_that_is_too_large_to_be_read_at_once_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LARGEST_WHOLE", 1_000)
    monkeypatch.setattr(text_files, "_CHUNK", 100)
    with text_files.written_bytes(tmp_path / name) as file:
        file.write(json.dumps([{"image": "0.png", "caption": "x" * 2_000}]).encode())
    with pytest.raises(DataError, match="is larger than 1,000 bytes, which is too much to be read at once"):
        opened(tmp_path / name)


def test_a_header_of_very_many_columns_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "_MOST_COLUMNS", 20_000)
    (tmp_path / "t.csv").write_text(",".join(f"c{number}" for number in range(20_001)) + "\n")
    started = time.process_time()
    with pytest.raises(DataError, match="the header names 20,001 columns, more than 20,000"):
        opened(tmp_path / "t.csv")
    assert time.process_time() - started < 1


# Archives


def test_a_tar_file_of_too_many_files_is_read_up_to_there(tmp_path):
    files = {
        f"{number}.{kind}": picture(number) if kind == "png" else b"c" for number in range(5) for kind in ("png", "txt")
    }
    source = opened(write_tar(tmp_path / "0.tar", files), most_members=4)
    assert [sample.image_id for sample in samples(source)] == ["0/0", "0/1"]
    assert reasons(source) == ["damaged shard"]
    assert skipped(source)[0].detail == "more than 4 files (--most-members)"


def test_a_zip_archive_of_too_many_files_or_of_nearly_nothing_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", picture(0))
        archive.writestr("0.txt", "c")
        archive.writestr("bomb.bin", bytes(110_000_000), compresslevel=9)
    with pytest.raises(DataError, match=r"holds 3 files, more than 2: raise --most-members"):
        opened(tmp_path / "t.zip", most_members=2)
    with pytest.raises(
        DataError, match=r"would be 110,000,\d+ bytes unpacked, more than 200 times the .*--most-expanded"
    ):
        opened(tmp_path / "t.zip")
    assert len(samples(opened(tmp_path / "t.zip", most_expanded=2_000))) == 1


# Links


@pytest.fixture
def secret(tmp_path):
    return write_files(tmp_path / "outside", {"secret.txt": "secret", "0.png": picture(7)})


def test_links_out_of_a_folder_are_left_out_and_read_on_request(secret, tmp_path):
    folder = write_files(tmp_path / "in", {name: picture(n) for n, name in enumerate(("a.png", "b.png", "real/d.png"))})
    write_files(folder, {"a.txt": "fine", "c.txt": "c", "real/d.txt": "inside"})
    (folder / "b.txt").symlink_to(secret / "secret.txt")
    (folder / "c.png").symlink_to(secret / "0.png")
    (folder / "e.png").symlink_to("real/d.png")  # a link that stays inside
    (folder / "e.txt").symlink_to(folder / "real" / "d.txt")
    (folder / "far").symlink_to(secret)
    source = opened(folder)
    assert [sample.image_id for sample in check(source)] == ["a.png", "e.png", "real/d.png"]
    assert [(skip.where, skip.reason) for skip in skipped(source)] == [
        ("b.png", "link out of the folder"),
        ("c.png", "link out of the folder"),
    ]
    with pytest.raises(DataError, match="link out of the folder"):
        source.picture("c.png")
    free = opened(folder, follow_links=True)
    assert {sample.image_id: sample.captions for sample in check(free)}["b.png"] == ("secret",)
    assert "c.png" in {sample.image_id for sample in samples(free)}
    assert any(skip.where == "far/0.png" for skip in skipped(free))  # the folder was entered
    assert description_of(free, folder, SourceConfig(follow_links=True))["follow_links"] is True


def test_folders_that_lead_in_circles_are_gone_through_once(tmp_path):
    folder = write_files(tmp_path / "in", {"x/a.png": picture(0), "x/a.txt": "c"})
    (folder / "x" / "up").symlink_to(folder)
    (folder / "y").symlink_to(folder / "x")
    assert [sample.captions for sample in check(opened(folder, follow_links=True))] == [("c",)]


def test_a_folder_that_is_itself_a_link_is_the_folder(tmp_path):
    write_files(tmp_path / "far", {"a.png": picture(0), "a.txt": "c"})
    (tmp_path / "near").symlink_to(tmp_path / "far")
    assert len(check(opened(tmp_path / "near"))) == 1


@pytest.mark.parametrize("name", ["t.csv", "metadata.csv", "metadata.jsonl", "t.json", "t.parquet"])
def test_links_out_of_the_image_root_are_left_out_of_tables(name, secret, tmp_path, monkeypatch):
    folder = write_files(tmp_path / "in", {"a.png": picture(0)})
    (folder / "b.png").symlink_to(secret / "0.png")
    (folder / "far").symlink_to(secret)
    rows = [{"file_name": path, "caption": "c"} for path in ("a.png", "b.png", "far/0.png")]
    table = folder / name
    if name == "t.json":
        table.write_text(json.dumps(rows))
    else:
        write_rows(table, rows)
    path = folder if name.startswith("metadata") else table
    source = opened(path)
    assert [sample.image_id for sample in check(source)] == ["a.png"]
    assert reasons(source) == ["link out of the folder"] * 2
    for options in ({"follow_links": True}, {"allow_outside": True}):
        if not (name.startswith("metadata") and "allow_outside" in options):
            assert len(check(opened(path, **options))) == 3
    monkeypatch.chdir(folder)
    assert len(samples(opened("." if path == folder else name))) == 1  # from a path that is relative


def test_tables_and_shards_that_are_links_out_of_their_folder_are_not_read(secret, tmp_path):
    write_rows(secret / "metadata.csv", [{"file_name": "a.png", "caption": "c"}])
    folder = write_files(tmp_path / "in", {"a.png": picture(0)})
    (folder / "metadata.csv").symlink_to(secret / "metadata.csv")
    with pytest.raises(DataError, match=r"metadata\.csv is a link that leads out of .*--follow-links"):
        opened(folder)
    assert len(samples(opened(folder, follow_links=True))) == 1
    write_tar(secret / "0.tar", {"a.png": picture(0), "a.txt": b"c"})
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").symlink_to(secret / "0.tar")
    assert reasons(opened(tmp_path / "shards")) == ["link out of the folder"]
    assert len(samples(opened(tmp_path / "shards", follow_links=True))) == 1


def test_a_saved_dataset_names_no_files_outside_of_it(secret, tmp_path):
    for state in ({"_data_files": [{"filename": "../outside/x.arrow"}]}, {"_data_files": [{"filename": "/x.arrow"}]}):
        folder = write_files(tmp_path / "set", {"state.json": json.dumps(state)})
        with pytest.raises(DataError, match="which is nothing beside it"):
            opened(folder)


def test_links_in_archives_are_never_followed(secret, tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("a.txt", tarfile.SYMTYPE), ("b.txt", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret / ("0.png" if name == "a.png" else "secret.txt"))
            archive.addfile(info)
        info = tarfile.TarInfo("b.png")
        info.size = len(picture(0))
        archive.addfile(info, io.BytesIO(picture(0)))
    assert not samples(opened(tmp_path / "0.tar", follow_links=True))
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.png", picture(0))
        link = zipfile.ZipInfo("a.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(secret / "secret.txt"))
    assert reasons(opened(tmp_path / "t.zip", follow_links=True)) == ["picture without captions"]


def test_what_all_first_rows_lack_is_told_with_the_option(secret, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("0.png", "secret.txt"):
        (folder / name.replace("secret", "0")).symlink_to(secret / name)
    with pytest.raises(DataError, match=r"link out of the folder .*--follow-links"):
        look_first(opened(folder), 1_000)
    write_files(tmp_path / "big", {"a.png": picture(0), "a.txt": "c"})
    with pytest.raises(DataError, match=r"huge file .*raise --largest-file"):
        look_first(opened(tmp_path / "big", largest_file=10), 1_000)


# Pictures


def test_a_picture_of_postscript_starts_no_other_program(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *given, **options: pytest.fail("a program was started"))
    monkeypatch.setattr("os.system", lambda *given: pytest.fail("a program was started"))
    written = io.BytesIO()
    Image.new("RGB", (10, 10)).save(written, "EPS")
    with pytest.raises(UnreadablePictureError, match="no known picture format"):
        decoded(written.getvalue())
    assert not {"EPS", "WMF", "FPX", "MIC"} & set(FORMATS)
    assert {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"} <= set(known_formats())


def test_a_large_png_is_made_smaller_first_and_its_size_is_known(monkeypatch):
    monkeypatch.setattr("truepair.sources.decoding._LARGE", 100_000)
    for mode, colour in (
        ("RGBA", (200, 30, 40, 255)),
        ("P", 3),
        ("1", 1),
        ("L", 90),
        ("I;16", 9_000),
        ("LA", (9, 255)),
    ):
        written = io.BytesIO()
        Image.new(mode, (800, 400), colour).save(written, "PNG")
        whole, small = decoded(written.getvalue()), decoded(written.getvalue(), largest_side=64)
        assert (whole.size, small.size) == ((800, 400), (134, 67)), mode
        assert small.getpixel((0, 0)) == whole.getpixel((0, 0))
        facts = facts_of(written.getvalue(), small)
        assert (facts.width, facts.height) == (800, 400)
    assert decoded(written.getvalue(), largest_side=300).size == (800, 400)


def test_decoding_waits_for_memory_and_one_picture_alone_always_fits():
    written = io.BytesIO()
    Image.new("RGB", (100, 100)).save(written, "PNG")
    data = written.getvalue()
    at_once, most, lock = [0], [0], threading.Lock()

    def decode(memory):
        with memory.of(data):
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            time.sleep(0.005)
            with lock:
                at_once[0] -= 1

    for size, expected in ((2 * 17 * 100 * 100, 2), (10, 1)):
        memory, most[0] = DecodingMemory(size), 0
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(decode, [memory] * 24))
        assert most[0] == expected
    with DecodingMemory(10).of(b"no picture"):
        pass


def test_a_picture_for_which_memory_ends_is_left_out_with_its_own_reason(monkeypatch):
    def no_memory(*given, **options):
        raise MemoryError

    monkeypatch.setattr("PIL.Image.Image.convert", no_memory)
    with pytest.raises(UnreadablePictureError, match="not enough memory for the picture"):
        decoded(picture(0))


# Options


def test_limits_are_checked_and_described_only_where_they_differ(tmp_path):
    for name in ("largest_file", "longest_caption", "most_members", "most_expanded"):
        with pytest.raises(ConfigError, match=f"{name} is 0, but it must be at least 1"):
            SourceConfig(**{name: 0})
    write_files(tmp_path, {"a.png": picture(0), "a.txt": "c"})
    plain = description_of(opened(tmp_path), tmp_path, SourceConfig())
    assert not set(LATER) & plain.keys()
    options = SourceConfig(largest_file=10)
    described = description_of(open_source(tmp_path, options), tmp_path, options)
    assert set(LATER) & described.keys() == {"largest_file"}
    assert reasons(reopened(described)) == ["huge file"]
    with pytest.raises(DataError, match="the description of the source is damaged"):
        reopened(described | {"largest_file": "many"})


def test_a_pipe_or_a_device_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadablePictureError, match="missing picture"):
        encoded_picture(tmp_path / "a.png")
