"""CLIP (Radford et al., ICML 2021) and SigLIP (Zhai et al., ICCV 2023): two towers into one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch.nn.functional import normalize

from truepair.embedding.image_encoders import ImageEncoderDescription, check_grid, regions_of
from truepair.embedding.pretrained import load_image_processor, load_network, load_tokenizer
from truepair.embedding.text_encoders import EncodedCaptions, TextEncoderDescription, cut_captions

TOWERS = ("clip", "siglip")
"""``model_type`` of networks whose towers these are."""


class ImageTower:
    """Pictures in the shared space, of length 1, or, with a grid, the tower's patch tokens; an `ImageEncoder`."""

    def __init__(self, name: str, grid: int | None, device: torch.device) -> None:
        """Load it.

        Args:
            name: A folder, or a name on the hub.
            grid: Regions along a side; None for one vector a picture.
            device: Where to compute.

        Raises:
            ConfigError: If it cannot be loaded, or the grid is finer than the patches.
        """
        self._processor = load_image_processor(name)
        self._network = load_network(name, device)
        self._network.text_model = None  # the other tower's weights are not needed
        self._device = device
        self._grid = grid
        vision = self._network.config.vision_config
        self._patches = vision.image_size // vision.patch_size
        check_grid(grid, self._patches, name)
        self.description = ImageEncoderDescription(
            name=name,
            size=_shared_size(self._network.config) if grid is None else vision.hidden_size,
            grid=grid,
            side=vision.image_size,
            preprocessing=f"{type(self._processor).__name__} of the network",
            runtime="PyTorch",
            shared_space=grid is None,
        )

    def preprocess(self, picture: Image.Image) -> Float32[np.ndarray, "3 side side"]:
        """See `ImageEncoder.preprocess`."""
        values = self._processor(picture, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
        return np.ascontiguousarray(values, dtype=np.float32)

    @torch.inference_mode()
    def encode(self, batch: Float32[np.ndarray, "images 3 side side"]) -> Float32[np.ndarray, "images *regions dim"]:
        """See `ImageEncoder.encode`."""
        pictures = torch.from_numpy(batch).to(self._device)
        if self._grid is None:
            vectors = self._network.get_image_features(pixel_values=pictures).pooler_output
            features: np.ndarray = normalize(vectors, dim=-1).cpu().numpy()
            return features
        tower = self._network.vision_model
        tokens = tower(pixel_values=pictures).last_hidden_state
        if self._network.config.model_type == "clip":
            tokens = tower.post_layernorm(tokens[:, 1:])  # the first stands for the whole; SigLIP has done both
        maps = tokens.unflatten(1, (self._patches, self._patches)).permute(0, 3, 1, 2)  # [images, dim, row, column]
        return regions_of(maps, self._grid).contiguous().cpu().numpy()


class TextTower:
    """Captions in the shared space, of length 1; a `TextEncoder`."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Load it.

        Args:
            name: A folder, or a name on the hub.
            device: Where to compute.

        Raises:
            ConfigError: If it cannot be loaded.
        """
        self._tokenizer = load_tokenizer(name)
        self._network = load_network(name, device)
        self._network.vision_model = None
        self._device = device
        self._is_siglip = self._network.config.model_type == "siglip"
        text = self._network.config.text_config
        self.description = TextEncoderDescription(
            name=name,
            size=_shared_size(self._network.config),
            maximum_tokens=text.max_position_embeddings,
            pooling="the network's own, length 1",
        )

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> EncodedCaptions:
        """See `TextEncoder.encode`."""
        tokens = self._tokenizer(
            list(captions),
            padding="max_length" if self._is_siglip else True,  # SigLIP was trained on padding that it sees
            truncation=True,
            max_length=self.description.maximum_tokens,
            return_tensors="pt",
        )
        inputs = {name: tokens[name].to(self._device) for name in ("input_ids", "attention_mask") if name in tokens}
        if self._is_siglip:
            inputs.pop("attention_mask", None)
        vectors = self._network.get_text_features(**inputs).pooler_output
        return EncodedCaptions(normalize(vectors, dim=-1).cpu().numpy(), cut_captions(tokens))


def _shared_size(config: Any) -> int:
    """Width of the space that both towers of a network map into."""
    size: int = config.projection_dim if config.model_type == "clip" else config.text_config.projection_size
    return size
