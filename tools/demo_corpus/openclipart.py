"""Candidates of the Open Clip Art Library 0.18 (Debian openclipart-svg and openclipart-png): a picture and its words.

The SVG files carry title, description, keywords, author and licence in RDF; the PNG files are the pictures.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# Whole families that are hundreds of near-identical drawings: icon themes, cards, flags, road signs, map symbols …
FAMILIES_LEFT_OUT = re.compile(
    r"^(computer/(icons|buttons)(/|$)|computer/icons|buttons/|shapes/|special/|decorations/|logos/|"
    r"signs_and_symbols/(flags|led|map_symbols|clocks)|recreation/games/cards|transportation/(aiga|roadsigns)|"
    r"people/(stickmen|smilies|clothing/pantyhose)|geography/(maps)|unsorted/duplicates|plants/gradients)"
)
# Titles that name a collection or its author instead of the picture; the file name says more.
TITLE_OF_A_COLLECTION = re.compile(
    r"clipart by|various cliparts|etiquette icons|flat icon collection|lemon svg|sibmission|^sallite|^card$|"
    r"aiga_symbol|svg gradient|blueberry|gold-theme|plastik|homes clipart|rpg map elements|australian maps|"
    r"svg road signs|^(people|advertising|clouds|untitled|test|drawing|layer \d+|stick man|map symbols|simple arrows|"
    r"pc connectors|boating rules illustration|elder sign|bullet hole)$",
    re.IGNORECASE,
)
KEYWORDS_LEFT_OUT = re.compile(
    r"hash|unsorted|clipart|clip_art|clip art|openclipart|png|svg|appicon|icon|icons|computer icon|signs_and_symbols|"
    r"symbol|symbols|activities|theme|networksym|weathersym|mac|externalsource|color|colour|black and white|"
    r"black-and-white|bw|black_and_white|b&w|menu|office|equipment|remix|image|vector|inkscape|shape|"
    r"hash\(.*|0x.*|\d+"
)
# Brands, owned characters, real persons, arms, drugs, nudity and hate: not for a demo that is shown to everybody.
WORDS_LEFT_OUT = re.compile(
    r"\b(fan ?art|vgcats|hulk|pac-?man|tetris|pong|porcinet|piglet|winnie|mickey|disney|pikachu|pokemon|simpson|homer|"
    r"tolkien|hitchhiker|don.?t panic|coltrane|elvis|bush|hitler|stalin|lenin|mao|che guevara|guevara|bin laden|nazi|"
    r"swastika|kkk|cannabis|marijuana|weed|hemp|joint|nude|naked|female|sexy|pantyhose|lingerie|bikini|penis|breast|"
    r"bullet|gun|pistol|rifle|grenade|tank|missile|bomb|corpse|dead frogs|suicide|hanged|middle finger|toyota|"
    r"chevrolet|chevy|dodge|blazer|rubik|einstein|luther|saku|zaku|garmin|kexi|open ?office|stripper|pimp|rca|"
    r"map symbol|bwh|hummer|velocette|ferrari|volkswagen|beetle vw|porsche|bmw|mercedes|jeep|apple'?s|imac|ipod|"
    r"macbook|microsoft|windows|google|firefox|gimp|gnome|kde|debian|ubuntu|xbox|playstation|nintendo|gameboy|sega|"
    r"lego|barbie|coca|pepsi|mcdonald|starbucks|nike|adidas|xerox|nokia|motorola|palm pilot|fender|stratocaster|"
    r"gibson|superman|batman|spider-?man|star ?wars|darth|yoda|vader|jedi|r2d2|dalek|tardis|enterprise|klingon|"
    r"cthulhu|discordia|eris|masonic|freemason|elks|scientology)(?:'s|s)?\b",
    re.IGNORECASE,
)
# English words that Debian's list does not have.
MORE_ENGLISH = frozenset({"echidna", "lightbulb", "seagull", "seahorse"})
OUTLINE_MAP = re.compile(r"\b(map|maps|regions?|state|province)\b", re.IGNORECASE)
WHOLE_WORLD = re.compile(r"world|globe|earth", re.IGNORECASE)


@dataclass(frozen=True)
class Metadata:
    """What an SVG file says of itself."""

    title: str
    description: str
    keywords: list[str]
    author: str
    licence: str


@dataclass
class Candidate:
    """A picture file with its words, before anything is encoded."""

    id: str
    source: str
    concept: str
    group: str
    name: str
    keywords: list[str]
    description: str
    author: str
    licence: str
    picture: Path
    translations: dict[str, str] = field(default_factory=dict)


def words(text: str) -> list[str]:
    """The lower-case words of two letters and more."""
    return re.findall(r"[a-z][a-z']+", text.lower())


def candidates(root: Path, english: set[str]) -> tuple[list[Candidate], Counter[str]]:
    """Every picture with a usable English title and a public-domain statement; and why the others were left out."""
    kept, left_out = [], Counter[str]()
    for svg in sorted((root / "svg").rglob("*.svg")):
        name = str(svg.relative_to(root / "svg")).removesuffix(".svg")
        if FAMILIES_LEFT_OUT.match(name):
            left_out["family"] += 1
            continue
        metadata = read_metadata(svg)
        if "ublic" not in metadata.licence:
            left_out["no public-domain statement in the file"] += 1
            continue
        candidate = _described(name, metadata, english, left_out)
        if candidate is not None:
            candidate.picture = root / "png" / f"{name}.png"
            kept.append(candidate)
    return kept, left_out


def read_metadata(svg: Path) -> Metadata:
    """Read by pattern and not as XML, since one file in fifty is not well-formed."""
    text = svg.read_bytes().decode("utf-8", "replace")
    found = re.search(r"<cc:Work.*?</cc:Work>|<Work.*?</Work>", text, re.DOTALL)
    work = found.group(0) if found else ""
    creator = re.search(r"<dc:creator.*?</dc:creator>", work, re.DOTALL)
    author = ""
    if creator:
        author = _element("title", creator.group(0)) or _plain(creator.group(0))
    # Agents have titles too; without them the first title left is the picture's.
    own = re.sub(r"<(dc:creator|dc:publisher|dc:rights|dc:contributor)\b.*?</\1>", " ", work, flags=re.DOTALL)
    keywords = [
        html.unescape(re.sub(r"<[^>]+>", "", item)).strip()
        for item in re.findall(r"<rdf:li[^>]*>(.*?)</rdf:li>", own, re.DOTALL)
    ]
    licence = re.search(r'<(?:cc:)?license\s+rdf:resource="([^"]*)"', text)
    return Metadata(
        title=" ".join(_element("title", own).split()),
        description=" ".join(_element("description", own).split()),
        keywords=[keyword for keyword in keywords if keyword],
        author=" ".join(re.sub(r"[\[(<]?\S+@\S+[\])>]?", " ", author).split()),  # e-mail addresses are left out
        licence=licence.group(1) if licence else "",
    )


def why_left_out(candidate_id: str, caption: str, ink: float, colours: int) -> str | None:
    """The reason for leaving a candidate out by its words or its picture, or None."""
    if WORDS_LEFT_OUT.search(f"{caption} {candidate_id.replace('_', ' ')}"):
        return "blocked word"
    if candidate_id.startswith("oc/geography") and OUTLINE_MAP.search(caption) and not WHOLE_WORLD.search(caption):
        return "outline map"
    if "@" in caption:
        return "e-mail address in the caption"
    if ink < 0.04:
        return "nearly empty"
    if colours < 2:
        return "one colour"
    return None


def _described(name: str, metadata: Metadata, english: set[str], left_out: Counter[str]) -> Candidate | None:
    if not metadata.title or TITLE_OF_A_COLLECTION.search(metadata.title):
        title = _clean_title(re.sub(r"_?(contour|bw|r|\d+)$", "", name.rsplit("/", maxsplit=1)[-1]))
    else:
        title = _clean_title(metadata.title)
    keywords = _clean_keywords(metadata, title)
    description = metadata.description
    if (
        re.search(r"hash\(|@|http|mentioned in|scalable", description, re.IGNORECASE)
        or len(description.split()) < 3
        or len(description) > 160
        or set(words(description)) <= set(words(title))
    ):
        description = ""
    description_is_english = sum(word in english for word in words(description)) > 0.7 * len(words(description))
    title_words = words(title)
    if not title_words or max(map(len, title_words)) < 3:
        left_out["no usable title"] += 1
        return None
    known = [word for word in title_words if word in english or word.rstrip("s") in english]
    if len(known) < len(title_words) / 2 + 0.01 and not (description and description_is_english):
        left_out["title is not English"] += 1
        return None
    if description and sum(word in english for word in words(description)) < 0.7 * len(words(description)):
        description = ""
    return Candidate(
        id=f"oc/{name}",
        source="openclipart",
        concept=f"oc/{name}",
        group=name.split("/", maxsplit=1)[0],
        name=_display_name(title),
        keywords=[keyword.replace("_", " ") for keyword in keywords if "theme" not in keyword][:6],
        description=description,
        author=metadata.author,
        licence="Public-Domain",
        picture=Path(),
    )


def _clean_title(title: str) -> str:
    title = re.sub(r"[_]+", " ", title)
    title = re.sub(r"([a-z])([A-Z])", r"\1 \2", title)
    title = re.sub(
        r"\b(clip ?art|openclipart|icon|svg|png|bw|b and w|b ?& ?w|black and white version)\b",
        " ",
        title,
        flags=re.IGNORECASE,
    )
    title = re.sub(r'[#\(\)\[\]"]', " ", title)
    title = re.sub(r"\b\d+\b|(?<=[a-z])\d+\b", " ", title)
    title = re.sub(r"\s+-\s+|\s*-\s*$|^\s*-\s*", " ", title)
    return " ".join(title.split()).strip(" -.,")


def _clean_keywords(metadata: Metadata, title: str) -> list[str]:
    kept: list[str] = []
    for raw in metadata.keywords:
        keyword = raw.lower().strip()
        if not keyword or KEYWORDS_LEFT_OUT.fullmatch(keyword):
            continue
        if keyword in metadata.author.lower() or re.search(r"architetto|rollandin|buculei", keyword):
            continue  # the author's name
        if keyword not in kept and not set(words(keyword)) <= set(words(title)):
            kept.append(keyword)
    return kept


def _display_name(title: str) -> str:
    name = title
    if title.islower() or title.istitle() or title.isupper():
        name = title[0].upper() + title[1:].lower()
    name = re.sub(r"^(Etiquette|Bb|R15 generic|Clipart)\s+", "", name, flags=re.IGNORECASE)
    contour = re.match(r"(?i)contour (.+)|(.+) contour$", name)
    if contour:
        name = f"{contour.group(1) or contour.group(2)} silhouette"
    return name[:1].upper() + name[1:]


def _element(tag: str, xml: str) -> str:
    found = re.search(rf"<dc:{tag}[^>]*>(.*?)</dc:{tag}>", xml, re.DOTALL)
    return _plain(found.group(1)) if found else ""


def _plain(xml: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", xml)).strip()
