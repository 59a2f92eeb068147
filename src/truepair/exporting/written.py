"""What a writer of one format says of what it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Written:
    """What a writer of one format wrote.

    Attributes:
        sides: Of "image" and "text", those that the export can encode.
        differences: Of each side, the largest difference of a cosine between the export, loaded again, and the run.
        load: How it is loaded, in Markdown.
        notes: What a user of the export must know, in sentences.
    """

    sides: Sequence[str]
    differences: Mapping[str, float]
    load: str
    notes: Sequence[str] = ()
