"""What is wrong with images and captions themselves, whatever they are paired with: duplicates, blanks, empty words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import pyarrow as pa
from jaxtyping import UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from truepair.audit.caption_text import is_boilerplate, markup_in, mojibake_in
from truepair.audit.language import in_other_languages
from truepair.data.pairs import Pairs
from truepair.sources.facts import PictureFacts

MANY = 10
"""Images that share a caption, or duplicates of one image under different captions, from which on they are an issue."""
NEAR_BITS = 3
"""Bits of 64 in which difference hashes of near-duplicates differ at most: of 4 bands of 16 bits, one is then equal."""
_BANDS = 4
_MOST_ALIKE = 1000
"""Hashes with a band in common that are compared with each other; in larger groups, each with this many after it."""
_SMALLEST_SIDE = 32
"""Pixels below which a picture is an icon or a spacer."""


@dataclass(frozen=True)
class Issue:
    """One thing to look at.

    Attributes:
        issue: Its kind: a key of `KINDS`.
        image_id: The image, or None.
        caption_id: The caption, or None.
        group: The same number for all that belong together, such as duplicates of one image; None for one alone.
        detail: What was found, for people.
    """

    issue: str
    image_id: str | None
    caption_id: str | None
    group: int | None
    detail: str


KINDS = {
    "duplicate": "images whose files are equal byte for byte",
    "near-duplicate": "images with nearly equal difference hashes: one image in two sizes, or drawings of one outline",
    "blank": "images of one colour",
    "tiny": f"images less than {_SMALLEST_SIDE} pixels wide or high",
    "placeholder": f"one image, byte for byte, in {MANY} or more files under as many different captions, or one with "
    f"{MANY} times as many captions as is usual in the corpus",
    "empty caption": "captions without a letter",
    "boilerplate": "captions that are a file name, an address, or a word such as 'image'",
    "shared caption": f"captions that {MANY} or more different images have",
    "HTML in caption": "captions with an HTML entity or tag, such as '&amp;' or '<br>'",
    "mojibake": "captions in a broken encoding, such as 'Ã©' where 'é' is meant",
    "other language": "captions in another language than most captions of the corpus",
}
"""Kinds of issues, and what they are."""


def issues_of(pairs: Pairs, facts: Sequence[PictureFacts | None] | None) -> list[Issue]:
    """All issues of captions, and of images where their facts are known.

    Args:
        pairs: The pairs.
        facts: Of each image, None where its picture cannot be read; or None if no picture was examined.

    Returns:
        By kind, in the order of `KINDS`, then in the order of images or captions.
    """
    found = [*_image_issues(pairs, facts), *_caption_issues(pairs)] if facts else _caption_issues(pairs)
    place = list(KINDS)
    return sorted(found, key=lambda issue: place.index(issue.issue))


def issues_table(issues: Sequence[Issue]) -> pa.Table:
    """One row an issue: ``issue``, ``image_id``, ``caption_id``, ``group``, ``detail``."""
    types = {"issue": pa.string(), "image_id": pa.string(), "caption_id": pa.string(), "group": pa.int64()}
    types["detail"] = pa.string()
    columns = {name: pa.array([getattr(issue, name) for issue in issues], kind) for name, kind in types.items()}
    return pa.table(columns)


def near_duplicates(hashes: UInt64[np.ndarray, " images"]) -> list[list[int]]:
    """Groups of images whose difference hashes differ in at most `NEAR_BITS` bits, or are linked by such.

    Each of the four bands of a hash finds those that have it in common, and these are compared. Time and memory grow
    with the images and with those that share a band, of which at most 1,000 are compared with one.

    Returns:
        Groups of at least two, each increasing, in the order of their first.

    Example:
        >>> near_duplicates(np.array([0b111, 2**64 - 1, 0b100], np.uint64))
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


def _image_issues(pairs: Pairs, facts: Sequence[PictureFacts | None]) -> list[Issue]:
    ids, found = pairs.image_ids, []
    texts: dict[int, set[str]] = {}
    for image, caption in zip(pairs.image_of_caption.tolist(), pairs.captions, strict=True):
        texts.setdefault(image, set()).add(_normal(caption))
    known = {image: fact for image, fact in enumerate(facts) if fact is not None and image in texts}
    # Images that are wrong by themselves.
    for image, fact in known.items():
        if fact.is_blank:
            found.append(Issue("blank", ids[image], None, None, f"{fact.width} × {fact.height} pixels"))
        elif min(fact.width, fact.height) < _SMALLEST_SIDE:
            found.append(Issue("tiny", ids[image], None, None, f"{fact.width} × {fact.height} pixels"))
    # Equal bytes: duplicates, or one placeholder, which may be one image already, as equal bytes in cells are.
    numbers = list(known)
    equal = [[numbers[place] for place in group] for group in _groups([fact.sha256 for fact in known.values()])]
    usual = median(map(len, texts.values()))
    grouped = {image for group in equal for image in group}
    equal += [[image] for image in known if image not in grouped and len(texts[image]) >= MANY * usual]
    for number, group in enumerate(equal):
        different = len(set().union(*(texts[image] for image in group)))
        is_placeholder = len(group) == 1 or min(len(group), different) >= MANY
        detail = f"{len(group)} file{'' if len(group) == 1 else 's'}, {different} different captions"
        kind = "placeholder" if is_placeholder else "duplicate"
        found += [Issue(kind, ids[image], None, number, detail) for image in group]
    # Equal to the eye: one image of each group of duplicates stands for it.
    of_duplicates = {image for group in equal for image in group[1:]}
    firsts = [image for image, fact in known.items() if image not in of_duplicates and not fact.is_blank]
    hashes = np.array([known[image].difference_hash for image in firsts], np.uint64)
    for number, places in enumerate(near_duplicates(hashes), start=len(equal)):
        detail = f"{len(places)} images with nearly equal hashes"
        found += [Issue("near-duplicate", ids[firsts[place]], None, number, detail) for place in places]
    return found


def _caption_issues(pairs: Pairs) -> list[Issue]:
    if not pairs.has_texts:
        return []
    found, normal = [], [_normal(caption) for caption in pairs.captions]
    images: dict[str, set[int]] = {}
    for text, image in zip(normal, pairs.image_of_caption.tolist(), strict=True):
        images.setdefault(text, set()).add(image)
    number_of_text = {text: number for number, text in enumerate(images)}
    for caption_id, caption, text in zip(pairs.caption_ids, pairs.captions, normal, strict=True):
        quoted = repr(caption[:80])
        if not any(character.isalpha() for character in caption):
            found.append(Issue("empty caption", None, caption_id, None, quoted))
        elif is_boilerplate(caption):
            found.append(Issue("boilerplate", None, caption_id, None, quoted))
        elif len(images[text]) >= MANY:
            detail = f"{len(images[text]):,} images have {quoted}"
            found.append(Issue("shared caption", None, caption_id, number_of_text[text], detail))
        for kind, where in (("HTML in caption", markup_in(caption)), ("mojibake", mojibake_in(caption))):
            if where is not None:
                found.append(Issue(kind, None, caption_id, None, f"{where} in {quoted}"))
    for place, language in in_other_languages(pairs.captions).items():
        detail = f"{language}: {pairs.captions[place][:80]!r}"
        found.append(Issue("other language", None, pairs.caption_ids[place], None, detail))
    return found


def _normal(caption: str) -> str:
    return " ".join(caption.lower().split()).rstrip(".!")


def _groups(labels: Sequence[Hashable]) -> list[list[int]]:
    """Places with equal labels, where there are at least two."""
    places: dict[Hashable, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    return [group for group in places.values() if len(group) > 1]
