"""Candidates of the Fluent 3D emoji (npm @lobehub/fluent-emoji-3d), named and described by npm emojibase-data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openclipart import Candidate, words

GROUPS = {0: "face", 1: "person", 3: "nature", 4: "food", 5: "place", 6: "activity", 7: "object"}  # no symbols, flags
LANGUAGES = ["de", "es", "fr", "it", "pt", "ja", "zh", "ru"]


def candidates(emojibase: Path, fluent: Path) -> tuple[list[Candidate], Counter[str]]:
    """Every emoji of the chosen groups that has a picture, without the variants of one drawing."""
    names = {
        language: {emoji["hexcode"]: emoji["label"] for emoji in _data(emojibase, language)} for language in LANGUAGES
    }
    pictures = {file.stem.replace("-fe0f", "").upper(): file for file in sorted((fluent / "assets").glob("*.webp"))}
    kept, left_out = [], Counter[str]()
    for emoji in _data(emojibase, "en"):
        reason = _why_left_out(emoji)
        picture = pictures.get(emoji["hexcode"].upper().replace("-FE0F", ""))
        if reason is None and picture is None:
            reason = "no picture"
        if reason is not None:
            left_out[reason] += 1
            continue
        label = emoji["label"]
        tags = [tag for tag in emoji.get("tags", []) if not set(words(tag)) <= set(words(label))]
        kept.append(
            Candidate(
                id=f"fluent3d/{emoji['hexcode'].upper()}",
                source="fluent3d",
                concept=f"emoji/{emoji['hexcode'].upper()}",
                group=GROUPS[emoji["group"]],
                name=label[0].upper() + label[1:],
                keywords=tags[:8],
                description="",
                author="Microsoft Corporation",
                licence="MIT",
                picture=picture,
                translations={language: names[language].get(emoji["hexcode"], "") for language in LANGUAGES},
            )
        )
    return kept, left_out


def vocabulary(emojibase: Path) -> Iterator[str]:
    """The words of all emoji names and tags, English by construction; they widen the word list for titles."""
    for emoji in _data(emojibase, "en"):
        if _why_left_out(emoji) is None:
            yield from words(" ".join([emoji["label"], *emoji.get("tags", [])]))


def _data(emojibase: Path, language: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = json.loads((emojibase / language / "data.json").read_text(encoding="utf-8"))
    return data


def _why_left_out(emoji: dict[str, Any]) -> str | None:
    parts = emoji["hexcode"].upper().split("-")
    if emoji.get("group") not in GROUPS or emoji.get("subgroup") is None:
        return "symbol, flag or component"
    if {"2640", "2642"} & set(parts) or ("200D" in parts and parts[0] in {"1F468", "1F469"}):
        return "gender variant"
    if "27A1" in parts:
        return "direction variant"
    if re.search(r"^family|o.clock|-thirty$|^couple with|^kiss:", emoji["label"]):
        return "clock face, family or couple"
    return None
