"""Pictures and captions by which an export is compared with the run that it is of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image

from truepair.data.batch import Padded
from truepair.data.text import tokens_of
from truepair.errors import ConfigError
from truepair.exporting.model import Exportable
from truepair.pretrained.captions import CaptionReader
from truepair.pretrained.pictures import picture_reader

_CAPTIONS = ("a dog", "Two children throw a red ball over the snow, and a dog runs after it.", "it is dark")
_SIDES = ((97, 64), (64, 80), (120, 120))
"""Width and height of the pictures."""
TOLERANCE = 1e-5
"""Largest difference of a cosine."""


@dataclass(frozen=True, eq=False)
class Samples:
    """A few items, and the vectors that the run's own networks make of them.

    Attributes:
        pictures: In RGB, of different shapes.
        captions: Of different length.
        images: ``[pictures, dim]``, of length 1.
        texts: ``[captions, dim]``, of length 1.
    """

    pictures: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    images: Float32[np.ndarray, "pictures dim"]
    texts: Float32[np.ndarray, "captions dim"]

    def vectors(self, side: str) -> Float32[np.ndarray, "items dim"]:
        """Those of one side, "image" or "text"."""
        return self.images if side == "image" else self.texts


@torch.inference_mode()
def samples_of(model: Exportable) -> Samples:
    """Pictures of soft colours and sentences, through a run's networks."""
    pictures = tuple(_picture(seed, *sides) for seed, sides in enumerate(_SIDES))
    reader = picture_reader(model.image.name)
    images = model.image(Padded(torch.from_numpy(np.stack([reader(picture) for picture in pictures]))))
    read = CaptionReader(model.text.name)
    captions = (*_CAPTIONS, " ".join(f"{number} dogs" for number in range(read.maximum_tokens)))  # which is cut
    tokens = tokens_of(read(captions)[0])
    texts = model.text(tokens.take(torch.arange(len(captions))))
    return Samples(pictures, captions, images.numpy(), texts.numpy())


def largest_difference(
    found: Float32[np.ndarray, "items dim"], expected: Float32[np.ndarray, "items dim"], what: str
) -> float:
    """How far cosines between vectors of an export, and of these with the run's, are from those of the run.

    Args:
        found: Of the export.
        expected: Of the run, of the same items.
        what: What made `found`, as an error calls it.

    Raises:
        ConfigError: If it is above `TOLERANCE`.
    """
    difference = float("inf")
    if found.shape == expected.shape:
        cosines = (found @ found.T, found @ expected.T)
        difference = max(float(np.abs(cosine - expected @ expected.T).max()) for cosine in cosines)
    if not difference <= TOLERANCE:  # NaN included
        raise ConfigError(
            f"{what} gives other vectors than the run (cosines differ by {difference:.1e}, at most {TOLERANCE:.0e} is "
            "allowed), and was not written: export to another format, and report the encoder's name"
        )
    return difference


def _picture(seed: int, width: int, height: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)
