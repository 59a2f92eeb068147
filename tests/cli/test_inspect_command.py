import json
from dataclasses import replace

import numpy as np
import pytest

from truepair.cli.main import main
from truepair.config import (
    CrclConfig,
    DataConfig,
    DisnclConfig,
    ModelConfig,
    NoiseConfig,
    Recipe,
    SourceConfig,
    TrainingConfig,
)
from truepair.training.run import run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A table of 90 captioned vectors, 30 of them for the test; 0.25 of the others are mismatched."""
    folder = tmp_path_factory.mktemp("data")
    meaning = np.random.default_rng(0).standard_normal((90, 6)).astype(np.float32)
    np.save(folder / "images.npy", meaning)
    np.save(folder / "captions.npy", meaning[:, ::-1])
    rows = [f"{i}.jpg,caption {i},{'train' if i < 56 else 'dev' if i < 60 else 'test'}" for i in range(90)]
    (folder / "pairs.csv").write_text("\n".join(["name,caption,split", *rows]) + "\n")
    return Recipe(
        data=DataConfig(
            path=str(folder / "pairs.csv"),
            source=SourceConfig(image_col=None, image_id_col="name", split_col="split"),
            image_features=str(folder / "images.npy"),
            caption_features=str(folder / "captions.npy"),
        ),
        noise=NoiseConfig(rate=0.25),
        model=ModelConfig(embedding=8),
        method=DisnclConfig(warmup_epochs=1, main_epochs=1, critics_from=0),
        training=TrainingConfig(batch_size=16, device="cpu"),
    )


@pytest.fixture(scope="module")
def folder(recipe, tmp_path_factory):
    run(recipe, out := tmp_path_factory.mktemp("runs") / "disncl")
    return out


def test_inspecting_a_run_writes_into_its_folder_and_says_what_was_found(folder, capsys):
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert main(["inspect", str(folder), "--examples", "2", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == "", "no progress"
    summary = json.loads((folder / "inspect" / "inspect.json").read_text())
    assert (folder / "inspect" / "inspect.html").exists()
    auroc = summary["separation"]["shared"]["auroc"]
    assert "codes of 56 training pairs" in out
    assert f"mismatched pairs against matching pairs: AUROC {auroc:.3f} in the shared space" in out
    assert f"I(S; X) of the image codes: at least {summary['exclusive_information']['image']:.2f} nats" in out
    assert out.endswith(f"page: {folder / 'inspect' / 'inspect.html'}\n")
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_the_folder_number_of_pairs_examples_and_seed_can_be_chosen(folder, tmp_path, capsys):
    out = tmp_path / "a" / "b"
    options = ["--out", str(out), "--items", "12", "--examples", "3", "--seed", "5"]
    assert main(["inspect", str(folder), *options]) == 0
    summary = json.loads((out / "inspect.json").read_text())
    assert (summary["pairs"], len(summary["neighbours"]), summary["seed"]) == (12, 3, 5)


def test_of_a_run_without_codes_the_page_shows_its_pairs(recipe, tmp_path, capsys):
    run(replace(recipe, method=CrclConfig(stages=(1,), frozen_epochs=1)), tmp_path / "crcl")
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "crcl"), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(tmp_path / "crcl" / "inspect" / "figures.html")
    assert {name.removeprefix("pairs_1_crcl_caption_25_") for name in found["figures"] if "crcl" in name} >= {
        *("similarity", "last_correspondence", "correspondence_by_epoch")
    }


def test_what_cannot_be_inspected_is_one_line_and_exit_code_1(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["inspect", str(tmp_path / "empty")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("truepair: error: ")
    assert "holds no run (no run.json)" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "empty" / "inspect").exists()


def test_a_folder_that_cannot_be_made_is_one_line(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["inspect", str(folder), "--out", str(tmp_path / "file" / "page")]) == 1
    assert "cannot make the folder" in capsys.readouterr().err
