"""What a caption's characters give away: markup, broken encoding, boilerplate, and the script that it is written in."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from html.entities import html5

_FILE_NAME = re.compile(r"[\w\-() ]*\.(jpe?g|png|gif|webp|bmp|tiff?|svg|heic)", re.IGNORECASE)
_CAMERA_NAME = re.compile(
    r"(img|dsc|dscn|dscf|pict?|p|image|photo|screenshot|screen shot)[\s_\-]*\d[\d\s_\-.:]*", re.IGNORECASE
)
_ADDRESS = re.compile(r"(https?://|www\.)\S+", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"((no|default|stock|profile|view) )?(image|picture|photo|photograph|pic|img|caption|description|figure|icon|logo)"
    r"|(image )?alt( text)?|gif|jpe?g|png|download|n/?a|nan|none|null|placeholder|screenshot|test|thumbnail|undefined"
    r"|unknown|untitled",
    re.IGNORECASE,
)
_EDGES = " .-_:;\"'()[]"

_ENTITY = re.compile(r"&(?:([A-Za-z][A-Za-z0-9]{1,31})|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});")
_TAG = re.compile(
    r"</?(?:a|abbr|b|blockquote|body|br|button|center|code|div|em|font|form|h[1-6]|head|hr|html|i|iframe|img|input|li|ol"
    r"|p|pre|s|script|small|span|strong|style|sub|sup|table|tbody|td|th|tr|u|ul|video)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)


def _as_read(first: int, last: int) -> str:
    """Bytes as characters of a regular expression's set, as Latin-1 and as Windows-1252 read them."""
    characters = {bytes([byte]).decode(codec, "ignore") for byte in range(first, last + 1) for codec in _CODECS}
    return "".join(re.escape(character) for character in sorted(characters))


_CODECS = ("latin-1", "cp1252")
_FOLLOWING = f"[{_as_read(0x80, 0xBF)}]"
# UTF-8 read as Windows-1252: a leading byte as a letter, and as many following bytes as it announces. Two bytes in a
# row are also honest text ("CAFÉ»"), so these count alone only after Â and Ã, where no word of capitals goes on.
_MOJIBAKE = re.compile(
    "\N{REPLACEMENT CHARACTER}"
    rf"|(?<![A-ZÀ-Þ])[ÂÃ]{_FOLLOWING}"
    rf"|(?:[{_as_read(0xC2, 0xDF)}]{_FOLLOWING}){{2}}"
    rf"|[{_as_read(0xE1, 0xEF)}]{_FOLLOWING}{{2}}"
    rf"|[{_as_read(0xF0, 0xF4)}]{_FOLLOWING}{{3}}"
)

_ONE_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HALFWIDTH": "CJK", "BOPOMOFO": "CJK", "FULLWIDTH": "LATIN"}


def is_boilerplate(caption: str) -> bool:
    """Whether a caption is a file name, an address, or a word that says that there is a picture.

    >>> [is_boilerplate(text) for text in ("IMG_2041.JPG", "https://a.example/b", "Untitled", "a dog.jpg runs")]
    [True, True, True, False]
    """
    text = " ".join(caption.split())
    if _PLACEHOLDER.fullmatch(text.strip(_EDGES)):
        return True
    return any(pattern.fullmatch(text) for pattern in (_FILE_NAME, _CAMERA_NAME, _ADDRESS))


def markup_in(caption: str) -> str | None:
    """The first HTML entity or tag; None if there is none. Made-up tags such as ``<person>`` are no HTML.

    >>> [markup_in(text) for text in ("salt &amp; pepper", "a dog<br>a cat", "salt & pepper; 3 < 4 > 2", "<person>")]
    ['&amp;', '<br>', None, None]
    """
    found = _TAG.search(caption)
    if found:
        return found.group()
    for entity in _ENTITY.finditer(caption):
        if entity[1] is None or f"{entity[1]};" in html5:
            return entity.group()
    return None


def mojibake_in(caption: str) -> str | None:
    r"""The first characters that are UTF-8 read as something else, or stand for lost bytes; None if there are none.

    >>> [mojibake_in(text) for text in ("cafÃ© noir", "the dogâ€™s bone", "the dog\ufffds bone", "«CAFÉ» São João")]
    ['Ã©', 'â€™', '\ufffd', None]
    """
    found = None if caption.isascii() else _MOJIBAKE.search(caption)
    return found.group() if found else None


def script_of(caption: str) -> str | None:
    """The script of most of the letters, in Unicode's words ("LATIN", "CYRILLIC", "CJK"); None if there is no letter.

    Chinese characters and the Japanese syllabaries are one script here, because Japanese text mixes them.

    >>> [script_of(text) for text in ("a dog", "собака", "犬が走る", "12:30")]
    ['LATIN', 'CYRILLIC', 'CJK', None]
    """
    if caption.isascii():
        return "LATIN" if any(character.isalpha() for character in caption) else None
    scripts = Counter(_script(character) for character in caption if character.isalpha())
    return scripts.most_common(1)[0][0] if scripts else None


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    first = unicodedata.name(letter, "UNKNOWN").split()[0]
    return _ONE_SCRIPT.get(first, first)
