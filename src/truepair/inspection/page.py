"""The page: one HTML file that holds all it shows."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from truepair.data.pairs import Pairs
from truepair.data.pictures import thumbnail
from truepair.errors import DataError

_SIDE = 112
"""Pixels of a thumbnail's longer side."""
_LONGEST_CAPTION = 80
"""Characters of a caption that stands for a picture."""
_OF_AN_EPOCH = ("shared_information", "exclusive_information", "belief")
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


def write_page(
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
    environment = Environment(
        loader=PackageLoader("truepair.inspection"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("inspect.html").render(
        summary=summary,
        examples=examples,
        has_pictures=any(example.image.picture for example in examples),
        shows={name: any(epoch[name] is not None for epoch in epochs) for name in _OF_AN_EPOCH},
        reduced=max((probe["components"] or 0 for probe in summary["probes"]), default=0),
        settings=[(name, summary[name]) for name in _SETTINGS],
        charts={name: None if svg is None else Markup(svg) for name, svg in charts.items()},
    )
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def _shown(pairs: Pairs, rows: set[int]) -> dict[int, Shown]:
    """An image whose picture is unreadable is shown by its name and caption."""
    shown = {}
    for row in sorted(rows):  # in the order of the file, which is read a row group at a time
        image, caption = int(pairs.image_of_caption[row]), pairs.captions[row]
        if len(caption) > _LONGEST_CAPTION:
            caption = caption[: _LONGEST_CAPTION - 1] + "…"
        shown[row] = Shown(pairs.image_ids[image], caption, _picture(pairs, image))
    return shown


def _picture(pairs: Pairs, image: int) -> str | None:
    if pairs.pictures is None:
        return None
    try:
        small = thumbnail(pairs.pictures[image], _SIDE)
    except DataError:
        return None
    return "data:image/webp;base64," + base64.b64encode(small).decode("ascii")
