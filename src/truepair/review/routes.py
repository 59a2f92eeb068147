"""What the review page can be asked."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Cookie, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from truepair.cleaning.audit_folder import NONE, AuditFolder
from truepair.cleaning.decisions_db import Change, HandDecision, HandDecisions
from truepair.cleaning.fixing import FixOptions, fix
from truepair.errors import DataError
from truepair.review import listing
from truepair.review.captions import CaptionsOfImages
from truepair.review.cut import Cut
from truepair.review.issues import PairIssues
from truepair.review.serving import COOKIE_OPTIONS, Text, UnknownError, number, page_of

MOST_PAIRS = 200
"""Pairs of one answer."""
_COOKIE = "truepair-reviewer"
_YEAR = 365 * 24 * 3600
_Image = dict[str, Any]


@dataclass(frozen=True)
class Review:
    """What the answers are made of."""

    audit: AuditFolder
    decisions: HandDecisions
    cut: Cut
    issues: PairIssues
    captions: CaptionsOfImages
    export: Path
    pictures_version: str
    """Stands in pictures' addresses, which browsers keep: another start may be of other pictures."""
    can_search: bool = False
    """Whether there is an index to look in for the image of a caption."""
    exporting: Lock = field(default_factory=Lock)


class Decided(BaseModel):
    """A decision; "clear" takes it back."""

    model_config = ConfigDict(extra="forbid")
    caption_id: Text
    action: Literal["keep", "drop", "re-pair", "clear"]
    image_id: Text | None = None


class Exported(BaseModel):
    """Where to cut."""

    model_config = ConfigDict(extra="forbid")
    threshold: float = Field(gt=0, le=1, allow_inf_nan=False)


def _review(request: Request) -> Review:
    review: Review = request.app.state.review
    return review


def _reviewer(reviewer: Annotated[str | None, Cookie(alias=_COOKIE, max_length=64)] = None) -> str:
    """Whose steps undo and redo follow: a browser, across restarts."""
    return reviewer or "nobody"


TheReview = Annotated[Review, Depends(_review)]
Reviewer = Annotated[str, Depends(_reviewer)]
Share = Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Query(ge=0, le=2**63 - 1)]  # the largest number that SQLite and NumPy have

router = APIRouter()


@router.get("/")
def page(request: Request, review: TheReview) -> HTMLResponse:
    """The page; it gives the browser the token and a name of its own as cookies."""
    audit = review.audit
    shown = {
        "corpus": audit.summary.corpus,
        "pairs": len(audit.findings),
        "suspects": audit.suspects,
        "threshold": audit.threshold,
        "re_pairs": audit.re_pairs,
        "is_known": review.cut.is_known,
        "warnings": audit.summary.warnings,
        "issues": review.issues.counts,
        "has_several_captions": review.captions.are_several,
        "export": review.export,
        "audit": audit.folder,
        "can_search": review.can_search,
    }
    answer = page_of(request, "review.html", shown)
    if _COOKIE not in request.cookies:
        answer.set_cookie(_COOKIE, secrets.token_urlsafe(12), max_age=_YEAR, **COOKIE_OPTIONS)
    return answer


@router.get("/api/pairs")
def pairs(
    review: TheReview,
    offset: Count = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_PAIRS)] = 100,
    filter: str = "",
    order: listing.Order = "suspicious",
    probability_from: Share = 0.0,
    probability_to: Share = 1.0,
    text: str = "",
    issue: str = "",
    as_of: Count | None = None,
) -> dict[str, Any]:
    """Some of the pairs that the filters leave.

    Filters look at the decisions after step `as_of`, so that a list does not shift under who works through it: a page
    that goes on asks with the ``as_of`` of its first answer. The pairs' own decisions are always the current ones.
    """
    step = review.decisions.last_step() if as_of is None else as_of
    codes = review.decisions.codes_at(step, len(review.audit.findings))
    query = listing.Query(listing.filters_from(filter), order, probability_from, probability_to, text, issue)
    rows = listing.rows_of(review.audit, review.issues, codes, query)
    return {
        "total": len(rows),
        "offset": offset,
        "as_of": step,
        "progress": _progress(review),
        "pairs": _pairs(review, rows[offset : offset + limit].tolist()),
    }


@router.get("/pictures/{image}")
def picture(review: TheReview, image: int, size: Annotated[int, Query(ge=32, le=1024)] = 320) -> Response:
    """A picture as WebP, by the number of its image."""
    try:
        small = review.audit.thumbnails.of(image, size)
    except DataError as error:
        raise UnknownError(str(error)) from error
    return Response(small, media_type="image/webp", headers={"Cache-Control": "private, max-age=31536000, immutable"})


@router.post("/api/decide")
def decide(review: TheReview, reviewer: Reviewer, asked: Decided) -> dict[str, Any]:
    """Decide about a pair; saved when this answers."""
    audit = review.audit
    row = audit.row_of(asked.caption_id)
    if row is None:
        raise UnknownError(f"there is no caption {asked.caption_id!r} in {audit.findings_file}")
    if (asked.action == "re-pair") != (asked.image_id is not None):
        raise DataError(f"action is {asked.action!r} and image_id {asked.image_id!r}: re-pair, and only it, needs one")
    if asked.image_id is not None:
        if audit.number_of_image(asked.image_id) == NONE:
            raise UnknownError(f"there is no image {asked.image_id!r} among the audited pairs' images")
        if asked.image_id == audit.findings["image_id"][row].as_py():
            raise DataError(f"{asked.caption_id!r} has the image {asked.image_id!r} already: keep it instead")
    change = review.decisions.decide(reviewer, row + 1, asked.caption_id, asked.action, asked.image_id)
    return _changed(review, change)


@router.post("/api/undo")
def undo(review: TheReview, reviewer: Reviewer) -> dict[str, Any]:
    """Take back the last step that this browser made."""
    change = review.decisions.undo(reviewer)
    if change is None:
        raise DataError("there is nothing to undo: this browser has decided nothing, or all of it is undone")
    return _changed(review, change)


@router.post("/api/redo")
def redo(review: TheReview, reviewer: Reviewer) -> dict[str, Any]:
    """Make the step again that was undone last."""
    change = review.decisions.redo(reviewer)
    if change is None:
        raise DataError("there is nothing to redo: nothing is undone, or something was decided since")
    return _changed(review, change)


@router.get("/api/cut")
def cut(review: TheReview, threshold: Annotated[float, Query(allow_inf_nan=False)]) -> dict[str, Any]:
    """What a threshold would do, by itself and with the decisions made by hand."""
    codes = review.decisions.codes_at(review.decisions.last_step(), len(review.audit.findings))
    together = review.cut.with_decisions(threshold, codes)
    return review.cut.at(threshold) | {"with_decisions": together, "by_hand": int((codes != 0).sum())}


@router.post("/api/export")
def write_copy(review: TheReview, asked: Exported) -> dict[str, Any]:
    """Write the cleaned copy; ``path`` is the whole path of its folder."""
    with review.exporting:
        options = FixOptions(asked.threshold, review.audit.re_pairs)
        fixed = fix(review.audit, review.decisions.all(), review.export, options)
    counts = {"keep": fixed.account.kept, "drop": fixed.account.dropped, "re-pair": fixed.account.re_paired}
    where = {"folder": str(fixed.folder), "path": str(fixed.folder.resolve()), "files": list(fixed.files)}
    return where | counts | {"account": str(fixed.account)}


def _progress(review: Review) -> dict[str, int]:
    """How many suspects are decided, or how many pairs where no pair can be called a suspect.

    Suspects come first, so that those decided are the decisions up to a rank.
    """
    all_of_them = review.audit.suspects if review.cut.is_known else len(review.audit.findings)
    return {"all": all_of_them, "decided": review.decisions.decided(all_of_them)}


def _pairs(review: Review, rows: list[int]) -> list[dict[str, Any]]:
    """Rows of the findings as the page shows them."""
    audit = review.audit
    decisions = review.decisions.of_ranks([row + 1 for row in rows])
    shown = []
    for row, found in zip(rows, audit.rows(rows), strict=True):
        caption = int(audit.suggested_caption[row])
        shown.append(
            {
                "rank": row + 1,
                "caption_id": found["caption_id"],
                "caption": found["caption"],
                "mismatch_probability": number(found["mismatch_probability"]),
                "is_suspect": found["is_suspect"],
                "image": _image(review, found["image_id"], int(audit.image[row])),
                "suggestion": _image(review, found["suggested_image_id"], int(audit.suggested_image[row])),
                "is_mutual": bool(audit.is_mutual[row]),
                "may_re_pair": bool(audit.may_re_pair[row]),
                "suggestion_probability": number(found["suggestion_probability"]),
                "suggested_caption": None if caption == NONE else audit.findings["caption"][caption].as_py(),
                "other_captions": [_other_caption(audit, other) for other in review.captions.beside(row)],
                "issues": review.issues.of(row),
                "decision": _decision(review, decisions.get(row + 1)),
            }
        )
    return shown


def _other_caption(audit: AuditFolder, row: int) -> dict[str, Any]:
    """Another caption of a pair's image."""
    caption = audit.findings["caption"][row].as_py()
    return {"rank": row + 1, "caption": caption, "mismatch_probability": number(float(audit.probability[row]))}


def _image(review: Review, image_id: str | None, number: int) -> _Image | None:
    """An image by name, with the address of its picture if there may be one; None for no image."""
    if image_id is None:
        return None
    has_picture = number != NONE and review.audit.has_pictures
    return {"id": image_id, "picture": f"pictures/{number}?v={review.pictures_version}" if has_picture else None}


def _decision(review: Review, decision: HandDecision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    image = None
    if decision.image_id is not None:
        image = _image(review, decision.image_id, review.audit.number_of_image(decision.image_id))
    return {"action": decision.action, "image": image, "time": decision.time}


def _changed(review: Review, change: Change) -> dict[str, Any]:
    return {
        "caption_id": change.caption_id,
        "rank": change.rank,
        "decision": _decision(review, change.decision),
        "was_superseded": change.was_superseded,
        "progress": _progress(review),
    }
