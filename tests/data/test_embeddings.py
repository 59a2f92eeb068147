import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from truepair.config import DataConfig
from truepair.config.source import SourceConfig
from truepair.data.corpora import load_corpus
from truepair.data.embeddings import is_embeddings, load_embeddings_splits, stored_source
from truepair.data.pairs import Pairs, Pictures, Splits
from truepair.data.pictures import SourcePictures
from truepair.errors import ConfigError, DataError
from truepair.sources.demo import demo_source
from truepair.sources.opening import description_of, open_source

IMAGES = 20
TEXTS = ("auto", "words", "features", "both")


def vectors(rows: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, *shape)).astype(np.float16)


def write_store(folder, images, captions, source=None):
    """Two captions an image."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    if captions is not None:
        np.save(folder / "captions.npy", captions)
    names = [f"i{image}" for image in range(len(images))]
    pq.write_table(
        pa.table({"image_id": names, "reference": [f"{name}.png" for name in names]}), folder / "images.parquet"
    )
    image_of_caption = [image for image in range(len(images)) for _ in range(2)]
    pairs = {
        "caption_id": [f"i{image}#{row % 2}" for row, image in enumerate(image_of_caption)],
        "caption": [f"caption {row} of a dog" for row in range(len(image_of_caption))],
        "image": image_of_caption,
        "image_id": [names[image] for image in image_of_caption],
    }
    pq.write_table(pa.table(pairs), folder / "pairs.parquet")
    described = {
        "format": 2,
        "source": {"kind": "folder", "path": "gone"} if source is None else source,
        "text_encoder": None if captions is None else {"name": "minilm"},
    }
    (folder / "embeddings.json").write_text(json.dumps(described))
    return folder


def write_clip_retrieval(folder, *counts, columns=("caption", "key"), has_captions=True, captions=None, **given):
    """Numbered files of so many rows each."""
    for number, count in enumerate(counts):
        for name in ("img_emb", *(["text_emb"] if has_captions else [])):
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.save(folder / name / f"{name}_{number}.npy", vectors(count, 4, seed=number + 10 * len(name)))
        (folder / "metadata").mkdir(exist_ok=True)
        first = sum(counts[:number])
        rows = range(first, first + count)
        table = {
            "caption": [f"a dog {row}" for row in rows],
            "key": [f"{row:09}" for row in rows],
            "url": [f"https://x/{row}" for row in rows],
        } | {name: values[first : first + count] for name, values in given.items()}
        chosen = {name: table[name] for name in (*columns, *given)}
        pq.write_table(pa.table(chosen), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def parts(splits: Splits) -> list[Pairs]:
    return [splits.train, splits.dev, splits.test]


def image_rows(pairs: Pairs) -> torch.Tensor:
    return pairs.images.take(torch.arange(len(pairs.images))).values


def caption_rows(pairs: Pairs) -> torch.Tensor:
    return pairs.caption_inputs.take(torch.arange(len(pairs))).values


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_every_pair_of_a_store_is_in_one_split_with_its_own_features(tmp_path, shape):
    images, captions = vectors(IMAGES, *shape), vectors(2 * IMAGES, 5, seed=1)
    splits = load_embeddings_splits(write_store(tmp_path / "features", images, captions))
    assert splits.name == "features"
    assert [len(pairs.images) for pairs in parts(splits)] == [16, 2, 2]
    seen = []
    for pairs in parts(splits):
        numbers = [int(name[1:]) for name in pairs.image_ids]
        np.testing.assert_array_equal(image_rows(pairs), images[numbers].astype(np.float32))
        for place, (caption_id, caption) in enumerate(zip(pairs.caption_ids, pairs.captions, strict=True)):
            row = int(caption.split()[1])
            np.testing.assert_array_equal(caption_rows(pairs)[place], captions[row].astype(np.float32))
            assert caption_id.split("#")[0] == pairs.image_ids[int(pairs.image_of_caption[place])]
            seen.append(row)
    assert sorted(seen) == list(range(2 * IMAGES))


def test_shares_and_seed_say_which_images_are_held_out(tmp_path):
    folder = write_store(tmp_path, vectors(IMAGES, 4), None)
    one, same, other = (
        load_embeddings_splits(folder, development_share=0.2, test_share=0.3, seed=seed) for seed in (0, 0, 1)
    )
    assert [len(pairs.images) for pairs in parts(one)] == [10, 4, 6]
    assert one.test.image_ids == same.test.image_ids != other.test.image_ids
    with pytest.raises(ConfigError, match="development_share"):
        load_embeddings_splits(folder, development_share=0.9, test_share=0.3)


def test_pictures_come_from_the_source_when_they_are_looked_at(tmp_path):
    (tmp_path / "photos").mkdir()
    rows = ["image,caption"]
    for image in range(IMAGES):
        (tmp_path / "photos" / f"{image}.png").write_bytes(f"picture {image}".encode())
        rows.append(f"photos/{image}.png,a dog")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    path = tmp_path / "photos.csv"
    described = description_of(open_source(path), path, SourceConfig())
    store = write_store(tmp_path / "features", vectors(IMAGES, 4), None, described)
    assert stored_source(store) == described
    pq.write_table(
        pa.table({"image_id": [f"i{i}" for i in range(IMAGES)], "reference": [f"row-{i + 1}" for i in range(IMAGES)]}),
        store / "images.parquet",
    )
    test = load_embeddings_splits(store).test
    assert [test.pictures[place] for place in range(2)] == [f"picture {name[1:]}".encode() for name in test.image_ids]
    (tmp_path / "photos.csv").unlink()
    assert len(load_embeddings_splits(store).test.pictures) == 2  # nothing is opened before
    with pytest.raises(DataError):
        load_embeddings_splits(store).test.pictures[0]


def test_pictures_of_a_source_are_pictures():
    assert isinstance(SourcePictures(["a"], demo_source), Pictures)


def test_a_store_without_caption_features_is_read_as_words(tmp_path):
    folder = write_store(tmp_path, vectors(IMAGES, 4), None)
    corpus = load_corpus(DataConfig(path=str(folder)))
    assert corpus.vocabulary is not None
    assert {"dog", "caption"} <= set(corpus.vocabulary.words)
    with pytest.raises(ConfigError, match=r"data.text is 'features', but .* has no caption features"):
        load_corpus(DataConfig(path=str(folder), text="features"))


def test_words_and_caption_features_of_a_store_are_read_side_by_side_or_one_of_them(tmp_path):
    captions = vectors(2 * IMAGES, 3)
    folder = write_store(tmp_path, vectors(IMAGES, 4), captions)
    corpora = {text: load_corpus(DataConfig(path=str(folder), text=text)) for text in TEXTS}
    for pairs in ("train", "dev", "test"):
        taken = {}
        for text, corpus in corpora.items():
            split = getattr(corpus.splits, pairs)
            taken[text] = split.caption_inputs.take(torch.arange(len(split)))
        rows = [int(caption.split()[1]) for caption in split.captions]
        expected = torch.from_numpy(captions[rows]).float()
        assert torch.equal(taken["features"].values, expected)
        assert taken["words"].vectors is None
        for text in ("auto", "both"):
            assert torch.equal(taken[text].values, taken["words"].values)
            assert torch.equal(taken[text].vectors, expected)
    assert [corpus.vocabulary is None for corpus in corpora.values()] == [False, False, True, False]


def test_a_corpus_of_embeddings_takes_the_options_of_a_random_split_and_no_others(tmp_path):
    folder = write_store(tmp_path, vectors(IMAGES, 4), vectors(2 * IMAGES, 3))
    corpus = load_corpus(DataConfig(path=str(folder), test_share=0.3))
    assert len(corpus.splits.test.images) == 6
    with pytest.raises(ConfigError, match=r"--image-root is 'x', .* a folder of embeddings: leave it out"):
        load_corpus(DataConfig(path=str(folder), source=SourceConfig(image_root="x")))
    assert corpus.source == {"kind": "folder", "path": "gone"}


@pytest.mark.parametrize("file", ["images.npy", "captions.npy"])
def test_values_that_are_not_numbers_are_refused_by_their_row(tmp_path, file):
    folder = write_store(tmp_path, vectors(IMAGES, 4), vectors(2 * IMAGES, 3))
    values = np.load(folder / file)
    values[7, 1], values[9, 0] = np.nan, np.inf
    np.save(folder / file, values)
    with pytest.raises(DataError, match=rf"{file} holds NaN or infinite values in 2 of \d+ rows \(first: row 7"):
        load_embeddings_splits(folder)


def test_counts_that_differ_are_refused(tmp_path):
    folder = write_store(tmp_path, vectors(IMAGES, 4), vectors(2 * IMAGES, 3))
    np.save(folder / "images.npy", vectors(19, 4))
    with pytest.raises(DataError, match=r"images.npy has 19 rows, but there are 20 rows in images.parquet"):
        load_embeddings_splits(folder)
    write_store(folder, vectors(IMAGES, 4), vectors(39, 3))
    with pytest.raises(DataError, match=r"captions.npy has 39 rows, but there are 40 rows in pairs.parquet"):
        load_embeddings_splits(folder)
    (folder / "pairs.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"pairs.parquet cannot be read as Parquet"):
        load_embeddings_splits(folder)


def test_an_unfinished_store_and_one_of_another_version_say_what_to_do(tmp_path):
    (tmp_path / "half" / "parts").mkdir(parents=True)
    (tmp_path / "half" / "parts" / "plan.json").write_text("{}")
    assert is_embeddings(tmp_path / "half")
    with pytest.raises(DataError, match="is not finished: run 'truepair embed' again"):
        load_embeddings_splits(tmp_path / "half")
    folder = write_store(tmp_path / "new", vectors(IMAGES, 4), None)
    (folder / "embeddings.json").write_text('{"format": 9, "source": {}, "text_encoder": null}')
    with pytest.raises(DataError, match="has format 9, but this version of truepair reads 2: update truepair"):
        load_embeddings_splits(folder)


def test_files_of_clip_retrieval_are_one_after_another_by_their_number(tmp_path):
    folder = write_clip_retrieval(tmp_path, *[2] * 11)  # the 11th comes after the 2nd by name
    assert is_embeddings(folder)
    splits = load_embeddings_splits(folder)
    expected = np.concatenate([np.load(folder / "img_emb" / f"img_emb_{number}.npy") for number in range(11)])
    texts = np.concatenate([np.load(folder / "text_emb" / f"text_emb_{number}.npy") for number in range(11)])
    for pairs in parts(splits):
        rows = [int(name) for name in pairs.image_ids]
        np.testing.assert_array_equal(image_rows(pairs), expected[rows].astype(np.float32))
        assert pairs.captions == [f"a dog {row}" for row in rows]
        np.testing.assert_array_equal(caption_rows(pairs), texts[rows].astype(np.float32))
        assert list(pairs.caption_ids) == [f"row-{row + 1}" for row in rows]


def test_rows_of_clip_retrieval_with_one_picture_are_one_image_and_those_without_caption_are_left_out(tmp_path):
    pictures = [str(tmp_path / f"{row // 2}.png") for row in range(30)]
    for picture in set(pictures):
        tmp_path.joinpath(picture).write_bytes(picture.encode())
    captions = [None if row == 3 else " " if row == 5 else f"a cat {row}" for row in range(30)]
    folder = write_clip_retrieval(
        tmp_path / "clip", 20, 10, columns=("key",), has_captions=False, caption=captions, image_path=pictures
    )
    notes: list[str] = []
    splits = load_embeddings_splits(folder, notes=notes)
    assert notes == ["2 of the 30 rows have no caption and are left out"]
    assert sum(len(pairs) for pairs in parts(splits)) == 28
    assert sum(len(pairs.images) for pairs in parts(splits)) == 15
    expected = np.concatenate([np.load(folder / "img_emb" / f"img_emb_{number}.npy") for number in range(2)])
    for pairs in parts(splits):
        assert pairs.caption_inputs is None
        rows = [pictures.index(name) for name in pairs.image_ids]  # the first row of each picture
        np.testing.assert_array_equal(image_rows(pairs), expected[rows].astype(np.float32))
        for caption, image in zip(pairs.captions, pairs.image_of_caption.tolist(), strict=True):
            assert pairs.image_ids[image] == pictures[int(caption.split()[2])]
        assert pairs.pictures[0] == pairs.image_ids[0].encode()


def test_clip_retrieval_without_names_has_an_image_a_row_and_no_pictures(tmp_path):
    splits = load_embeddings_splits(write_clip_retrieval(tmp_path, 20, columns=("caption",)))
    assert len(splits.train.images) == 16
    assert splits.train.image_ids == splits.train.caption_ids
    assert splits.train.pictures is None


def test_what_is_wrong_with_clip_retrieval_is_named(tmp_path):
    with pytest.raises(DataError, match=r"metadata has no column 'caption' \(but key, url\)"):
        load_embeddings_splits(write_clip_retrieval(tmp_path / "a", 20, columns=("key", "url")))
    folder = write_clip_retrieval(tmp_path / "b", 20, 20)
    metadata = folder / "metadata" / "metadata_1.parquet"
    table = pq.read_table(metadata)
    pq.write_table(table.set_column(0, table.column_names[0], pa.array([0.5] * len(table))), metadata)
    with pytest.raises(DataError, match=r"the files in .*metadata do not fit together"):
        load_embeddings_splits(folder)
    pq.write_table(table, metadata)
    (folder / "text_emb" / "text_emb_1.npy").unlink()
    with pytest.raises(DataError, match=r"text_emb has the numbers 0, but metadata has 0, 1: copy what is missing"):
        load_embeddings_splits(folder)
    folder = write_clip_retrieval(tmp_path / "c", 20, 20)
    np.save(folder / "img_emb" / "img_emb_1.npy", vectors(19, 4))
    with pytest.raises(DataError, match=r"img_emb_1.npy has 19 rows, but there are 20 rows in metadata 1"):
        load_embeddings_splits(folder)
    np.save(folder / "img_emb" / "img_emb_1.npy", vectors(20, 5))
    with pytest.raises(DataError, match=r"files of unlike widths, \(4,\) and \(5,\)"):
        load_embeddings_splits(folder)
    (tmp_path / "d" / "img_emb").mkdir(parents=True)
    (tmp_path / "d" / "metadata").mkdir()
    with pytest.raises(DataError, match=r"metadata holds no numbered .parquet files, such as metadata_0.parquet"):
        load_embeddings_splits(tmp_path / "d")


def test_two_files_are_a_pair_a_row(tmp_path):
    images, captions = vectors(IMAGES, 4), vectors(IMAGES, 3, seed=1)
    np.save(tmp_path / "images.npy", images)
    assert not is_embeddings(tmp_path)
    np.save(tmp_path / "captions.npy", captions)
    assert is_embeddings(tmp_path)
    for pairs in parts(load_embeddings_splits(tmp_path)):
        rows = [int(caption.removeprefix("caption ")) for caption in pairs.captions]
        np.testing.assert_array_equal(image_rows(pairs), images[rows].astype(np.float32))
        np.testing.assert_array_equal(caption_rows(pairs), captions[rows].astype(np.float32))
    assert load_corpus(DataConfig(path=str(tmp_path))).vocabulary is None  # names that were made up are not read
    with pytest.raises(ConfigError, match=r"data.text is 'both', but .* has no texts: write captions.txt"):
        load_corpus(DataConfig(path=str(tmp_path), text="both"))
    (tmp_path / "captions.txt").write_text("".join(f"line {row}\n" for row in range(IMAGES)))
    corpus = load_corpus(DataConfig(path=str(tmp_path)))  # and not taken for Flickr8K, which has a file of that name
    assert {caption.split()[0] for caption in corpus.splits.train.captions} == {"line"}
    (tmp_path / "captions.txt").write_text("one line\n")
    with pytest.raises(DataError, match=r"captions.txt has 1 lines but captions.npy has 20 rows"):
        load_embeddings_splits(tmp_path)
    np.save(tmp_path / "images.npy", vectors(19, 4))
    with pytest.raises(DataError, match=r"images.npy has 19 rows, but there are 20 rows in captions.npy"):
        load_embeddings_splits(tmp_path)
