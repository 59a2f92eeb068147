"""How a run's codes came about, epoch by epoch, from its log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EpochOfCodes:
    """Means over one epoch's steps; None where the log does not say.

    Attributes:
        epoch: Counted from 1.
        shared_information: ``log(batch) - matching loss``, nats: an estimate of I(S_v; S_t).
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
        >>> history_of([{"kind": "steps", "epoch": 0, "steps": 3, "matching": 0.0, "confidence": 1.0}], batch=1)
        [EpochOfCodes(epoch=1, shared_information=0.0, exclusive_information=None, confidence=1.0)]
    """
    by_epoch: dict[int, list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["kind"] == "steps" and "matching" in line:
            by_epoch.setdefault(line["epoch"], []).append(line)
    history = []
    for epoch, steps in sorted(by_epoch.items()):
        matching = _mean(steps, "matching")
        shared = None if matching is None else math.log(batch) - matching
        history.append(EpochOfCodes(epoch + 1, shared, _mean(steps, "adversary"), _mean(steps, "confidence")))
    return history


def _mean(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean over steps; a line is itself the mean over some of them."""
    known = [line for line in lines if line.get(name) is not None and math.isfinite(line[name])]
    if not known:
        return None
    return float(sum(line["steps"] * line[name] for line in known) / sum(line["steps"] for line in known))
