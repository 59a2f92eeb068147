import gc
import json
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sources import (
    HARD_CAPTIONS,
    check,
    everything,
    picture,
    reasons,
    samples,
    skipped,
    write_files,
    write_shards,
    write_tar,
)

from truepair.errors import DataError
from truepair.sources import webdataset
from truepair.sources.protocol import Sample
from truepair.sources.tar_index import tar_index
from truepair.sources.webdataset import WebDatasetSource


def test_shards_of_img2dataset_come_back_as_written(tmp_path):
    source = WebDatasetSource(write_shards(tmp_path))
    found = check(source)
    assert source.shards() == ["00000", "00001", "00002"]
    assert [sample.captions[0] for sample in found] == [*HARD_CAPTIONS, *HARD_CAPTIONS[:4]]
    assert [sample.picture for sample in found] == [picture(number, "JPEG") for number in range(12)]
    assert found[5].image_id == "00001/000010001"
    assert found[5].caption_ids == ("00001/000010001",)
    assert not skipped(source)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves files open
def test_the_webdataset_library_reads_the_same_samples(tmp_path):
    wds = pytest.importorskip("webdataset")
    write_shards(tmp_path)
    theirs = wds.WebDataset(str(tmp_path / "{00000..00002}.tar"), shardshuffle=False, empty_check=False)
    ours = samples(WebDatasetSource(tmp_path))
    assert [(sample["jpg"], sample["txt"].decode()) for sample in theirs] == [(s.picture, s.captions[0]) for s in ours]
    gc.collect()


def test_shards_that_the_webdataset_library_writes_are_read(tmp_path):
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number, caption in enumerate(HARD_CAPTIONS):
            writer.write({"__key__": f"deep/{number}", "png": picture(number), "json": {"caption": [caption, "more"]}})
    found = check(WebDatasetSource(tmp_path / "a.tar"))
    assert [sample.captions for sample in found] == [(caption, "more") for caption in HARD_CAPTIONS]
    assert found[1].caption_ids == ("a/deep/1/1", "a/deep/1/2")


def test_the_caption_is_the_text_file_or_else_what_the_metadata_says(tmp_path):
    write_tar(
        tmp_path / "0.tar",
        {
            "a.PNG": picture(0), "a.txt": b"\xef\xbb\xbffrom text\r\nsecond line\n", "a.json": b'{"caption": "other"}',
            "b.png": picture(1), "b.txt": b"", "b.json": '{"caption": "ünï"}'.encode("utf-16"),
            "c.webp": picture(2, "WEBP"), "c.json": b'{"caption": ["one", "", 3, "two"]}',
            "d.png": picture(3), "d.jpg": picture(4, "JPEG"), "d.txt": b"the jpg counts", "d.npy": b"features",
        },
    )  # fmt: skip
    source = WebDatasetSource(tmp_path)
    found = check(source)
    assert [sample.captions for sample in found] == [
        ("from text\r\nsecond line",),
        ("ünï",),
        ("one", "two"),
        ("the jpg counts",),
    ]
    assert found[2].caption_ids == ("0/c/1", "0/c/4")
    assert found[3].picture == picture(4, "JPEG")
    assert reasons(source) == ["empty caption", "caption is not text", "further picture of a sample"]


def test_what_cannot_be_a_sample_is_skipped_with_a_reason(tmp_path):
    files = [
        ("1.txt", b"no picture"), ("2.png", picture(0)), ("3.png", picture(0)), ("3.txt", "é".encode("latin-1")),
        ("4.png", picture(0)), ("4.json", b"{"), ("5.png", picture(0)), ("5.json", b'{"url": "x"}'),
        ("6.png", b""), ("6.txt", b"c"), ("7.png", picture(0)), ("7.txt", b"first"), ("7.txt", b"second"),
        ("8.png", picture(0)), ("8.json", b'{"caption": null}'), ("9.png", picture(0)), ("9.json", b"[" * 100_000),
        ("__meta__/1.json", b"{}"), (".hidden.png", b"x"), ("README", b"x"), ("10.cls", b"3"),
    ]  # fmt: skip
    source = WebDatasetSource(write_tar(tmp_path / "00000.tar", files))
    assert [(sample.image_id, sample.captions) for sample in check(source)] == [("00000/7", ("first",))]
    assert reasons(source) == [
        "the same file twice", "missing picture", "missing caption", "caption is not UTF-8", "metadata is not JSON",
        "missing caption", "empty picture", "empty caption", "metadata is not JSON", "missing picture",
    ]  # fmt: skip


def test_files_of_a_sample_need_not_lie_together(tmp_path):
    names = [*(f"{i}.txt" for i in range(3)), *(f"{i}.png" for i in range(3))]
    write_tar(tmp_path / "0.tar", {name: picture(int(name[0])) if "png" in name else name.encode() for name in names})
    assert [sample.captions[0] for sample in check(WebDatasetSource(tmp_path))] == ["0.txt", "1.txt", "2.txt"]


def test_names_are_taken_apart_as_webdataset_does(tmp_path):
    """But for hidden files in folders, of which it makes samples without a name."""
    wds = pytest.importorskip("webdataset")
    names = [
        "a.jpg", "./b.jpg", "c/d.jpg", "c.d/e.jpg", "f.seg.png", "g.", ".h.jpg", "j", "k.l/m", "__n__/o.jpg",
        "__p.jpg", "__q__", "r.JPG", "s t.jpg", "名前.jpg", "u/v.w/x.y.z",
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", [(name, b"x") for name in names])
    with (tmp_path / "0.tar").open("rb") as file:
        theirs = [wds.tariterators.base_plus_ext(one["fname"]) for one in wds.tariterators.tar_file_iterator(file)]
    ours = [(member.key, member.extension) for member in tar_index(tmp_path / "0.tar").members]
    assert ours == [(key, extension.lower()) for key, extension in theirs if key is not None]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_are_keys(kind, tmp_path):
    key = "ключ/" + "k" * 300
    with tarfile.open(tmp_path / "0.tar", "w", format=kind) as archive:
        for name, content in ((f"{key}.png", picture(0)), (f"{key}.txt", b"c")):
            write_files(tmp_path, {"content": content})
            info = archive.gettarinfo(tmp_path / "content", name)
            with (tmp_path / "content").open("rb") as file:
                archive.addfile(info, file)
    assert [sample.image_id for sample in check(WebDatasetSource(tmp_path / "0.tar"))] == [f"0/{key}"]


def test_a_key_that_is_not_utf8_is_counted_and_spelled_out(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("café.png", "café.txt"):
            archive.addfile(tarfile.TarInfo(name))
    (skip,) = everything(WebDatasetSource(tmp_path))
    assert (skip.where, skip.reason) == (r"0/caf\udce9", "file name is not UTF-8")


def test_a_cut_tar_gives_every_sample_before_the_cut_and_says_that_it_was_cut(tmp_path):
    whole = WebDatasetSource(write_shards(tmp_path / "whole", shards=1))
    content = (tmp_path / "whole" / "00000.tar").read_bytes()
    expected = samples(whole)
    members = tar_index(tmp_path / "whole" / "00000.tar").members
    ends = [member.info.offset_data + member.info.size for member in members]
    last_end = -(-ends[-1] // 512) * 512
    cuts = sorted({*range(0, last_end, 321), *range(512, last_end + 1, 512), *ends})
    cut = tmp_path / "cut" / "00000.tar"
    cut.parent.mkdir()
    for size in cuts:
        cut.write_bytes(content[:size])
        found = everything(WebDatasetSource(cut.parent))
        good = [item for item in found if isinstance(item, Sample)]
        # A sample is whole with its picture and its metadata: the text says the same.
        assert good == [sample for place, sample in enumerate(expected) if ends[3 * place + 1] <= size]
        assert found[-1].reason == "damaged shard"
        assert found[-1].where == str(cut)


def test_a_broken_header_or_a_hole_hides_no_loss(tmp_path):
    path = write_shards(tmp_path, shards=1) / "00000.tar"
    content = path.read_bytes()
    third = tar_index(path).members[6].info.offset
    for damage in (b"\xff" * 512, bytes(512), bytes(2048)):
        path.write_bytes(content[:third] + damage + content[third + len(damage) :])
        found = everything(WebDatasetSource(tmp_path))
        assert [item.image_id for item in found if isinstance(item, Sample)] == ["00000/000000000", "00000/000000001"]
        assert found[-1].reason == "damaged shard"


def test_no_damage_makes_reading_fail_or_go_on_for_ever(tmp_path):
    path = write_shards(tmp_path, shards=1) / "00000.tar"
    content = path.read_bytes()
    headers = [member.info.offset for member in tar_index(path).members]
    generator = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 8)):
            damaged[generator.choice(headers) + generator.randrange(512)] = generator.randrange(256)
        for start in headers:  # with a checksum that is right, so that the nonsense is believed
            block = damaged[start : start + 512]
            checksum = 256 + sum(block[:148]) + sum(block[156:])
            damaged[start + 148 : start + 156] = b"%06o\0 " % checksum
        path.write_bytes(damaged)
        for item in everything(WebDatasetSource(tmp_path)):
            if isinstance(item, Sample):
                assert WebDatasetSource(tmp_path).picture(item.reference) == item.picture


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\x1f\x8b\x08\x00" + b"x" * 1000, bytes(100)])
def test_what_is_no_tar_is_a_damaged_shard(content, tmp_path):
    (tmp_path / "0.tar").write_bytes(content)
    assert reasons(WebDatasetSource(tmp_path)) == ["damaged shard"]


def test_an_empty_tar_is_whole(tmp_path):
    assert everything(WebDatasetSource(write_tar(tmp_path / "0.tar", {}))) == []


def test_missing_shards_are_told_once_each_before_the_next_one(tmp_path):
    write_shards(tmp_path, shards=7)
    for gone in (1, 2, 5):
        (tmp_path / f"{gone:05d}.tar").unlink()
    source = WebDatasetSource(tmp_path)
    assert source.shards() == ["00000", "00003", "00004", "00006"]
    assert [[skip.where for skip in skipped_of(source, shard)] for shard in source.shards()] == [
        [],
        ["00001.tar", "00002.tar"],
        [],
        ["00005.tar"],
    ]
    assert set(reasons(source)) == {"missing shard"}


def skipped_of(source, shard):
    return [item for item in source.read(shard) if not isinstance(item, Sample)]


def test_a_pattern_names_every_shard_also_the_last(tmp_path):
    write_shards(tmp_path, shards=4)
    (tmp_path / "00001.tar").unlink()
    source = WebDatasetSource(tmp_path / "{00000..00005}.tar")
    assert source.shards() == ["00000", "00002", "00003"]
    assert [skip.where for skip in skipped(source)] == ["00001.tar", "00004.tar", "00005.tar"]
    check(source)


def test_a_pattern_over_folders_keeps_their_names(tmp_path):
    write_shards(tmp_path / "a", shards=1)
    write_shards(tmp_path / "b", shards=1)
    found = check(WebDatasetSource(tmp_path / "{a,b}" / "00000.tar"))
    assert [found[0].image_id, found[4].image_id] == ["a/00000/000000000", "b/00000/000000000"]


@pytest.mark.parametrize(
    ("names", "order", "missing"),
    [
        (["2", "10", "1"], ["1", "2", "10"], [str(number) for number in range(3, 10)]),
        (["cc3m-train-0007", "cc3m-train-0009"], ["cc3m-train-0007", "cc3m-train-0009"], ["cc3m-train-0008"]),
        (["a", "b"], ["a", "b"], []),
        (["20240101", "20260101"], ["20240101", "20260101"], []),
        (["x-1", "y-5"], ["x-1", "y-5"], []),
    ],
)
def test_numbers_order_shards_and_show_gaps(names, order, missing, tmp_path):
    for name in names:
        write_tar(tmp_path / f"{name}.tar", {})
    source = WebDatasetSource(tmp_path)
    assert source.shards() == order
    assert [skip.where for skip in skipped(source)] == [f"{name}.tar" for name in missing]


def test_pictures_that_were_never_downloaded_are_counted_from_the_table_beside_the_shard(tmp_path):
    write_shards(tmp_path, shards=2)
    rows = {
        "key": ["000000000", "000000008", "000000009", None],
        "status": ["success", "failed_to_download", "failed_to_resize", None],
        "error_message": [None, "HTTP Error 404", None, None],
    }
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "00001.parquet")
    source = WebDatasetSource(tmp_path)
    assert len(check(source)) == 8
    assert [(skip.where, skip.reason, skip.detail) for skip in skipped(source)] == [
        ("00000/000000008", "failed to download", "HTTP Error 404"),
        ("00000/000000009", "failed to resize", ""),
        (f"{tmp_path / '00000.parquet'}: row 4", "no status", ""),
    ]
    (tmp_path / "00001.parquet").write_bytes(b"broken")
    assert reasons(source)[-1] == "unreadable status table"


def test_a_sample_is_read_without_opening_later_shards_or_later_samples(tmp_path, monkeypatch):
    source = WebDatasetSource(write_shards(tmp_path))
    for later in ("00001.tar", "00002.tar"):
        (tmp_path / later).unlink()
    read = []
    monkeypatch.setattr(webdataset, "content", lambda member, file: read.append(member.info.name) or b"x")
    assert next(source.read("00000")).image_id == "00000/000000000"
    assert read == ["000000000.txt", "000000000.jpg"]
    assert next(iter(source.read("00001"))).reason == "unreadable shard"


def test_references_to_nothing_are_refused(tmp_path):
    source = WebDatasetSource(write_shards(tmp_path, shards=1))
    for reference in ("", "00000.tar", "00000.tar:1", "00000.tar:a:b", "00000.tar:-5:10", "00000:0:5"):
        with pytest.raises(DataError, match="no reference"):
            source.picture(reference)
    with pytest.raises(DataError, match="no shard '00009'"):
        source.picture("00009.tar:0:5")
    with pytest.raises(DataError, match="ends before byte"):
        source.picture("00000.tar:1000:100000000")
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(DataError, match="was it moved"):
        source.picture("00000.tar:0:5")


def test_nothing_to_read_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.tar", tmp_path / "{00000..00003}.tar"):
        with pytest.raises(DataError, match=r"there (are|is) no"):
            WebDatasetSource(path)
    with pytest.raises(DataError, match="no pattern"):
        WebDatasetSource(tmp_path / "{00000..00003.tar")


def test_names_with_a_second_extension_belong_to_their_sample(tmp_path):
    write_tar(
        tmp_path / "0.tar",
        {
            "a.input.jpg": picture(0, "JPEG"), "a.output.txt": b"behind a second extension",
            "b.v2.PNG": picture(1), "b.meta.json": b'{"caption": ["one", "two"]}',
            "c.thumb.png": picture(2), "c.png": picture(3), "c.raw.txt": b"raw", "c.txt": b"plain",
        },
    )  # fmt: skip
    source = WebDatasetSource(tmp_path)
    found = check(source)
    assert [sample.captions for sample in found] == [("behind a second extension",), ("one", "two"), ("plain",)]
    assert [sample.picture for sample in found] == [picture(0, "JPEG"), picture(1), picture(3)]
    assert [(skip.where, skip.reason) for skip in skipped(source)] == [("0/c.thumb.png", "further picture of a sample")]


def test_further_pictures_of_a_sample_are_told_each_with_the_one_that_counts(tmp_path):
    files = {"a.webp": picture(2, "WEBP"), "a.png": picture(0), "a.left.jpg": picture(1, "JPEG"), "a.txt": b"c"}
    source = WebDatasetSource(write_tar(tmp_path / "0.tar", files))
    (sample,) = check(source)
    assert sample.picture == picture(1, "JPEG")
    assert [(skip.where, skip.reason, skip.detail) for skip in skipped(source)] == [
        ("0/a.png", "further picture of a sample", "a.left.jpg counts"),
        ("0/a.webp", "further picture of a sample", "a.left.jpg counts"),
    ]


def test_what_a_sample_without_a_picture_or_a_caption_has_is_named(tmp_path):
    source = WebDatasetSource(
        write_tar(tmp_path / "0.tar", {"a.npy": b"x", "a.txt": b"c", "b.jpg": picture(0, "JPEG")})
    )
    assert [(skip.where, skip.reason, skip.detail) for skip in skipped(source)] == [
        ("0/a", "missing picture", "there is npy, txt"),
        ("0/b", "missing caption", "there is jpg"),
    ]


@pytest.mark.parametrize("missing", ["nan", "NULL", "None", "<NA>", "#N/A"])
def test_captions_that_say_that_they_are_missing_are_told(missing, tmp_path):
    files = {"a.png": picture(0), "a.txt": missing.encode(), "b.png": picture(1), "b.json": b'{"caption": NaN}'}
    source = WebDatasetSource(write_tar(tmp_path / "0.tar", files))
    assert reasons(source) == ["caption that says it is missing", "empty caption"]


def test_a_pointer_of_git_lfs_in_a_tar_is_told(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    source = WebDatasetSource(write_tar(tmp_path / "0.tar", {"a.png": pointer, "a.txt": b"c"}))
    assert reasons(source) == ["Git LFS pointer, not a picture"]


def test_metadata_of_img2dataset_is_json_with_the_caption(tmp_path):
    """The same, were the text files left out."""
    write_tar(tmp_path / "0.tar", {"k.jpg": picture(0, "JPEG"), "k.json": json.dumps({"caption": "c"}).encode()})
    assert check(WebDatasetSource(tmp_path))[0].captions == ("c",)
