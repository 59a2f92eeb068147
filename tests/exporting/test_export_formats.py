"""Runs as other tools load them: the same cosines by ONNX Runtime, transformers and sentence-transformers."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import truepair
from truepair import export_run
from truepair.config import DisnclConfig
from truepair.config.embedding import EmbedConfig
from truepair.embedding.run import embed
from truepair.errors import ConfigError
from truepair.exporting.onnx_files import _write_tokenizer
from truepair.exporting.preprocessing import pixels_of
from truepair.pretrained.captions import CaptionReader
from truepair.training.run import run

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore:.*codes of the .* side collapsed")


def other(recipe, folder, method=None, **model):
    """A run of the same data by another model."""
    run(replace(recipe, model=replace(recipe.model, **model), method=method or recipe.method), folder)
    return folder


def by_onnx(folder, pictures, captions):
    """With ONNX Runtime, tokenizers and NumPy."""
    import onnxruntime
    import tokenizers

    how = json.loads((folder / "preprocessing.json").read_text())
    pixels = np.stack([pixels_of(how, picture) for picture in pictures])
    encoded = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(captions)
    given = {"input_ids": [one.ids for one in encoded], "attention_mask": [one.attention_mask for one in encoded]}
    session = onnxruntime.InferenceSession(folder / "image.onnx")
    texts = onnxruntime.InferenceSession(folder / "text.onnx")
    return session.run(None, {"pixels": pixels})[0], texts.run(None, {k: np.array(v) for k, v in given.items()})[0]


def by_transformers(folder, pictures, captions):
    """With transformers and NumPy, as heads.json says it."""
    from safetensors.numpy import load_file

    how, weights = json.loads((folder / "heads.json").read_text()), load_file(folder / "heads.safetensors")

    def unit(vectors):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def side(name, encode):
        made = []
        for network in how[name]["networks"]:
            place = folder / network["folder"]
            loaded = transformers.AutoModel.from_pretrained(place).eval()
            with torch.no_grad():
                vectors = unit(encode(loaded, place, network["pooling"]).numpy())
            for head in network["heads"]:
                x = unit(np.sign(vectors) * np.sqrt(np.abs(vectors))) if head["root"] else vectors
                for layer in head["layers"]:
                    x = x @ weights[layer["weight"]].T + weights[layer["bias"]]
                    x = np.maximum(x, 0) if layer["relu"] else x
                made.append(unit(x))
        return np.concatenate(made, 1) / len(made) ** 0.5

    def text(network, place, pooling):
        options = {"padding": how["text"]["padding"], "max_length": how["text"]["max_length"], "truncation": True}
        tokens = transformers.AutoTokenizer.from_pretrained(place)(captions, return_tensors="pt", **options)
        if pooling == "network":
            given = {key: tokens[key] for key in ("input_ids", "attention_mask")}
            return network.get_text_features(**given).pooler_output
        states, mask = network(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        return (states * mask).sum(1) / mask.sum(1)

    def image(network, place, pooling):
        processor = transformers.AutoImageProcessor.from_pretrained(place, backend="pil")
        return network.get_image_features(**processor(pictures, return_tensors="pt")).pooler_output

    return side("image", image) if "image" in how else None, side("text", text)


def by_sentence_transformers(folder, pictures, captions):
    from sentence_transformers import SentenceTransformer

    network = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    encode = network.encode
    return encode(pictures, show_progress_bar=False), encode(captions, show_progress_bar=False)


BY = {"onnx": by_onnx, "hf": by_transformers, "sentence-transformers": by_sentence_transformers}


def need(to):
    if to == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name, reason="needs the extra embed")
    if to == "sentence-transformers":
        pytest.importorskip("sentence_transformers", reason="needs the extra st", exc_type=ImportError)


@pytest.mark.parametrize("to", [pytest.param("onnx", marks=pytest.mark.slow), "hf", "sentence-transformers"])
def test_a_trained_clip_gives_the_same_cosines(recipe, trained, expected_of, networks, to, tmp_path):
    need(to)
    exported = export_run(trained, tmp_path / "out", to)
    expected = expected_of(trained)
    expected.check(*BY[to](tmp_path / "out", expected.pictures, expected.captions))
    assert exported.sides == ("image", "text")
    assert max(exported.differences.values()) <= 1e-5
    code = sys.prefix, Path(truepair.__file__).parent
    places = (tmp_path, networks["clip"], trained, Path(recipe.data.path).parent, *code)
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        assert not any(str(place).encode() in path.read_bytes() for place in places), path


@pytest.mark.parametrize("to", [pytest.param("onnx", marks=pytest.mark.slow), "hf"])
def test_several_networks_stand_side_by_side(recipe, expected_of, twins, to, tmp_path):
    need(to)
    folder = other(recipe, tmp_path / "run")
    export_run(folder, tmp_path / "out", to)
    expected = expected_of(folder)
    assert len(list((tmp_path / "out").glob("network-*"))) == (2 if to == "hf" else 0)
    expected.check(*BY[to](tmp_path / "out", expected.pictures, expected.captions))


def test_several_networks_are_refused_where_there_is_no_module_for_them(recipe, twins, tmp_path):
    need("sentence-transformers")
    folder = other(recipe, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"has 2 networks, whose cosines are averaged.*--to onnx or --to hf"):
        export_run(folder, tmp_path / "out", "sentence-transformers")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_low_rank_updates_are_merged(recipe, expected_of, networks, tmp_path):
    pytest.importorskip("peft", reason="needs the extra finetune")
    folder = other(recipe, tmp_path / "run", image="lora", text="lora", text_encoder=networks["bert"], lora_rank=2)
    export_run(folder, tmp_path / "out", "hf")
    expected = expected_of(folder)
    expected.check(*by_transformers(tmp_path / "out", expected.pictures, expected.captions))
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"image", "text"}
    assert b"lora" not in (tmp_path / "out" / "text" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("to", ["hf", "sentence-transformers"])
def test_a_run_on_a_feature_store_has_its_encoders_exported(recipe, expected_of, networks, to, tmp_path):
    need(to)
    store = tmp_path / "features"
    encoders = EmbedConfig(image_encoder=networks["clip"], text_encoder=networks["bert"], batch_size=4, device="cpu")
    embed(recipe.data.path, store, encoders)
    data = replace(recipe.data, path=str(store), source=type(recipe.data.source)(), text="features")
    reads = {"image": "features", "text": "features", "image_encoder": "efficientnet-lite0", "text_encoder": "minilm"}
    plain = {"tower_learning_rate_factor": 0.5, "projection": "plain"}
    folder = other(replace(recipe, data=data), tmp_path / "run", **reads, **plain)
    export_run(folder, tmp_path / "out", to)
    expected = expected_of(folder)
    images, captions = BY[to](tmp_path / "out", expected.pictures, expected.captions)
    np.testing.assert_allclose(images @ captions.T, expected.cosines, atol=2e-3)  # the store rounds to half precision


def test_other_weights_than_made_the_features_of_a_run_are_no_export_of_it(recipe, networks, tmp_path):
    clip, bert = (shutil.copytree(networks[name], tmp_path / name) for name in ("clip", "bert"))
    embed(recipe.data.path, tmp_path / "features", EmbedConfig(str(clip), str(bert), batch_size=4, device="cpu"))
    data = replace(recipe.data, path=str(tmp_path / "features"), source=type(recipe.data.source)(), text="features")
    reads = {"image": "features", "text": "features", "image_encoder": "efficientnet-lite0", "text_encoder": "minilm"}
    other(replace(recipe, data=data), tmp_path / "run", **reads, projection="plain")
    changed = transformers.AutoModel.from_pretrained(clip)
    with torch.no_grad():
        changed.vision_model.post_layernorm.bias += 0.1
    changed.save_pretrained(clip)
    with pytest.raises(ConfigError, match="clip' has other weights than when the features were made"):
        export_run(tmp_path / "run", tmp_path / "out", "hf")


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizer_of_onnx_cuts_as_the_run_did(networks, side, tmp_path):
    need("onnx")
    import tokenizers

    folder = shutil.copytree(networks["bert"], tmp_path / "bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.truncation_side = side
    tokenizer.save_pretrained(folder)
    reader = CaptionReader(str(folder))
    _write_tokenizer(reader, str(folder), tmp_path / "tokenizer.json")
    caption = "a dog and a cat and it is red and blue and a bird sleeps"
    assert (
        tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(caption).ids == reader([caption])[0][0]
    )


def test_captions_padded_on_the_left_are_exported_padded_on_the_right(recipe, expected_of, networks, tmp_path):
    folder = shutil.copytree(networks["clip"], tmp_path / "clip")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    run_of = other(recipe, tmp_path / "run", image_encoder=str(folder), text_encoder=str(folder))
    export_run(run_of, tmp_path / "out", "hf")
    expected = expected_of(run_of)
    expected.check(*by_transformers(tmp_path / "out", expected.pictures, expected.captions))


def test_codes_are_exported_and_pictures_of_another_kind_are_left_out(recipe, expected_of, networks, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra embed")
    method = DisnclConfig(warmup_epochs=1, main_epochs=1, critics_from=0, networks=1)
    model = {"image": "frozen", "text": "full", "image_encoder": "efficientnet-lite0", "text_encoder": networks["bert"]}
    folder = other(recipe, tmp_path / "run", method, **model)
    exported = export_run(folder, tmp_path / "out", "hf")
    assert exported.sides == ("text",)
    assert "EfficientNet-Lite0" in exported.notes[0]
    assert "EfficientNet-Lite0, which reads the pictures, is no network" in (tmp_path / "out" / "README.md").read_text()
    expected = expected_of(folder)
    expected.check(*by_transformers(tmp_path / "out", expected.pictures, expected.captions))
