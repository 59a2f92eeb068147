"""Networks with an image side and a text side (CLIP, SigLIP and their relatives): both into one space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image

from truepair.data.batch import Padded
from truepair.data.text import tokens_of
from truepair.embedding.image_encoders import ImageEncoderDescription, check_grid, regions_of
from truepair.embedding.text_encoders import EncodedCaptions, TextEncoderDescription
from truepair.encoders.towers import HubImageTower, SentenceTower, load_text_tower, sum_of_bits
from truepair.pretrained.captions import CaptionReader
from truepair.pretrained.pictures import HubReader


class TowerImageEncoder:
    """Pictures in the shared space, of length 1, or, with a grid, the tower's patch tokens; an `ImageEncoder`."""

    def __init__(self, name: str, grid: int | None, device: torch.device) -> None:
        """Load it.

        Args:
            name: A folder, or a name on the hub, of a network with an image side.
            grid: Regions along a side; None for one vector a picture.
            device: Where to compute.

        Raises:
            ConfigError: If it cannot be loaded, or the grid is finer than the patches.
        """
        self._reader = HubReader(name)
        tower = HubImageTower(name, self._reader).eval()
        size = tower.width
        if grid is not None:
            with torch.inference_mode():
                _, size, positions, _ = tower.maps(tower.blank().values).shape
            check_grid(grid, positions, name)
        self._tower = tower.to(device)
        self._device = device
        self._grid = grid
        self.description = ImageEncoderDescription(
            name=name,
            size=size,
            grid=grid,
            side=self._reader.side,
            preprocessing=self._reader.preprocessing,
            runtime="PyTorch",
            shared_space=grid is None,
            weights=sum_of_bits(tower),
        )

    def preprocess(self, picture: Image.Image) -> Float32[np.ndarray, "3 side side"]:
        """See `ImageEncoder.preprocess`."""
        return self._reader(picture)

    @torch.inference_mode()
    def encode(self, batch: Iterable[np.ndarray]) -> Float32[np.ndarray, "images *regions dim"]:
        """See `ImageEncoder.encode`."""
        pixels = torch.from_numpy(np.stack([*batch])).to(self._device)
        made = self._tower(Padded(pixels)) if self._grid is None else regions_of(self._tower.maps(pixels), self._grid)
        features: np.ndarray = made.contiguous().cpu().numpy()
        return features


class TowerTextEncoder:
    """Captions by a pretrained network, of length 1; a `TextEncoder`."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Load it.

        Args:
            name: "minilm", a folder, or a name on the hub.
            device: Where to compute.

        Raises:
            ConfigError: If it cannot be loaded, or pools its tokens in an unknown way.
        """
        self._reader = CaptionReader(name)
        self._tower = load_text_tower(name, self._reader)
        self._device = device
        self.description = TextEncoderDescription(
            name=name,
            size=self._tower.width,
            maximum_tokens=self._reader.maximum_tokens,
            pooling=f"{self._tower.pooling}, length 1"
            if isinstance(self._tower, SentenceTower)
            else "the network's own, length 1",
            weights=sum_of_bits(self._tower),
        )
        self._tower.to(device)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> EncodedCaptions:
        """See `TextEncoder.encode`."""
        ids, cut = self._reader(captions)
        tokens = tokens_of(ids)
        vectors = self._tower(tokens.take(torch.arange(len(tokens))).to(self._device))
        return EncodedCaptions(vectors.cpu().numpy(), cut)
