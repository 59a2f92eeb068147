import errno
import json
import os
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from made_sources import (
    check,
    everything,
    opened,
    picture,
    reasons,
    samples,
    skipped,
    write_rows,
    write_shards,
    write_tar,
)
from made_stores import in_memory, serving
from source_forms import FORMS, made

from truepair.config import SourceConfig
from truepair.errors import ConfigError, DataError
from truepair.sources.first_look import look_first
from truepair.sources.opening import description_of, open_source, reopened
from truepair.sources.protocol import Skipped
from truepair.sources.shard_cache import ShardCache
from truepair.sources.store_errors import StoreError, may_pass, status_of
from truepair.sources.stores import StorePath, ahead, is_address, located
from truepair.sources.versions import versioned_shards

pytestmark = pytest.mark.usefixtures("cache", "memory")


def moved(items, before, after):
    """What was read, with another folder in messages."""
    return [
        replace(item, where=item.where.replace(before, after), detail=item.detail.replace(before, after))
        if isinstance(item, Skipped)
        else item
        for item in items
    ]


@pytest.fixture
def shards(tmp_path):
    """Three tar files of four samples, as the files of a site."""
    folder = write_shards(tmp_path / "shards")
    return {f"shards/{file.name}": file.read_bytes() for file in folder.iterdir()}


def copies(cache):
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_source_is_read_from_a_store_as_from_a_disk(form, tmp_path):
    path = made(form, tmp_path / "source")
    on_disk, source = open_source(path), open_source(in_memory(path))
    folder = str(path if path.is_dir() else path.parent)
    assert everything(source) == moved(everything(on_disk), folder, "memory://bucket")
    assert (source.kind, source.shards()) == (on_disk.kind, on_disk.shards())
    assert len(check(source)) == 7
    again = reopened(json.loads(json.dumps(description_of(source, str(source.path), SourceConfig()))))
    assert samples(again) == samples(on_disk)


def test_a_single_picture_is_read_by_its_range(tmp_path, cache, shards):
    with serving(shards) as site:
        source = open_source(f"{site.url}/shards/00000.tar")
        assert source.picture("00000.tar:1536:644") == shards["shards/00000.tar"][1536 : 1536 + 644]
        assert not copies(cache)
        assert site.ranges() == ["bytes=1536-2179"] or site.ranges()[0].startswith("bytes=")


def test_shards_are_fetched_once_and_read_from_their_copies(cache, shards):
    with serving(shards) as site:
        address = f"{site.url}/shards/{{00000..00002}}.tar"
        found = check(open_source(address))
        fetched = len(site.ranges())
        assert len(found) == 12
        assert len(copies(cache)) == 3
        assert samples(open_source(address)) == found
        again = site.ranges()[fetched:]
        assert not any(asked for asked in again)  # only the lists of downloads that may lie beside them


def test_a_missing_shard_of_a_pattern_is_told(shards):
    del shards["shards/00001.tar"]
    with serving(shards) as site:
        source = open_source(f"{site.url}/shards/{{00000..00002}}.tar")
        assert reasons(source) == ["missing shard"]
        assert source.shards() == ["00000", "00002"]


def test_large_files_come_in_pieces_and_whole_where_a_server_has_no_ranges(monkeypatch, shards, cache):
    monkeypatch.setattr("truepair.sources.stores._PIECE", 1000)
    path = "shards/00001.tar"
    for has_ranges in (True, False):
        with serving(shards) as site:
            site.has_ranges = has_ranges
            copy = located(f"{site.url}/{path}").open()
            with copy:
                assert copy.read() == shards[path]
            assert len(site.ranges()) == (len(shards[path]) + 999) // 1000 if has_ranges else 2


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000])
def test_files_of_every_size_are_whole(size, monkeypatch):
    monkeypatch.setattr("truepair.sources.stores._PIECE", 1000)
    content = os.urandom(size)
    with serving({"a": content}) as site, located(f"{site.url}/a").open() as file:
        assert file.read() == content


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_what_may_pass_is_tried_again(status, shards):
    with serving(shards) as site:
        for path in shards:
            site.answers[path] = [status, status]
        assert len(samples(open_source(f"{site.url}/shards/{{00000..00002}}.tar"))) == 12


def test_a_body_that_stops_half_way_is_fetched_again(shards):
    with serving(shards) as site:
        source = open_source(f"{site.url}/shards/00000.tar")
        site.cut["shards/00000.tar"] = 2
        assert len(samples(source)) == 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"status": 403}, "may not be read (403): check the credentials"),
        ({"status": 404}, "(404): is it spelled right?"),
        ({"status": 500}, "could not be read in 3 attempts (status 500"),
        ({"cut": 10**6}, "could not be read in 3 attempts ("),
    ],
)
def test_a_store_that_fails_is_one_error_and_leaves_nothing(wrong, said, shards, cache):
    with serving(shards) as site:
        source = open_source(f"{site.url}/shards/{{00000..00001}}.tar")
        for name, value in wrong.items():
            getattr(site, name)["shards/00001.tar"] = value
        assert len(list(source.read("00000"))) == 4
        with pytest.raises(StoreError) as error:
            list(source.read("00001"))
        assert said in str(error.value)
        assert f"{site.url}/shards/00001.tar" in str(error.value)
        assert len(copies(cache)) == 1
        site.status.clear()
        site.cut.clear()
        assert len(list(source.read("00001"))) == 4


def test_a_server_that_is_gone_is_told(shards):
    with serving(shards) as site:
        pass
    with pytest.raises(StoreError, match="could not be read in 3 attempts"):
        open_source(f"{site.url}/shards/00000.tar")


def test_a_shard_that_changes_is_noticed(shards):
    with serving(shards) as site:
        address = f"{site.url}/shards/{{00000..00002}}.tar"
        source = open_source(address)
        before = versioned_shards(source)
        assert [name.split(" ")[0] for name in before] == ["00000", "00001", "00002"]
        assert f"{len(shards['shards/00000.tar']):,} bytes, ETag" in before[0]
        changed = bytearray(shards["shards/00001.tar"])
        changed[600] ^= 1
        site.files["shards/00001.tar"] = bytes(changed)
        with pytest.raises(StoreError, match=r"00001.tar was changed while it was read"):
            list(source.read("00001"))
        after = versioned_shards(open_source(address))
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


@pytest.mark.parametrize("form", ["csv", "embedded", "hub", "folder", "dataset", "imagefolder", "zip", "zipped folder"])
def test_every_kind_of_source_has_versions_in_a_store_and_none_on_disk(form, tmp_path, memory):
    path = made(form, tmp_path / "source")
    assert versioned_shards(open_source(path)) == open_source(path).shards()
    address = in_memory(path)
    before = versioned_shards(open_source(address))
    assert before == versioned_shards(open_source(address)) != open_source(address).shards()
    for name in list(memory.store):
        memory.pipe_file(name, memory.cat_file(name))  # the same, written anew
    assert versioned_shards(open_source(address)) != before


def test_pictures_are_read_below_an_image_root_of_the_store(tmp_path, memory):
    for number in range(4):
        memory.pipe_file(f"/bucket/pics/{number}.png", picture(number))
    memory.pipe_file("/secret/9.png", picture(9))
    cells = ["0.png", "memory://bucket/pics/1.png", "../pics/2.png", "memory://secret/9.png", "../../secret/9.png"]
    table = write_rows(tmp_path / "t.csv", [{"image": cell, "caption": "c"} for cell in cells])
    source = opened(table, image_root="memory://bucket/pics/")
    assert [sample.picture for sample in check(source)] == [picture(number) for number in range(3)]
    assert reasons(source) == ["outside the image root"] * 2
    free = opened(table, image_root="memory://bucket/pics", allow_outside=True)
    assert [sample.picture for sample in samples(free)] == [picture(number) for number in (0, 1, 2, 9, 9)]


def test_addresses_of_other_stores_and_of_the_web_are_not_fetched_from_cells(memory):
    rows = b"image,caption\nhttps://x.invalid/a.png,a\ns3://bucket/b.png,b\nmissing.png,c\n0.png,d\n,e\n"
    memory.pipe({"/bucket/t.csv": rows, "/bucket/0.png": picture(0)})
    source = open_source("memory://bucket/t.csv")
    assert [sample.caption_ids for sample in samples(source)] == [("row-4",)]
    assert sorted(reasons(source)) == [
        "missing picture", "no picture named", *["picture is an address, which is not fetched"] * 2
    ]  # fmt: skip
    with serving({"t.csv": b"image,caption\n%b/a.png,a\n" % b"http://127.0.0.1", "a.png": picture(0)}) as site:
        assert reasons(open_source(f"{site.url}/t.csv")) == ["picture is an address, which is not fetched"]
        with pytest.raises(DataError, match="img2dataset"):
            look_first(open_source(f"{site.url}/t.csv"), 10**6)


def test_names_of_pictures_on_a_web_server_are_names_and_no_queries():
    names = ["a b.png", "50%.png", "c#1.png", "d?.png", "é.png"]
    table = "image,caption\n" + "".join(f"in/{name},c\n" for name in names)
    files = {f"in/{name}": picture(number) for number, name in enumerate(names)}
    with serving(files | {"t.csv": table.encode()}) as site:
        source = open_source(f"{site.url}/t.csv")
        assert [sample.picture for sample in check(source)] == [picture(number) for number in range(5)]


def test_a_picture_that_is_refused_ends_the_run_and_one_that_is_missing_does_not(memory):
    table = b"image,caption\n0.png,a\n1.png,b\n2.png,c\n"
    with serving({"t.csv": table, "0.png": picture(0), "2.png": picture(2)}) as site:
        source = open_source(f"{site.url}/t.csv")
        assert reasons(source) == ["missing picture"]
        site.status["2.png"] = 403
        with pytest.raises(StoreError, match=r"2.png may not be read \(403\)"):
            everything(source)


def test_captions_that_cannot_be_fetched_end_the_run_too(monkeypatch, memory):
    memory.pipe({"/bucket/0.png": picture(0), "/bucket/0.txt": b"a dog", "/bucket/1.txt": b"alone"})
    source = open_source("memory://bucket")
    assert reasons(source) == ["captions without a picture"]

    def refused(path, start=None, end=None):
        raise PermissionError(path)

    monkeypatch.setattr(memory, "cat_file", refused)
    with pytest.raises(StoreError, match="may not be read"):
        everything(source)


def test_a_table_of_a_zip_archive_is_named_by_the_archive_in_messages(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("t.csv", "image,caption\nno.png,a\n")
    source = open_source(in_memory(tmp_path / "t.zip"))
    assert skipped(source)[0].detail.startswith("memory://bucket/t.zip/no.png: missing picture")


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("memory://bucket/none.csv", DataError, "memory://bucket/none.csv does not exist"),
        ("memory://bucket/{0..3}.tar", DataError, "there is no file"),
        ("https://user:secret@example.invalid/t.csv", ConfigError, "a query or a password"),
        ("https://example.invalid/t.csv?token=secret", ConfigError, "a query or a password"),
        ("nothing://bucket/t.csv", ConfigError, "known are s3://"),
        ("s3://bucket/t.csv", ConfigError, "pip install 'truepair[stores]'"),
        ("gs://bucket/t.csv", ConfigError, "pip install 'truepair[stores]'"),
    ],
)
def test_addresses_that_cannot_be_opened_are_told(address, error, said, monkeypatch):
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(error) as found:
        open_source(address)
    assert said in str(found.value)
    assert "secret" not in str(found.value)


def test_a_folder_of_a_web_server_is_refused_with_what_to_name(shards):
    with serving(shards | {"shards": b"<html>"}) as site, pytest.raises(DataError, match=r"\{000\.\.099\}\.tar"):
        open_source(f"{site.url}/shards/")


def test_a_cache_size_is_for_stores(tmp_path, shards):
    table = write_rows(tmp_path / "t.csv", [{"image": "0.png", "caption": "c"}])
    with pytest.raises(ConfigError, match="--cache-size"):
        opened(table, cache_size=1.0)
    with pytest.raises(ConfigError, match="cache_size"):
        SourceConfig(cache_size=-1.0)
    with serving(shards) as site:
        source = opened(f"{site.url}/shards/00000.tar", cache_size=1.0)
        assert "cache_size" not in description_of(source, str(source.path), SourceConfig(cache_size=1.0))


def aged(folder, seconds):
    for path in folder.iterdir():
        os.utime(path, (path.stat().st_atime - seconds, path.stat().st_mtime - seconds))


def test_the_cache_forgets_what_was_asked_for_longest_ago(tmp_path):
    cache = ShardCache(tmp_path / "copies", most_bytes=300)
    cache.folder.mkdir()
    (cache.folder / "killed.part").write_bytes(bytes(100))
    for name in ("a", "b", "c"):
        aged(cache.folder, 100)
        cache.copy(name, 100, lambda file: file.write(bytes(100)))
    assert copies(cache.folder) == ["a", "b", "c"]
    aged(cache.folder, 100)
    cache.copy("a", 100, lambda file: pytest.fail("it is there"))
    cache.copy("d", 100, lambda file: file.write(bytes(100)))
    assert copies(cache.folder) == ["a", "c", "d"]
    cache.copy("huge", 1000, lambda file: file.write(bytes(1000)))
    assert copies(cache.folder) == ["a", "d", "huge"]  # those may be in use: they were just asked for
    aged(cache.folder, 100)
    cache.copy("e", 100, lambda file: file.write(bytes(100)))
    assert copies(cache.folder) == ["e"]


def test_a_copy_that_fails_leaves_nothing(tmp_path):
    cache = ShardCache(tmp_path / "copies", most_bytes=300)

    def fails(file):
        file.write(b"half")
        raise StoreError("gone")

    with pytest.raises(StoreError):
        cache.copy("a", 100, fails)
    assert copies(cache.folder) == []


def test_of_many_that_ask_for_a_copy_one_fetches_it(tmp_path):
    cache, fetched = ShardCache(tmp_path / "copies", most_bytes=300), []

    def fetch(file):
        fetched.append(file)
        time.sleep(0.2)
        file.write(b"whole")

    with ThreadPoolExecutor(8) as pool:
        paths = [*pool.map(lambda _: cache.copy("a", 5, fetch), range(8))]
    assert len(fetched) == 1
    assert {path.read_bytes() for path in paths} == {b"whole"}
    assert copies(cache.folder) == ["a"]


def test_without_locks_copies_are_fetched_all_the_same(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr("fcntl.flock", flock)
    path = ShardCache(tmp_path / "copies", most_bytes=300).copy("a", 5, lambda file: file.write(b"whole"))
    assert path.read_bytes() == b"whole"


def test_a_cache_without_room_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = ShardCache(tmp_path / "file", most_bytes=300)
    with pytest.raises(DataError, match=r"--cache-size, or name another folder in TRUEPAIR_CACHE"):
        cache.copy("a", 100, lambda file: None)


def test_a_table_larger_than_the_cache_is_read_all_the_same(tmp_path, memory, cache):
    path = made("hub", tmp_path / "source")
    source = opened(in_memory(path), cache_size=0.0)
    found = check(source)
    aged(cache, 100)
    assert check(source) == found


def test_order_stays_when_several_are_fetched_at_once():
    assert list(ahead(lambda number: number * number, range(100))) == [number * number for number in range(100)]
    assert list(ahead(str, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda number: 1 // number, [1, 0, 2]))
    first = ahead(str, range(100))
    assert next(first) == "0"
    first.close()


def test_addresses_are_told_from_paths():
    assert [is_address(path) for path in ("s3://b", "C:/a", "c://a", "a/b", "photos.csv", "hf://datasets/a/b")] == [
        True, False, False, False, False, True,
    ]  # fmt: skip


def test_locations_are_taken_apart_as_paths_are(memory):
    place = located("memory://bucket/a/b.csv.gz")
    assert isinstance(place, StorePath)
    assert (place.name, place.stem, place.suffix) == ("b.csv.gz", "b.csv", ".gz")
    assert str(place.parent / "c.png") == "memory://bucket/a/c.png"
    assert str(place.with_suffix(".x")) == "memory://bucket/a/b.csv.x"
    assert place == located("memory://bucket/a/b.csv.gz") != place.parent
    assert not place.exists()
    memory.pipe_file("/bucket/a/b.csv.gz", b"1")
    assert located("memory://bucket/a").is_dir()
    assert located("memory://bucket/a/b.csv.gz").is_file()
    assert not located("memory://bucket/a/b.csv.gz").is_dir()
    assert not located("memory://bucket/a/b.csv").exists()


def test_a_path_on_this_machine_asks_for_no_package(tmp_path):
    tar = write_tar(tmp_path / "0.tar", {"a.png": picture(0), "a.txt": b"c"})
    write_rows(tmp_path / "t.csv", [{"image": "0.png", "caption": "c"}])
    code = (
        "import sys; from truepair.sources.opening import open_source\n"
        f"for path in ({str(tar)!r}, {str(tmp_path / 't.csv')!r}):\n"
        "    source = open_source(path); list(source.read(source.shards()[0]))\n"
        "assert not {'fsspec', 'aiohttp'} & sys.modules.keys(), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class AnsweredError(Exception):
    """As the libraries of stores say a status."""

    def __init__(self, **values):
        self.__dict__.update(values)


@pytest.mark.parametrize(
    ("error", "status", "passes"),
    [
        (AnsweredError(status=503), 503, True),
        (AnsweredError(status=400), 400, False),
        (AnsweredError(response={"ResponseMetadata": {"HTTPStatusCode": 403}}), 403, False),
        (AnsweredError(response=AnsweredError(status_code=429)), 429, True),
        (AnsweredError(code=404), 404, False),
        (AnsweredError(code="NoSuchKey"), None, True),
        (PermissionError(), 403, False),
        (FileNotFoundError(), 404, False),
        (TimeoutError(), None, True),
        (ConnectionResetError(), None, True),
        (EOFError(), None, True),
        (ValueError(), None, False),
        (type("NoCredentialsError", (Exception,), {})(), 401, False),
    ],
)
def test_statuses_are_read_from_the_errors_of_every_library(error, status, passes):
    assert status_of(error) == status
    assert may_pass(error, status) == passes
    wrapped = OSError()
    wrapped.__cause__ = error
    assert status_of(wrapped) == (None if isinstance(error, FileNotFoundError) else status)
