"""The report: one HTML file that holds all it shows, for the people who own the pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from truepair.audit.charts import calibration_chart, cut_chart, learning_curves, score_histogram
from truepair.audit.findings import Findings, suspects_at
from truepair.audit.issues import KINDS, Issue
from truepair.audit.partners import NONE
from truepair.data.pairs import Pairs
from truepair.evaluation.detection import calibration_curve
from truepair.pages.html import picture_of, shortened, write_page

_SIDE = 128
"""Pixels of a thumbnail's longer side."""
_BEST = 14
"""Pairs shown as a sample of the most plausible ones."""
_LONGEST_CAPTION = 300
"""Characters of a caption that a card shows."""
_EXAMPLES = 8
"""Pictures or captions shown of a kind of issue."""
_THRESHOLDS = (0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Shown:
    """An image as the report shows it: a picture, or its name where there is none."""

    image_id: str
    picture: str | None


@dataclass(frozen=True)
class IssueShown:
    """One kind of issue on the page, with its first examples."""

    kind: str
    what: str
    count: int
    pictures: list[Shown]
    captions: list[str]


@dataclass(frozen=True)
class Card:
    """One pair on the page."""

    rank: int
    caption_id: str
    caption: str
    image: Shown
    mismatch_probability: float
    is_suspect: bool
    is_clean: bool | None
    better_image: Shown | None
    is_true_image: bool | None
    is_mutual: bool
    suggestion_probability: float | None
    better_caption: str | None


def write_report(
    findings: Findings,
    issues: Sequence[Issue],
    summary: Mapping[str, Any],
    path: Path,
    *,
    log: Sequence[Mapping[str, Any]],
    cards: int,
) -> None:
    """One self-contained page, replaced atomically: it loads nothing, runs nothing, and escapes every caption.

    Args:
        findings: What was found.
        issues: Of pictures and captions themselves.
        summary: What ``summary.json`` holds.
        path: Where to write.
        log: A run's log, for its learning curves; empty for an audit by cross-fitting.
        cards: Suspects to show.
    """
    pairs = findings.pairs
    shown = findings.order[:cards].tolist()
    best = findings.order.flip(0)[: min(_BEST, len(pairs) - len(shown))].tolist()
    pictures = _pictures(findings, [*shown, *best])
    clean = pairs.is_clean
    charts = {
        "scores": score_histogram(
            findings.scores.log_odds, findings.scores.random_log_odds, findings.mismatch_probability, clean
        ),
        "cut": cut_chart(findings.mismatch_probability, findings.threshold, clean),
        "calibration": None
        if clean is None
        else calibration_chart(calibration_curve(1 - findings.mismatch_probability, clean)),
        "learning": learning_curves(log),
    }
    write_page(
        "truepair.audit",
        "report.html",
        path,
        charts,
        summary=summary,
        cards=[_card(findings, pair, rank, pictures) for rank, pair in enumerate(shown, start=1)],
        best=[_card(findings, pair, len(pairs) - place, pictures) for place, pair in enumerate(best)],
        cut_at=suspects_at(findings.mismatch_probability, findings.threshold),
        cuts=[suspects_at(findings.mismatch_probability, threshold) for threshold in _THRESHOLDS],
        settings=_settings(summary),
        issues=_issues(findings, issues),
    )


def _card(findings: Findings, pair: int, rank: int, pictures: Mapping[int, str]) -> Card:
    pairs, clean = findings.pairs, findings.pairs.is_clean
    image = int(pairs.image_of_caption[pair])
    better_image, better_caption = int(findings.partners.image[pair]), int(findings.partners.caption[pair])
    truth = pairs.true_image_of_caption
    return Card(
        rank=rank,
        caption_id=pairs.caption_ids[pair],
        caption=shortened(pairs.captions[pair], _LONGEST_CAPTION),
        image=_shown(pairs, image, pictures),
        mismatch_probability=float(findings.mismatch_probability[pair]),
        is_suspect=bool(findings.is_suspect[pair]),
        is_clean=None if clean is None else bool(clean[pair]),
        better_image=None if better_image == NONE else _shown(pairs, better_image, pictures),
        is_true_image=None if truth is None or better_image == NONE else bool(truth[pair] == better_image),
        is_mutual=bool(findings.partners.is_mutual[pair]),
        suggestion_probability=_number(findings.suggestion_probability[pair]),
        better_caption=None if better_caption == NONE else shortened(pairs.captions[better_caption], _LONGEST_CAPTION),
    )


def _issues(findings: Findings, issues: Sequence[Issue]) -> list[IssueShown]:
    """By kind: how many, and the first few, with a picture where they are of pictures."""
    pairs = findings.pairs
    image_of_id = {name: image for image, name in enumerate(pairs.image_ids)}
    caption_of_id = dict(zip(pairs.caption_ids, pairs.captions, strict=True))
    shown = []
    for kind, what in KINDS.items():
        of_kind = [issue for issue in issues if issue.issue == kind]
        if not of_kind:
            continue
        examples = of_kind[:_EXAMPLES]
        pictures = [
            Shown(issue.image_id, picture_of(pairs, image_of_id[issue.image_id], _SIDE))
            for issue in examples
            if issue.image_id is not None
        ]
        captions = [
            shortened(caption_of_id[issue.caption_id], _LONGEST_CAPTION)
            for issue in examples
            if issue.caption_id is not None
        ]
        shown.append(IssueShown(kind, what, len(of_kind), pictures, captions))
    return shown


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every setting by its dotted name, and what ran it."""

    def flat(name: str, value: object) -> list[tuple[str, str]]:
        if not isinstance(value, Mapping):
            return [(name, str(value))]
        return [line for key, inner in value.items() for line in flat(f"{name}.{key}", inner)]

    names = ("truepair", "hardware", "seconds", "peak_memory_mb", "scored_by", "data", "noise", "audit")
    return [line for name in names for line in flat(name, summary[name])]


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)


def _shown(pairs: Pairs, image: int, pictures: Mapping[int, str]) -> Shown:
    return Shown(pairs.image_ids[image], pictures.get(image))


def _pictures(findings: Findings, shown: Sequence[int]) -> dict[int, str]:
    """Thumbnails as data URIs of all images on the cards; an unreadable one is left out and shown by its name."""
    pairs = findings.pairs
    images = {int(pairs.image_of_caption[pair]) for pair in shown}
    images |= {int(findings.partners.image[pair]) for pair in shown} - {NONE}
    # In the order of the file, which is read a row group at a time.
    pictures = {image: picture_of(pairs, image, _SIDE) for image in sorted(images)}
    return {image: picture for image, picture in pictures.items() if picture is not None}
