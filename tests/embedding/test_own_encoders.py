"""Encoders that a caller brings, and those of other libraries."""

import json
import sys

import numpy as np
import pytest
import torch
from embedding_samples import picture
from made_sources import write_rows

from truepair import register_encoder
from truepair.config.embedding import EmbedConfig
from truepair.embedding import own_encoders
from truepair.embedding.choosing import load_image_encoder, load_text_encoder
from truepair.embedding.run import embed
from truepair.errors import ConfigError

CPU = torch.device("cpu")


class Colours:
    """The mean colour of a picture, and the colour that a caption names."""

    def encode_images(self, images):
        return np.stack([np.asarray(image, dtype=np.float32).mean((0, 1)) for image in images])

    def encode_texts(self, texts):
        return torch.tensor([[float(colour in text) for colour in ("red", "green", "blue")] for text in texts])


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(own_encoders, "_ENCODERS", {})


def image_encoder(name, tmp_path, grid=None):
    return load_image_encoder(name, grid=grid, device=CPU)


def test_an_object_with_two_methods_embeds_a_corpus(tmp_path):
    register_encoder("colours", Colours())
    rows = [{"image": f"{seed}.png", "caption": caption} for seed, caption in enumerate(("red", "a blue one", "green"))]
    table = write_rows(tmp_path / "t.csv", rows)
    for seed in range(3):
        picture(seed, 30 + seed, 20).save(tmp_path / f"{seed}.png")
    config = EmbedConfig(image_encoder="colours", text_encoder="colours", batch_size=2, device="cpu")
    summary = embed(str(table), tmp_path / "out", config)
    assert summary["shared_space"]
    images, captions = (np.load(tmp_path / "out" / f"{side}.npy") for side in ("images", "captions"))
    expected = Colours().encode_images([picture(seed, 30 + seed, 20) for seed in range(3)])
    np.testing.assert_allclose(images, expected, rtol=1e-3)
    np.testing.assert_array_equal(captions, [[1, 0, 0], [0, 0, 1], [0, 1, 0]])


def test_what_an_object_lacks_or_gives_is_said(tmp_path):
    with pytest.raises(ConfigError, match="is a dict without encode_images and encode_texts"):
        register_encoder("none", {})
    unequal = Colours()
    unequal.encode_texts = lambda texts: np.zeros((len(texts), 5))
    with pytest.raises(ConfigError, match="width 3 of images and 5 of texts, but both are compared"):
        register_encoder("unequal", unequal)
    flat = Colours()
    flat.encode_images = lambda images: np.zeros(3)
    with pytest.raises(ConfigError, match=r"encode_images of encoder 'flat' gave shape \(3,\) for 1 items"):
        register_encoder("flat", flat)
    register_encoder("colours", Colours())
    write_rows(tmp_path / "t.csv", [{"image": "0.png", "caption": "red"}])
    picture(0).save(tmp_path / "0.png")
    config = EmbedConfig(image_encoder="colours", text_encoder="none", engine="ray", device="cpu")
    with pytest.raises(ConfigError, match="whose workers do not know the registered encoder 'colours'"):
        embed(str(tmp_path / "t.csv"), tmp_path / "out", config)
    with pytest.raises(ConfigError, match="grid is 2, but image encoder 'colours' gives one vector"):
        image_encoder("colours", tmp_path, grid=2)


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("st:x", "sentence_transformers", "st"), ("open_clip:a/b", "open_clip", "open_clip")]
)
def test_a_library_that_is_missing_is_named_with_its_extra(name, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs {module} .*: pip install 'truepair\[{extra}\]'"):
        load_text_encoder(name, CPU)


def test_names_that_cannot_be_meant_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="sentence-transformers, which is taken for captions only"):
        image_encoder("st:all-MiniLM-L6-v2", tmp_path)
    with pytest.raises(ConfigError, match="is not open_clip:MODEL/PRETRAINED"):
        image_encoder("open_clip:ViT-B-32", tmp_path)
    with pytest.raises(ConfigError, match="has its weights in a pickled file"):
        load_text_encoder("open_clip:ViT-B-32/weights.pt", CPU)


def test_sentence_transformers_agrees_with_transformers(bert_folder):
    pytest.importorskip("sentence_transformers", reason="needs the extra st")
    captions = ["a dog", "a red bird and it is blue and it is red"]
    ours, theirs = load_text_encoder(bert_folder, CPU).encode(captions), load_text_encoder(f"st:{bert_folder}", CPU)
    assert theirs.description.size == 16
    np.testing.assert_allclose(theirs.encode(captions[:1]).features, ours.features[:1], atol=1e-5)


def test_a_network_of_open_clip_embeds_both_sides(tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="needs the extra open_clip")
    from safetensors.torch import save_file

    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    (tmp_path / "tiny.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "tiny.json")
    network = open_clip.create_model("tiny").eval()
    save_file(network.state_dict(), str(tmp_path / "tiny.safetensors"))
    name = f"open_clip:tiny/{tmp_path / 'tiny.safetensors'}"
    images, captions = image_encoder(name, tmp_path), load_text_encoder(name, CPU)
    vectors = images.encode([images.preprocess(picture(seed, 40 + seed, 30)) for seed in range(2)])
    encoded = captions.encode(["a dog", "a dog and a cat and a red bird"])
    assert vectors.shape == encoded.features.shape == (2, 16)
    assert (captions.description.maximum_tokens, encoded.cut) == (8, 1)
    with torch.no_grad():
        expected = network.encode_text(open_clip.get_tokenizer("tiny")(["a dog"])).numpy()
    np.testing.assert_allclose(encoded.features[:1], expected / np.linalg.norm(expected), atol=1e-5)
