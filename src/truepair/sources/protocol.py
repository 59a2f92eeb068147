"""What every source of pictures and captions gives: shards of samples, read in order, and one picture at will."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Sample:
    """A picture with the captions that its source pairs with it.

    Attributes:
        image_id: The picture's name, unique in the source.
        picture: The encoded bytes as stored, not yet looked at: they may be no picture at all.
        captions: At least one, as written.
        caption_ids: One name a caption, unique in the source.
        reference: What `Source.picture` finds the same bytes by.
    """

    image_id: str
    picture: bytes
    captions: tuple[str, ...]
    caption_ids: tuple[str, ...]
    reference: str


@dataclass(frozen=True)
class Skipped:
    """Something that could not be read, and was left out.

    Attributes:
        where: The file, and the row, key or member of it.
        reason: A few words that are the same for the same kind of fault, to count by: ``"missing picture"``.
        detail: What was found, with values.
    """

    where: str
    reason: str
    detail: str = ""


@runtime_checkable
class Source(Protocol):
    """Where pictures and captions come from. Reading never changes it, and never holds more than a shard's rows."""

    @property
    def kind(self) -> str:
        """``"table"``, ``"folder"``, ``"webdataset"`` or ``"dataset"``."""
        ...

    def shards(self) -> Sequence[str]:
        """Names of the parts, in order and the same at every call: the units in which work is done and resumed."""
        ...

    def read(self, shard: str) -> Iterator[Sample | Skipped]:
        """What is in a part, in its order. A broken part ends with a `Skipped`, not with an exception."""
        ...

    def picture(self, reference: str) -> bytes:
        """The encoded picture that a sample's reference names.

        Raises:
            DataError: If it is not there any more.
        """
        ...
