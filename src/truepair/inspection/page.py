"""The page: one HTML file that holds all it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truepair.data.pairs import Pairs
from truepair.pages.html import picture_of, shortened, write_page

_SIDE = 112
"""Pixels of a thumbnail's longer side."""
_LONGEST_CAPTION = 80
"""Characters of a caption that stands for a picture."""
_OF_AN_EPOCH = ("shared_information", "exclusive_information", "confidence")
_SETTINGS = ("run", "corpus", "method", "networks", "widths", "pairs", "test_pairs", "seed", "temperature", "truepair")


@dataclass(frozen=True)
class Shown:
    """An image as the page shows it: a picture, or its name and caption where there is none."""

    image_id: str
    caption: str
    picture: str | None


@dataclass(frozen=True)
class Example:
    """An image, and those closest to it by each kind of code."""

    image: Shown
    shared: Sequence[Shown]
    exclusive: Sequence[Shown] | None


def examples_of(pairs: Pairs, neighbours: Mapping[int, Mapping[str, Sequence[int] | None]]) -> list[Example]:
    """What the page shows of "shared" and "exclusive" neighbours; all numbers are rows of `pairs`."""
    rows = set(neighbours).union(*(close or [] for kinds in neighbours.values() for close in kinds.values()))
    shown = _shown(pairs, rows)

    def several(rows: Sequence[int] | None) -> list[Shown] | None:
        return None if rows is None else [shown[row] for row in rows]

    return [
        Example(shown[row], several(close["shared"]) or [], several(close["exclusive"]))
        for row, close in neighbours.items()
    ]


def write_inspection(
    summary: Mapping[str, Any], examples: Sequence[Example], charts: Mapping[str, str | None], path: Path
) -> None:
    """One self-contained page, replaced atomically: it loads nothing, runs nothing, and escapes every caption.

    Args:
        summary: What ``inspect.json`` holds.
        examples: Images and their neighbours.
        charts: SVG by name: "history", "shared_similarity", "features_similarity", "shared_map", "exclusive_map";
            None where there is nothing to draw.
        path: Where to write.
    """
    epochs = summary["history"]["epochs"]
    write_page(
        "truepair.inspection",
        "inspect.html",
        path,
        charts,
        summary=summary,
        examples=examples,
        has_pictures=any(example.image.picture for example in examples),
        shows={name: any(epoch[name] is not None for epoch in epochs) for name in _OF_AN_EPOCH},
        reduced=max((probe["components"] or 0 for probe in summary["probes"]), default=0),
        settings=[(name, summary[name]) for name in _SETTINGS],
    )


def _shown(pairs: Pairs, rows: set[int]) -> dict[int, Shown]:
    """An image whose picture is unreadable is shown by its name and caption."""
    shown = {}
    for row in sorted(rows):  # in the order of the file, which is read a row group at a time
        image, caption = int(pairs.image_of_caption[row]), shortened(pairs.captions[row], _LONGEST_CAPTION)
        shown[row] = Shown(pairs.image_ids[image], caption, picture_of(pairs, image, _SIDE))
    return shown
