"""Pairs: images, captions and which image each caption is paired with, said explicitly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Int
from torch import Tensor

from truepair.data.batch import Padded
from truepair.errors import DataError
from truepair.files.texts import chosen_texts


@runtime_checkable
class Inputs(Protocol):
    """Rows that an encoder can read: feature arrays, feature files or tokens (see `data.features`, `data.text`)."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def take(self, rows: Int[Tensor, " items"]) -> Padded:
        """The rows asked for, in that order (repeats allowed), as float32 features or int64 token ids."""
        ...


@runtime_checkable
class Pictures(Protocol):
    """What a person would look at, one an image: encoded bytes (PNG, JPEG, WebP …), read when asked for."""

    def __len__(self) -> int:
        """How many pictures there are."""
        ...

    def __getitem__(self, image: int) -> bytes:
        """The encoded picture of one image."""
        ...

    def reference(self, image: int) -> str:
        """What the source finds the picture by; the path of a file where there is no source."""
        ...


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pair i is caption i with image ``image_of_caption[i]``.

    Attributes:
        images: Inputs of the image encoder, one row an image.
        captions: The captions as the user wrote them.
        image_of_caption: ``[captions]``, the row in `images` that each caption is paired with.
        true_image_of_caption: ``[captions]``, the image that each caption really belongs to, when that is known
            (injected noise, synthetic data). For evaluation, and to keep pairs that are meant to be mismatched from
            matching (`data.labelled`).
        caption_inputs: Inputs of the text encoder, one row a caption; None until a vocabulary has made tokens.
        image_ids: One name an image, unique.
        caption_ids: One name a caption, unique.
        pictures: The images as pictures, for reports; None if only features are known.
        has_texts: Whether `captions` are texts: False where only embeddings are known, and these are names made up.
        shard_of_image: ``[images]``, the number of the part of the corpus that each image lies in, where parts are read
            one after the other (`data.streaming`); None where any image is at hand.
    """

    images: Inputs
    captions: Sequence[str]
    image_of_caption: Int[Tensor, " captions"]
    image_ids: Sequence[str]
    caption_ids: Sequence[str]
    caption_inputs: Inputs | None = None
    true_image_of_caption: Int[Tensor, " captions"] | None = None
    pictures: Pictures | None = None
    has_texts: bool = True
    shard_of_image: Int[Tensor, " images"] | None = None

    def __post_init__(self) -> None:
        """Refuse anything that does not line up.

        Raises:
            DataError: If counts differ, an index is out of range, or there is no pair at all.
        """
        n = len(self.captions)
        if n == 0:
            raise DataError("there are no pairs: the table or split is empty")
        for name in ("image_of_caption", "true_image_of_caption", "caption_ids", "caption_inputs"):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise DataError(f"{name} has {len(column):,} entries but there are {n:,} captions")
        for name in ("image_ids", "shard_of_image"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.images):
                raise DataError(f"{name} has {len(column):,} entries but there are {len(self.images):,} images")
        for name in ("image_of_caption", "true_image_of_caption"):
            index = getattr(self, name)
            if index is None:
                continue
            bad = ((index < 0) | (index >= len(self.images))).nonzero().flatten()
            if len(bad):
                raise DataError(
                    f"{name} is out of range at {len(bad):,} of {n:,} captions (first: caption {int(bad[0])} points to "
                    f"image {int(index[bad[0]])}, but there are {len(self.images):,} images)"
                )

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def is_clean(self) -> Bool[Tensor, " captions"] | None:
        """True where a caption is paired with its true image; None if the truth is not known."""
        if self.true_image_of_caption is None:
            return None
        return self.image_of_caption == self.true_image_of_caption

    @property
    def realised_noise_rate(self) -> float | None:
        """The share of pairs, in [0, 1], that truly do not match; None if the truth is not known."""
        clean = self.is_clean
        return None if clean is None else 1.0 - float(clean.double().mean())

    def digest(self) -> bytes:
        """SHA-256 of texts, names and which caption is paired with which image; not of the inputs."""
        digest = hashlib.sha256(self.image_of_caption.numpy().tobytes())
        for texts in (self.captions, self.caption_ids, self.image_ids):
            for text in texts:
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        return digest.digest()

    def select(self, captions: Int[Tensor, " chosen"]) -> Pairs:
        """The chosen pairs only; images stay as they are, so image rows keep their numbers."""
        truth = self.true_image_of_caption
        return replace(
            self,
            captions=chosen_texts(self.captions, captions.numpy()),
            image_of_caption=self.image_of_caption[captions],
            caption_ids=chosen_texts(self.caption_ids, captions.numpy()),
            caption_inputs=None if self.caption_inputs is None else Subset(self.caption_inputs, captions),
            true_image_of_caption=None if truth is None else truth[captions],
        )


@dataclass(frozen=True, eq=False)
class Subset:
    """Some rows of other inputs, renumbered from 0."""

    inputs: Inputs
    rows: Int[Tensor, " chosen"]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Int[Tensor, " items"]) -> Padded:
        """See `Inputs.take`."""
        return self.inputs.take(self.rows[rows])


@dataclass(frozen=True)
class Splits:
    """A corpus, split: train on one part, choose on the second, report on the third.

    Attributes:
        train: Training pairs, possibly noisy.
        dev: Development pairs, for choosing a checkpoint.
        test: Test pairs, looked at once.
        name: What the corpus is called in reports.
    """

    train: Pairs
    dev: Pairs
    test: Pairs
    name: str
