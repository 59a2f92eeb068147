"""The report: one HTML file that holds all it shows, for the people who own the pairs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from truepair.audit.findings import Findings, suspects_at
from truepair.audit.issues import KINDS, Issue
from truepair.data.pairs import Pairs
from truepair.evaluation.detection import calibration_curve
from truepair.pages.html import picture_of, shortened, write_page
from truepair.random_streams import Stream
from truepair.scoring.best import NONE

_SIDE = 128
"""Pixels of a thumbnail's longer side."""
_BORDERLINE = (0.3, 0.7)
"""Mismatch probabilities between which a pair may be either."""
_SAMPLE = 14
"""Pairs shown as a sample of those that are no suspects."""
_LONGEST_CAPTION = 300
"""Characters of a caption that a card shows."""
_EXAMPLES = 8
"""Images, captions or groups shown of a kind of issue."""
_OF_A_GROUP = 6
"""Images shown of a group of duplicates."""
_THRESHOLDS = (0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Shown:
    """An image as a page shows it: a picture, or its name where there is none."""

    image_id: str
    picture: str | None


@dataclass(frozen=True)
class GroupShown:
    """Images that belong together, the first few of them, and what was found."""

    images: list[Shown]
    count: int
    detail: str


@dataclass(frozen=True)
class IssueShown:
    """One kind of issue on the page, with its first examples: groups, images alone, or captions."""

    kind: str
    what: str
    count: int
    groups: list[GroupShown]
    images: list[Shown]
    captions: list[str]


@dataclass(frozen=True)
class Card:
    """One pair on the page; `mismatch_probability` is None where it is unknown."""

    rank: int
    caption_id: str
    caption: str
    image: Shown
    mismatch_probability: float | None
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
    folder: Path,
    log: Sequence[Mapping[str, Any]],
    cards: int,
    seed: int,
) -> None:
    """One self-contained page, replaced atomically: it loads nothing, runs nothing, and escapes every caption.

    Where no mismatch probability is known, the page says so, and shows neither suspects nor what a cut would do.

    Args:
        findings: What was found.
        issues: Of images and captions themselves.
        summary: What ``summary.json`` holds.
        path: Where to write.
        folder: The audit's folder, for the commands that the page names.
        log: A run's log, for its learning curves; empty for an audit by cross-fitting.
        cards: Pairs to show: half of them the most suspicious, half borderline ones.
        seed: Of the samples.
    """
    # Loads matplotlib.
    from truepair.audit.charts import calibration_chart, cut_chart, learning_curves, score_histogram

    clean = findings.pairs.is_clean
    is_known = not bool(findings.mismatch_probability.isnan().any())
    # What is shown: the surest suspects, a sample of the borderline pairs, a sample of those that are no suspects; the
    # pairs that score lowest where no probability is known.
    rank = {pair: place for place, pair in enumerate(findings.order.tolist(), start=1)}
    generator = Stream.REPORT.generator(seed)
    surest = findings.order[: (cards + 1) // 2].tolist() if is_known else []
    low, high = _BORDERLINE
    is_borderline = (findings.mismatch_probability >= low) & (findings.mismatch_probability <= high)
    is_borderline[surest] = False
    borderline = sorted(_drawn(is_borderline, cards // 2, generator), key=rank.__getitem__)
    sample = _drawn(~findings.is_suspect, _SAMPLE, generator) if is_known else findings.order[:_SAMPLE].tolist()
    pictures = _pictures(findings, [*surest, *borderline, *sample])

    charts = {
        "scores": score_histogram(
            findings.scores.log_odds, findings.scores.random_log_odds, findings.mismatch_probability, clean
        ),
        "cut": cut_chart(findings.mismatch_probability, findings.threshold, clean) if is_known else None,
        "calibration": calibration_chart(calibration_curve(1 - findings.mismatch_probability, clean))
        if is_known and clean is not None
        else None,
        "learning": learning_curves(log),
    }
    write_page(
        "truepair.audit",
        "report.html",
        path,
        charts,
        summary=summary,
        is_known=is_known,
        surest=[_card(findings, pair, rank[pair], pictures) for pair in surest],
        borderline=[_card(findings, pair, rank[pair], pictures) for pair in borderline],
        borderline_pairs=int(is_borderline.sum()),
        sample=[_card(findings, pair, rank[pair], pictures) for pair in sample],
        cut_at=suspects_at(findings.mismatch_probability, findings.threshold),
        cuts=[suspects_at(findings.mismatch_probability, threshold) for threshold in _THRESHOLDS] if is_known else [],
        settings=_settings(summary),
        issues=_issues(findings, issues),
        folder=shlex.quote(str(folder.resolve())),
    )


def _drawn(is_candidate: Bool[Tensor, " pairs"], most: int, generator: np.random.Generator) -> list[int]:
    """A random sample of the pairs that are candidates, `most` at most, in random order."""
    candidates = is_candidate.nonzero().flatten().numpy()
    drawn: list[int] = generator.permutation(candidates)[:most].tolist()
    return drawn


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
        mismatch_probability=_number(findings.mismatch_probability[pair]),
        is_suspect=bool(findings.is_suspect[pair]),
        is_clean=None if clean is None else bool(clean[pair]),
        better_image=None if better_image == NONE else _shown(pairs, better_image, pictures),
        is_true_image=None if truth is None or better_image == NONE else bool(truth[pair] == better_image),
        is_mutual=bool(findings.partners.is_mutual[pair]),
        suggestion_probability=_number(findings.suggestion_probability[pair]),
        better_caption=None if better_caption == NONE else shortened(pairs.captions[better_caption], _LONGEST_CAPTION),
    )


def _issues(findings: Findings, issues: Sequence[Issue]) -> list[IssueShown]:
    """By kind: how many, and the first few, with a picture where they are of images."""
    pairs = findings.pairs
    image_of_id = {name: image for image, name in enumerate(pairs.image_ids)}
    caption_of_id = dict(zip(pairs.caption_ids, pairs.captions, strict=True))

    def images(some: Sequence[Issue]) -> list[Shown]:
        names = [issue.image_id for issue in some if issue.image_id is not None]
        return [Shown(name, picture_of(pairs, image_of_id[name], _SIDE)) for name in names]

    shown = []
    for kind, what in KINDS.items():
        of_kind = [issue for issue in issues if issue.issue == kind]
        if not of_kind:
            continue
        of_images = [issue for issue in of_kind if issue.caption_id is None]
        groups: dict[int, list[Issue]] = {}
        for issue in of_images:
            if issue.group is not None:
                groups.setdefault(issue.group, []).append(issue)
        alone = [issue for issue in of_images if issue.group is None]
        texts = [caption_of_id[issue.caption_id] for issue in of_kind if issue.caption_id is not None]
        shown.append(
            IssueShown(
                kind,
                what,
                len(of_kind),
                [
                    GroupShown(images(group[:_OF_A_GROUP]), len(group), group[0].detail)
                    for group in list(groups.values())[:_EXAMPLES]
                ],
                images(alone[:_EXAMPLES]),
                [shortened(text, _LONGEST_CAPTION) for text in list(dict.fromkeys(texts))[:_EXAMPLES]],
            )
        )
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
