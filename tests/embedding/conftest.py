"""Tiny networks of every known kind, saved to disk by transformers."""

import pytest
import torch
from tiny_networks import save_clip, save_tokenizer

from truepair.config.embedding import EmbedConfig

transformers = pytest.importorskip("transformers", reason="needs the extra hf")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read on import only
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # for processes that tests start


@pytest.fixture(autouse=True, scope="session")
def quiet():
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    vocabulary = save_tokenizer(folder, eos_token="</s>", pad_token="</s>", unk_token="<unk>", template="$A </s>")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": len(vocabulary), "max_position_embeddings": 8}
    torch.manual_seed(1)
    config = transformers.SiglipConfig(text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 8})
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = save_tokenizer(
        folder, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", template="[CLS] $A [SEP]"
    )
    torch.manual_seed(2)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=10,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(clip_folder):
    """Both towers of the tiny CLIP."""
    return EmbedConfig(image_encoder=clip_folder, text_encoder=clip_folder, batch_size=4, workers=2, device="cpu")
