"""Pictures as pixels, decoded when an encoder asks for them: what a pretrained network reads in training."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from truepair.data.batch import Padded
from truepair.data.joining import JoinedInputs
from truepair.data.pairs import Inputs, Pairs, Pictures, Subset
from truepair.errors import ConfigError, DataError
from truepair.pretrained.pictures import PictureReader
from truepair.sources.decoding import MOST_PIXELS, decoded, decoded_side
from truepair.sources.picture_files import UnreadablePictureError

_FEWEST_ASKED = 32
"""Pictures of which most may be broken by chance, in fewer."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """`Inputs` of pictures; each is decoded once, however often its row is asked for.

    Attributes:
        pictures: The encoded pictures, one a row.
        reader: What makes pixels of them.
        most_pixels: Pictures with more are not decoded.
        is_lenient: Whether a picture that cannot be decoded is blank, instead of an error.
        lost: Of such pictures, so far, why; by row.
    """

    pictures: Pictures
    reader: PictureReader
    most_pixels: int = MOST_PIXELS
    is_lenient: bool = False
    lost: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, rows: Int[Tensor, " items"]) -> Padded:
        """See `Inputs.take`: ``[distinct, 3, side, side]``, and which of them each row is.

        Raises:
            DataError: If a picture cannot be read.
        """
        distinct, places = rows.unique(return_inverse=True)
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:  # a loader's worker has one
            values = [*pool.map(self._of, distinct.tolist())]
        return Padded(torch.from_numpy(np.stack(values)), places=places)

    def _of(self, image: int) -> Float32[np.ndarray, "3 side side"]:
        try:
            return self.reader(decoded(self.pictures[image], decoded_side(self.reader.side), self.most_pixels))
        except DataError as error:
            if self.is_lenient and isinstance(error, UnreadablePictureError):
                self.lost[image] = str(error)
                return np.zeros((3, self.reader.side, self.reader.side), np.float32)
            raise DataError(
                f"picture {self.pictures.reference(image)} cannot be read any more ({error}): restore it, and the same "
                "command goes on from the last checkpoint; or take its rows out, and train in a new folder"
            ) from error


class LostPictures:
    """Counts pictures that cannot be decoded, to tell a source that is gone from a few broken pictures."""

    def __init__(self) -> None:
        self._lost = self._asked = 0

    def refuse_most(self, lost: int, asked: int, what: str) -> None:
        """Note a batch.

        Args:
            lost: Pictures that could not be decoded.
            asked: Of so many.
            what: What an error calls them, and which was the first.

        Raises:
            DataError: If more than half of the last `_FEWEST_ASKED` pictures or more are lost.
        """
        self._lost, self._asked = self._lost + lost, self._asked + asked
        if self._asked < _FEWEST_ASKED:
            return
        if 2 * self._lost > self._asked:
            raise DataError(
                f"{self._lost:,} of {self._asked:,} pictures {what} cannot be decoded, too many to go on without them: "
                "is the source still there?"
            )
        self._lost = self._asked = 0


def unreadable(inputs: Inputs, rows: Int[Tensor, " items"]) -> dict[int, str]:
    """Why some of the pictures at `rows`, which were taken before, are blank; by their place in `rows`."""
    if isinstance(inputs, JoinedInputs):
        found: dict[int, str] = {}
        for part, start in zip(inputs.parts, inputs.starts, strict=True):
            here = ((rows >= start) & (rows < start + len(part))).nonzero().flatten()
            found |= {int(here[place]): why for place, why in unreadable(part, rows[here] - start).items()}
        return dict(sorted(found.items()))
    if isinstance(inputs, Subset):
        return unreadable(inputs.inputs, inputs.rows[rows])
    if not isinstance(inputs, Pixels) or not inputs.lost:
        return {}
    return {place: inputs.lost[row] for place, row in enumerate(rows.tolist()) if row in inputs.lost}


def pairs_without_picture(pairs: Pairs) -> dict[int, str]:
    """Why some pairs, of which all pictures were taken before, have a blank picture; by their place."""
    blank = unreadable(pairs.images, torch.arange(len(pairs.images)))
    if not blank:
        return {}
    images = enumerate(pairs.image_of_caption.tolist())
    return {pair: blank[image] for pair, image in images if image in blank}


@dataclass(frozen=True, eq=False)
class PixelsInMemory:
    """`Inputs` of pictures that are decoded already.

    Attributes:
        values: ``[pictures, 3, side, side]``.
    """

    values: Float32[np.ndarray, "pictures 3 side side"]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Int[Tensor, " items"]) -> Padded:
        """See `Inputs.take`."""
        return Padded(torch.from_numpy(self.values[rows.numpy()]))


def pixels_of(pictures: Sequence[bytes], reader: PictureReader) -> PixelsInMemory:
    """Some encoded pictures as inputs.

    Raises:
        UnreadablePictureError: If one cannot be decoded.
    """
    return PixelsInMemory(np.stack([reader(decoded(data, decoded_side(reader.side))) for data in pictures]))


def with_pixels(pairs: Pairs, reader: PictureReader, most_pixels: int, where: str) -> Pairs:
    """The same pairs, of whose images the pixels are read.

    Args:
        pairs: With pictures.
        reader: What makes pixels of them.
        most_pixels: See `Pixels`.
        where: What an error calls the corpus.

    Raises:
        ConfigError: If there are no pictures.
    """
    if pairs.pictures is None:
        raise ConfigError(
            f"{where} has no pictures but only features, and model.image names a network that reads pixels: set it to "
            "'features', or name the pictures"
        )
    return replace(pairs, images=Pixels(pairs.pictures, reader, most_pixels))
