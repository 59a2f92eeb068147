"""What becomes of each pair when a person has looked at some of them: by hand where decided, by the rule elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from truepair.cleaning.decisions import Decision, decide
from truepair.cleaning.decisions_db import HandDecision

BY_HAND = "by hand"


def merged(
    findings: pa.Table, by_hand: Mapping[str, HandDecision], *, threshold: float, re_pair: bool
) -> list[Decision]:
    """One decision a pair: the hand's where there is one, and otherwise the rule's, as `audit.decisions.decide`.

    Args:
        findings: What ``findings.parquet`` holds.
        by_hand: Decisions by caption id.
        threshold: The rule's, in (0, 1].
        re_pair: Whether the rule re-pairs.

    Returns:
        In the order of the findings.
    """
    by_rule = decide(findings, threshold=threshold, re_pair=re_pair)
    return [_overruled(decision, by_hand.get(decision.caption_id)) for decision in by_rule]


def _overruled(decision: Decision, hand: HandDecision | None) -> Decision:
    if hand is None:
        return decision
    own = decision.image_id if decision.former_image_id is None else decision.former_image_id
    image_id, former = (own, None) if hand.image_id is None else (hand.image_id, own)
    return replace(
        decision, action=hand.action, image_id=image_id, former_image_id=former, rule=BY_HAND, time=hand.time
    )
