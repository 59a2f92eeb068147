"""What is wrong with pictures and captions themselves, whoever they are paired with: copies, blanks, empty words."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from truepair.data.pairs import Pairs
from truepair.files.parquet import write_parquet
from truepair.sources.facts import PictureFacts

MANY = 10
"""Pictures that share a caption, or captions whose pictures are copies of one, from which on they are an issue."""
NEAR_BITS = 3
"""Bits of 64 in which difference hashes of near copies differ at most: 4 bands of 16 bits then have one in common."""
_BANDS = 4
_MOST_ALIKE = 1000
"""Hashes with a band in common that are compared with each other; in larger groups, each with the next so many."""
_SMALLEST_SIDE = 32
"""Pixels below which a picture is an icon or a spacer."""
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


@dataclass(frozen=True)
class Issue:
    """One thing to look at.

    Attributes:
        issue: Its kind: a key of `KINDS`.
        image_id: The picture, or None.
        caption_id: The caption, or None.
        group: The same number for all that belong together, such as copies of one picture; None where it stands alone.
        detail: What was found, for people.
    """

    issue: str
    image_id: str | None
    caption_id: str | None
    group: int | None
    detail: str


KINDS = {
    "exact copy": "pictures whose files are equal byte for byte",
    "near copy": "pictures that look alike but for size and compression",
    "blank picture": "pictures of one colour",
    "tiny picture": f"pictures less than {_SMALLEST_SIDE} pixels wide or high",
    "placeholder picture": f"one picture, byte for byte, under {MANY} or more different captions",
    "empty caption": "captions without a letter",
    "boilerplate caption": "captions that are a file name, an address, or a word such as 'image'",
    "shared caption": f"captions that {MANY} or more different pictures have",
}
"""Kinds of issues, and what they are."""


def issues_of(pairs: Pairs, looks: Sequence[PictureFacts | None] | None) -> list[Issue]:
    """All issues of captions, and of pictures where they were looked at.

    Args:
        pairs: The pairs.
        looks: One an image, None where a picture cannot be read; or None if no picture was looked at.

    Returns:
        By kind, in the order of `KINDS`, then in the order of images or captions.
    """
    found = [*_picture_issues(pairs, looks), *_caption_issues(pairs)] if looks else _caption_issues(pairs)
    place = list(KINDS)
    return sorted(found, key=lambda issue: place.index(issue.issue))


def write_issues(issues: Sequence[Issue], path: Path) -> None:
    """One row an issue (``issue``, ``image_id``, ``caption_id``, ``group``, ``detail``), replaced atomically."""
    types = {"issue": pa.string(), "image_id": pa.string(), "caption_id": pa.string(), "group": pa.int64()}
    types["detail"] = pa.string()
    columns = {name: pa.array([getattr(issue, name) for issue in issues], kind) for name, kind in types.items()}
    write_parquet(pa.table(columns), path)


def near_copies(hashes: UInt64[np.ndarray, " images"]) -> list[list[int]]:
    """Groups of pictures whose difference hashes differ in at most `NEAR_BITS` bits, or are linked by such.

    Each of the four bands of a hash finds those that have it in common, and these are compared. Time and memory grow
    with the pictures and with those that share a band, of which at most 1,000 are compared with one.

    Returns:
        Groups of at least two, each increasing, in the order of their first.

    Example:
        >>> near_copies(np.array([0b111, 2**64 - 1, 0b100], np.uint64))
        [[0, 2]]
    """
    links = []
    for band in range(_BANDS):
        part = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(part, kind="stable")
        largest = int(np.bincount(part.astype(np.int64)).max(initial=0))
        for step in range(1, min(largest, _MOST_ALIKE + 1)):
            one, other = order[:-step], order[step:]
            is_same_band = part[one] == part[other]
            one, other = one[is_same_band], other[is_same_band]
            if not len(one):
                break
            is_near = np.bitwise_count(hashes[one] ^ hashes[other]) <= NEAR_BITS
            links.append(np.stack([one[is_near], other[is_near]]))
    ends = np.concatenate(links, axis=1) if links else np.zeros((2, 0), int)
    count = len(hashes)
    _, group = connected_components(
        coo_array((np.ones(ends.shape[1]), tuple(ends)), shape=(count, count)), directed=False
    )
    return _groups(group.tolist())


def is_boilerplate(caption: str) -> bool:
    """Whether a caption is a file name, an address, or a word that says that there is a picture.

    >>> [is_boilerplate(text) for text in ("IMG_2041.JPG", "https://a.example/b", "Untitled", "a dog.jpg runs")]
    [True, True, True, False]
    """
    text = " ".join(caption.split())
    if _PLACEHOLDER.fullmatch(text.strip(_EDGES)):
        return True
    return any(pattern.fullmatch(text) for pattern in (_FILE_NAME, _CAMERA_NAME, _ADDRESS))


def _picture_issues(pairs: Pairs, looks: Sequence[PictureFacts | None]) -> list[Issue]:
    ids, found = pairs.image_ids, []
    texts: dict[int, set[str]] = {}
    for image, caption in zip(pairs.image_of_caption.tolist(), pairs.captions, strict=True):
        texts.setdefault(image, set()).add(_normal(caption))
    seen = {image: look for image, look in enumerate(looks) if look is not None and image in texts}
    for image, look in seen.items():
        if look.is_blank:
            found.append(Issue("blank picture", ids[image], None, None, f"{look.width} × {look.height} pixels"))
        elif min(look.width, look.height) < _SMALLEST_SIDE:
            found.append(Issue("tiny picture", ids[image], None, None, f"{look.width} × {look.height} pixels"))
    numbers = list(seen)
    exact = [[numbers[place] for place in group] for group in _groups([look.sha256 for look in seen.values()])]
    for number, group in enumerate(exact):
        different = len(set().union(*(texts[image] for image in group)))
        kind = "placeholder picture" if different >= MANY else "exact copy"
        detail = f"{len(group)} files, {different} different captions"
        found += [Issue(kind, ids[image], None, number, detail) for image in group]
    of_copies = {image for group in exact for image in group[1:]}
    firsts = [image for image, look in seen.items() if image not in of_copies and not look.is_blank]
    hashes = np.array([seen[image].difference_hash for image in firsts], np.uint64)
    for number, places in enumerate(near_copies(hashes), start=len(exact)):
        detail = f"{len(places)} pictures that look alike"
        found += [Issue("near copy", ids[firsts[place]], None, number, detail) for place in places]
    return found


def _caption_issues(pairs: Pairs) -> list[Issue]:
    found, normal = [], [_normal(caption) for caption in pairs.captions]
    pictures: dict[str, set[int]] = {}
    for text, image in zip(normal, pairs.image_of_caption.tolist(), strict=True):
        pictures.setdefault(text, set()).add(image)
    number_of_text = {text: number for number, text in enumerate(pictures)}
    for caption_id, caption, text in zip(pairs.caption_ids, pairs.captions, normal, strict=True):
        if not any(character.isalpha() for character in caption):
            found.append(Issue("empty caption", None, caption_id, None, repr(caption[:80])))
        elif is_boilerplate(caption):
            found.append(Issue("boilerplate caption", None, caption_id, None, repr(caption[:80])))
        elif len(pictures[text]) >= MANY:
            detail = f"{len(pictures[text]):,} pictures have {caption[:80]!r}"
            found.append(Issue("shared caption", None, caption_id, number_of_text[text], detail))
    return found


def _normal(caption: str) -> str:
    return " ".join(caption.lower().split()).rstrip(".!")


def _groups(labels: Sequence[Hashable]) -> list[list[int]]:
    """Places with equal labels, where there are at least two."""
    places: dict[Hashable, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    return [group for group in places.values() if len(group) > 1]
