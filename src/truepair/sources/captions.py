"""What people write where captions are expected, as captions with ids."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from truepair.config.source import SourceConfig
from truepair.sources.protocol import Skipped

_MISSING = ("nan", "NaN", "null", "NULL", "None", "<NA>", "N/A", "n/a", "#N/A")
"""What programs write where there is no value (pandas, SQL, spreadsheets); no caption says only that."""

HUGE_CAPTION = "huge caption"


@dataclass(frozen=True)
class Captions:
    """The captions of one row or member.

    Attributes:
        texts: As written.
        ids: One a text.
        skipped: What was no caption.
    """

    texts: tuple[str, ...]
    ids: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def captions_in(cells: Mapping[str, object], name: str, longest: int = SourceConfig.longest_caption) -> Captions:
    """The captions in one or several columns of a row.

    >>> captions_in({"en": "a dog", "all": ["a dog", "ein Hund"]}, "row-7").ids
    ('row-7/en', 'row-7/all/1', 'row-7/all/2')

    Args:
        cells: Column → a text, a list of texts, or something else, which is skipped.
        name: What the row is called. A caption's id is this, then ``/column`` if there are several columns, then
            ``/1``, ``/2`` … if the cell is a list.
        longest: Characters of a caption; a longer one is skipped.
    """
    kept: list[tuple[str, str]] = []
    skipped: list[Skipped] = []
    for caption_id, value in _named(cells, name):
        fault = _fault(value, longest)
        if fault is None:
            kept.append((caption_id, str(value)))
        else:
            skipped.append(Skipped(caption_id, *fault, (caption_id,)))
    return Captions(tuple(text for _, text in kept), tuple(name for name, _ in kept), tuple(skipped))


def kept_captions(cells: Mapping[str, object], name: str, kept: Collection[str]) -> dict[str, object]:
    """The cells of a row without captions that are not kept: lists get shorter, other cells None.

    >>> kept_captions({"en": "a dog", "all": ["a dog", "ein Hund"]}, "row-7", ["row-7/all/2"])
    {'en': None, 'all': ['ein Hund']}

    Args:
        cells: As for `captions_in`.
        name: As for `captions_in`.
        kept: The ids of captions that stay.
    """
    shortened: dict[str, object] = {}
    for column, cell in cells.items():
        named = _named({column: cell}, name if len(cells) == 1 else f"{name}/{column}")
        values = [value for caption_id, value in named if caption_id in kept and cell != []]
        shortened[column] = values if isinstance(cell, list) else next(iter(values), None)
    return shortened


def _named(cells: Mapping[str, object], name: str) -> Iterator[tuple[str, object]]:
    """Each value where a caption is expected, with its id."""
    for column, cell in cells.items():
        caption_id = name if len(cells) == 1 else f"{name}/{column}"
        if isinstance(cell, list) and cell:
            yield from ((f"{caption_id}/{number}", item) for number, item in enumerate(cell, start=1))
        else:
            yield caption_id, None if isinstance(cell, list) else cell


def decoded_text(content: bytes) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises:
        UnicodeDecodeError: If it is not UTF-8, or looks like UTF-16 without a byte order mark, which can pass for it.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    null = content.find(b"\0")
    if null >= 0:
        raise UnicodeDecodeError("utf-8", content, null, null + 1, "a null character")
    return content.decode("utf-8")


def _fault(value: object, longest: int) -> tuple[str, str] | None:
    """Why a value is no caption: a few words and what was found."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "empty caption", ""
    if isinstance(value, float) and value != value:
        return "empty caption", "NaN"
    if isinstance(value, str) and value.strip() in _MISSING:
        return "caption that says it is missing", repr(value.strip())
    if not isinstance(value, str):
        return "caption is not text", f"{value!r:.80}"
    if len(value) > longest:
        return HUGE_CAPTION, f"{len(value):,} characters are more than {longest:,} (--longest-caption)"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
        return "caption is not UTF-8", str(error)
    return None
