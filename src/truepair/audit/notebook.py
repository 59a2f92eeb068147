"""What a notebook shows of an audit: its numbers, and the most suspicious pairs with their pictures."""

from __future__ import annotations

from dataclasses import dataclass

from truepair.audit.report import Shown
from truepair.cleaning.audit_folder import NONE, AuditFolder
from truepair.errors import TruepairError
from truepair.pages.html import data_uri, filled, shortened

_PAIRS = 8
"""Pairs that are shown."""
_SIDE = 128
"""Pixels of a thumbnail's longer side."""
_LONGEST_CAPTION = 160


@dataclass(frozen=True)
class _Row:
    """One pair; None where something is not known."""

    caption: str
    mismatch_probability: float | None
    image: Shown
    better_image: Shown | None
    better_caption: str | None


def notebook_view(audit: AuditFolder) -> str:
    """A piece of HTML that holds all it shows, loads and runs nothing, and has the colours of the page around it."""
    first = audit.rows(range(min(_PAIRS, len(audit.findings))))
    summary = audit.summary
    return filled(
        "truepair.audit",
        "notebook.html",
        summary=summary,
        issues={kind: count for kind, count in summary.issues.items() if count},
        skipped=sum(summary.skipped.values()),
        rows=[_row(audit, place, row) for place, row in enumerate(first)],
    )


def _row(audit: AuditFolder, place: int, row: dict[str, object]) -> _Row:
    better_image, better_caption = int(audit.suggested_image[place]), int(audit.suggested_caption[place])
    instead = None if better_caption == NONE else audit.findings["caption"][better_caption].as_py()
    probability = row["mismatch_probability"]
    return _Row(
        caption=shortened(str(row["caption"]), _LONGEST_CAPTION),
        mismatch_probability=probability if isinstance(probability, float) else None,
        image=_shown(audit, int(audit.image[place]), str(row["image_id"])),
        better_image=None if better_image == NONE else _shown(audit, better_image, str(row["suggested_image_id"])),
        better_caption=None if instead is None else shortened(instead, _LONGEST_CAPTION),
    )


def _shown(audit: AuditFolder, image: int, image_id: str) -> Shown:
    try:
        return Shown(image_id, data_uri(audit.thumbnails.of(image, _SIDE)))
    except TruepairError:  # no picture, or one that is not there any more
        return Shown(image_id, None)
