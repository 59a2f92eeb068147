"""Pages for people: one HTML file that holds all it shows, loads and runs nothing, and escapes what users wrote."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from truepair.data.pairs import Pairs
from truepair.errors import DataError
from truepair.files.replacing import replacing
from truepair.sources.decoding import thumbnail


def write_page(package: str, template: str, path: Path, charts: Mapping[str, str | None], **values: Any) -> None:
    """Fill in a template and replace the file at `path` atomically.

    Args:
        package: Whose ``templates`` folder has it; the template may include ``page.css``, the style of all pages.
        template: Its name.
        path: Where to write.
        charts: SVG by name, the only values that are not escaped; None where there is nothing to draw.
        values: What else the template shows.
    """
    safe = {name: None if svg is None else Markup(svg) for name, svg in charts.items()}
    page = filled(package, template, charts=safe, **values)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def filled(package: str, template: str, **values: Any) -> str:
    """A template with its values, which are escaped.

    Args:
        package: See `write_page`.
        template: See there.
        values: What it shows.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("truepair.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def picture_of(pairs: Pairs, image: int, side: int) -> str | None:
    """A thumbnail as a data URI, `side` pixels at most; None if there is no picture, or it cannot be read."""
    if pairs.pictures is None:
        return None
    try:
        return data_uri(thumbnail(pairs.pictures[image], side))
    except DataError:
        return None


def data_uri(thumbnail: bytes) -> str:
    """A thumbnail (see `truepair.sources.decoding.thumbnail`) as a page holds it."""
    return "data:image/webp;base64," + base64.b64encode(thumbnail).decode("ascii")


def shortened(text: str, most: int) -> str:
    """The first characters of a text, `most` at most, an ellipsis in place of the rest.

    >>> shortened("a dog and a cat", 6)
    'a dog…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"
