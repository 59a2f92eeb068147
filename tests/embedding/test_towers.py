import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from embedding_samples import WORDS, picture
from PIL import Image

from truepair.embedding.choosing import load_image_encoder, load_text_encoder
from truepair.embedding.text_encoders import encode_by_length
from truepair.errors import ConfigError
from truepair.pretrained.pictures import HubReader

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
from tiny_networks import FAMILIES, save_family  # noqa: E402

CPU = torch.device("cpu")
CAPTIONS = ["a red dog", "it is a blue bird and it sleeps", "cat", "a zebra"]


def unit(vectors: torch.Tensor) -> np.ndarray:
    return (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()


@pytest.fixture(params=["clip", "siglip"])
def folder(request, clip_folder, siglip_folder):
    return {"clip": clip_folder, "siglip": siglip_folder}[request.param]


def image_encoder(folder, tmp_path, grid=None):
    return load_image_encoder(folder, grid=grid, device=CPU)


def preprocessed(encoder, *pictures):
    return np.stack([encoder.preprocess(image) for image in pictures])


def test_pictures_are_the_networks_image_features_of_length_1(folder, tmp_path):
    encoder = image_encoder(folder, tmp_path)
    pictures = [picture(seed) for seed in range(3)]
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = transformers.AutoModel.from_pretrained(folder).get_image_features(pixels).pooler_output
    features = encoder.encode(preprocessed(encoder, *pictures))
    assert features.shape == (3, encoder.description.size)
    assert encoder.description.shared_space
    np.testing.assert_allclose(features, unit(expected), atol=1e-6)


def test_regions_are_the_patch_tokens_behind_the_last_layer_norm(folder, tmp_path):
    encoder = image_encoder(folder, tmp_path, grid=4)
    values = preprocessed(encoder, picture(0), picture(1))
    network = transformers.AutoModel.from_pretrained(folder).vision_model
    with torch.no_grad():
        states = network(torch.from_numpy(values)).last_hidden_state
        if states.shape[1] == 17:  # CLIP: a token for the whole, then 16 patches
            states = network.post_layernorm(states[:, 1:])
    regions = encoder.encode(values)
    assert regions.shape == (2, 16, 16)
    assert not encoder.description.shared_space
    np.testing.assert_allclose(regions, states.numpy(), atol=1e-5)
    halves = image_encoder(folder, tmp_path, grid=2).encode(values)
    top_right = states[:, [2, 3, 6, 7]].mean(1)  # rows of four patches
    np.testing.assert_allclose(halves[:, 1], top_right.numpy(), atol=1e-5)


def test_captions_are_the_networks_text_features_one_by_one(folder):
    encoder = load_text_encoder(folder, CPU)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder)
    is_siglip = network.config.model_type == "siglip"
    expected = []
    for caption in CAPTIONS:
        options = {"padding": "max_length"} if is_siglip else {}
        tokens = tokenizer(caption, truncation=True, max_length=8, return_tensors="pt", **options)
        with torch.no_grad():
            expected.append(unit(network.get_text_features(tokens["input_ids"]).pooler_output))
    encoded = encode_by_length(encoder, CAPTIONS, batch_size=2)
    np.testing.assert_allclose(encoded.features, np.concatenate(expected), atol=1e-5)
    assert encoded.cut == 1  # the second has eight words, which leaves no room for the end


def test_both_towers_have_one_width(folder, tmp_path):
    text = load_text_encoder(folder, CPU)
    assert text.description.size == image_encoder(folder, tmp_path).description.size
    assert text.description.maximum_tokens == 8


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (3, 200), (200, 1)])
def test_the_smallest_pictures_go_through(folder, tmp_path, size):
    encoder = image_encoder(folder, tmp_path)
    values = encoder.preprocess(Image.new("RGB", size, "red"))
    assert values.shape == (3, 32, 32)
    assert values[0].mean() > values[1].mean()


def test_a_grid_finer_than_the_patches_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"grid is 5, but .* sees 4 × 4 positions"):
        image_encoder(folder, tmp_path, grid=5)


def test_what_cannot_be_loaded_is_named(tmp_path, bert_folder):
    with pytest.raises(ConfigError, match=r"'no/such-network' cannot be loaded: it is neither a folder here"):
        load_image_encoder("no/such-network", grid=None, device=CPU)
    with pytest.raises(ConfigError, match="is of type 'bert', which has no get_image_features beside"):
        load_image_encoder(bert_folder, grid=None, device=CPU)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_text_encoder(str(tmp_path), CPU)


def test_every_word_of_the_tests_is_known(clip_folder):
    assert set(WORDS) <= set(transformers.AutoTokenizer.from_pretrained(clip_folder).get_vocab())


@pytest.mark.parametrize("kind", [*FAMILIES])
def test_any_network_with_both_sides_is_taken_by_its_interface(kind, tmp_path):
    folder = save_family(tmp_path / "network", kind)
    images, captions = image_encoder(folder, tmp_path), load_text_encoder(folder, CPU)
    vectors = images.encode([images.preprocess(picture(seed, 50, 30)) for seed in range(2)])
    encoded = encode_by_length(captions, CAPTIONS, batch_size=3)
    assert vectors.shape == (2, captions.description.size)
    assert encoded.features.shape == (4, images.description.size)
    if kind != "align":  # an EfficientNet with random weights gives hardly more than zeros
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert captions.description.maximum_tokens == 8
    np.testing.assert_allclose(encoded.features[0], captions.encode(CAPTIONS[:1]).features[0], atol=1e-5)


def test_naflex_reads_the_patches_of_a_square(tmp_path):
    folder = save_family(tmp_path / "network", "siglip2")
    encoder = image_encoder(folder, tmp_path)
    square = picture(3, 32, 32)
    inputs = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(square, return_tensors="pt")
    with torch.no_grad():
        expected = transformers.AutoModel.from_pretrained(folder).get_image_features(**inputs).pooler_output
    np.testing.assert_allclose(encoder.encode([encoder.preprocess(square)]), unit(expected), atol=1e-5)


def test_a_tokenizer_without_padding_is_refused(bert_folder, tmp_path):
    shutil.copytree(bert_folder, tmp_path / "bert")
    path = tmp_path / "bert" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": None}))
    with pytest.raises(ConfigError, match="has no padding token, so that captions of different length"):
        load_text_encoder(str(tmp_path / "bert"), CPU)


def test_a_caption_may_be_as_long_as_the_sentence_file_says(bert_folder, tmp_path):
    shutil.copytree(bert_folder, tmp_path / "bert")
    (tmp_path / "bert" / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
    assert load_text_encoder(str(tmp_path / "bert"), CPU).description.maximum_tokens == 5


def copied(folder, tmp_path, without=(), **weights):
    """A network with some weights left out, or others in their place."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "copy")
    there = load_file(tmp_path / "copy" / "model.safetensors")
    kept = {name: value for name, value in there.items() if not name.startswith(tuple(without))} | weights
    save_file(kept, tmp_path / "copy" / "model.safetensors", {"format": "pt"})
    return str(tmp_path / "copy")


def test_weights_that_are_missing_are_not_made_up(clip_folder, bert_folder, tmp_path):
    cut = copied(clip_folder, tmp_path / "clip", without=["visual_projection"])
    with pytest.raises(ConfigError, match=r"lacks 1 of its weights, such as visual_projection\.weight: .*of a clip"):
        image_encoder(cut, tmp_path)
    cut = copied(bert_folder, tmp_path / "bert", without=["encoder.layer.1."])
    with pytest.raises(ConfigError, match=r"lacks 16 of its weights, such as encoder\.layer\.1\."):
        load_text_encoder(cut, CPU)
    without_pooler = copied(bert_folder, tmp_path / "pooler", without=["pooler."])
    expected = load_text_encoder(bert_folder, CPU).encode(CAPTIONS[:1]).features
    np.testing.assert_array_equal(load_text_encoder(without_pooler, CPU).encode(CAPTIONS[:1]).features, expected)


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("config.json", {"hidden_size": "abc"}, "cannot be loaded"),
        ("config.json", {"intermediate_size": 25}, "cannot be loaded"),
        ("tokenizer_config.json", {"pad_token": None}, "has no padding token"),
    ],
)
def test_a_sentence_encoder_whose_files_do_not_fit_is_refused(bert_folder, tmp_path, file, change, told):
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    there = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(there | change))
    with pytest.raises(ConfigError, match=told):
        load_text_encoder(str(folder), CPU)


def test_a_tokenizer_of_another_network_is_refused(bert_folder, tmp_path):
    config = transformers.BertConfig(**{**json.loads((Path(bert_folder) / "config.json").read_text()), "vocab_size": 7})
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    transformers.BertModel(config).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"has a tokenizer of \d+ tokens, but its network knows fewer"):
        load_text_encoder(str(folder), CPU)


def test_a_processor_of_another_network_is_refused(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    sides = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    transformers.CLIPImageProcessorPil(**sides).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"image encoder .*clip' was loaded, but cannot be used"):
        image_encoder(str(folder), tmp_path)
    transformers.CLIPImageProcessorPil(image_mean=[0.5, 0.5]).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"image encoder .*clip' was loaded, but cannot be used"):
        image_encoder(str(folder), tmp_path)


def test_a_network_of_pictures_alone_reads_no_text(bert_folder, tmp_path):
    folder = shutil.copytree(bert_folder, tmp_path / "vit")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    with pytest.raises(ConfigError, match="is of type 'vit', which reads no text"):
        load_text_encoder(str(folder), CPU)


def test_of_a_very_long_picture_the_middle_is_resized(clip_folder, tmp_path, monkeypatch):
    encoder = image_encoder(clip_folder, tmp_path)
    stripes = Image.new("RGB", (2, 4000), "red")
    stripes.paste("blue", (0, 1900, 2, 2100))
    seen = []
    processed = HubReader._processed
    monkeypatch.setattr(HubReader, "_processed", lambda self, image: seen.append(image.size) or processed(self, image))
    values = encoder.preprocess(stripes)
    assert seen == [(2, 64)]
    assert values.shape == (3, 32, 32)
    assert (values[2] > values[0]).all()
