"""The first epochs of fine-tuning, in which pretrained networks stay frozen and projections learn over their vectors.

Linear probing, then fine-tuning (Kumar et al., ICLR 2022, https://arxiv.org/abs/2202.10054): projections with random
weights would distort what the networks know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch.nn as nn

from truepair.data.batch import Padded
from truepair.data.features import Features
from truepair.data.loader import Loaders
from truepair.data.pairs import Pairs
from truepair.encoders.finetuning import TowerEncoder
from truepair.model import MatchingModel
from truepair.scoring.encodings import encode_captions, encode_images, evaluating


class Seen:
    """What each epoch learns from and is judged by: vectors while the networks are frozen, then pictures and captions.

    Args:
        loaders: Training batches.
        dev: Development pairs.
        frozen: How many epochs the networks are frozen.
    """

    def __init__(self, loaders: Loaders, dev: Pairs, frozen: int) -> None:
        self._given = loaders, dev
        self._frozen = frozen
        self._vectors: tuple[Loaders, Pairs] | None = None

    def at(self, epoch: int, models: Sequence[MatchingModel]) -> tuple[Loaders, Pairs]:
        """Of an epoch of the run, counted from 0, before which the models are as given."""
        if epoch >= self._frozen:
            self._vectors = None
            return self._given
        if self._vectors is None:
            loaders, dev = self._given
            trusted = None if loaders.trusted is None else as_vectors(loaders.trusted, models[0])
            self._vectors = loaders.over(as_vectors(loaders.pairs, models[0]), trusted), as_vectors(dev, models[0])
        return self._vectors


def as_vectors(pairs: Pairs, model: MatchingModel) -> Pairs:
    """The same pairs, of which the sides that pretrained networks read are the vectors that these make, in memory.

    Pictures are read without random crops, and dropout is off.
    """
    image, text = _tower_of(model.image_encoder), _tower_of(model.text_encoder)
    networks = MatchingModel(_Vectors(image), _Vectors(text), nn.Identity())
    with evaluating([model]):
        if image is not None:
            made = encode_images(networks, pairs.images).values
            pairs = replace(pairs, images=Features(made.cpu().numpy()))
        if text is not None:
            made = encode_captions(networks, pairs).values
            pairs = replace(pairs, caption_inputs=Features(made.cpu().numpy()))
    return pairs


def _tower_of(encoder: nn.Module) -> TowerEncoder | None:
    """The pretrained network in an encoder, below codes or not."""
    return next((module for module in encoder.modules() if isinstance(module, TowerEncoder)), None)


class _Vectors(nn.Module):
    """A pretrained network without its projection, as an encoder."""

    def __init__(self, tower: TowerEncoder | None) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, items: Padded) -> Padded:
        assert self.tower is not None
        return self.tower.vectors(items)
