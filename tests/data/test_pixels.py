import numpy as np
import pytest
import torch
from photographs import write_photographs
from PIL import Image

from truepair.config import DataConfig, ModelConfig, SourceConfig
from truepair.data.batch import Padded, joined
from truepair.data.corpora import load_corpus
from truepair.data.loader import Loaders
from truepair.data.whole import every_pair
from truepair.errors import ConfigError, DataError
from truepair.model import InputShape

pytest.importorskip("transformers", reason="needs the extra hf")
from tiny_networks import save_bert, save_clip


def data(table):
    return DataConfig(str(table), SourceConfig(split_col="split"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def model(clip):
    return ModelConfig(image="full", text="full", image_encoder=clip, text_encoder=clip)


@pytest.fixture
def corpus(tmp_path, model):
    return load_corpus(data(write_photographs(tmp_path)), model)


def loaders(corpus, workers=0):
    return Loaders(corpus.splits.train, 8, 0, torch.device("cpu"), workers)


def test_a_batch_holds_each_picture_once(corpus):
    batches = [*loaders(corpus).train(0)]
    assert sum(len(batch.images.values) for batch in batches) < len(corpus.splits.train)
    for batch in batches:
        shown = corpus.splits.train.image_of_caption[batch.pair]
        assert len(batch.images) == len(batch.captions) == len(batch.pair)
        assert len(batch.images.values) == len(shown.unique())
        alone = corpus.splits.train.images.take(shown[:1])
        torch.testing.assert_close(batch.images.values[batch.images.places[0]], alone.values[0])


def test_workers_give_the_same_batches(corpus):
    for here, there in zip(loaders(corpus).train(1), loaders(corpus, 2).train(1), strict=True):
        assert torch.equal(here.images.values, there.images.values)
        assert torch.equal(here.captions.values, there.captions.values)


def test_the_shape_is_that_of_pixels_and_tokens(corpus):
    shape = InputShape.of(corpus.splits.train, corpus.vocabulary)
    assert (shape.image, shape.image_width, shape.caption, shape.has_words) == ("pixels", 32, "tokens", False)
    assert not any("patches" in note for note in corpus.notes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_broke_meanwhile_is_named(corpus, tmp_path, workers):
    (tmp_path / "3.png").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"^picture row-7 cannot be read any more \(.*\): restore it, and"):
        list(loaders(corpus, workers).train(0))


def test_pictures_that_cannot_be_read_are_left_out_at_the_start(tmp_path, model):
    table = write_photographs(tmp_path)
    (tmp_path / "0.png").write_bytes(b"no picture")
    corpus = load_corpus(data(table), model)
    assert (len(corpus.skipped), len(corpus.splits.train)) == (1, 18)


def test_all_splits_and_rows_line_up(corpus, tmp_path):
    pairs = every_pair(corpus.splits)
    taken = pairs.images.take(torch.tensor([17, 0, 17]))
    reader = corpus.splits.train.images.inputs.reader
    expected = [reader(Image.open(tmp_path / f"{number}.png", formats=["PNG"])) for number in (17, 0, 17)]
    np.testing.assert_array_equal(taken.values[taken.places], np.stack(expected))


def test_rows_and_joined_parts_keep_their_places():
    some = Padded(torch.arange(2.0)[:, None], places=torch.tensor([1, 0, 1]))
    assert len(some) == 3
    assert some.rows(torch.tensor([2, 1])).places.tolist() == [1, 0]
    both = joined([some, some.rows(slice(1, 3))])
    assert both.values[both.places][:, 0].tolist() == [1, 0, 1, 0, 1]


def test_what_a_network_would_not_read_is_refused(tmp_path, model, world):
    path = str(write_photographs(tmp_path))
    np.save(tmp_path / "f.npy", np.ones((18, 4), np.float32))
    with pytest.raises(ConfigError, match=r"data.text is 'words', but model.text 'full' reads tokens of its own"):
        load_corpus(DataConfig(path, text="words"), model)
    with pytest.raises(ConfigError, match=r"image features \(.*f.npy\) are named, but model.image is to read pixels"):
        load_corpus(DataConfig(path, image_features=str(tmp_path / "f.npy")), model)
    np.save(tmp_path / "images.npy", np.ones((12, 4), np.float32))
    np.save(tmp_path / "captions.npy", np.ones((12, 4), np.float32))
    (tmp_path / "captions.txt").write_text("a dog\n" * 12)
    with pytest.raises(ConfigError, match="has no pictures but only features, and"):
        load_corpus(DataConfig(str(tmp_path)), model)


def test_a_network_without_an_image_side_is_refused(tmp_path, model):
    bert = save_bert(tmp_path / "bert")
    with pytest.raises(ConfigError, match="is of type 'bert', which has no get_image_features"):
        load_corpus(data(write_photographs(tmp_path)), ModelConfig(image="full", image_encoder=bert))
