import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from truepair.cli.main import main
from truepair.config import BaselineConfig, DataConfig, ModelConfig, Recipe, SourceConfig, TrainingConfig
from truepair.data.corpora import load_corpus
from truepair.evaluation import retrieval
from truepair.evaluation.retrieval import evaluate
from truepair.training import folder as run_folder
from truepair.training.folder import load_run
from truepair.training.run import run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Two epochs on a table of 40 images of two captions each, 12 of the images for the test, in 3 folds."""
    folder = tmp_path_factory.mktemp("data")
    meaning = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    np.save(folder / "images.npy", meaning)
    np.save(folder / "captions.npy", np.repeat(meaning[:, ::-1], 2, axis=0))
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "caption", "split"])
        for image in range(40):
            split = "train" if image < 20 else "dev" if image < 28 else "test"
            writer.writerows([f"{image}.jpg", f"caption {side} of {image}", split] for side in ("a", "b"))
    return Recipe(
        data=DataConfig(
            path=str(folder / "pairs.csv"),
            source=SourceConfig(image_col=None, image_id_col="name", split_col="split"),
            image_features=str(folder / "images.npy"),
            caption_features=str(folder / "captions.npy"),
            test_folds=3,
        ),
        model=ModelConfig(embedding=8),
        method=BaselineConfig(epochs=2),
        training=TrainingConfig(batch_size=8, device="cpu"),
    )


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    """A run of each similarity, by its name."""
    folders = {name: tmp_path_factory.mktemp("runs") / name for name in ("cosine", "saf", "sgr")}
    for name, folder in folders.items():
        model = recipe.model.compared_by(name)
        model = model if name == "cosine" else replace(model, similarity_size=4)
        run(replace(recipe, model=model), folder)
    return folders


def shown_by(capsys, *arguments):
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments), "--device", "cpu", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == "", "no progress"
    return out


def test_a_run_is_tested_in_the_folds_of_its_recipe_and_says_so(runs):
    results = json.loads((runs["cosine"] / "results.json").read_text())
    assert results["protocol"] == {"split": "test", "images": 12, "captions": 24, "folds": 3}
    trained = load_run(runs["cosine"])
    assert results["test"] == evaluate(trained.models, trained.corpus.splits.test, folds=3).as_dict()
    assert results["test"] != evaluate(trained.models, trained.corpus.splits.test).as_dict()


def test_the_test_split_is_searched_in_the_folds_of_the_recipe_unless_told_otherwise(runs, capsys):
    trained = load_run(runs["sgr"])
    for options, folds, protocol in (
        ([], 3, "12 images × 24 captions, in 3 folds of 4 images, averaged\n"),
        (["--folds", "2"], 2, "12 images × 24 captions, in 2 folds of 6 images, averaged\n"),
        (["--folds", "1"], 1, "12 images × 24 captions\n"),
    ):
        shown = shown_by(capsys, runs["sgr"], *options)
        assert f", test split: {protocol}" in shown
        rsum = evaluate(trained.models, trained.corpus.splits.test, folds).rsum
        assert f"rSum {rsum:.1f} of 600" in shown


def test_the_development_split_is_searched_as_a_whole(runs, capsys):
    trained = load_run(runs["saf"])
    shown = shown_by(capsys, runs["saf"], "--split", "dev")
    assert ", dev split: 8 images × 16 captions\n" in shown
    assert f"rSum {evaluate(trained.models, trained.corpus.splits.dev).rsum:.1f} of 600" in shown


def test_a_saf_and_an_sgr_run_are_one_model(runs, capsys):
    saf, sgr = load_run(runs["saf"]), load_run(runs["sgr"])
    shown = shown_by(capsys, runs["saf"], runs["sgr"])
    assert "3 folds of 4 images, averaged; mean similarity of 2 models\n" in shown
    assert f"rSum {evaluate([*saf.models, *sgr.models], sgr.corpus.splits.test, 3).rsum:.1f} of 600" in shown


def test_folds_that_do_not_divide_are_an_error(runs, capsys):
    assert main(["evaluate", str(runs["cosine"]), "--folds", "5"]) == 1
    assert "error: 12 images cannot be divided into 5 equal folds" in capsys.readouterr().err


def test_runs_of_other_data_are_not_one_model(recipe, runs, tmp_path, capsys):
    run(replace(recipe, data=replace(recipe.data, test_folds=1)), tmp_path / "other")
    assert main(["evaluate", str(runs["saf"]), str(tmp_path / "other")]) == 1
    shown = capsys.readouterr().err
    assert (
        f"the runs are of different data ({runs['saf']} and {tmp_path / 'other'}; data.test_folds: 3 there, 1" in shown
    )


def test_a_corpus_is_read_once_for_all_its_runs(runs, capsys, monkeypatch):
    read = []
    monkeypatch.setattr(run_folder, "load_corpus", lambda data, model: read.append(data) or load_corpus(data, model))
    shown_by(capsys, runs["saf"], runs["sgr"], runs["cosine"])
    assert len(read) == 1


def test_the_split_is_called_what_the_recipe_calls_it(recipe, runs, tmp_path, capsys):
    """As in MS-COCO, whose recipes are tested on testall; a table has no such name, so one is written in."""
    shutil.copytree(runs["cosine"], tmp_path / "run")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    described["recipe"]["data"]["test_split"] = "testall"
    (tmp_path / "run" / "run.json").write_text(json.dumps(described))
    corpus = load_corpus(recipe.data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "load_corpus", lambda *_: corpus)
        assert ", testall split: 12 images" in shown_by(capsys, tmp_path / "run")
        assert ", dev split: 8 images" in shown_by(capsys, tmp_path / "run", "--split", "dev")


def test_a_long_evaluation_is_resumed_from_the_first_runs_folder_or_the_one_named(runs, tmp_path, monkeypatch, capsys):
    before = sorted(runs["saf"].iterdir())
    quick = shown_by(capsys, runs["saf"], runs["sgr"])
    assert sorted(runs["saf"].iterdir()) == before, "a short evaluation leaves nothing"

    monkeypatch.setattr(retrieval, "_IMAGES_IN_BLOCK", 2)
    monkeypatch.setattr(retrieval, "_SECONDS_BETWEEN_SAVES", 0.0)
    progress = []
    similarity = retrieval._Gallery.similarity

    def interrupted(self, block, where):
        progress.append(where)
        if len(progress) == 4:
            raise KeyboardInterrupt
        return similarity(self, block, where)

    monkeypatch.setattr(retrieval._Gallery, "similarity", interrupted)
    assert main(["evaluate", str(runs["saf"]), str(runs["sgr"])]) == 130
    assert len(set(runs["saf"].iterdir()) - set(before)) == 1
    assert shown_by(capsys, runs["saf"], runs["sgr"]) == quick
    assert progress == [f"block {number} of 6" for number in (1, 2, 3, 4, 4, 5, 6)]

    assert shown_by(capsys, runs["saf"], runs["sgr"], "--state", tmp_path / "state") == quick
    assert len(list((tmp_path / "state").iterdir())) == 1
