import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from embedding_samples import picture
from owned_elsewhere import owned_elsewhere
from search_worlds import IMAGES, trained_saf, write_vectors

from truepair import open_index as public
from truepair.config import BaselineConfig, DataConfig, EmbedConfig, ModelConfig, Recipe, TrainingConfig
from truepair.config.search import IndexConfig
from truepair.data.embeddings import load_embeddings
from truepair.data.splitting import pairs_and_their_images
from truepair.errors import ConfigError, DataError
from truepair.evaluation.retrieval import evaluate
from truepair.files.locking import alone_in
from truepair.scoring.encodings import Encodings
from truepair.search import building, spaces
from truepair.search.building import _learned, add_to_index, build_index, drop_from_index
from truepair.search.index import SCHEMA, open_index
from truepair.search.layout import one_table, read_manifest
from truepair.search.measuring import measure_index
from truepair.search.spaces import Encoded, run_space
from truepair.training.folder import load_run
from truepair.training.run import run


def test_an_index_finds_its_pairs_and_says_how_probable_they_are(index):
    hits = index.search(like=[f"caption-{row}" for row in range(IMAGES)], k=3)
    assert hits.schema == SCHEMA
    best = hits.filter(pa.compute.equal(hits["rank"], 1))
    is_right = np.array(best["id"].to_pylist()) == np.array([f"image-{row}" for row in range(IMAGES)])
    assert is_right.mean() > 0.9
    probability = best["probability"].to_numpy()
    assert probability[is_right].mean() > 0.6 > probability[~is_right].mean()
    assert all(best["fits"].to_pylist()[:5])


def test_an_image_finds_captions_and_what_is_like_itself(index):
    captions = index.search(like="image-7", find="captions", k=1).to_pylist()
    assert captions[0]["id"] == "caption-7"
    assert captions[0]["caption"] == "picture 0.7 of dogs"
    alike = index.search(like="image-7", find="images", k=5)
    assert "image-7" not in alike["id"].to_pylist()
    assert alike["probability"].null_count == 5


def test_recall_is_that_of_evaluate(index, vectors):
    metrics = measure_index(index)
    expected = evaluate(index.space.models, load_embeddings(vectors))
    assert metrics.retrieval.as_dict() == pytest.approx(expected.as_dict(), abs=0.7)  # half precision moves few ranks
    assert metrics.milliseconds["images"][0] > 0


def test_a_run_is_searched_in_words_and_has_the_recall_of_its_own_evaluation(of_words, word_run):
    expected = evaluate(load_run(word_run).models, load_run(word_run).splits.test)
    assert measure_index(of_words).retrieval.rsum == pytest.approx(expected.rsum, abs=2)
    said = []
    hits = of_words.search(["a red heart", "zzqx wvvb"], k=2, tell=said.append)
    assert hits["query"].to_pylist() == [0, 0, 1, 1]
    assert said == ["query 2: the run knows none of its words (zzqx, wvvb); hits say little"]


def test_a_text_finds_what_its_caption_does(of_words):
    captions = of_words.captions.table
    by_row = of_words.hits(of_words.row_queries("captions", torch.tensor([3])), "images", 5, None)
    by_text = of_words.search(captions["caption"][3].as_py(), k=5)
    np.testing.assert_allclose(by_text["score"].to_numpy(), by_row.similarity[0].numpy(), atol=2e-3)


def test_pairs_that_a_run_learned_calibrate_nothing(word_run, tmp_path):
    manifest = build_index(str(word_run), tmp_path / "index", IndexConfig(pairs="train"))
    assert manifest.calibration == {"images": None, "captions": None}
    hits = open_index(tmp_path / "index").search("a red heart", k=1).to_pylist()
    assert hits[0]["probability"] is None


def test_a_filter_chooses_among_rows(index):
    hits = index.search(like="caption-1", k=5, where="caption like '%cats'")
    assert len(hits) == 5
    assert all(int(name.split("-")[1]) % 3 == 0 for name in hits["id"].to_pylist())
    assert len(index.search(like="caption-1", k=5, where="image_id = 'image-4'")) == 1
    assert len(index.search(like="caption-1", k=5, where="caption = 'nothing'")) == 0


def test_additions_and_removals_change_what_is_found_and_no_file_of_before(folder, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("0*/*")}
    write_vectors(tmp_path / "more", 60, seed=1)
    with pytest.raises(DataError, match=r"60 images .* are in the index already"):
        add_to_index(folder, str(tmp_path / "more"))
    drop_from_index(folder, [f"image-{row}" for row in range(60)])
    assert len(open_index(folder)) == IMAGES - 60
    with pytest.raises(DataError, match=r"1 of 2 ids are neither images nor captions of the index .*'nobody'"):
        drop_from_index(folder, ["image-100", "nobody"])
    assert len(open_index(folder)) == IMAGES - 60
    with pytest.raises(DataError, match="1 of 1 ids are neither images nor captions"):
        drop_from_index(folder, ["caption-3"])
    manifest = add_to_index(folder, str(tmp_path / "more"))
    assert manifest.count("captions") == IMAGES
    assert {path: path.stat().st_mtime_ns for path in before} == before
    hits = open_index(folder).search(like=["caption-5", "caption-200"], k=1)
    assert hits["image_id"].to_pylist() == ["image-5", "image-200"]
    assert hits["caption"].to_pylist()[0] == "picture 1.5 of dogs"
    drop_from_index(folder, ["caption-5"])
    assert len(open_index(folder)) == IMAGES


def test_an_image_is_shown_with_a_caption_that_is_there(folder):
    drop_from_index(folder, ["caption-8"])
    hits = open_index(folder).search(like="image-7", k=IMAGES - 1).to_pylist()
    assert next(hit["caption"] for hit in hits if hit["id"] == "image-8") is None
    assert all(hit["caption"] for hit in hits if hit["id"] != "image-8")


def test_a_folder_of_the_users_with_the_name_of_a_segment_is_kept(vectors, tmp_path):
    (tmp_path / "00000").mkdir()
    (tmp_path / "00000" / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"holds photo.jpg, of something else"):
        build_index(str(vectors), tmp_path)
    assert (tmp_path / "00000" / "photo.jpg").read_bytes() == b"mine"


def test_what_a_killed_addition_leaves_behind_is_not_seen(folder, tmp_path):
    shutil.copytree(folder / "00000", folder / "00001")
    shutil.copytree(folder / "00000", folder / ".00001.truepair.part")
    assert len(open_index(folder)) == IMAGES
    write_vectors(tmp_path / "more", 60, seed=1)
    drop_from_index(folder, [f"image-{row}" for row in range(60)])
    add_to_index(folder, str(tmp_path / "more"))
    assert not (folder / ".00001.truepair.part").exists()
    assert len(open_index(folder)) == IMAGES


def test_one_process_changes_an_index_at_a_time(folder):
    with owned_elsewhere(alone_in(folder)), pytest.raises(ConfigError, match="another process is writing"):
        drop_from_index(folder, ["image-3"])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"texts": " "}, ConfigError, "query 1 is empty"),
        ({"texts": []}, ConfigError, "there is no query"),
        ({}, ConfigError, "none given"),
        ({"texts": "a", "like": "b"}, ConfigError, "texts and like given"),
        ({"texts": "dogs"}, ConfigError, "cannot encode a text: make it again with --text-encoder"),
        ({"images": b"none"}, ConfigError, "cannot encode a picture"),
        ({"like": "image-1", "k": 0}, ConfigError, "--k is 0, but it is from 1 to"),
        (
            {"like": "image-1", "k": 301},
            ConfigError,
            "--k is 301, but it is from 1 to the number of images",
        ),
        ({"like": "nobody"}, DataError, "1 of 1 ids are neither images nor captions .*'nobody'"),
        ({"like": ["image-1", "caption-1"]}, ConfigError, "search for one kind at a time"),
        ({"like": "image-1", "where": "read_csv('x')"}, ConfigError, "there is no column 'read_csv'"),
    ],
)
def test_bad_queries_are_answered_in_a_sentence(index, options, error, said):
    with pytest.raises(error, match=said):
        index.search(**options)


def damaged(folder, name, how):
    path = folder / name
    how(path)
    with pytest.raises(DataError) as error:
        open_index(folder)
    return str(error.value)


def test_damaged_and_half_copied_indexes_are_refused(made, tmp_path):
    def copy(name):
        return shutil.copytree(made, tmp_path / name)

    assert "holds no index" in damaged(copy("a"), "index.json", lambda path: path.unlink())
    assert "is damaged" in damaged(copy("b"), "index.json", lambda path: path.write_text("{"))
    assert "truncated" in damaged(copy("c"), "00000/images.npy", lambda path: path.write_bytes(path.read_bytes()[:-9]))
    assert "cannot read" in damaged(copy("d"), "00000/captions.npy", lambda path: path.unlink())
    assert "cannot be read" in damaged(copy("e"), "00000/images.arrow", lambda path: path.write_bytes(b"x"))
    assert "cannot be read" in damaged(copy("f"), "space.safetensors", lambda path: path.write_bytes(b"x"))

    def other_version(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))

    assert "format 99, but this version" in damaged(copy("g"), "index.json", other_version)


def test_an_index_of_a_run_that_was_trained_anew_is_refused(word_run, tmp_path):
    run = shutil.copytree(word_run, tmp_path / "run")
    build_index(str(run), tmp_path / "index", IndexConfig(pairs="test", calibration=0))
    with (run / "best.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(DataError, match="is gone or was trained anew"):
        public(tmp_path / "index")


def test_vectors_of_two_spaces_need_a_run(tmp_path):
    write_vectors(tmp_path, 30, seed=0)
    np.save(tmp_path / "images.npy", np.ones((30, 7), np.float32))
    with pytest.raises(ConfigError, match=r"cannot be searched without training .*train a run"):
        build_index(str(tmp_path), tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_folder_of_something_else_is_left_alone(made, vectors, tmp_path):
    with pytest.raises(ConfigError, match=r"holds an index, but another one \(seed is 0 there, not 1\)"):
        build_index(str(vectors), made, IndexConfig(calibration=200, references=64, seed=1))
    with pytest.raises(ConfigError, match=r"holds an index, but another one \(it was made of "):
        build_index(str(write_vectors(tmp_path, 30, seed=0)), made, IndexConfig(calibration=200, references=64))
    with pytest.raises(ConfigError, match=r"--of is .*, but .* is no run"):
        build_index(str(vectors), made, IndexConfig(calibration=200, references=64), of=tmp_path)
    with pytest.raises(ConfigError, match=r"another one \(image_encoder is None there, not 'clip'\)"):
        build_index(str(vectors), made, IndexConfig(calibration=200, references=64), EmbedConfig("clip", "clip"))
    with pytest.raises(ConfigError, match=r"holds images.npy, of something else"):
        build_index(str(vectors), vectors)


@pytest.mark.parametrize("what", ["vectors", "run"])
def test_an_index_that_is_there_is_found_by_the_same_call(what, made, of_words, vectors, word_run):
    of = (made, str(vectors), IndexConfig(calibration=200, references=64, device="cpu"))
    out, target, config = of if what == "vectors" else (of_words.folder, str(word_run), IndexConfig(pairs="test"))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    said = []
    assert build_index(target, out, config, tell=said.append) == read_manifest(out)
    assert said == [f"{out} holds this index already: nothing was made"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_saf_ranks_what_whole_vectors_find(tmp_path):
    folder = trained_saf(tmp_path / "saf")
    manifest = build_index(str(folder), tmp_path / "index", IndexConfig(pairs="train", calibration=60, references=32))
    index = open_index(tmp_path / "index")
    hits = index.search(index.captions.table["caption"][0].as_py(), k=5)
    loaded = load_run(folder)
    every = Encodings.of(loaded.models, loaded.corpus.splits.train, torch.arange(len(index)), torch.tensor([0]))
    scores = every.matrix(torch.arange(len(index)), torch.tensor([0]))[:, 0]
    np.testing.assert_allclose(hits["score"].to_numpy(), scores.topk(5).values.numpy(), atol=1e-5)
    by_image = index.search(like=index.images.table["image_id"][0].as_py(), find="captions", k=4)["score"].to_pylist()
    assert by_image == sorted(by_image, reverse=True)
    assert manifest.calibration["images"] is None
    train = loaded.corpus.splits.train
    assert measure_index(index).retrieval == evaluate(loaded.models, train)

    drop_from_index(tmp_path / "index", [train.image_ids[0], train.caption_ids[-1]])
    left = pairs_and_their_images(train, (train.image_of_caption > 0).nonzero().flatten().tolist()[:-1])
    found = measure_index(open_index(tmp_path / "index")).retrieval.as_dict()
    assert found == pytest.approx(evaluate(loaded.models, left).as_dict(), rel=0.01)  # equal captions rank by chance


@pytest.mark.slow
def test_pictures_are_embedded_searched_added_and_filtered(photographs, of_photographs, tmp_path):
    out = shutil.copytree(of_photographs, tmp_path / "index")
    index = open_index(out)
    assert len(index.search("a red thing", k=3)) == 3
    assert build_index(str(photographs), of_photographs) == index.manifest
    with pytest.raises(ConfigError, match="choose another"):
        build_index(str(shutil.copy(photographs, photographs.with_name("copy.csv"))), of_photographs)
    hits = index.search(images=[photographs.parent / "3.png", picture(4), np.asarray(picture(5))], find="images", k=1)
    assert hits["image_id"].to_pylist() == ["3.png", "4.png", "5.png"]
    passing = index.search("a thing", where="mood = 'mood 1' and size > 20", k=30)["id"].to_pylist()
    assert sorted(passing) == [f"{number}.png" for number in range(21, 30, 2)]
    assert index.picture("3.png") == (photographs.parent / "3.png").read_bytes()
    said = []
    index.search(["собака на снегу", "word " * 10_000], k=1, tell=said.append)
    assert "not in Latin script" in said[1]
    assert "were cut" in said[2]
    with pytest.raises(DataError, match=r"^10 bytes cannot be decoded .*formats are read: JPEG"):
        index.search(images=b"no picture", k=1)
    with pytest.raises(DataError, match=r"^one of .*3.png, .*photos.csv: .* cannot be decoded"):
        index.search(images=[photographs.parent / "3.png", photographs], k=1)
    with pytest.raises(DataError, match="cannot be read"):
        index.search(images="nowhere.png", k=1)
    for number in (40, 41):
        picture(number).save(tmp_path / f"{number}.png")
    (tmp_path / "more.csv").write_text("file,caption\n40.png,a new thing\n41.png,another new thing\n", encoding="utf-8")
    add_to_index(out, str(tmp_path / "more.csv"))
    assert open_index(out).search(images=picture(40), find="images", k=1)["id"].to_pylist() == ["40.png"]
    # What is there is not embedded again: it is refused at once, and comes back once it was dropped.
    folders, told = {*out.iterdir()}, list[str]()
    with pytest.raises(DataError, match="are in the index already"):
        add_to_index(out, str(tmp_path / "more.csv"), tell=told.append)
    drop_from_index(out, ["40.png", "41.png"])
    add_to_index(out, str(tmp_path / "more.csv"), tell=told.append)
    assert open_index(out).search(images=picture(40), find="images", k=1)["id"].to_pylist() == ["40.png"]
    assert [path.name for path in {*out.iterdir()} - folders] == ["00002"]
    assert not any("embedded" in line for line in told)
    # An addition that is refused is in no other's way, and not in that of its own table once that is mended.
    (tmp_path / "again.csv").write_text("file,caption\n40.png,a new thing\n", encoding="utf-8")
    with pytest.raises(DataError, match="are in the index already"):
        add_to_index(out, str(tmp_path / "again.csv"))
    picture(42).save(tmp_path / "42.png")
    (tmp_path / "again.csv").write_text("file,caption\n42.png,a new thing\n", encoding="utf-8")
    add_to_index(out, str(tmp_path / "again.csv"))
    assert open_index(out).search(images=picture(42), find="images", k=1)["id"].to_pylist() == ["42.png"]


@pytest.mark.parametrize(
    ("columns", "joined"),
    [
        ([[1, 2], [0.5]], [1.0, 2.0, 0.5]),
        ([[1.5, 2.0], ["big"]], ["1.5", "2", "big"]),
        ([[True], ["no"], [3]], ["true", "no", "3"]),
        ([[1], None, [2]], [1, None, 2]),
    ],
)
def test_columns_of_unlike_types_are_one_column(columns, joined):
    tables = [pa.table({"row": [0]} if column is None else {"size": column}) for column in columns]
    assert one_table(tables)["size"].to_pylist() == joined


@pytest.mark.slow
def test_an_index_is_read_after_an_addition_whose_columns_have_other_types(photographs, of_photographs, tmp_path):
    out = shutil.copytree(of_photographs, tmp_path / "index")
    picture(40).save(tmp_path / "40.png")
    (tmp_path / "more.csv").write_text("file,caption,mood,size\n40.png,a vast thing,mood 1,large\n", encoding="utf-8")
    add_to_index(out, str(tmp_path / "more.csv"))
    assert open_index(out).search("a thing", where="size = 'large'", k=1)["id"].to_pylist() == ["40.png"]


def test_an_index_that_another_process_makes_meanwhile_stays(vectors, tmp_path, monkeypatch):
    out, config, made = tmp_path / "index", IndexConfig(calibration=200, references=64), building._made
    calls = []

    def meanwhile(*given):
        calls.append(given)
        if len(calls) == 1:
            build_index(str(vectors), out, config)
            drop_from_index(out, ["image-3"])
        return made(*given)

    monkeypatch.setattr(building, "_made", meanwhile)
    assert build_index(str(vectors), out, config).count("images") == IMAGES - 1
    assert len(open_index(out)) == IMAGES - 1


def test_features_of_unknown_encoders_beside_words_need_their_encoder_named(vectors, tmp_path, monkeypatch):
    recipe = Recipe(
        DataConfig(str(vectors), minimum_word_count=1),
        model=ModelConfig(embedding=8, word_size=6, words="mean", projection="plain"),
        method=BaselineConfig(epochs=1),
        training=TrainingConfig(device="cpu"),
    )
    run(recipe, tmp_path / "run")
    build_index(str(tmp_path / "run"), tmp_path / "index", IndexConfig(calibration=0))
    with pytest.raises(ConfigError, match="cannot encode a text: make it again with --text-encoder"):
        open_index(tmp_path / "index").search("dogs")
    write_vectors(tmp_path / "more", 5, seed=1)
    build_index(str(tmp_path / "run"), tmp_path / "more index", of=tmp_path / "more")
    assert len(open_index(tmp_path / "more index").search(like="image-0", find="captions", k=5)) == 5
    with pytest.raises(ConfigError, match=r"--image-encoder is 'clip', but .* reads image features of efficientnet"):
        _made_by(monkeypatch, Encoded("efficientnet", None), lambda: run_space(tmp_path / "run", {"image": "clip"}))
    named = EmbedConfig(text_encoder="st:mine")
    build_index(str(tmp_path / "run"), tmp_path / "named", IndexConfig(calibration=0), named)
    assert open_index(tmp_path / "named").space.by.text == "st:mine"
    assert build_index(str(tmp_path / "run"), tmp_path / "named", IndexConfig(calibration=0), named).count("images")
    with pytest.raises(ConfigError, match="another one"):
        build_index(str(tmp_path / "run"), tmp_path / "named", IndexConfig(calibration=0), EmbedConfig("clip", "clip"))


def _made_by(monkeypatch, encoders, opened):
    with monkeypatch.context() as patch:
        patch.setattr(spaces, "encoders_of", lambda data: encoders)
        opened()


def test_what_a_run_learned_from_is_known_by_place(word_run):
    """Names are unique within a split only."""
    trained = load_run(word_run)
    splits = trained.corpus.splits
    dev = replace(splits.dev, image_ids=splits.train.image_ids[: len(splits.dev.images)])
    same_names = replace(
        trained,
        corpus=replace(trained.corpus, splits=replace(splits, dev=dev)),
        splits=replace(trained.splits, dev=pairs_and_their_images(dev, range(len(dev) // 2))),
    )
    learned = _learned(same_names)
    assert all(learned["train"])
    assert 0 < sum(learned["dev"]) < len(learned["dev"]), "images that left the development split were trusted"
    assert not any(learned["test"])


@pytest.mark.parametrize("name", ["row-7", "train/row-7", "data/train-00000-of-00002/row-7", "row-7/2"])
def test_names_that_were_made_up_may_be_there_already(name):
    assert building._COUNTED.fullmatch(name)
    assert not building._COUNTED.fullmatch("arrow-7.jpg")
