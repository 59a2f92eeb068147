"""Tiny networks of every known kind, saved to disk by transformers."""

import pytest
from tiny_networks import save_bert, save_clip, save_siglip

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
    return save_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def config(clip_folder):
    """Both towers of the tiny CLIP."""
    return EmbedConfig(image_encoder=clip_folder, text_encoder=clip_folder, batch_size=4, workers=2, device="cpu")
