"""What is written beside a model, what is refused, and what is left when an export fails."""

import json
import shutil
import sys
from dataclasses import replace

import httpx
import pytest
from owned_elsewhere import owned_elsewhere

from truepair import export_run, run
from truepair.cli.main import main
from truepair.config import DataConfig, ModelConfig, MscnConfig
from truepair.errors import CheckpointError, ConfigError
from truepair.exporting import run as export_module
from truepair.files.locking import alone_with
from truepair.files.names import STORE
from truepair.training.results import read_results

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra hf")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "clip"
    export_run(trained, out, "hf")
    return out


def of_features(recipe, **model):
    """A model that reads features or words."""
    return replace(recipe, model=replace(ModelConfig(embedding=8), **model))


def test_the_card_says_what_the_run_was(exported, trained):
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert huggingface_hub.ModelCard(card).data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["truepair", "image-text-retrieval"],
        "license": "other",
        "license_name": "that-of-the-encoders",
    }
    results = read_results(trained)
    assert f"rSum {results.test.rsum:.1f}" in card
    assert f"| a picture finds captions | {results.test.image_to_text_r1:.1f} |" in card
    assert "put in on purpose (rate 0.2, seed 0, caption level, random partners); " in card
    assert f"realised rate {results.realised_noise_rate:.2%}" in card
    assert "full; licence: see the encoder" in card
    assert "baseline, seed 0, 1 epochs" in card


def test_who_may_read_one_file_may_read_all(exported, trained):
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert len({path.stat().st_mode for path in files}) == 1


def test_the_command_says_what_it_wrote_and_replaces_an_earlier_export(exported, trained, capsys):
    (exported / "old").touch()
    assert main(["export", str(trained), "--to", "hf", "--out", str(exported), "--json", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["to"], said["sides"], said["address"]) == ("hf", ["image", "text"], None)
    assert not (exported / "old").exists()
    assert not [path for path in exported.parent.iterdir() if path != exported]


def test_a_failed_export_leaves_the_earlier_one(exported, trained, monkeypatch):
    before = sorted(path.name for path in exported.iterdir())

    def fails(model, samples, folder):
        (folder / "half").touch()
        raise ConfigError("no")

    monkeypatch.setitem(export_module._WRITERS, "hf", fails)
    with pytest.raises(ConfigError, match=r"^no$"):
        export_run(trained, exported, "hf")
    assert sorted(path.name for path in exported.iterdir()) == before
    assert not [path for path in exported.parent.iterdir() if path != exported]


def test_other_vectors_than_those_of_the_run_are_refused(trained, tmp_path, monkeypatch):
    from truepair.exporting import network_folders

    described = network_folders._described_head
    monkeypatch.setattr(
        network_folders, "_described_head", lambda *given: described(*given) | {"root": True}
    )  # of another function
    with pytest.raises(ConfigError, match=r"gives other vectors than the run .*was not written"):
        export_run(trained, tmp_path / "out", "hf")
    assert not [*tmp_path.iterdir()]


def test_a_folder_or_file_of_something_else_is_refused(trained, tmp_path):
    (tmp_path / "file").touch()
    for out in (trained, tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="holds something else than an earlier export: choose another folder"):
            export_run(trained, out, "hf")


def test_a_second_writer_is_refused(trained, tmp_path):
    out = tmp_path / "out"
    with owned_elsewhere(alone_with(out)), pytest.raises(ConfigError, match="another process is writing"):
        export_run(trained, out, "hf")


@pytest.mark.parametrize(
    ("to", "package", "told"),
    [
        ("onnx", "onnxscript", r"--to onnx needs a package .*pip install 'truepair\[embed\]'"),
        (
            "sentence-transformers",
            "sentence_transformers",
            "needs its version 6 .*pip install 'sentence-transformers>=6'",
        ),
    ],
)
def test_a_missing_package_is_named(trained, to, package, told, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=told):
        export_run(trained, tmp_path / "out", to)
    assert not [*tmp_path.iterdir()]


def test_an_unknown_format_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="to is 'tflite', but it must be one of 'onnx'"):
        export_run(trained, tmp_path / "out", "tflite")


def test_what_is_no_finished_run_is_refused(trained, tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        export_run(tmp_path, tmp_path / "out", "hf")
    for name in ("run.json", "best.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    with pytest.raises(CheckpointError, match="has not finished: resume it"):
        export_run(tmp_path, tmp_path / "out", "hf")


@pytest.mark.filterwarnings("ignore:MSCN learns from pairs")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda recipe: of_features(recipe), "reads patches of the pixels, .*--model.image frozen"),
        (
            lambda recipe: of_features(recipe, similarity="saf"),
            "compares regions with words, .*--model.similarity cosi",
        ),
        (
            lambda recipe: replace(
                of_features(recipe),
                method=MscnConfig(warmup_epochs=1, purified_epochs=1, meta_batch_size=4, fallback_share=0.2),
            ),
            "compares by a learned head",
        ),
        (
            lambda recipe: replace(
                recipe, model=replace(recipe.model, text="features", text_encoder=ModelConfig.text_encoder)
            ),
            "reads captions as words of its own vocabulary, .*--text features",
        ),
    ],
)
def test_what_no_other_tool_has_is_refused(recipe, change, told, tmp_path):
    run(change(recipe), tmp_path / "run")
    with pytest.raises(ConfigError, match=told):
        export_run(tmp_path / "run", tmp_path / "out", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("by", "told"),
    [
        (None, "reads image features whose encoder is not known"),
        ({}, "was trained on .*features, which says what its encoders are and is not there"),
        ({"image_encoder": {"name": "clip", "grid": 2}}, r"reads 2 × 2 regions of each picture.* without --grid"),
        ({"image_encoder": {"name": "open_clip:a/b", "grid": None}}, "of encoder 'open_clip:a/b', which is of another"),
        (
            {"image_encoder": {"name": "efficientnet-lite0", "grid": None}},
            "reads caption features whose encoder is not",
        ),
    ],
)
def test_features_of_encoders_that_cannot_be_written_are_refused(recipe, vector_world, by, told, tmp_path):
    import numpy as np
    import torch

    store = tmp_path / "features"
    store.mkdir()
    rows = torch.arange(len(vector_world))
    np.save(store / "images.npy", vector_world.images.take(vector_world.image_of_caption).values.numpy())
    np.save(store / "captions.npy", vector_world.caption_inputs.take(rows).values.numpy())
    run(replace(of_features(recipe), data=DataConfig(str(store), development_share=0.2)), tmp_path / "run")
    if by is not None:
        (store / STORE).write_text(json.dumps(by))
    if by == {}:
        shutil.rmtree(store)
    with pytest.raises(ConfigError, match=told):
        export_run(tmp_path / "run", tmp_path / "out", "onnx")


class Hub:
    """What is called of `HfApi`, and what it answers."""

    def __init__(self, error=None):
        self.calls = []
        self.error = error

    def create_repo(self, name, **options):
        self.calls.append(("create", name, options))
        if self.error is not None:
            raise self.error
        return f"https://hub/{name}"

    def upload_folder(self, **options):
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch):
    fake = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    return fake


def test_a_folder_is_pushed_when_that_is_asked_for(trained, hub, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(trained), "--to", "hf", "--out", str(out), "--push", "me/dogs"]) == 0
    (_, name, created), (_, uploaded) = hub.calls
    assert (name, created["private"], uploaded["folder_path"], uploaded["repo_id"]) == ("me/dogs", True, out, "me/dogs")
    assert "pushed: https://hub/me/dogs" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error",
    [httpx.ConnectError("no route"), huggingface_hub.errors.OfflineModeIsEnabled("offline"), OSError(5, "broken")],
)
def test_a_hub_that_is_away_leaves_the_folder(trained, hub, tmp_path, error):
    hub.error = error
    with pytest.raises(
        ConfigError, match=r"was written, but not pushed to me/dogs .*then type hf upload --private me/dogs"
    ):
        export_run(trained, tmp_path / "out", "hf", push_to="me/dogs")
    assert (tmp_path / "out" / "README.md").exists()


def test_a_push_without_a_token_or_a_name_is_refused_before_anything_is_read(hub, tmp_path, monkeypatch):
    for name, told in (("dogs", "it is USER/NAME"), ("me/do gs", "is no name on the hub"), ("a/b/c", "is no name")):
        with pytest.raises(ConfigError, match=told):
            export_run(tmp_path / "none", tmp_path / "out", "hf", push_to=name)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ConfigError, match="needs a token of the hub: type 'hf auth login'"):
        export_run(tmp_path / "none", tmp_path / "out", "hf", push_to="me/dogs")
    assert not hub.calls
    assert not [*tmp_path.iterdir()]


def test_nothing_is_pushed_unless_asked_for(trained, hub, tmp_path):
    export_run(trained, tmp_path / "out", "hf")
    assert not hub.calls
