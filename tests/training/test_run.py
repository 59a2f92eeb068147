"""What a run's folder holds, what may change about it, and what is refused."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from truepair.config import BaselineConfig, DataConfig, DisnclConfig, NoiseConfig, Recipe, SourceConfig, TrainingConfig
from truepair.data.corpora import Corpus, load_corpus
from truepair.data.noise import noise_level
from truepair.data.pairs import Splits
from truepair.data.text import Vocabulary
from truepair.encoders.words import WordsBesideVector
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.evaluation import retrieval
from truepair.evaluation.retrieval import evaluate
from truepair.training.folder import drop_exclusive_codes, finished, load_run, load_runs, refuse_another_run
from truepair.training.run import run
from truepair.training.splits import prepared_splits


@pytest.fixture
def recipe(small):
    return Recipe(model=small, method=BaselineConfig(epochs=1), training=TrainingConfig(batch_size=8, device="cpu"))


@pytest.fixture
def corpus(world, dev_world, vocabulary):
    return Corpus(Splits(world, dev_world, dev_world, "the world"), vocabulary, [])


def weights(folder):
    return [(folder / f"{name}.safetensors").read_bytes() for name in ("last", "best")]


def with_data(recipe, **options):
    return replace(recipe, data=replace(recipe.data, **options))


def with_training(recipe, **options):
    return replace(recipe, training=replace(recipe.training, **options))


def test_folds_that_do_not_divide_are_refused_before_any_training(recipe, corpus, tmp_path):
    with pytest.raises(DataError, match="20 images cannot be divided into 3 equal folds"):
        run(with_data(recipe, test_folds=3), tmp_path / "run", corpus)
    assert not (tmp_path / "run").exists()


def test_other_folds_test_the_same_run_again(recipe, corpus, tmp_path):
    first = run(recipe, tmp_path, corpus)
    trained = weights(tmp_path)
    in_folds = with_data(recipe, test_folds=4)
    assert finished(recipe, tmp_path) == first
    assert finished(in_folds, tmp_path) is None
    second = run(in_folds, tmp_path, corpus)
    assert weights(tmp_path) == trained
    assert finished(in_folds, tmp_path) == second
    assert second.protocol.folds == 4
    assert load_run(tmp_path, corpus).recipe == in_folds
    assert second.test == evaluate(load_run(tmp_path, corpus).models, corpus.splits.test, 4)


def test_where_it_computes_does_not_make_another_run(recipe, corpus, tmp_path):
    run(recipe, tmp_path, corpus)
    trained = weights(tmp_path)
    run(with_training(recipe, device="auto"), tmp_path, corpus)
    assert weights(tmp_path) == trained
    refuse_another_run(tmp_path, with_data(with_training(recipe, workers=3, tensorboard=True), test_split="testall"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"training": TrainingConfig(batch_size=8, seed=1)}, "training.seed: 0 there, 1 here"),
        ({"training": TrainingConfig(batch_size=8, precision="bf16-mixed")}, "training.precision: '32-true' there"),
        ({"noise": NoiseConfig(rate=0.2)}, "noise.rate: 0.0 there, 0.2 here"),
        ({"data": DataConfig(split_seed=1)}, "data.split_seed: 0 there, 1 here"),
        ({"method": BaselineConfig(epochs=2)}, "method.epochs: 1 there, 2 here"),
    ],
)
def test_everything_else_does(recipe, corpus, tmp_path, change, told):
    run(recipe, tmp_path, corpus)
    with pytest.raises(CheckpointError, match=f"holds another run \\({told}"):
        run(replace(recipe, **change), tmp_path, corpus)


def test_the_state_of_its_evaluation_is_in_the_runs_folder(recipe, corpus, tmp_path, monkeypatch):
    splits = corpus.splits
    corpus = replace(corpus, splits=replace(splits, test=replace(splits.test)))  # not the development pairs themselves
    expected = run(recipe, tmp_path / "quick", corpus).test
    assert not list((tmp_path / "quick").glob("ranks_*"))
    monkeypatch.setattr(retrieval, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(retrieval, "_IMAGES_IN_BLOCK", 4)
    scored = []
    similarity = retrieval._Gallery.similarity

    def interrupted(self, block, where):
        if self.pairs is corpus.splits.test:
            scored.append(where)
            if len(scored) == 3:
                raise KeyboardInterrupt
        return similarity(self, block, where)

    monkeypatch.setattr(retrieval._Gallery, "similarity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "slow", corpus)
    assert len(list((tmp_path / "slow").glob("ranks_*.safetensors"))) == 1
    assert run(recipe, tmp_path / "slow", corpus).test == expected
    assert scored == [f"block {number} of 5" for number in (1, 2, 3, 3, 4, 5)]


@pytest.mark.parametrize(
    "content", ["[]", "{}", "3", '{"recipe": {}, "inputs": {"image": "regions"}}', '{"recipe": {"x": 1}, "inputs": {}}']
)
def test_a_folder_whose_description_is_damaged_is_refused(content, recipe, corpus, tmp_path):
    run(recipe, tmp_path, corpus)
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    for read in (lambda: load_run(tmp_path, corpus), lambda: run(recipe, tmp_path, corpus)):
        with pytest.raises(CheckpointError, match=r"run\.json is damaged \("):
            read()


@pytest.mark.parametrize("name", ["run.json", "results.json"])
def test_options_and_numbers_that_only_another_version_has_are_named(name, recipe, corpus, tmp_path):
    run(recipe, tmp_path, corpus)
    content = json.loads((tmp_path / name).read_text(encoding="utf-8"))
    (content["recipe"]["model"] if name == "run.json" else content)["code_hidden"] = 0
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"{name} is damaged \(or of another version of truepair: .*code_hidden"):
        finished(recipe, tmp_path)


def test_results_hold_the_level_of_the_noise_and_are_read_where_an_earlier_version_did_not_look(
    recipe, corpus, tmp_path
):
    noisy = replace(recipe, noise=NoiseConfig(rate=0.5, level="image"))
    results = run(noisy, tmp_path, corpus)
    assert results.realised_noise_level == noise_level(prepared_splits(noisy, corpus).splits.train)
    assert finished(noisy, tmp_path) == results
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert set(content.pop("realised_noise_level")) == {"level", "moved_together"}
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    earlier = finished(noisy, tmp_path)
    assert earlier == replace(results, realised_noise_level=None)
    assert earlier.as_dict() == content


def test_weights_of_another_kind_of_checkpoint_are_refused(recipe, corpus, tmp_path):
    run(recipe, tmp_path, corpus)
    shutil.copy(tmp_path / "last.safetensors", tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match=r"best\.safetensors does not fit the model of run\.json"):
        load_run(tmp_path, corpus)


class Table:
    """A table of features and words on disk, whose words can be changed."""

    def __init__(self, folder, vocabulary=None):
        self.path = folder / "pairs.csv"
        features = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)
        np.save(folder / "images.npy", features)
        self.write("red", "blue", "dog", "cat")
        self.data = DataConfig(
            path=str(self.path),
            source=SourceConfig(image_col=None, image_id_col="name", split_col="split"),
            image_features=str(folder / "images.npy"),
            minimum_word_count=1,
            vocabulary=vocabulary,
        )

    def write(self, *words):
        """Each word occurs another number of times, so that the order of ids is that of `words`."""
        texts = [" ".join(words[: 1 + image % 4]) for image in range(24)]
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "caption", "split"])
            for image, text in enumerate(texts):
                split = "train" if image < 12 else "dev" if image < 18 else "test"
                writer.writerow([f"{image}.jpg", text, split])


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path)


def ids_of_words(corpus):
    tokens = corpus.splits.test.caption_inputs
    return tokens.take(torch.arange(len(tokens))).values.tolist()


def test_a_run_is_read_back_with_its_own_words_whatever_the_captions_say_by_now(recipe, table, tmp_path):
    recipe = replace(recipe, data=table.data)
    run(recipe, tmp_path / "run")
    before = load_run(tmp_path / "run").corpus
    changed = table.path.read_text(encoding="utf-8").splitlines()
    changed += [f"{image}.jpg,dog dog cat,train" for image in range(12)]  # dog is now as frequent as red was
    table.path.write_text("\n".join(changed), encoding="utf-8")
    now = load_corpus(recipe.data)
    assert now.vocabulary != before.vocabulary
    for corpus in (None, now):
        read_back = load_run(tmp_path / "run", corpus).corpus
        assert read_back.vocabulary == before.vocabulary
        assert ids_of_words(read_back) == ids_of_words(before)
    assert ids_of_words(now) != ids_of_words(before)
    assert load_run(tmp_path / "run", before).corpus is before, "what fits is not read again"


def test_a_run_does_not_go_on_with_other_words(recipe, table, tmp_path):
    recipe = replace(recipe, data=table.data)
    run(recipe, tmp_path / "run")
    table.write("blue", "red", "dog", "bird")
    with pytest.raises(CheckpointError, match=r"vocabulary\.json and the vocabulary of .* differ in 4 words: were the"):
        run(recipe, tmp_path / "run")


def test_a_run_does_not_need_the_vocabulary_file_again_to_be_read(recipe, tmp_path):
    words = tmp_path / "words.json"
    words.write_text(Vocabulary.build(["red blue"], minimum_count=1).to_json(), encoding="utf-8")
    table = Table(tmp_path, str(words))
    recipe = replace(recipe, data=replace(table.data, maximum_unknown_share=0.9))
    run(recipe, tmp_path / "run")
    before = ids_of_words(load_run(tmp_path / "run").corpus)
    words.unlink()
    assert ids_of_words(load_run(tmp_path / "run").corpus) == before
    (tmp_path / "run" / "vocabulary.json").unlink()
    with pytest.raises(DataError, match=r"cannot read the vocabulary .*vocabulary\.json"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("words", ["mean", "gru"])
def test_a_run_on_words_beside_caption_features_is_read_back_as_it_was(recipe, table, tmp_path, words):
    np.save(tmp_path / "captions.npy", np.random.default_rng(1).standard_normal((24, 5)).astype(np.float32))
    data = replace(table.data, caption_features=str(tmp_path / "captions.npy"))
    model = replace(recipe.model, words=words, projection="plain", feature_scaling="root")
    recipe = replace(recipe, data=data, model=model)
    results = run(recipe, tmp_path / "run")
    read_back = load_run(tmp_path / "run")
    assert read_back.recipe == recipe
    assert type(read_back.models[0].text_encoder) is WordsBesideVector
    assert read_back.corpus.splits.test.caption_inputs.take(torch.tensor([0])).vectors.shape == (1, 5)
    assert evaluate(read_back.models, read_back.splits.test) == results.test
    described = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["inputs"]
    assert (described["caption"], described["vector_width"]) == ("words_and_vector", 5)
    assert finished(recipe, tmp_path / "run") == results


def test_runs_of_different_words_are_not_one_model(recipe, table, tmp_path):
    recipe = replace(recipe, data=table.data)
    run(recipe, tmp_path / "one")
    run(recipe, tmp_path / "two")
    one, two = load_runs([tmp_path / "one", tmp_path / "two"])
    assert one.corpus is two.corpus
    table.write("cat", "red", "blue", "dog")
    run(recipe, tmp_path / "three")
    with pytest.raises(ConfigError, match=r"one and .*three have different vocabularies \(4 words are not the same\)"):
        load_runs([tmp_path / "one", tmp_path / "three"])


def test_a_run_without_its_exclusive_codes_tests_the_same(recipe, corpus, tmp_path):
    method = DisnclConfig(warmup_epochs=0, main_epochs=1, preset="none", filtering=False)
    results = run(replace(recipe, method=method), tmp_path, corpus)
    whole = (tmp_path / "best.safetensors").stat().st_size
    drop_exclusive_codes(tmp_path)
    assert (tmp_path / "best.safetensors").stat().st_size < whole
    dropped = load_run(tmp_path, corpus)
    assert dropped.models[0].exclusive is None
    assert evaluate(dropped.models, dropped.splits.test) == results.test
    again = run(replace(recipe, method=method), tmp_path, corpus)
    assert (again.test, again.detection) == (results.test, results.detection)


def test_development_pairs_are_as_noisy_as_the_training_pairs_if_asked_for(recipe):
    noise = NoiseConfig(rate=0.5, seed=3)
    corpus = load_corpus(recipe.data)
    clean, noisy_too = (
        prepared_splits(replace(recipe, noise=replace(noise, development=asked)), corpus).splits
        for asked in (False, True)
    )
    assert clean.dev.image_of_caption.tolist() == corpus.splits.dev.image_of_caption.tolist()
    assert noisy_too.dev.realised_noise_rate == pytest.approx(0.5, abs=0.05)
    assert torch.equal(clean.train.image_of_caption, noisy_too.train.image_of_caption)
    assert noisy_too.test.realised_noise_rate in (None, 0.0)
    with pytest.raises(ConfigError, match="of training pairs only"):
        NoiseConfig(index="index.npy", development=True)
