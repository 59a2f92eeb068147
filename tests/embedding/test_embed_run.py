import csv
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from embedding_samples import MemorySource, encoded, picture, run_elsewhere, sample
from made_sources import write_rows
from PIL import Image

from truepair.config.source import SourceConfig
from truepair.data.embeddings import load_embeddings_splits
from truepair.embedding.choosing import load_image_encoder, load_text_encoder
from truepair.embedding.run import embed, embed_source
from truepair.errors import ConfigError, DataError
from truepair.sources.decoding import decoded
from truepair.sources.protocol import Skipped

CPU = torch.device("cpu")


def content():
    """Three shards: one of them holds nothing that can be encoded."""
    return {
        "a": [sample(number) for number in range(6)],
        "b": [Skipped("row 7", "missing picture", "7.png"), sample(90, picture_bytes=b"no picture")],
        "c": [
            sample(10, "a red dog", "dog"),
            Skipped("row 8", "missing picture", "8.png"),
            *map(sample, range(11, 16)),
        ],
    }


def files_of(store: Path) -> dict[str, bytes]:
    """Every file; of the description all but the time that it took."""
    found = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    described = json.loads(found.pop("embeddings.json"))
    del described["seconds"], described["images_per_second"]
    return found | {"embeddings.json": json.dumps(described).encode()}


@pytest.fixture
def whole(tmp_path, config):
    """What an embedding gives that nothing interrupts."""
    embed_source(MemorySource(content()), {"path": "memory"}, tmp_path / "whole", config)
    return files_of(tmp_path / "whole")


def test_features_are_those_of_the_encoders_row_by_row(tmp_path, config):
    summary = embed_source(MemorySource(content()), {"path": "memory"}, tmp_path / "out", config)
    numbers = [*range(6), *range(10, 16)]
    images = load_image_encoder(config.image_encoder, grid=None, device=CPU)
    expected = images.encode(np.stack([images.preprocess(picture(number)) for number in numbers]))
    stored = np.load(tmp_path / "out" / "images.npy")
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, expected, atol=1e-3)
    pairs = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    captions = load_text_encoder(config.text_encoder, CPU).encode([pair["caption"] for pair in pairs]).features
    np.testing.assert_allclose(np.load(tmp_path / "out" / "captions.npy"), captions, atol=1e-3)
    assert [pair["caption_id"] for pair in pairs][5:9] == ["5#0", "10#0", "10#1", "11#0"]
    assert [pair["image"] for pair in pairs] == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11]
    rows = pq.read_table(tmp_path / "out" / "images.parquet").to_pylist()
    assert [row["reference"] for row in rows] == [f"file {number}.png" for number in numbers]
    assert {(row["width"], row["height"]) for row in rows} == {(40, 30)}
    assert (summary["images"], summary["captions"], summary["shared_space"]) == (12, 13, True)
    assert summary["skipped"] == {"missing picture": 2, "unreadable picture": 1}
    assert json.loads((tmp_path / "out" / "embeddings.json").read_text()) == summary
    assert not (tmp_path / "out" / "parts").exists()


def test_what_was_left_out_is_listed_and_its_captions_are_not_there(tmp_path, config, whole):
    rows = list(csv.reader(io.StringIO(whole["skipped.csv"].decode())))
    assert [row[:2] for row in rows] == [
        ["where", "reason"],
        ["row 7", "missing picture"],
        ["file 90.png", "unreadable picture"],
        ["row 8", "missing picture"],
    ]
    assert "'image 90'" in rows[2][2]
    assert "10 bytes cannot be decoded (no known picture format)" in rows[2][2]


class InterruptionError(Exception):
    pass


def interrupt():
    raise InterruptionError


@pytest.mark.parametrize("place", [("a", 0), ("a", 5), ("a", 6), ("b", 1), ("c", 0), ("c", 3), ("c", 7)])
def test_an_interrupted_embedding_ends_with_the_same_bytes(tmp_path, config, whole, place):
    shard, item = place
    out = tmp_path / "out"
    with pytest.raises(InterruptionError):
        embed_source(MemorySource(content(), {shard: (item, interrupt)}), {"path": "memory"}, out, config)
    assert not (out / "embeddings.json").exists()
    done = list("abc".partition(shard)[0])
    redo = dict.fromkeys(done, (0, pytest.fail))  # a shard that is done is not read again
    embed_source(MemorySource(content(), redo), {"path": "memory"}, out, replace(config, workers=1))
    assert files_of(out) == whole


def full(*_):
    raise OSError("No space left on device")


def test_an_embedding_that_stops_while_joining_ends_with_the_same_bytes(tmp_path, config, whole, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("truepair.embedding.store.pq.ParquetWriter", full)  # images.npy and captions.npy are written
        with pytest.raises(DataError, match=r"cannot be written .*No space left on device"):
            embed_source(MemorySource(content()), {"path": "memory"}, out, config)
    never = dict.fromkeys("abc", (0, pytest.fail))
    embed_source(MemorySource(content(), never), {"path": "memory"}, out, config)
    assert files_of(out) == whole


_KILLED = """
import os, signal, sys
from embedding_samples import MemorySource
from test_embed_run import content
from truepair.config.embedding import EmbedConfig
from truepair.embedding.run import embed_source
from pathlib import Path
network, out = sys.argv[1:]
config = EmbedConfig(image_encoder=network, text_encoder=network, batch_size=4, device="cpu")
source = MemorySource(content(), {"c": (6, lambda: os.kill(os.getpid(), signal.SIGKILL))})
embed_source(source, {"path": "memory"}, Path(out), config)
"""


@pytest.mark.slow
def test_a_killed_process_loses_no_finished_shard(tmp_path, config, whole):
    out = tmp_path / "out"
    killed = run_elsewhere(_KILLED, config.image_encoder, str(out))
    assert killed.returncode == -9, killed.stderr
    assert {path.name for path in (out / "parts").iterdir()} == {"00000", "00001", "00002.part", "plan.json"}
    done = {"a": (0, pytest.fail), "b": (0, pytest.fail)}
    embed_source(MemorySource(content(), done), {"path": "memory"}, out, config)
    assert files_of(out) == whole


def test_a_finished_store_is_left_as_it_is(tmp_path, config, whole):
    never = dict.fromkeys("abc", (0, pytest.fail))
    summary = embed_source(MemorySource(content(), never), {"path": "memory"}, tmp_path / "whole", config)
    assert summary["images"] == 12
    assert files_of(tmp_path / "whole") == whole


@pytest.mark.parametrize("is_finished", [True, False])
def test_another_configuration_or_source_in_the_same_folder_is_refused(tmp_path, config, is_finished):
    out = tmp_path / "out"
    if is_finished:
        embed_source(MemorySource(content()), {"path": "memory"}, out, config)
    else:
        with pytest.raises(InterruptionError):
            embed_source(MemorySource(content(), {"b": (0, interrupt)}), {"path": "memory"}, out, config)
    with pytest.raises(ConfigError, match=r"holds features with grid None, but 2 was asked for: choose another folder"):
        embed_source(MemorySource(content()), {"path": "memory"}, out, replace(config, grid=2))
    with pytest.raises(ConfigError, match=r"with text_encoder '.*', but 'none' was asked for"):
        embed_source(MemorySource(content()), {"path": "memory"}, out, replace(config, text_encoder="none"))
    with pytest.raises(ConfigError, match=r"with path 'memory', but 'elsewhere' was asked for"):
        embed_source(MemorySource(content()), {"path": "elsewhere"}, out, config)
    with pytest.raises(ConfigError, match=r"holds features of 3 parts of memory, which now has 4, or others"):
        embed_source(MemorySource(content() | {"d": []}), {"path": "memory"}, out, config)


def test_a_folder_with_features_of_something_else_is_not_touched(tmp_path, config):
    np.save(tmp_path / "images.npy", np.zeros((2, 2)))
    with pytest.raises(ConfigError, match=r"already holds images.npy, of something else"):
        embed_source(MemorySource(content()), {"path": "memory"}, tmp_path, config)
    assert [path.name for path in tmp_path.iterdir()] == ["images.npy"]


def test_a_folder_of_that_name_which_is_not_ours_is_not_deleted(tmp_path, config):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "wheel.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"already holds parts, of something else"):
        embed_source(MemorySource(content()), {"path": "memory"}, tmp_path, config)
    assert (tmp_path / "parts" / "wheel.png").read_bytes() == b"mine"


def test_an_encoder_that_cannot_be_loaded_does_not_bind_the_folder(tmp_path, config):
    mistyped = replace(config, text_encoder="no/such-network")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        embed_source(MemorySource(content()), {"path": "memory"}, tmp_path / "out", mistyped)
    assert embed_source(MemorySource(content()), {"path": "memory"}, tmp_path / "out", config)["images"] == 12


def test_nothing_to_encode_is_an_error_and_a_mended_source_is_read_anew(tmp_path, config):
    out = tmp_path / "out"
    message = r"memory: no picture can be read of all of its first 2 rows: missing picture \(.*7.png\); is it the right"
    with pytest.raises(DataError, match=message):
        embed_source(MemorySource({"b": content()["b"]}), {"path": "memory"}, out, config)
    assert embed_source(MemorySource({"b": [sample(7)]}), {"path": "memory"}, out, config)["images"] == 1
    with pytest.raises(DataError, match="holds no picture with a caption"):
        embed_source(MemorySource({}), {"path": "memory"}, tmp_path / "empty", config)


def test_regions_and_words_with_sentence_vectors_or_none(tmp_path, config, bert_folder):
    source = MemorySource(content())
    words = embed_source(source, {"path": "memory"}, tmp_path / "words", replace(config, grid=2, text_encoder="none"))
    assert np.load(tmp_path / "words" / "images.npy").shape == (12, 4, 16)
    assert not (tmp_path / "words" / "captions.npy").exists()
    assert (words["text_encoder"], words["shared_space"], words["captions"]) == (None, False, 13)
    mixed = embed_source(source, {"path": "memory"}, tmp_path / "bert", replace(config, text_encoder=bert_folder))
    assert np.load(tmp_path / "bert" / "captions.npy").shape == (13, 16)
    assert not mixed["shared_space"]


def unusual_pictures():
    """The same red square in many forms, and what becomes of it."""
    red = Image.new("RGB", (48, 48), (200, 0, 0))
    grey = Image.fromarray(np.full((48, 48), 40_000, dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "palette": encoded(red.quantize(4)),
        "cmyk": encoded(red.convert("CMYK"), "JPEG"),
        "rotated": encoded(red, "JPEG", exif=exif),
        "animated": encoded(red, "GIF", save_all=True, append_images=[Image.new("RGB", (48, 48), "blue")]),
        "transparent": encoded(Image.new("RGBA", (48, 48), (0, 0, 0, 0))),
        "16 bit": encoded(grey),
        "1 bit": encoded(red.convert("1")),
        "webp": encoded(red, "WEBP"),
    }


def test_pictures_of_unusual_kinds_are_encoded_as_they_look(tmp_path, config):
    pictures = unusual_pictures()
    samples = [sample(number, picture_bytes=data) for number, data in enumerate(pictures.values())]
    summary = embed_source(MemorySource({"a": samples}), {"path": "memory"}, tmp_path / "out", config)
    assert summary["images"] == len(pictures)
    stored = dict(zip(pictures, np.load(tmp_path / "out" / "images.npy").astype(np.float32), strict=True))
    encoder = load_image_encoder(config.image_encoder, grid=None, device=CPU)
    for name, data in pictures.items():
        expected = encoder.encode(encoder.preprocess(decoded(data))[None])[0]
        np.testing.assert_allclose(stored[name], expected, atol=2e-3)
    for name in ("palette", "rotated", "animated", "webp"):
        assert stored[name] @ stored["palette"] > 0.99
    blank = pq.read_table(tmp_path / "out" / "images.parquet")["is_blank"].to_pylist()
    assert all(flag for name, flag in zip(pictures, blank, strict=True) if name != "1 bit")


def test_a_decompression_bomb_is_left_out_while_other_threads_decode(tmp_path, config):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 5_000)).save(bomb, "PNG")
    samples = [sample(number, picture_bytes=bomb.getvalue() if number % 5 == 0 else None) for number in range(20)]
    config = replace(config, workers=4, source=SourceConfig(largest_pixels=50_000_000))
    summary = embed_source(MemorySource({"a": samples}), {}, tmp_path / "out", config)
    assert (summary["images"], summary["skipped"]) == (16, {"huge picture": 4})


def test_features_beyond_float16_are_refused_by_name(tmp_path, config, clip_folder):
    transformers = pytest.importorskip("transformers")
    network = transformers.CLIPModel.from_pretrained(clip_folder)
    with torch.no_grad():
        network.vision_model.post_layernorm.weight.fill_(1e6)
    huge = tmp_path / "huge"
    network.save_pretrained(huge)
    transformers.CLIPImageProcessorPil.from_pretrained(clip_folder).save_pretrained(huge)
    config = replace(config, image_encoder=str(huge), text_encoder="none", grid=2)
    with pytest.raises(DataError, match=r"gives 'image 0' features that are not numbers or beyond float16 .* 3 others"):
        embed_source(MemorySource(content()), {"path": "memory"}, tmp_path / "out", config)


def test_a_shard_without_anything_to_encode_behind_one_that_has_some_is_an_empty_part(tmp_path, config):
    source = MemorySource({"a": [sample(1)], "b": [Skipped("row 2", "missing picture", "2.png")] * 30, "c": []})
    summary = embed_source(source, {"path": "memory"}, tmp_path / "out", config)
    assert (summary["images"], summary["skipped"]) == (1, {"missing picture": 30})


def test_a_run_that_goes_on_does_not_look_at_the_first_pictures_again(tmp_path, config):
    with pytest.raises(InterruptionError):
        embed_source(MemorySource(content(), {"b": (0, interrupt)}), {"path": "memory"}, tmp_path, config)
    read = []

    class Counting(MemorySource):
        def read(self, shard, *, pictures=True):
            read.append(shard)
            return super().read(shard, pictures=pictures)

    assert embed_source(Counting(content()), {"path": "memory"}, tmp_path, config)["images"] == 12
    assert read == ["a", "b", "c", "b", "c"]  # without pictures, whether the source is what it was; then the rest


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_table_with_several_captions_a_row_is_read_to_the_end(name, tmp_path, config):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(number)))
    rows = [{"image": f"{number}.png", "en": f"dog {number}", "de": f"cat {number}"} for number in range(2)]
    write_rows(tmp_path / name, rows)
    config = replace(config, source=SourceConfig(caption_col=("en", "de")))
    summary = embed(str(tmp_path / name), tmp_path / "out", config)
    assert (summary["images"], summary["captions"]) == (2, 4)
    ids = pq.read_table(tmp_path / "out" / "pairs.parquet")["caption_id"].to_pylist()
    assert ids == ["row-1/en", "row-1/de", "row-2/en", "row-2/de"]


def test_a_table_on_disk(tmp_path, config):
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(number)))
    (tmp_path / "3.png").write_bytes(b"broken")
    rows = ["image,caption", *(f"{number}.png,a red dog {number}" for number in range(5)), "gone.png,a cat"]
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n")
    summary = embed(str(tmp_path / "photos.csv"), tmp_path / "out", config)
    assert summary["images"] == 4
    assert summary["source"]["path"] == str(tmp_path / "photos.csv")
    assert sum(summary["skipped"].values()) == 2
    with pytest.raises(DataError):
        embed(str(tmp_path / "nowhere.csv"), tmp_path / "other", config)
    assert not (tmp_path / "other").exists()


def write_folder(place, pictures):
    for name, data in pictures.items():
        (place / f"{name}.png").write_bytes(data)
        (place / f"{name}.txt").write_text(f"a dog {name}")


def write_tars(place, pictures):
    names = list(pictures)
    for shard, chosen in enumerate((names[:7], names[7:])):
        with tarfile.open(place / f"{shard:05}.tar", "w") as tar:
            for name in chosen:
                for ending, data in (("png", pictures[name]), ("txt", f"a dog {name}".encode())):
                    member = tarfile.TarInfo(f"{name}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("write", [write_folder, write_tars])
def test_a_store_finds_the_pictures_of_its_source_again(tmp_path, config, write):
    pictures = {f"p{number:02}": encoded(picture(number)) for number in range(12)}
    (tmp_path / "photos").mkdir()
    write(tmp_path / "photos", pictures)
    assert embed(str(tmp_path / "photos"), tmp_path / "features", config)["images"] == 12
    splits = load_embeddings_splits(tmp_path / "features")
    for pairs in (splits.train, splits.dev, splits.test):
        for caption, image in zip(pairs.captions, pairs.image_of_caption.tolist(), strict=True):
            assert pairs.pictures[image] == pictures[caption.split()[2]]
