"""What is to become of each pair: kept, dropped, or given another image; by the rule, by issues, or by hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pyarrow as pa

from truepair.cleaning.decisions_db import HandDecision
from truepair.errors import ConfigError

BY_HAND = "by hand"
DROPPABLE = ("blank", "tiny", "placeholder", "duplicate", "near-duplicate", "empty caption", "boilerplate")
"""Issues of which `issues_to_drop` can make decisions."""
_OF_GROUPS = ("duplicate", "near-duplicate")
"""Issues of which one image of a group stays."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one pair.

    Attributes:
        caption_id: Which pair.
        caption: Its caption, to notice a source that the decision was not made for.
        action: What to do.
        image_id: The image that the pair has, or gets if the action is ``"re-pair"``.
        rule: What decided, for people: "threshold 0.50", "issue: blank" or "by hand".
        mismatch_probability: In [0, 1]; None if it is not known.
        former_image_id: What the image was, if the action is ``"re-pair"``.
        time: When it was decided, ISO 8601; None if by the rule, which decides when it is applied.
    """

    caption_id: str
    caption: str
    action: Literal["keep", "drop", "re-pair"]
    image_id: str
    rule: str
    mismatch_probability: float | None
    former_image_id: str | None = None
    time: str | None = None


def decide(findings: pa.Table, *, threshold: float, re_pair: bool) -> list[Decision]:
    """Keep what is no suspect; drop suspects but, with `re_pair`, give those that may be re-paired their suggestion.

    A pair whose mismatch probability is not known is no suspect.

    Args:
        findings: What ``findings.parquet`` holds.
        threshold: Pairs whose mismatch probability is at least this are suspects; in (0, 1].
        re_pair: Whether suspects may be re-paired.

    Returns:
        One decision a pair, in the order of the findings.
    """
    names = ("caption_id", "caption", "image_id", "mismatch_probability", "suggested_image_id", "may_re_pair")
    probability = findings["mismatch_probability"].to_numpy()  # NaN where it is missing
    # Compared in the findings' own precision: 0.7 as float32 is not 0.7.
    is_suspect = (probability >= probability.dtype.type(threshold)).tolist()
    rule = f"threshold {_shown(threshold)}"
    decisions = []
    rows = zip(*(findings[name].to_pylist() for name in names), is_suspect, strict=True)
    for caption_id, caption, image_id, mismatch, suggested, may_re_pair, suspect in rows:
        if not suspect:
            decisions.append(Decision(caption_id, caption, "keep", image_id, rule, mismatch))
        elif re_pair and may_re_pair and suggested is not None:
            decisions.append(Decision(caption_id, caption, "re-pair", suggested, rule, mismatch, image_id))
        else:
            decisions.append(Decision(caption_id, caption, "drop", image_id, rule, mismatch))
    return decisions


@dataclass(frozen=True)
class IssuesToDrop:
    """What has issues whose pairs are to be dropped.

    Attributes:
        images: Image id → kind of issue.
        captions: Caption id → kind of issue.
        groups: Images that are the same, in order, each group with its kind; one image of each is to stay.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[tuple[str, Sequence[str]]] = ()


def issues_to_drop(issues: pa.Table, kinds: Collection[str]) -> IssuesToDrop:
    """Images and captions that have one of these issues.

    Args:
        issues: What ``issues.parquet`` holds.
        kinds: Some of `DROPPABLE`.

    Raises:
        ConfigError: If a kind is none of `DROPPABLE`.
    """
    refuse_unknown(kinds)
    images: dict[str, str] = {}
    captions: dict[str, str] = {}
    groups: dict[tuple[str, int], list[str]] = {}
    names = ("issue", "image_id", "caption_id", "group")
    for kind, image_id, caption_id, group in zip(*(issues[name].to_pylist() for name in names), strict=True):
        if kind not in kinds:
            continue
        if kind in _OF_GROUPS:
            groups.setdefault((kind, group), []).append(image_id)
        elif image_id is not None:
            images.setdefault(image_id, kind)
        if caption_id is not None:
            captions.setdefault(caption_id, kind)
    return IssuesToDrop(images, captions, [(kind, members) for (kind, _), members in groups.items()])


def refuse_unknown(kinds: Collection[str]) -> None:
    """Refuse kinds of issues of which no decisions can be made.

    Raises:
        ConfigError: If a kind is none of `DROPPABLE`.
    """
    unknown = [kind for kind in kinds if kind not in DROPPABLE]
    if unknown:
        raise ConfigError(f"there is no issue {unknown[0]!r} to drop; there are {', '.join(DROPPABLE)}")


def merged(by_rule: Sequence[Decision], issues: IssuesToDrop, by_hand: Mapping[str, HandDecision]) -> list[Decision]:
    """One decision a pair: the hand's where there is one, else an issue's, else the rule's.

    Of images that are the same, the first stays that a caption would have if they were no issue, one that was decided
    about by hand before others: the one picture of a right caption is never dropped because a wrong caption of another
    copy of it was.

    Args:
        by_rule: What `decide` gave.
        issues: What `issues_to_drop` gave.
        by_hand: Decisions by caption id.

    Returns:
        In the order of the findings.
    """
    decisions = []
    for decision in by_rule:
        own = _own_image(decision)
        issue = issues.captions.get(decision.caption_id) or issues.images.get(own)
        if issue is not None:
            decision = _dropped(decision, issue)
        decisions.append(_overruled(decision, own, by_hand.get(decision.caption_id)))
    places: dict[str, list[int]] = {}  # of the pairs that have an image in the copy
    for place, decision in enumerate(decisions):
        if decision.action != "drop":
            places.setdefault(decision.image_id, []).append(place)
    same: dict[str, Sequence[str]] = {}  # of an image that stands for its duplicates, all of them
    for kind, members in issues.groups:
        shown = [one for image in members for one in same.get(image, (image,)) if one in places]
        shown.sort(key=lambda image: all(decisions[place].rule != BY_HAND for place in places[image]))
        same[members[0]] = members
        for place in (place for image in shown[1:] for place in places.pop(image)):
            decision, stays = decisions[place], shown[0]
            if decision.rule == BY_HAND:
                continue
            if decision.action != "re-pair":
                decisions[place] = _dropped(decision, kind)
            elif decision.former_image_id == stays:  # it was to get a copy of the image that it has
                decisions[place] = replace(decision, action="keep", image_id=stays, former_image_id=None)
            else:
                decisions[place] = replace(decision, image_id=stays)
            if decisions[place].action != "drop":
                places[stays].append(place)
    return decisions


def _own_image(decision: Decision) -> str:
    """The image that a pair has in the source."""
    return decision.image_id if decision.former_image_id is None else decision.former_image_id


def _dropped(decision: Decision, issue: str) -> Decision:
    own = _own_image(decision)
    return replace(decision, action="drop", image_id=own, former_image_id=None, rule=f"issue: {issue}")


def _overruled(decision: Decision, own: str, hand: HandDecision | None) -> Decision:
    if hand is None:
        return decision
    image_id, former = (own, None) if hand.image_id is None else (hand.image_id, own)
    return replace(
        decision, action=hand.action, image_id=image_id, former_image_id=former, rule=BY_HAND, time=hand.time
    )


def _shown(threshold: float) -> str:
    """With two digits, or as many as it has."""
    return f"{threshold:.2f}" if round(threshold, 2) == threshold else f"{threshold:g}"
