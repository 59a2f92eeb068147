"""Runs of a method that trains two networks."""

import json
import shutil

import pytest
import torch

from truepair.config import BaselineConfig, Recipe, TrainingConfig
from truepair.data.corpora import Corpus
from truepair.data.pairs import Splits
from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.retrieval import evaluate
from truepair.files.checkpoint import load_checkpoint
from truepair.methods import METHODS
from truepair.methods.baseline import Baseline
from truepair.methods.protocol import Method
from truepair.scoring.confidence import pair_scores
from truepair.scoring.encodings import encode_captions, encode_images
from truepair.training.folder import load_run, load_runs
from truepair.training.run import run


@pytest.fixture
def recipe(small):
    return Recipe(model=small, method=BaselineConfig(epochs=2), training=TrainingConfig(batch_size=8, device="cpu"))


@pytest.fixture
def corpus(world, dev_world, vocabulary):
    return Corpus(Splits(world, dev_world, dev_world, "the world"), vocabulary, [], notes=("half a world",))


def matrix(model, pairs):
    with torch.inference_mode():
        return model.scores.matrix(encode_images(model, pairs.images), encode_captions(model, pairs))


def test_both_networks_are_saved_and_read_back(twins, recipe, corpus, tmp_path):
    results = run(recipe, tmp_path, corpus)
    saved = load_checkpoint(tmp_path / "best.safetensors")["models"]
    one, two = load_run(tmp_path, corpus).models
    torch.testing.assert_close([one.state_dict(), two.state_dict()], saved, rtol=0, atol=0)
    assert not torch.equal(matrix(one, corpus.splits.test), matrix(two, corpus.splits.test))
    assert not one.training
    assert not two.training
    assert results.networks == 2


def test_their_mean_similarity_is_what_is_tested_and_what_chooses_the_epoch(twins, recipe, corpus, tmp_path):
    results = run(recipe, tmp_path, corpus)
    models, pairs = load_run(tmp_path, corpus).models, corpus.splits.test
    mean = (matrix(models[0], pairs) + matrix(models[1], pairs)) / 2
    own = mean[pairs.image_of_caption, torch.arange(len(pairs))]
    ranks = (mean >= own).sum(0)  # of each caption's image; ties count against it
    assert results.test.text_to_image_r1 == pytest.approx(100 * (ranks == 1).double().mean().item())
    assert results.test.text_to_image_mean_rank == pytest.approx(ranks.double().mean().item())
    assert results.best.dev_rsum == results.test.rsum  # the same pairs here
    assert results.test == evaluate(models, pairs)
    assert results.test not in [evaluate([model], pairs) for model in models]


def test_what_the_method_notes_stands_in_the_results_after_the_corpus(twins, recipe, corpus, tmp_path):
    run(recipe, tmp_path, corpus)
    assert json.loads((tmp_path / "results.json").read_text())["notes"] == ["half a world", "40 pairs, twice"]


def test_a_finished_run_is_left_as_it_is(twins, recipe, corpus, tmp_path):
    first = run(recipe, tmp_path, corpus)
    again = run(recipe, tmp_path, corpus)
    assert (again.test, again.best) == (first.test, first.best)


def test_runs_with_as_many_networks_each_are_one_model_others_are_not(recipe, corpus, tmp_path, request):
    run(recipe, tmp_path / "one", corpus)
    request.getfixturevalue("twins")
    run(recipe, tmp_path / "two", corpus)
    shutil.copytree(tmp_path / "two", tmp_path / "three")
    runs = load_runs([tmp_path / "two", tmp_path / "three"], corpus)
    assert [len(run.models) for run in runs] == [2, 2]
    with pytest.raises(ConfigError, match=r"different numbers of networks \(.*two: 2, .*one: 1\), and would not count"):
        load_runs([tmp_path / "two", tmp_path / "one"], corpus)


def test_a_checkpoint_with_fewer_networks_does_not_fit(recipe, corpus, tmp_path, request):
    run(recipe, tmp_path / "one", corpus)
    request.getfixturevalue("twins")
    run(recipe, tmp_path / "two", corpus)
    shutil.copy(tmp_path / "one" / "best.safetensors", tmp_path / "two" / "best.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit the model of run\.json: networks: 1 there, 2 here"):
        run(recipe, tmp_path / "two", corpus)


def test_pairs_are_judged_by_the_mean_and_each_mode_is_left_as_it_was(twins, make, fabric, loaders):
    torch.manual_seed(0)
    method = METHODS["baseline"](BaselineConfig(epochs=1), make, 40, fabric)
    assert isinstance(method, Method)
    assert METHODS["baseline"] is not Baseline
    one, two = method.models
    one.train()
    two.eval()
    together = pair_scores(method.models, loaders, 0.05).similarity
    alone = [pair_scores([model], loaders, 0.05).similarity for model in method.models]
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)
    assert [model.training for model in method.models] == [True, False]
