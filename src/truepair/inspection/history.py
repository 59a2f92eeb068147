"""How a run's codes came about, epoch by epoch, from its log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truepair.training.log import means_by_epoch


@dataclass(frozen=True)
class EpochOfCodes:
    """Means over one epoch's steps; None where the log does not say.

    Attributes:
        epoch: Counted from 1.
        shared_information: ``log(batch) - InfoNCE`` of all pairs of a batch alike, nats: a lower bound on I(S_v; S_t)
            of the training pairs, as far as they match.
        exclusive_information: The critics' estimate of I(S; X), nats, the sum over both modalities.
        confidence: Mean confidence of the noise filter in the pairs, in [0, 1].
    """

    epoch: int
    shared_information: float | None
    exclusive_information: float | None
    confidence: float | None


def history_of(lines: Sequence[Mapping[str, Any]], batch: int) -> list[EpochOfCodes]:
    """One entry for each epoch of a log that trained codes.

    Args:
        lines: Of ``log.jsonl``; see `training.log.read_log`.
        batch: Pairs in a batch.

    Example:
        >>> history_of([{"kind": "steps", "epoch": 0, "steps": 3, "info_nce": 0.0, "confidence": 1.0}], batch=1)
        [EpochOfCodes(epoch=1, shared_information=0.0, exclusive_information=None, confidence=1.0)]
    """
    losses, critics, confidence = (means_by_epoch(lines, name) for name in ("info_nce", "adversary", "confidence"))
    return [
        EpochOfCodes(
            epoch,
            math.log(batch) - losses[epoch] if epoch in losses else None,
            critics.get(epoch),
            confidence.get(epoch),
        )
        for epoch in sorted({*losses, *critics})
    ]
