"""A sweep: every combination once, what is there not again, what fails said, and what cannot be refused at once."""

import json
from dataclasses import replace

import pytest

from truepair.config import BaselineConfig, DataConfig, ModelConfig, NoiseConfig, Recipe, TrainingConfig
from truepair.errors import CheckpointError, ConfigError, TrainingError
from truepair.training import sweep as module
from truepair.training.results import read_results
from truepair.training.sweep import settings_of, sweep, values_of

TINY = Recipe(
    data=DataConfig(path="demo"),
    noise=NoiseConfig(rate=0.4),
    model=ModelConfig(embedding=8, words="mean"),
    method=BaselineConfig(epochs=1),
    training=TrainingConfig(device="cpu", batch_size=512),
)


def test_every_combination_is_run_once_with_every_seed_and_not_again(tmp_path, monkeypatch):
    values = values_of(["method.temperature=0.05,0.07"])
    settings = settings_of(TINY, values, [0, 1], tmp_path)
    assert [setting.folder.name for setting in settings] == [
        "method.temperature=0.05_0",
        "method.temperature=0.05_1",
        "method.temperature=0.07_0",
        "method.temperature=0.07_1",
    ]
    assert [setting.recipe.method.temperature for setting in settings] == [0.05, 0.05, 0.07, 0.07]
    assert [setting.recipe.noise.seed for setting in settings] == [0, 1, 0, 1]
    first = sweep(settings[:2], tmp_path)
    assert all(done.results is not None for done in first)
    trained = []
    monkeypatch.setattr(module, "run", lambda recipe, folder, corpus: trained.append(folder) or first[0].results)
    again = sweep(settings, tmp_path)
    assert trained == [setting.folder for setting in settings[2:]]
    assert again[0].results == first[0].results
    runs = json.loads((tmp_path / "sweep.json").read_text())["runs"]
    assert [(one["values"], one["seed"]) for one in runs][2] == ({"method.temperature": 0.07}, 0)


def test_options_that_were_given_hold_for_every_method_that_is_tried(tmp_path):
    given = {"method.epochs": 3, "method.optimisation.learning_rate": 0.01}
    recipe = replace(TINY, method=BaselineConfig(epochs=3, temperature=0.2))
    values = values_of(["method.name=baseline,teacher"])
    for setting in settings_of(recipe, values, [0], tmp_path, given):
        method = setting.recipe.method
        assert (method.name, method.epochs) == (setting.values["method.name"], 3)
        assert method.optimisation.learning_rate == 0.01
        assert method.optimisation.schedule == type(method)().optimisation.schedule
    values = values_of(["method.name=teacher,mscn"])
    with pytest.raises(ConfigError, match=r"--method.epochs is given, but method.name mscn has no such option: leave"):
        settings_of(recipe, values, [0], tmp_path, given)
    varied = settings_of(recipe, values_of(["method.name=teacher", "method.epochs=5"]), [0], tmp_path, given)
    assert varied[0].recipe.method.epochs == 5


def test_a_run_that_fails_does_not_keep_the_others_from_running(tmp_path, monkeypatch):
    done = settings_of(TINY, values_of(["method.temperature=0.1"]), [0], tmp_path)[0].folder
    module.run(TINY, done)
    settings = settings_of(TINY, values_of(["method.temperature=0.05,0.07"]), [0], tmp_path)

    def run(recipe, folder, corpus):
        if recipe.method.temperature == 0.05:
            raise TrainingError("it diverged")
        return read_results(done)

    monkeypatch.setattr(module, "run", run)
    failed, fine = sweep(settings, tmp_path)
    assert (failed.results, failed.error, fine.results, fine.error) == (
        *(None, "it diverged"),
        *(read_results(done), ""),
    )


def test_another_method_comes_with_its_own_options(tmp_path):
    settings = settings_of(TINY, values_of(["method.name=baseline,crcl"]), [0], tmp_path)
    assert [setting.recipe.method.name for setting in settings] == ["baseline", "crcl"]
    assert settings[0].recipe.method == TINY.method


@pytest.mark.parametrize(
    ("varied", "message"),
    [
        ([], "name an option to vary"),
        (["method.temperature"], "--vary is 'method.temperature', but it is an option and its values"),
        (["method.temperature="], "--vary is 'method.temperature='"),
        (["method.temperature=0.05,0.05"], "--vary method.temperature has the value 0.05 twice"),
        (["method.temperature=0.05", "method.temperature=0.07"], "--vary names method.temperature twice"),
        (["method.temperatur=0.05"], "--vary: unknown option method.temperatur; did you mean method.temperature?"),
        (["data.path.name=1"], "unknown option data.path.name; path is an option, not a section"),
        (["method.temperature=-1"], "--vary: method.temperature is -1"),
        (["method.epochs=many"], "--vary: method.epochs is 'many', but it must be a whole number"),
        (["model.word_vectors=a b,a-b"], "--vary: model.word_vectors is 'a b'"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(varied, message, tmp_path):
    with pytest.raises(ConfigError) as error:
        settings_of(TINY, values_of(varied), [0], tmp_path)
    assert str(error.value).startswith(message)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("seeds", [[], [0, 0], [-1]])
def test_seeds_are_named_once_and_are_not_negative(seeds, tmp_path):
    with pytest.raises(ConfigError, match="--seeds is"):
        settings_of(TINY, {"method.temperature": [0.05]}, seeds, tmp_path)


def test_a_folder_of_another_run_is_refused(tmp_path):
    values = {"method.temperature": [0.05]}
    sweep(settings_of(TINY, values, [0], tmp_path), tmp_path)
    other = replace(TINY, model=ModelConfig(embedding=16, words="mean"))
    with pytest.raises(CheckpointError, match="holds another run"):
        settings_of(other, values, [0], tmp_path)
