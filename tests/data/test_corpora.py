import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from truepair.config import DataConfig
from truepair.config.source import SourceConfig
from truepair.data.batch import Padded
from truepair.data.corpora import Corpus, load_corpus
from truepair.data.noise import read_noise_index
from truepair.data.text import SPECIAL_WORDS, Vocabulary
from truepair.errors import ConfigError, DataError, TruepairError
from truepair.sources.opening import reopened


def write_folder(path: Path, repeated: tuple[str, ...] = (), **images: int) -> Path:
    """Two captions an image; image k of a split has features full of k."""
    path.mkdir(exist_ok=True)
    for split, count in images.items():
        features = np.arange(count, dtype=np.float32).repeat(4).reshape(count, 2, 2)
        np.save(path / f"{split}_ims.npy", features.repeat(2 if split in repeated else 1, axis=0))
        lines = [f"a dog , {word}\n" for _ in range(count) for word in ("one", "two")]
        (path / f"{split}_caps.txt").write_text("".join(lines))
    return path


def config(path: Path, **options: object) -> DataConfig:
    return DataConfig(path=str(path), captions_per_image=2, **options)


def write_vocabulary(path: Path, *words: str) -> str:
    path.write_text(Vocabulary((*SPECIAL_WORDS, *words)).to_json())
    return str(path)


def test_a_folder_has_the_words_of_its_training_captions_in_all_splits(tmp_path):
    folder = write_folder(tmp_path / "f30k_precomp", train=4, dev=2, test=3)
    (folder / "dev_caps.txt").write_text("a dog , unseen\n" * 4)
    corpus = load_corpus(config(folder))
    assert corpus.splits.name == "f30k_precomp"
    assert corpus.vocabulary is not None
    assert corpus.vocabulary.words == (*SPECIAL_WORDS, ",", "a", "dog", "one", "two")
    first = torch.tensor([0])
    assert corpus.splits.test.caption_inputs.take(first).values.tolist() == [[1, 6, 7, 5, 8, 2]]
    assert corpus.splits.dev.caption_inputs.take(first).values.tolist() == [[1, 6, 7, 5, 3, 2]]
    assert (corpus.skipped, corpus.notes) == ([], ())


def test_the_test_split_has_the_name_that_is_asked_for(tmp_path):
    folder = write_folder(tmp_path / "coco", ("testall",), train=4, dev=2, test=1, testall=5)
    assert len(load_corpus(config(folder)).splits.test.images) == 1
    pairs = load_corpus(config(folder, test_split="testall")).splits.test
    assert (len(pairs.images), len(pairs), pairs.image_ids[0]) == (5, 10, "testall-0")
    with pytest.raises(DataError, match=r"cannot read .*all_ims.npy"):
        load_corpus(config(folder, test_split="all"))


@pytest.mark.parametrize("repeated", [(), ("dev",)])
def test_development_on_the_first_1000_images_drops_the_other_images_too(tmp_path, repeated):
    folder = write_folder(tmp_path / "f30k", repeated, train=4, dev=1014, test=2)
    dev = load_corpus(config(folder, development="first_1000_images")).splits.dev
    assert (len(dev.images), len(dev), len(dev.image_ids), len(dev.caption_inputs)) == (1000, 2000, 1000, 2000)
    assert dev.image_of_caption.tolist() == [image for image in range(1000) for _ in range(2)]
    values = dev.images.take(torch.arange(1000)).values
    assert torch.equal(values[:, 0, 0], torch.arange(1000.0))
    everything = load_corpus(config(folder)).splits.dev
    assert (len(everything.images), len(everything)) == (1014, 2028)
    assert list(dev.caption_ids) == list(everything.caption_ids[:2000])


def test_fewer_development_images_than_asked_for_are_noted(tmp_path):
    folder = write_folder(tmp_path / "f30k", train=4, dev=3, test=2)
    corpus = load_corpus(config(folder, development="first_1000_images"))
    assert len(corpus.splits.dev.images) == 3
    assert corpus.notes == ("data.development is 'first_1000_images', but there are only 3: all are used",)


def test_a_vocabulary_file_is_used_and_what_it_does_not_know_is_noted(tmp_path):
    folder = write_folder(tmp_path / "f30k", train=4, dev=2, test=2)
    path = write_vocabulary(tmp_path / "vocab.json", "a", "dog", "one", ",")
    corpus = load_corpus(config(folder, vocabulary=path, maximum_unknown_share=0.125))
    assert corpus.splits.dev.caption_inputs.take(torch.tensor([1])).values.tolist() == [[1, 5, 6, 8, 3, 2]]
    assert corpus.notes == (f"{path} does not know 12.50% of the words in the training captions",)


def test_a_vocabulary_file_of_other_captions_is_refused_for_every_kind_of_corpus(tmp_path):
    path = write_vocabulary(tmp_path / "vocab.json", "ein", "hund", ",")
    message = r"vocab.json does not know 75.0% of the words in the 8 training captions, more than data.maximum_unknown_"
    with pytest.raises(DataError, match=message):
        load_corpus(config(write_folder(tmp_path / "f30k", train=4, dev=2, test=2), vocabulary=path))
    with pytest.raises(DataError, match=r"vocab.json does not know .* training captions, more than data.maximum_unk"):
        load_corpus(DataConfig(text="words", vocabulary=path))


@pytest.mark.parametrize("rows", [(), ("train",)])
def test_splits_of_unlike_regions_are_refused(tmp_path, rows):
    folder = write_folder(tmp_path / "f30k", rows, train=4, dev=2, test=2)
    np.save(folder / "test_ims.npy", np.ones((2, 9, 2), dtype=np.float32))
    with pytest.raises(
        DataError, match=r"images of 'test' are regions of 9 × 2, but those of 'train' are regions of 2"
    ):
        load_corpus(config(folder))


@pytest.mark.parametrize(
    ("convention", "index", "image_of_caption"),
    [
        ("per_caption", [0, 2, 1, 1, 0, 2, 3, 3], [0, 2, 1, 1, 0, 2, 3, 3]),
        ("per_image", [2, 1, 0, 3], [2, 2, 1, 1, 0, 0, 3, 3]),
        ("per_image", [2, 2, 2, 3], [2, 2, 2, 2, 2, 2, 3, 3]),  # not a permutation
    ],
)
@pytest.mark.parametrize("repeated", [(), ("train",), ("dev", "test")])
def test_noise_index_files_count_images_in_either_layout(tmp_path, convention, index, image_of_caption, repeated):
    train = load_corpus(config(write_folder(tmp_path / "f30k", repeated, train=4, dev=2, test=2))).splits.train
    np.save(tmp_path / "index.npy", np.array(index))
    noisy = read_noise_index(tmp_path / "index.npy", train, convention=convention)
    assert noisy.image_of_caption.tolist() == image_of_caption
    truth = [0, 0, 1, 1, 2, 2, 3, 3]
    assert noisy.true_image_of_caption.tolist() == truth
    wrong = sum(given != true for given, true in zip(image_of_caption, truth, strict=True))
    assert noisy.realised_noise_rate == pytest.approx(wrong / 8)


@pytest.mark.parametrize("repeated", [(), ("train",)])
@pytest.mark.parametrize(
    ("convention", "index", "message"),
    [
        (
            "per_caption",
            [0, 1],
            r"has 2 entries, but convention='per_caption' needs 8 \(per_caption: 8 captions, per_im",
        ),
        ("per_image", [0] * 8, r"has 8 entries, but convention='per_image' needs 4 .* was it made for this convention"),
        (
            "per_caption",
            [4] * 8,
            r"out of range at 8 of 8 entries .* image 4, but there are 4 images\); was it made for",
        ),
        ("per_image", [0, 1, 2, 7], r"out of range at 1 of 4 entries \(first: entry 3 is image 7, but there are 4"),
    ],
)
def test_noise_index_files_of_another_split_are_refused(tmp_path, repeated, convention, index, message):
    train = load_corpus(config(write_folder(tmp_path / "f30k", repeated, train=4, dev=2, test=2))).splits.train
    np.save(tmp_path / "index.npy", np.array(index))
    with pytest.raises(DataError, match=message):
        read_noise_index(tmp_path / "index.npy", train, convention=convention)


def test_flickr8k_is_known_by_its_caption_file_unless_region_features_lie_there(tmp_path):
    folder = tmp_path / "flickr8k"
    folder.mkdir()
    (folder / "captions.txt").write_text("image,caption\n" + "".join(f"{k}.jpg,a dog\n" for k in range(10)))
    np.save(tmp_path / "f.npy", np.ones((10, 2, 3), dtype=np.float32))
    corpus = load_corpus(DataConfig(path=str(folder), image_features=str(tmp_path / "f.npy"), test_share=0.3))
    assert [len(pairs) for pairs in (corpus.splits.train, corpus.splits.dev, corpus.splits.test)] == [6, 1, 3]
    assert corpus.splits.test.caption_inputs is not None
    write_folder(folder, train=4, dev=2, test=2)
    assert load_corpus(config(folder)).splits.train.image_ids[0] == "train-0"


def test_a_karpathy_file_is_known_by_its_ending(tmp_path):
    images = [
        {"filename": f"{k}.jpg", "split": split, "sentences": [{"raw": "a dog", "sentid": 2 * k + i} for i in range(2)]}
        for k, split in enumerate(["train", "restval", "val", "test"])
    ]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images}))
    np.save(tmp_path / "f.npy", np.ones((4, 3), dtype=np.float32))
    options = DataConfig(
        path=str(path), captions_per_image=1, image_features=str(tmp_path / "f.npy"), minimum_word_count=1
    )
    corpus = load_corpus(options)
    assert [len(pairs) for pairs in (corpus.splits.train, corpus.splits.dev, corpus.splits.test)] == [2, 1, 1]
    assert corpus.vocabulary is not None
    with pytest.raises(
        ConfigError, match=r"data.test_split is 'testall', which has no meaning for .*dataset_coco.json"
    ):
        load_corpus(DataConfig(path=str(path), test_split="testall"))


OPTIONS = {
    "captions_per_image": 5,
    "test_split": "testall",
    "development": "first_1000_images",
    "source": SourceConfig(image_col="file"),
    "image_features": "f.npy",
    "caption_features": "c.npy",
    "development_share": 0.2,
    "test_share": 0.2,
    "split_seed": 1,
}


def paths_and_the_options_they_read(folder: Path) -> dict[str, set[str]]:
    (folder / "t.csv").write_text("image,caption\na.jpg,a dog\n")
    image = {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a dog", "sentid": 0}]}
    (folder / "dataset.json").write_text(json.dumps({"images": [image]}))
    (folder / "flickr8k").mkdir()
    (folder / "flickr8k" / "captions.txt").write_text("image,caption\na.jpg,a dog\n")
    (folder / "features").mkdir()
    for name in ("images", "captions"):
        np.save(folder / "features" / f"{name}.npy", np.ones((4, 2), dtype=np.float32))
    shares = {"development_share", "test_share", "split_seed"}
    of_sources = {"source", "captions_per_image", "development", "image_features", "caption_features", *shares}
    return {
        "demo": set(),
        str(write_folder(folder / "f30k", train=4, dev=2, test=2)): {"captions_per_image", "test_split", "development"},
        str(folder / "features"): shares,
        str(folder / "flickr8k"): of_sources,
        str(folder / "dataset.json"): of_sources,
        str(folder / "t.csv"): of_sources,
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_only_other_kinds_of_corpus_read_is_refused(tmp_path, name):
    told = "--image-col" if name == "source" else f"data.{name}"
    for path, read in paths_and_the_options_they_read(tmp_path).items():
        refused = ""
        try:
            load_corpus(DataConfig(path=path, **{name: OPTIONS[name]}))
        except TruepairError as error:  # of those that are read, too: these corpora are hardly there
            refused = str(error)
        message = rf"{told} is .*, which has no meaning for '{path}', (the|a|pict).*: leave it out \(it is for .*\)"
        assert (re.fullmatch(message, refused) is None) == (name in read)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_test_split_that_is_trained_or_chosen_on_is_refused_as_an_option(tmp_path, split):
    with pytest.raises(ConfigError, match=rf"'train', 'dev', '{split}', but no pair may be in two .*data.test_split"):
        load_corpus(config(write_folder(tmp_path / "f30k", train=4, dev=2, test=2), test_split=split))


def test_images_without_captions_and_without_a_list_are_in_the_notes(tmp_path):
    folder = tmp_path / "flickr8k"
    folder.mkdir()
    (folder / "captions.txt").write_text("image,caption\n" + "".join(f"{k}.jpg,a dog\n" for k in range(10)))
    for split, images in {"train": range(5), "dev": (5,), "test": (6,)}.items():
        (folder / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{image}.jpg\n" for image in images))
    np.save(tmp_path / "f.npy", np.ones((10, 2, 3), dtype=np.float32))
    corpus = load_corpus(DataConfig(path=str(folder), image_features=str(tmp_path / "f.npy")))
    assert corpus.notes == (f"3 of the 10 images of {folder} are in no split list and are left out",)


def test_a_vocabulary_that_caption_features_leave_without_use_is_refused(tmp_path):
    path = write_vocabulary(tmp_path / "vocab.json", "dog")
    with pytest.raises(
        ConfigError,
        match=r"data.vocabulary is '.*vocab.json', but data.text is 'features', so that no .* to 'words' or",
    ):
        load_corpus(DataConfig(text="features", vocabulary=path))


def test_paths_that_hold_no_corpus_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no pictures \(files that end in .jpg"):
        load_corpus(DataConfig(path=str(tmp_path)))
    for options in ({}, {"test_split": "testall"}):  # where nothing is, no option is discussed
        with pytest.raises(
            DataError, match=r"gone.json does not exist; give a table, a folder of pictures, .tar files"
        ):
            load_corpus(DataConfig(path=str(tmp_path / "gone.json"), **options))


def test_a_corpus_says_how_its_source_is_opened_again(tmp_path):
    assert load_corpus(DataConfig()).source["path"] == "demo"
    assert load_corpus(config(write_folder(tmp_path / "f30k", train=4, dev=2, test=2))).source is None
    rows = "".join(f"{k}.jpg;a dog\n" for k in range(10))
    (tmp_path / "t.csv").write_text(f"photo;caption\n{rows}")
    np.save(tmp_path / "f.npy", np.ones((10, 3), dtype=np.float32))
    corpus = load_corpus(DataConfig(path=str(tmp_path / "t.csv"), image_features=str(tmp_path / "f.npy")))
    again = reopened(json.loads(json.dumps(corpus.source)))
    assert (again.kind, again.path) == ("table", tmp_path / "t.csv")
    assert [name for place in again.pictures() for name in [place.image_id]] == [f"{k}.jpg" for k in range(10)]
    assert [note.split(" (")[0] for note in corpus.notes] == [
        f"{tmp_path / 't.csv'} has a semicolon between its cells",
        "pictures are read from the column 'photo'",
    ]


def test_caption_features_that_are_not_there_are_refused(tmp_path):
    folder = write_folder(tmp_path / "f30k", train=4, dev=2, test=2)
    for text in ("features", "both"):
        with pytest.raises(
            ConfigError, match=rf"data.text is '{text}', but f30k has no caption features: name data.caption_features"
        ):
            load_corpus(config(folder, text=text))


def first_captions(corpus: Corpus) -> list[Padded]:
    splits = corpus.splits
    return [pairs.caption_inputs.take(torch.arange(3)) for pairs in (splits.train, splits.dev, splits.test)]


def test_the_captions_of_the_demo_are_read_as_words_beside_features_unless_one_of_them_is_asked_for():
    taken = {text: first_captions(load_corpus(DataConfig(text=text))) for text in ("auto", "words", "features", "both")}
    for auto, words, features, both in zip(*taken.values(), strict=True):
        assert features.values.shape == (3, 384)
        assert (words.vectors, features.lengths, features.vectors) == (None, None, None)
        for each in (auto, both):
            assert torch.equal(each.values, words.values)
            assert torch.equal(each.vectors, features.values)


def write_caption_features(folder: Path, *splits: str) -> None:
    """The feature of caption k of the file is (k, 1)."""
    for split in splits:
        captions = len((folder / f"{split}_caps.txt").read_text().splitlines())
        features = np.stack([np.arange(captions), np.ones(captions)], 1).astype(np.float32)
        np.save(folder / f"{split}_caps.npy", features)


def test_a_folder_with_a_file_of_caption_features_a_split_is_read_in_every_way(tmp_path):
    folder = write_folder(tmp_path / "f30k", train=4, dev=2, test=3)
    assert all(taken.vectors is None for taken in first_captions(load_corpus(config(folder))))
    write_caption_features(folder, "train", "dev", "test")
    corpora = {text: load_corpus(config(folder, text=text)) for text in ("auto", "words", "features", "both")}
    assert [corpus.vocabulary is None for corpus in corpora.values()] == [False, False, True, False]
    expected = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    for auto, words, features, both in zip(*map(first_captions, corpora.values()), strict=True):
        assert torch.equal(features.values, expected)
        assert words.vectors is None
        assert words.values[1].tolist()[:2] == [1, 6]
        for each in (auto, both):
            assert torch.equal(each.values, words.values)
            assert torch.equal(each.vectors, expected)


def test_development_images_keep_the_features_of_their_captions(tmp_path):
    folder = write_folder(tmp_path / "f30k", train=4, dev=1014, test=2)
    write_caption_features(folder, "train", "dev", "test")
    dev = load_corpus(config(folder, development="first_1000_images")).splits.dev
    taken = dev.caption_inputs.take(torch.tensor([1999, 3]))
    assert taken.vectors[:, 0].tolist() == [1999, 3]
    assert len(dev.caption_inputs) == 2000


def test_a_table_with_a_column_of_caption_features_is_read_in_every_way(tmp_path):
    rows = [
        {"image": f"{k}.jpg", "caption": "" if k == 3 else f"a dog {k}", "seen": [float(k), 1.0], "said": [2.0 * k]}
        for k in range(10)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceConfig(image_feature_col="seen", caption_feature_col="said")
    seen = {}
    for text in ("auto", "words", "features", "both"):
        corpus = load_corpus(DataConfig(path=str(tmp_path / "t.jsonl"), source=source, text=text, minimum_word_count=1))
        for pairs in (corpus.splits.train, corpus.splits.dev, corpus.splits.test):
            taken = pairs.caption_inputs.take(torch.arange(len(pairs)))
            vectors = taken.values if text == "features" else taken.vectors
            assert (vectors is None) == (text == "words")
            if vectors is not None:
                assert [f"a dog {int(vector / 2)}" for vector in vectors[:, 0]] == list(pairs.captions)
            if text != "features":
                assert taken.lengths.tolist() == [5] * len(pairs)  # <start>, three words, <end>
            seen.setdefault(text, []).extend(pairs.captions)
    assert {len(captions) for captions in seen.values()} == {9}, "the empty caption is left out"
