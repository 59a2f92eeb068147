"""What every source of pictures and captions gives: shards of samples, read in order, and one picture at will."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from truepair.sources.stores import StorePath

Kind = Literal[
    "table", "imagefolder", "parquet folder", "dataset", "coco", "karpathy", "tokens", "folder", "webdataset"
]
"""Kinds of sources. `truepair.cleaning.writers` has a writer for each of them, which mypy and a test check."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Sample:
    """A picture with the captions that its source pairs with it.

    Attributes:
        image_id: The picture's name, unique in the source.
        picture: The encoded bytes as stored, not yet looked at: they may be no picture at all. Empty if pictures were
            not asked for.
        captions: At least one, as written.
        caption_ids: One name a caption, unique in the source.
        reference: What `Source.picture` finds the same bytes by.
        split: The split that the source puts it in, as the source calls it; None if it says nothing.
    """

    image_id: str
    picture: bytes
    captions: tuple[str, ...]
    caption_ids: tuple[str, ...]
    reference: str
    split: str | None = None


@dataclass(frozen=True)
class Skipped:
    """Something that could not be read, and was left out.

    Attributes:
        where: The file, and the row, key or member of it.
        reason: A few words that are the same for the same kind of fault, to count by: ``"missing picture"``.
        detail: What was found, with values.
        caption_ids: The captions that were left out with it, if any have names.
    """

    where: str
    reason: str
    detail: str = ""
    caption_ids: tuple[str, ...] = ()


@runtime_checkable
class Source(Protocol):
    """Where pictures and captions come from. Reading never changes it, and never holds more than a shard's rows."""

    @property
    def kind(self) -> Kind:
        """One of `KINDS`."""
        ...

    @property
    def path(self) -> Path | StorePath:
        """The file or folder that was opened."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was found out about the source and a reader should be told: the delimiter, the columns."""
        ...

    def shards(self) -> Sequence[str]:
        """Names of the parts, in order and the same at every call: the units in which work is done and resumed."""
        ...

    def read(self, shard: str, *, pictures: bool = True) -> Iterator[Sample | Skipped]:
        """What is in a part, in its order. A broken part ends with a `Skipped`, not with an exception.

        Args:
            shard: One of `shards`.
            pictures: Whether to read the pictures; without, samples have none, and a missing one goes unnoticed.
        """
        ...

    def picture(self, reference: str) -> bytes:
        """The encoded picture that a sample's reference names.

        Raises:
            DataError: If it is not there any more.
        """
        ...
