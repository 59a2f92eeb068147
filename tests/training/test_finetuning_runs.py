"""Runs whose encoders are pretrained networks over pixels and tokens: every method, from training to a report."""

import json
import shutil
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import write_photographs
from safetensors.torch import load_file, save_file

from truepair.cli.main import main
from truepair.config import (
    BaselineConfig,
    CrclConfig,
    DataConfig,
    DisnclConfig,
    ModelConfig,
    MscnConfig,
    NoiseConfig,
    OptimisationConfig,
    Recipe,
    SourceConfig,
    TeacherConfig,
    TrainingConfig,
    TrustedConfig,
)
from truepair.data.corpora import load_corpus
from truepair.data.loader import Loaders
from truepair.encoders import towers
from truepair.encoders.towers import load_image_tower
from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.retrieval import evaluate
from truepair.files.checkpoint import load_checkpoint
from truepair.model import InputShape, make_model
from truepair.scoring.encodings import Encodings
from truepair.training.folder import load_run, load_runs
from truepair.training.recipe import recipe_from
from truepair.training.run import _frozen_epochs, run

pytest.importorskip("transformers", reason="needs the extra hf")
from tiny_networks import save_bert, save_clip

METHODS = {
    "baseline": BaselineConfig(epochs=2),
    "crcl": CrclConfig(stages=(1, 1), frozen_epochs=0),
    "mscn": MscnConfig(warmup_epochs=1, purified_epochs=1, meta_batch_size=4, fallback_share=0.2),
    "disncl": DisnclConfig(warmup_epochs=1, main_epochs=1, critics_from=0),
    "teacher": TeacherConfig(fold_epochs=2, folds=2, epochs=2, warmup_epochs=1),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {save.__name__[5:]: save(tmp_path_factory.mktemp("network")) for save in (save_bert, save_clip)}


@pytest.fixture
def recipe(tmp_path, folders):
    table = write_photographs(tmp_path / "data", images=24)
    model = ModelConfig(
        image="full",
        text="full",
        image_encoder=folders["clip"],
        text_encoder=folders["bert"],
        embedding=8,
        projection="plain",
        tower_learning_rate_factor=0.5,
    )
    return Recipe(
        DataConfig(str(table), SourceConfig(split_col="split")),
        NoiseConfig(0.2),
        model=model,
        method=METHODS["baseline"],
        training=TrainingConfig(batch_size=8, device="cpu"),
    )


def with_model(recipe, **options):
    return replace(recipe, model=replace(recipe.model, **options))


@pytest.mark.filterwarnings("ignore:MSCN learns from pairs", "ignore:.*codes of the .* side collapsed")
@pytest.mark.parametrize("name", [*METHODS])
def test_every_method_trains_both_networks(recipe, name, tmp_path):
    recipe = replace(with_model(recipe, projection_epochs=0), method=METHODS[name])  # the best epoch has trained both
    results = run(recipe, tmp_path / "run")
    assert 0 <= results.test.rsum <= 600
    assert results.detection is not None
    again = load_run(tmp_path / "run")
    assert evaluate(again.models, again.splits.test) == results.test
    for model in again.models:
        fresh = make_model(again.recipe.network, InputShape.of(again.train, None)).state_dict()
        moved = {key for key, value in model.state_dict().items() if not torch.equal(value, fresh[key])}
        assert any("vision_model.encoder.layers.1" in key for key in moved)
        assert any("text_encoder" in key and "encoder.layer.0" in key for key in moved)


@pytest.mark.parametrize(("how", "times"), [("frozen", 1), ("full", 3)])
def test_networks_of_a_method_share_what_is_frozen(recipe, how, times, tmp_path, monkeypatch):
    """The default method has two networks of folds and one of all pairs."""
    loaded = Counter()

    def load(name):
        loaded[name] += 1
        return load_image_tower(name)

    monkeypatch.setattr(towers, "load_image_tower", load)
    method = replace(METHODS["teacher"], folds=2, fold_epochs=1)
    run(replace(with_model(recipe, image=how, projection_epochs=0), method=method), tmp_path / "run")
    assert [*loaded.values()] == [times]


def test_clip_begins_with_its_own_similarities(recipe, folders):
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(folders["clip"]).eval()
    recipe = with_model(
        recipe,
        text_encoder=folders["clip"],
        projection="identity",
        feature_scaling="length",
        embedding=clip.config.projection_dim,
    )
    pairs = load_corpus(recipe.data, recipe.model).splits.test
    model = make_model(recipe.model, InputShape.of(pairs, None)).eval()
    everything = torch.arange(len(pairs.images)), torch.arange(len(pairs))
    pixels, tokens = pairs.images.take(everything[0]), pairs.caption_inputs.take(everything[1])
    with torch.no_grad():
        found = Encodings.of([model], pairs, *everything).matrix(*everything)
        of_images = clip.get_image_features(pixels.values)
        of_captions = clip.get_text_features(tokens.values, tokens.mask.long())
        images, captions = (getattr(each, "pooler_output", each) for each in (of_images, of_captions))
        expected = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(captions).T
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:MSCN learns from pairs", "ignore:.*codes of the .* side collapsed")
@pytest.mark.parametrize("name", [*METHODS])
def test_networks_are_frozen_while_projections_learn_over_their_vectors(recipe, name, tmp_path, monkeypatch):
    from truepair.training import fit as fit_module

    recipe = replace(with_model(recipe, projection_epochs=1), method=METHODS[name])
    fresh = make_model(recipe.network, InputShape("pixels", 32, "tokens", 0)).state_dict()
    pixels, evaluated, seen = load_corpus(recipe.data, recipe.model).splits.dev, fit_module.evaluate, []

    def noted(models, dev):
        weights = models[0].state_dict()
        is_frozen = all(torch.equal(weights[key], fresh[key]) for key in fresh if ".tower." in key)
        seen.append(is_frozen)
        found = evaluated(models, dev)
        assert found == evaluated(models, pixels) or not is_frozen
        return found

    monkeypatch.setattr(fit_module, "evaluate", noted)
    run(recipe, tmp_path / "run")
    assert len(seen) > 1
    assert seen == [True] + [False] * (len(seen) - 1)


def test_networks_are_frozen_for_two_thirds_of_a_run_where_nothing_else_is_said():
    def frozen(stream_index=None, **model):
        return _frozen_epochs(Recipe(DataConfig(stream_index=stream_index), model=ModelConfig(**model)), 16)

    assert [frozen(text=how) for how in ("lora", "full", "frozen", "features")] == [10, 10, 0, 0]
    assert [frozen(text="full", projection_epochs=count) for count in (0, 15)] == [0, 15]
    assert frozen("index", text="full") == 0


def test_networks_that_never_learn_are_refused(recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"model.projection_epochs is 2, but the run has 2 epochs"):
        run(with_model(recipe, projection_epochs=2), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model.projection_epochs is -1"):
        ModelConfig(text="full", projection_epochs=-1)
    with pytest.raises(ConfigError, match=r"in memory, but data\.stream_index is for pairs that do not fit there"):
        Recipe(DataConfig(stream_index="index"), model=ModelConfig(text="full", projection_epochs=1))


@pytest.mark.parametrize("how", ["full", "lora"])
def test_a_run_that_was_stopped_ends_with_the_same_weights(recipe, how, tmp_path, monkeypatch):
    if how == "lora":
        pytest.importorskip("peft", reason="needs the extra finetune")
    recipe = with_model(recipe, image=how, text="frozen", smallest_crop=0.5, layer_decay=1.0, projection_epochs=1)
    run(recipe, tmp_path / "whole")

    def interrupted(*given):
        raise KeyboardInterrupt

    from truepair.training import fit as fit_module

    epochs = []
    save = fit_module.save
    monkeypatch.setattr(fit_module, "save", lambda *given: (save(*given), epochs.append(1) or interrupted())[0])
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped")
    monkeypatch.setattr(fit_module, "save", save)
    run(recipe, tmp_path / "stopped")
    whole, stopped = ((tmp_path / each / "best.safetensors").read_bytes() for each in ("whole", "stopped"))
    assert whole == stopped


@pytest.mark.parametrize("name", ["baseline", "crcl", "teacher"])
def test_averages_of_low_rank_updates_are_in_checkpoints(recipe, name, tmp_path):
    pytest.importorskip("peft", reason="needs the extra finetune")
    averaged = replace(METHODS[name], optimisation=OptimisationConfig(learning_rate=0.05, weight_average=0.9))
    recipe = replace(with_model(recipe, text="lora", image="frozen", projection_epochs=0), method=averaged)
    results = run(recipe, tmp_path / "run")
    (weights, *_) = load_checkpoint(tmp_path / "run" / "best.safetensors")["models"]
    updates = [weight for key, weight in weights.items() if "lora_B" in key]
    assert updates
    assert all(weight.any() for weight in updates)
    again = load_run(tmp_path / "run")
    assert evaluate(again.models, again.splits.test) == results.test


def test_checkpoints_leave_out_what_is_frozen(recipe, tmp_path):
    run(
        with_model(
            recipe, image="frozen", text="frozen", tower_learning_rate_factor=ModelConfig().tower_learning_rate_factor
        ),
        tmp_path / "run",
    )
    (weights,) = load_checkpoint(tmp_path / "run" / "best.safetensors")["models"]
    assert all(".head." in name or name.endswith(".number") for name in weights)


def test_a_frozen_network_gives_what_embed_gives(recipe, folders, tmp_path):
    from truepair.embedding.choosing import load_image_encoder, load_text_encoder

    recipe = with_model(
        recipe, image="frozen", text="frozen", tower_learning_rate_factor=ModelConfig().tower_learning_rate_factor
    )
    pairs = load_corpus(recipe.data, recipe.model).splits.test
    model = make_model(recipe.model, InputShape.of(pairs, None)).eval()
    device = torch.device("cpu")
    captions = load_text_encoder(folders["bert"], device).encode(pairs.captions).features
    rows = torch.arange(len(pairs))
    np.testing.assert_allclose(model.text_encoder._vectors(pairs.caption_inputs.take(rows)), captions, atol=1e-5)
    images = load_image_encoder(folders["clip"], grid=None, device=device)
    from truepair.sources.decoding import decoded

    seen = [images.preprocess(decoded(pairs.pictures[image], 64)) for image in range(len(pairs.images))]
    taken = pairs.images.take(torch.arange(len(pairs.images)))
    np.testing.assert_allclose(model.image_encoder._vectors(taken), images.encode(seen), atol=1e-5)


def test_one_side_may_keep_the_features_of_the_data(recipe, folders, tmp_path):
    np.save(tmp_path / "f.npy", np.random.default_rng(0).standard_normal((24, 5)).astype(np.float32))
    recipe = with_model(recipe, image="features", image_encoder=ModelConfig().image_encoder)
    recipe = replace(recipe, data=replace(recipe.data, image_features=str(tmp_path / "f.npy")))
    assert run(recipe, tmp_path / "run").epochs == 2
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (described["inputs"]["image"], described["inputs"]["caption"]) == ("vector", "tokens")


def test_a_network_that_is_gone_is_named_when_the_run_is_read(recipe, folders, tmp_path):
    copied = tmp_path / "bert"
    shutil.copytree(folders["bert"], copied)
    run(with_model(recipe, text_encoder=str(copied)), tmp_path / "run")
    shutil.rmtree(copied)
    with pytest.raises(ConfigError, match="is a path, but there is no such folder"):
        load_run(tmp_path / "run")


def test_weights_of_another_network_are_refused(recipe, folders, tmp_path):
    copied = tmp_path / "bert"
    shutil.copytree(folders["bert"], copied)
    run(with_model(recipe, text_encoder=str(copied)), tmp_path / "run")
    config = json.loads((copied / "config.json").read_text())
    shutil.rmtree(copied)
    copied.mkdir()
    save_bert(copied)
    (copied / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("how", ["frozen", "lora"])
def test_a_frozen_network_that_changed_is_refused(recipe, folders, how, tmp_path):
    if how == "lora":
        pytest.importorskip("peft", reason="needs the extra finetune")
    copied = tmp_path / "bert"
    shutil.copytree(folders["bert"], copied)
    run(with_model(recipe, text=how, text_encoder=str(copied)), tmp_path / "run")
    weights = load_file(copied / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][0] += 1e-3
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="the pretrained network has other weights than when this was learned"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"image_encoder": "x"}, "model.image_encoder is 'x', but a network with .* does not read it"),
        ({"text": "full", "text_encoder": "x", "words": "mean"}, "model.words is 'mean'"),
        ({"image": "frozen", "layer_decay": 0.5}, "model.layer_decay is 0.5"),
        ({"image": "full", "lora_rank": 2}, "model.lora_rank is 2"),
        ({"text": "full", "smallest_crop": 0.5}, "model.smallest_crop is 0.5"),
        ({"image": "full", "similarity": "sgr"}, "gives one vector each, but model.similarity 'sgr' compares regions"),
        ({"image": "lora", "feature_scaling": "root"}, "whose slope at 0 has no end"),
        ({"image": "full", "tower_learning_rate_factor": 0}, r"must be in \(0, 1\]"),
        ({"image": "pixels"}, "model.image is 'pixels', but it must be one of 'features', 'frozen', 'full', 'lora'"),
    ],
)
def test_options_that_nothing_reads_or_that_cannot_work_are_refused(model, told):
    with pytest.raises(ConfigError, match=told):
        recipe_from({"model": model, "method": {"name": "baseline"}}, "here")


def test_the_meta_step_does_not_recompute(recipe):
    with pytest.raises(ConfigError, match="MSCN's meta step asks for gradients at other weights"):
        Recipe(model=ModelConfig(text="full", gradient_checkpointing=True), method=MscnConfig()).network  # noqa: B018


def test_trusted_pairs_of_a_split_are_read_as_words(recipe):
    with pytest.raises(ConfigError, match=r"trusted.source is 'split', whose captions are read as words or vectors"):
        replace(recipe, trusted=TrustedConfig("split"))


def test_runs_that_read_captions_by_different_networks_are_no_ensemble(recipe, folders, tmp_path):
    run(recipe, tmp_path / "one")
    run(with_model(recipe, text_encoder=folders["clip"]), tmp_path / "other")
    with pytest.raises(ConfigError, match="read pictures or captions by different networks"):
        load_runs([tmp_path / "one", tmp_path / "other"])


def test_a_corpus_that_was_read_for_another_model_is_refused(recipe):
    corpus = load_corpus(recipe.data)
    with pytest.raises(ConfigError, match=r"model.image is 'full', but the corpus was read as regions: .*load_corpus"):
        make_model(recipe.model, InputShape.of(corpus.splits.train, corpus.vocabulary))


def test_training_learns_what_the_captions_say(recipe):
    """Mixed precision included: the loss of the last steps is far below that of the first."""
    from lightning_fabric import Fabric

    from truepair.methods.baseline import Baseline

    pairs = load_corpus(recipe.data, recipe.model).splits.train
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    fabric.seed_everything(0, verbose=False)
    config = BaselineConfig(epochs=12, temperature=0.2)
    config = replace(config, optimisation=replace(config.optimisation, learning_rate=5e-3))
    method = Baseline(config, lambda: make_model(recipe.model, InputShape.of(pairs, None)), len(pairs), fabric)
    loaders = Loaders(pairs, 16, 0, torch.device("cpu"))
    losses = [step["loss"] for epoch in range(12) for step in method.train_epoch(epoch, loaders)]
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:4])


def test_a_run_is_audited_indexed_and_searched(recipe, tmp_path):
    from truepair.audit.run import audit_run
    from truepair.config import AuditConfig
    from truepair.search.building import build_index
    from truepair.search.index import open_index

    run(with_model(recipe, smallest_crop=1.0), tmp_path / "run")
    audited = load_run(tmp_path / "run")
    assert audit_run(audited, tmp_path / "audit", AuditConfig()).pairs == len(audited.train)
    build_index(str(tmp_path / "run"), tmp_path / "index")
    index = open_index(tmp_path / "index")
    pictures = audited.corpus.splits.test.pictures
    said = []
    for given in ({"images": [pictures[0]]}, {"texts": "a red dog"}, {"texts": ["a dog", "a cat and a dog " * 9]}):
        assert index.search(**given, k=1, tell=said.append)
    assert said == ["1 of 2 queries are longer than the 10 tokens that are read, and were cut"]
    assert index.space._caption_reader is index.space._caption_reader  # loaded once


@pytest.mark.parametrize(("model_text", "text"), [("full", "auto"), ("features", "features")])
def test_other_photographs_join_the_index_of_a_run(recipe, folders, model_text, text, tmp_path):
    """Its networks read the pictures and texts of a table or feature store, as they read those of its corpus."""
    from truepair.config import EmbedConfig
    from truepair.embedding.run import embed
    from truepair.search.building import add_to_index, build_index
    from truepair.search.index import open_index

    def store(first, images, text_encoder=folders["bert"]):
        """A table of other photographs, and its features."""
        table = write_photographs(tmp_path / f"table_{first}", images, first)
        embed(str(table), tmp_path / f"store_{first}", EmbedConfig(folders["clip"], text_encoder, device="cpu"))
        return table, tmp_path / f"store_{first}"

    _, learned = store(0, 24)
    text_encoder = folders["bert"] if model_text == "full" else ModelConfig.text_encoder
    recipe = replace(recipe, data=DataConfig(str(learned), text=text))
    recipe = with_model(recipe, text=model_text, text_encoder=text_encoder)
    run(recipe, tmp_path / "run")

    table, other = store(100, 6)
    build_index(str(tmp_path / "run"), tmp_path / "whole", of=other)
    build_index(str(tmp_path / "run"), tmp_path / "grown")
    add_to_index(tmp_path / "grown", str(table))
    whole, grown = open_index(tmp_path / "whole"), open_index(tmp_path / "grown")
    assert (whole.manifest.count("images"), grown.manifest.count("images")) == (6, 30)
    for side in ("images", "captions"):
        (alone,), (_, added) = whole.side(side).vectors, grown.side(side).vectors
        torch.testing.assert_close(added, alone, atol=2e-3, rtol=0)  # halves
        assert (alone[0] - alone[2]).abs().max() > 0.02, "the rows are told apart"
    trained = load_run(tmp_path / "run")
    picture = trained.corpus.splits.test.pictures[0]
    assert len(grown.search(texts="a red dog", k=3)) == len(grown.search(images=[picture], k=3)) == 3

    _, words = store(200, 6, "none")  # features of texts are missed by those who read them
    missed = (
        pytest.raises(ConfigError, match="store_200 has none: embed it") if model_text == "features" else nullcontext()
    )
    with missed:
        build_index(str(tmp_path / "run"), tmp_path / "words", of=words)
    (tmp_path / "arrays").mkdir()
    for name in ("images", "captions"):
        np.save(tmp_path / "arrays" / f"{name}.npy", np.ones((6, 16), np.float32))
    with pytest.raises(ConfigError, match=r"arrays has no pictures but only features, .* set it to 'features'"):
        build_index(str(tmp_path / "run"), tmp_path / "third", of=tmp_path / "arrays")


@pytest.mark.parametrize(("image", "text"), [("frozen", "features"), ("features", "frozen"), ("frozen", "frozen")])
def test_a_sweep_reads_the_corpus_for_its_networks(recipe, image, text, tmp_path):
    from truepair.training.sweep import settings_of, sweep

    ways = {"image": image, "text": text}
    unread = {f"{side}_encoder": getattr(ModelConfig, f"{side}_encoder") for side in ways if ways[side] == "features"}
    recipe = with_model(recipe, **ways, **unread)
    swept = sweep(settings_of(recipe, {"method.temperature": [0.05, 0.1]}, [0], tmp_path), tmp_path)
    assert [done.error for done in swept] == ["", ""]


def test_a_run_of_relative_paths_is_read_from_any_folder(recipe, folders, tmp_path, monkeypatch):
    here = tmp_path / "here"
    shutil.copytree(tmp_path / "data", here / "data")
    shutil.copytree(folders["clip"], here / "clip")
    (here / "demo").mkdir()  # what is no path is none
    monkeypatch.chdir(here)
    model = replace(recipe.model, image_encoder="clip", text_encoder="clip")
    data = replace(recipe.data, path=str(Path(recipe.data.path).relative_to(tmp_path)))
    relative = replace(recipe, data=data, model=model, method=METHODS["baseline"])
    results = run(relative, here / "run")
    assert run(relative, here / "run").test == results.test
    (tmp_path / "elsewhere" / "clip").mkdir(parents=True)  # another one of that name
    monkeypatch.chdir(tmp_path / "elsewhere")
    trained = load_run(here / "run")
    assert trained.recipe.data.path == str(here / data.path)
    assert trained.recipe.model.image_encoder == str(here / "clip")
    assert evaluate(trained.models, trained.splits.test) == results.test
    assert main(["evaluate", str(here / "run"), "--quiet"]) == 0
    (tmp_path / "elsewhere" / "clip").rmdir()
    moved = here.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=f"encoder '{here}/clip' is a path, but there is no such folder"):
        load_run(moved / "run")
    monkeypatch.chdir(moved)
    again = load_run(moved / "run")
    assert evaluate(again.models, again.splits.test) == results.test


def test_options_that_the_network_does_not_read_do_not_make_another_run(recipe, tmp_path):
    model = replace(recipe.model, word_vectors="random")  # the method's own default is another, and no words are read
    recipe = replace(recipe, model=model, method=METHODS["teacher"])
    results = run(recipe, tmp_path / "run")
    assert run(recipe, tmp_path / "run").test == results.test
    again = replace(recipe, model=replace(model, word_vectors="captions"))
    assert run(again, tmp_path / "run").test == results.test
