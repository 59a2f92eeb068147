"""What is to become of each pair: kept, dropped, or given another image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Decision:
    """One pair's fate.

    Attributes:
        caption_id: Which pair.
        caption: Its caption, to notice a manifest that the decision was not made for.
        action: What to do.
        image_id: The image that the pair has, or gets if the action is ``"re-pair"``.
        rule: What decided, for people: "threshold 0.50", for instance, or "by hand".
        mismatch_probability: In [0, 1].
        former_image_id: What the image was, if the action is ``"re-pair"``.
        time: When it was decided, ISO 8601; None if by the rule, which decides when it is applied.
    """

    caption_id: str
    caption: str
    action: Literal["keep", "drop", "re-pair"]
    image_id: str
    rule: str
    mismatch_probability: float
    former_image_id: str | None = None
    time: str | None = None


def decide(findings: pa.Table, *, threshold: float, re_pair: bool) -> list[Decision]:
    """Keep what is no suspect; drop suspects but, with `re_pair`, give those that may be re-paired their suggestion.

    Args:
        findings: What `findings_table` gave, and ``findings.parquet`` holds.
        threshold: Pairs whose mismatch probability is at least this are suspects; in (0, 1].
        re_pair: Whether suspects may be re-paired.

    Returns:
        One decision a pair, in the order of the findings.
    """
    names = ("caption_id", "caption", "image_id", "mismatch_probability", "suggested_image_id", "may_re_pair")
    probability = findings["mismatch_probability"].to_numpy()
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


def _shown(threshold: float) -> str:
    """With two digits, or as many as it has."""
    return f"{threshold:.2f}" if round(threshold, 2) == threshold else f"{threshold:g}"
