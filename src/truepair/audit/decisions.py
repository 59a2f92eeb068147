"""What is to become of each pair: kept, dropped, or given another image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from truepair.audit.findings import Findings
from truepair.audit.partners import NONE


@dataclass(frozen=True, slots=True)
class Decision:
    """One pair's fate.

    Attributes:
        caption_id: Which pair.
        caption: Its caption, to notice a manifest that the decision was not made for.
        action: What to do.
        image_id: The image that the pair has, or gets if the action is ``"re-pair"``.
        reason: Why, for people.
        mismatch_probability: In [0, 1].
        former_image_id: What the image was, if the action is ``"re-pair"``.
    """

    caption_id: str
    caption: str
    action: Literal["keep", "drop", "re-pair"]
    image_id: str
    reason: str
    mismatch_probability: float
    former_image_id: str | None = None


def decide(findings: Findings, *, re_pair: bool) -> list[Decision]:
    """Keep what is no suspect; drop suspects but, with `re_pair`, give those that may be re-paired their suggestion.

    Returns:
        One decision a pair, in the order of the pairs.
    """
    pairs = findings.pairs
    decisions = []
    rows = zip(
        pairs.image_of_caption.tolist(),
        findings.mismatch_probability.tolist(),
        findings.is_suspect.tolist(),
        torch.where(findings.may_re_pair, findings.partners.image, NONE).tolist(),
        strict=True,
    )
    for pair, (image, probability, is_suspect, suggested) in enumerate(rows):
        caption_id, caption, image_id = pairs.caption_ids[pair], pairs.captions[pair], pairs.image_ids[image]
        reason = f"mismatch probability {probability:.3f}, threshold {findings.threshold:g}"
        if not is_suspect:
            decisions.append(Decision(caption_id, caption, "keep", image_id, reason, probability))
        elif re_pair and suggested != NONE:
            better = pairs.image_ids[suggested]
            decisions.append(Decision(caption_id, caption, "re-pair", better, reason, probability, image_id))
        else:
            decisions.append(Decision(caption_id, caption, "drop", image_id, reason, probability))
    return decisions
