"""Names and captions on disk, shards in turn: the same pairs as in memory."""

import io
import json
import tarfile
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kills import killed_at
from made_sources import opened, picture, write_tar
from made_stores import in_memory
from owned_elsewhere import owned_elsewhere
from photographs import write_photographs

from truepair import processes
from truepair.config import DataConfig, EmbedConfig, ModelConfig, SourceConfig
from truepair.data import streaming
from truepair.data.corpora import load_corpus
from truepair.data.labelled import LabelledDraw
from truepair.data.loader import Loaders
from truepair.data.pixels import LostPictures
from truepair.data.streaming import index_of_source
from truepair.errors import ConfigError, DataError
from truepair.files.locking import alone_in
from truepair.files.texts import Texts
from truepair.sources import webdataset
from truepair.sources.opening import description_of
from truepair.sources.stores import Store

pytest.importorskip("transformers", reason="needs the extra hf")
from tiny_networks import save_bert, save_clip

SHARDS, SAMPLES = 4, 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    clip, bert = (save(tmp_path_factory.mktemp("network")) for save in (save_clip, save_bert))
    return ModelConfig(image="full", text="full", image_encoder=clip, text_encoder=bert, embedding=8)


@pytest.fixture
def shards(tmp_path):
    return write_captioned(tmp_path / "shards")


def write_captioned(folder, broken=()):
    """Shards of pictures, each with two captions; those of some numbers are no pictures."""
    for shard in range(SHARDS):
        files = {}
        for place in range(SAMPLES):
            number = SAMPLES * shard + place
            files[f"{number:03d}.png"] = b"no picture" * 9 if number in broken else picture(number)
            files[f"{number:03d}.json"] = json.dumps({"caption": [f"a dog {number}", f"cat {number}"]}).encode()
        write_tar(folder / f"{shard:05d}.tar", files)
    return folder


def data(shards, tmp_path, **options):
    return DataConfig(str(shards), stream_index=str(tmp_path / "index"), **options)


def texts_of(pairs):
    return [*pairs.captions], [*pairs.caption_ids], [*pairs.image_ids], pairs.image_of_caption.tolist()


def index_in(folder, shards):
    source = opened(shards)
    return index_of_source(source, description_of(source, shards, SourceConfig()), folder)


def test_a_streamed_corpus_has_the_pairs_of_one_in_memory(shards, model, tmp_path):
    streamed = load_corpus(data(shards, tmp_path), model).splits
    in_memory = load_corpus(DataConfig(str(shards)), model).splits
    for split in ("train", "dev", "test"):
        one, other = getattr(streamed, split), getattr(in_memory, split)
        assert isinstance(one.captions, Texts)
        assert texts_of(one) == texts_of(other)
        rows = torch.arange(len(other.images))
        assert torch.equal(one.images.take(rows).values, other.images.take(rows).values)
        captions = torch.arange(len(other)).flip(0)
        assert torch.equal(one.caption_inputs.take(captions).values, other.caption_inputs.take(captions).values)
        assert [one.pictures[image] for image in rows.tolist()] == [other.pictures[image] for image in rows.tolist()]
    assert streamed.train.shard_of_image.tolist() == [int(name.partition("/")[0]) for name in in_memory.train.image_ids]


def test_splits_of_a_table_are_those_in_memory(model, tmp_path):
    table = write_photographs(tmp_path / "photographs")
    options = SourceConfig(split_col="split")
    streamed = load_corpus(data(table, tmp_path, source=options), model).splits
    in_memory = load_corpus(DataConfig(str(table), options), model).splits
    for split in ("train", "dev", "test"):
        assert texts_of(getattr(streamed, split)) == texts_of(getattr(in_memory, split))


def test_an_index_is_made_once(shards, tmp_path, monkeypatch):
    first = index_in(tmp_path / "index", shards)
    monkeypatch.setattr(streaming, "_rows_of_shard", lambda *_: pytest.fail("read again"))
    again = index_in(tmp_path / "index", shards)
    assert again.captions.equals(first.captions)
    assert again.images.equals(first.images)
    assert sorted(path.name for path in (tmp_path / "index").iterdir() if path.name[0] != ".") == [
        *("captions.arrow", "images.arrow", "index.json", "skipped.csv")
    ]


def test_making_an_index_goes_on_with_the_next_shard(shards, tmp_path):
    whole = index_in(tmp_path / "whole", shards)
    event, folder = 1, tmp_path / "index"
    while killed_at(event, lambda: index_in(folder, shards), folder):
        event += 3
    assert event > 12
    found = index_in(folder, shards)
    assert not (folder / "parts").exists()
    assert found.captions.equals(whole.captions)
    assert found.images.equals(whole.images)


def test_an_index_that_is_there_is_read_while_others_read_it(shards, tmp_path):
    index_in(tmp_path / "index", shards)
    with owned_elsewhere(alone_in(tmp_path / "index")):
        assert len(index_in(tmp_path / "index", shards).images) == SHARDS * SAMPLES
    with (
        owned_elsewhere(alone_in(tmp_path / "other")),
        pytest.raises(ConfigError, match="another process is writing"),
    ):
        index_in(tmp_path / "other", shards)


def test_shards_that_were_read_are_not_read_again(shards, tmp_path, monkeypatch):
    read = []
    rows_of_shard = streaming._rows_of_shard

    def interrupted(source, shard, number):
        read.append(shard)
        if len(read) == 3:
            raise KeyboardInterrupt
        return rows_of_shard(source, shard, number)

    monkeypatch.setattr(streaming, "_rows_of_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index_in(tmp_path / "index", shards)
    assert len(index_in(tmp_path / "index", shards).images) == SHARDS * SAMPLES
    assert read == ["00000", "00001", "00002", "00002", "00003"]


def test_rows_of_one_shard_are_written_in_blocks(shards, tmp_path, monkeypatch):
    whole = index_in(tmp_path / "whole", shards)
    monkeypatch.setattr(streaming, "_ROWS_AT_A_TIME", 3)
    assert index_in(tmp_path / "blocks", shards).captions.to_pylist() == whole.captions.to_pylist()


def test_what_cannot_be_read_is_told(shards, tmp_path):
    write_tar(shards / "00004.tar", {"900.png": picture(1), "901.txt": b"no picture"})
    assert [skip.reason for skip in index_in(tmp_path / "index", shards).skipped] == [
        *("missing caption", "missing picture")
    ]


def test_an_index_of_another_corpus_is_refused(shards, tmp_path):
    index_in(tmp_path / "index", shards)
    other = write_captioned(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"is of another corpus, or of other options \(of\): name another folder"):
        index_in(tmp_path / "index", other)


def test_shards_that_changed_are_refused(shards, tmp_path):
    index_in(tmp_path / "index", shards)
    write_tar(shards / "00002.tar", {"900.png": picture(1), "900.txt": b"another dog"})
    with pytest.raises(ConfigError, match=r"1 of 4 shards were changed since the index .* \(first: 00002\)"):
        index_in(tmp_path / "index", shards)
    write_tar(shards / "00004.tar", {"901.png": picture(2), "901.txt": b"one more"})
    with pytest.raises(ConfigError, match=r"is of other shards \(shards\)"):
        index_in(tmp_path / "index", shards)


def test_a_folder_of_something_else_is_refused(shards, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds mine\.txt, of something else"):
        index_in(tmp_path / "index", shards)
    assert [path.name for path in (tmp_path / "index").iterdir() if path.name[0] != "."] == ["mine.txt"]


def test_a_damaged_index_is_refused(shards, tmp_path):
    index_in(tmp_path / "index", shards)
    (tmp_path / "index" / "captions.arrow").write_bytes(b"ARROW1")
    with pytest.raises(DataError, match=r"the index in .* cannot be read .*: delete it"):
        index_in(tmp_path / "index", shards)


def test_a_corpus_without_a_pair_is_refused(tmp_path):
    shards = write_tar(tmp_path / "shards" / "00000.tar", {"1.txt": b"alone"}).parent
    with pytest.raises(DataError, match=r"has no pair that can be read \(1 left out; the first is .*missing picture"):
        index_in(tmp_path / "index", shards)


@pytest.mark.parametrize("options", [{"captions_per_image": 1}, {"image_features": "a.npy"}])
def test_options_that_need_everything_in_memory_are_refused(shards, model, tmp_path, options):
    with pytest.raises(ConfigError, match=r"data\.stream_index is for pictures that a pretrained network reads"):
        load_corpus(data(shards, tmp_path, **options), model)


def test_patches_are_refused(shards, tmp_path):
    with pytest.raises(ConfigError, match=r"set model\.image to 'full', 'lora' or 'frozen'"):
        load_corpus(data(shards, tmp_path))


def test_shards_at_once_means_nothing_without_an_index():
    with pytest.raises(ConfigError, match=r"data\.shards_at_once is 2, but without data\.stream_index"):
        DataConfig(shards_at_once=2)
    with pytest.raises(ConfigError, match=r"data\.shards_at_once is 0"):
        DataConfig(stream_index="x", shards_at_once=0)


def test_more_images_than_can_be_searched_are_refused(shards, model, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "MOST_SEARCHED", 2)
    with pytest.raises(ConfigError, match=r"the test split has 10 images.*choose at most 2 \(--test-share"):
        load_corpus(data(shards, tmp_path, test_share=0.5), model)


def test_pictures_of_the_test_that_cannot_be_decoded_are_left_out(tmp_path, model):
    shards = write_captioned(tmp_path / "shards", broken=range(0, 20, 2))
    corpus = load_corpus(data(shards, tmp_path, development_share=0.3, test_share=0.3), model)
    numbers = [int(name.partition("/")[2]) for name in (*corpus.splits.dev.image_ids, *corpus.splits.test.image_ids)]
    assert numbers
    assert all(number % 2 for number in numbers)
    assert len(corpus.skipped) == 12 - len(numbers)
    assert {skip.reason for skip in corpus.skipped} == {"unreadable picture"}


def loaders(corpus, at_once, **options):
    return Loaders(corpus.splits.train, 4, 0, torch.device("cpu"), shards_at_once=at_once, **options)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_an_epoch_has_every_pair_once_and_a_few_shards_at_a_time(shards, model, tmp_path, at_once, workers):
    corpus = load_corpus(data(shards, tmp_path), model)
    pairs = corpus.splits.train
    order = torch.cat([batch.pair for batch in loaders(corpus, at_once, workers=workers).train(0)])
    assert order.sort().values.equal(torch.arange(len(pairs)))
    shard = pairs.shard_of_image[pairs.image_of_caption[order]].tolist()
    for group in range(-(-SHARDS // at_once)):
        seen = list(dict.fromkeys(shard))[group * at_once : (group + 1) * at_once]
        places = [place for place, each in enumerate(shard) if each in seen]
        assert places == [*range(places[0], places[-1] + 1)]  # nothing of other shards between
    again = torch.cat([batch.pair for batch in loaders(corpus, at_once).train(0)])
    assert order.equal(again)
    assert not order.equal(torch.cat([batch.pair for batch in loaders(corpus, at_once).train(1)]))


@pytest.mark.parametrize("workers", [0, 1])
def test_pairs_of_broken_pictures_are_in_no_batch_and_counted(tmp_path, model, workers):
    shards = write_captioned(tmp_path / "shards", broken=(3, 11))
    corpus = load_corpus(data(shards, tmp_path), model)
    pairs = corpus.splits.train
    broken = [name.partition("/")[2] in ("003", "011") for name in pairs.image_ids]
    lost = [pair for pair, image in enumerate(pairs.image_of_caption.tolist()) if broken[image]]
    assert lost
    given = loaders(corpus, 2, workers=workers)
    batches = [*given.train(0)]
    assert sorted(given.lost) == lost
    assert sorted(torch.cat([batch.pair for batch in batches]).tolist()) == sorted(set(range(len(pairs))) - set(lost))
    for batch in batches:
        assert len(batch.images) == len(batch.captions) == len(batch)
        expected = pairs.images.take(pairs.image_of_caption[batch.pair])
        assert torch.equal(batch.images.values[batch.images.places], expected.values[expected.places])


@pytest.mark.parametrize(
    ("broken", "left", "counts"),
    [([2], [0, 1, 3, 4, 5, 6], [2, 1, 3]), ([0, 1, 2], [3, 4, 5, 6], None), ([0, 1, 2, 3], "too many", None)],
)
def test_whether_too_many_are_broken_is_asked_of_the_batch_of_all_processes(
    shards, model, tmp_path, monkeypatch, broken, left, counts
):
    """Seven pairs in shares of 2, 2 and 3, of which this process is the second."""
    given = loaders(load_corpus(data(shards, tmp_path), model), 2)
    whole = torch.arange(10, 17)
    monkeypatch.setattr(processes, "count", lambda: 3)
    monkeypatch.setattr(processes, "rank", lambda: 1)
    monkeypatch.setattr(processes, "anywhere", lambda flags: flags | torch.isin(torch.arange(7), torch.tensor(broken)))
    read = given._dataset._batch(whole[2:4])
    lost = {int(whole[place]): "broken" for place in broken if place in (2, 3)}
    read = replace(read, lost=lost)
    if left == "too many":
        for _ in range(4):  # of so few, most may be broken by chance
            assert given._whole(whole, read) is None
        with pytest.raises(DataError, match=r"20 of 35 pictures of the last batches .* cannot be decoded, too many"):
            given._whole(whole, read)
    elif counts is None:
        assert given._whole(whole, read) is None
        assert sorted(given.lost) == whole[broken].tolist()
    else:
        made = given._whole(whole, read)
        assert (made.pair.tolist(), made.counts) == (whole[left].tolist(), counts)


def test_a_share_of_broken_pictures_alone_is_handed_over(tmp_path, model):
    pairs = load_corpus(data(write_captioned(tmp_path / "shards", broken=(3, 11)), tmp_path), model).splits.train
    names = [pairs.image_ids[image].partition("/")[2] for image in pairs.image_of_caption.tolist()]
    broken = [pair for pair, name in enumerate(names) if name in ("003", "011")]
    given = Loaders(pairs, 4, 0, torch.device("cpu"))
    assert sorted(given._dataset._batch(torch.tensor(broken)).lost) == broken
    some = LabelledDraw(pairs, pairs, 0, 0, torch.device("cpu"))
    kept = torch.tensor([pair for pair in range(len(pairs)) if pair not in broken][:6])
    batch, labels = some._batch(torch.tensor([*broken[:1], *kept[:3]]), kept[3:], LostPictures())
    assert labels.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert len(batch.images) == len(batch.captions) == len(batch) == 6
    assert some._batch(torch.tensor(broken[:2]), kept[:1], LostPictures()) is None
    with pytest.raises(DataError, match="pictures of trusted and mismatched pairs cannot be decoded, too many"):
        some._batch(torch.tensor(broken[:1]).expand(20), kept.repeat(2), LostPictures())


def test_a_source_that_is_gone_ends_the_run(shards, model, tmp_path):
    corpus = load_corpus(data(shards, tmp_path), model)
    for file in shards.glob("*.tar"):
        file.write_bytes(b"0" * file.stat().st_size)
    with pytest.raises(DataError, match=r"of 32 pictures of the last .* cannot be decoded, too many .* source still"):
        next(loaders(corpus, 2).train(0))


def test_a_shard_of_the_same_size_with_other_members_is_another_corpus(shards, model, tmp_path):
    load_corpus(data(shards, tmp_path), model)
    file = shards / "00001.tar"
    size = file.stat().st_size
    with tarfile.open(file) as tar:
        contents = [(member, tar.extractfile(member).read()) for member in tar.getmembers()]
    with tarfile.open(file, "w") as tar:
        for member, content in reversed(contents):
            tar.addfile(member, io.BytesIO(content))
    assert file.stat().st_size == size
    with pytest.raises(ConfigError, match=r"1 of 4 shards were changed since the index .* \(first: 00001\)"):
        load_corpus(data(shards, tmp_path), model)


def test_a_shard_that_cannot_be_read_for_now_is_not_left_out_for_good(shards, model, tmp_path, monkeypatch):
    read = webdataset._read

    def failing(tar, *rest, **options):
        if tar.name == "00002":
            raise OSError(5, "Input/output error")
        return read(tar, *rest, **options)

    monkeypatch.setattr(webdataset, "_read", failing)
    with pytest.raises(DataError, match=r"00002\.tar cannot be read \(Input/output error\): run the same command once"):
        load_corpus(data(shards, tmp_path), model)
    monkeypatch.undo()
    mended, other = load_corpus(data(shards, tmp_path), model), load_corpus(data(shards, tmp_path / "other"), model)
    assert len(mended.splits.train) == len(other.splits.train)


def test_shards_of_a_store_are_fetched_whole(shards, model, memory, cache, tmp_path, monkeypatch):
    corpus = load_corpus(data(in_memory(shards), tmp_path), model)
    for copy in cache.rglob("*.tar*"):
        copy.unlink()
    asked, read = [], Store.read
    monkeypatch.setattr(Store, "read", lambda self, *part: (asked.append(part), read(self, *part))[1])
    batches = [*loaders(corpus, 2).train(0)]
    assert sum(map(len, batches)) == len(corpus.splits.train)
    assert sorted(address[-9:] for address, *_ in asked) == [f"{shard:05d}.tar" for shard in range(SHARDS)]


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_in_cells_are_those_in_memory_and_row_groups_are_read_once(model, workers, cache, tmp_path):
    rows = {"image": [picture(number) for number in range(30)], "caption": [f"a dog {number}" for number in range(30)]}
    rows["split"] = ["val" if number < 3 else "test" if number < 6 else "train" for number in range(30)]
    pq.write_table(pa.table(rows), tmp_path / "photographs.parquet", row_group_size=4)
    corpus = load_corpus(data(tmp_path / "photographs.parquet", tmp_path), model)
    whole = load_corpus(DataConfig(str(tmp_path / "photographs.parquet")), model).splits.train
    seen = 0
    for batch in loaders(corpus, 8, workers=workers).train(0):
        same = [whole.caption_ids.index(corpus.splits.train.caption_ids[pair]) for pair in batch.pair.tolist()]
        expected = whole.images.take(whole.image_of_caption[same])
        places = range(len(same)) if batch.images.places is None else batch.images.places
        assert torch.equal(batch.images.values[places], expected.values[expected.places])
        seen += len(same)
    assert seen == 24
    assert len([*cache.rglob("*.arrow")]) == 8


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A feature store."""
    pytest.importorskip("truepair.embedding.run")
    from truepair.embedding.run import embed

    folder = tmp_path_factory.mktemp("store")
    clip = save_clip(folder / "clip")
    table = write_photographs(folder / "photographs", images=24)
    embed(str(table), folder / "features", EmbedConfig(image_encoder=clip, text_encoder=clip))
    return folder / "features"


@pytest.mark.parametrize("text", ["auto", "features"])
def test_a_streamed_store_has_the_pairs_of_one_in_memory(store, tmp_path, text, monkeypatch):
    monkeypatch.setattr(streaming, "ROWS_A_SHARD", 7)
    streamed = load_corpus(data(store, tmp_path, text=text))
    in_memory = load_corpus(DataConfig(str(store), text=text))
    assert streamed.vocabulary == in_memory.vocabulary
    for split in ("train", "dev", "test"):
        one, other = getattr(streamed.splits, split), getattr(in_memory.splits, split)
        assert texts_of(one) == texts_of(other)
        rows = torch.arange(len(other))
        of_one, of_other = (pairs.caption_inputs.take(rows) for pairs in (one, other))
        for part in ("values", "lengths", "vectors"):
            values = getattr(of_one, part), getattr(of_other, part)
            assert values == (None, None) or torch.equal(*values)
        assert torch.equal(one.images.take(rows[:2]).values, other.images.take(rows[:2]).values)
        assert one.pictures[0] == other.pictures[0]
    numbers = streamed.splits.train.images.rows // 7
    assert streamed.splits.train.shard_of_image.equal(numbers.int())


def test_other_folders_of_features_are_refused(tmp_path):
    for name in ("images.npy", "captions.npy"):
        np.save(tmp_path / name, np.zeros((30, 4), np.float32))
    with pytest.raises(ConfigError, match=r"data\.stream_index is for folders of 'truepair embed'"):
        load_corpus(data(tmp_path, tmp_path / "elsewhere"))


def test_the_recipe_of_a_run_holds_the_index(tmp_path):
    config = replace(DataConfig("x"), stream_index=str(tmp_path))
    assert DataConfig(**asdict(config) | {"source": config.source}) == config
