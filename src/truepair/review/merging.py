"""What becomes of each pair when a person has looked at some of them: by hand where decided, by the rule elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from truepair.audit.decisions import Decision
from truepair.review.decisions_db import HandDecision

BY_HAND = "by hand"


def merged(
    findings: pa.Table, by_hand: Mapping[str, HandDecision], *, threshold: float, re_pair: bool
) -> list[Decision]:
    """One decision a pair: the hand's where there is one, and otherwise the audit's rule with another threshold.

    The rule keeps pairs below the threshold and drops the others but, with `re_pair`, gives those that may be
    re-paired their suggested image, as `audit.decisions.decide` does.

    Args:
        findings: What ``findings.parquet`` holds.
        by_hand: Decisions by caption id.
        threshold: Pairs whose mismatch probability is at least this are suspects; in (0, 1].
        re_pair: Whether the rule re-pairs.

    Returns:
        In the order of the findings.
    """
    chosen = findings.select(
        ["caption_id", "caption", "image_id", "mismatch_probability", "suggested_image_id", "may_re_pair"]
    )
    # Compared in the findings' own precision, as the audit does: 0.7 as float32 is not 0.7.
    reaches = _reaches(findings["mismatch_probability"], threshold)
    decisions = []
    columns = (column.to_pylist() for column in chosen.columns)
    for caption_id, caption, image_id, probability, suggested, may_re_pair, is_suspect in zip(
        *columns, reaches, strict=True
    ):
        hand = by_hand.get(caption_id)
        reason = f"mismatch probability {probability:.3f}, threshold {threshold:g}"
        if hand is not None:
            action, better, reason = hand.action, hand.image_id, BY_HAND
        elif is_suspect and re_pair and may_re_pair and suggested is not None:
            action, better = "re-pair", suggested
        else:
            action, better = ("drop" if is_suspect else "keep"), None
        given = (image_id, None) if better is None else (better, image_id)
        decisions.append(Decision(caption_id, caption, action, given[0], reason, probability, given[1]))
    return decisions


def provenance(
    decisions: Sequence[Decision],
    by_hand: Mapping[str, HandDecision],
    *,
    threshold: float,
    time: str,
    model: Mapping[str, Any],
) -> pa.Table:
    """Where each decision comes from, one row a pair.

    Columns: ``caption_id``, ``action``, ``image_id`` (the one the pair has now), ``former_image_id`` (what it was, if
    re-paired), ``mismatch_probability``, ``rule`` ("by hand", or for instance "threshold 0.50"), ``time`` (of the
    decision by hand, or `time`) and ``model`` (what scored the pairs, as JSON).

    Args:
        decisions: What `merged` gave.
        by_hand: What it was given.
        threshold: What it was given.
        time: When the rule was applied, ISO 8601.
        model: The audit's ``scored_by``.
    """
    rule = f"threshold {shown(threshold)}"
    hands = [by_hand.get(decision.caption_id) for decision in decisions]
    return pa.table(
        {
            "caption_id": pa.array([d.caption_id for d in decisions], pa.string()),
            "action": pa.array([d.action for d in decisions], pa.string()),
            "image_id": pa.array([d.image_id for d in decisions], pa.string()),
            "former_image_id": pa.array([d.former_image_id for d in decisions], pa.string()),
            "mismatch_probability": pa.array([d.mismatch_probability for d in decisions], pa.float32()),
            "rule": pa.array([rule if hand is None else BY_HAND for hand in hands], pa.string()),
            "time": pa.array([time if hand is None else hand.time for hand in hands], pa.string()),
            "model": pa.repeat(json.dumps(dict(model)), len(decisions)),
        }
    )


def shown(threshold: float) -> str:
    """A threshold with two digits, or as many as it has.

    >>> shown(0.5), shown(0.999)
    ('0.50', '0.999')
    """
    return f"{threshold:.2f}" if round(threshold, 2) == threshold else f"{threshold:g}"


def _reaches(probability: pa.ChunkedArray, threshold: float) -> list[bool]:
    values = probability.to_numpy()
    reached: list[bool] = (values >= values.dtype.type(threshold)).tolist()
    return reached
