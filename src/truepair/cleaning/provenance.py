"""What became of every pair, and why, said in a table beside the cleaned copy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from truepair.cleaning.decisions import Decision
from truepair.errors import DataError
from truepair.files.parquet import write_parquet
from truepair.sources.protocol import Skipped

_SCHEMA = pa.schema(
    [
        ("caption_id", pa.string()),
        ("action", pa.string()),
        ("image_id", pa.string()),
        ("former_image_id", pa.string()),
        ("mismatch_probability", pa.float64()),
        ("rule", pa.string()),
        ("time", pa.string()),
        ("model", pa.string()),
    ]
)


class Provenance:
    """The fates of pairs, collected as a copy comes to them.

    Columns of the table: ``caption_id``, ``action``, ``image_id`` (the one that the pair has now), ``former_image_id``
    (what it was, if re-paired), ``mismatch_probability``, ``rule`` ("by hand", "threshold 0.50", or "not audited" and
    why), ``time`` (of the decision) and ``model`` (what scored the pairs, as JSON).

    Args:
        decisions: What to do, by caption id.
        time: When the rule was applied, ISO 8601; unknown if not given.
        model: What scored the pairs; unknown if not given.
    """

    def __init__(
        self, decisions: Mapping[str, Decision], *, time: str | None = None, model: Mapping[str, Any] | None = None
    ) -> None:
        self._decisions = decisions
        self._time = time
        self._model = None if model is None else json.dumps(dict(model))
        self._rows: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
        self._met = 0

    def images_of(self, image_id: str, captions: Sequence[str], caption_ids: Sequence[str]) -> dict[str, list[str]]:
        """What is to stand in the copy: images, with the ids of the captions that they have there.

        Captions without a decision are dropped, as ``not audited``.

        Args:
            image_id: The image that the captions have in the source.
            captions: Captions.
            caption_ids: Their ids.

        Raises:
            DataError: If a decision was made for another caption.
        """
        captions_of: dict[str, list[str]] = {}
        for caption, caption_id in zip(captions, caption_ids, strict=True):
            decision = self._decisions.get(caption_id)
            if decision is None:
                self._add_not_audited(caption_id, image_id, "not audited")
                continue
            if decision.caption != caption:
                raise DataError(
                    f"{caption_id} says {caption!r:.200}, but the audit was of {decision.caption!r:.200}; "
                    "was the source changed? Audit it again"
                )
            self.add(decision)
            if decision.action != "drop":
                becomes = decision.image_id if decision.action == "re-pair" else image_id
                captions_of.setdefault(becomes, []).append(caption_id)
        return captions_of

    def add(self, decision: Decision) -> None:
        """Note one of the decisions."""
        self._met += 1
        self._add(
            caption_id=decision.caption_id,
            action=decision.action,
            image_id=decision.image_id,
            former_image_id=decision.former_image_id,
            mismatch_probability=decision.mismatch_probability,
            rule=decision.rule,
            time=decision.time or self._time,
            model=self._model,
        )

    def skip(self, skipped: Skipped) -> None:
        """Note what could not be read, and so was not audited; it has no caption id but the place where it is."""
        why = f"{skipped.reason} ({skipped.detail})" if skipped.detail else skipped.reason
        self._add_not_audited(skipped.where, None, f"not audited: {why}")

    def new_images(self) -> set[str]:
        """The images that pairs are given."""
        return {decision.image_id for decision in self._decisions.values() if decision.action == "re-pair"}

    def write(self, path: Path) -> None:
        """A Parquet file with one row a pair, in the order of the source.

        Raises:
            DataError: If there are decisions about pairs that the source does not have.
        """
        if self._met < len(self._decisions):
            present = set(self._rows["caption_id"])
            strange = next(name for name in self._decisions if name not in present)
            raise DataError(
                f"{len(self._decisions) - self._met:,} of {len(self._decisions):,} decisions are about pairs that the "
                f"source does not have (first: {strange!r}); were they made for another source?"
            )
        write_parquet(pa.table(self._rows, schema=_SCHEMA), path)

    def _add_not_audited(self, caption_id: str, image_id: str | None, why: str) -> None:
        self._add(caption_id=caption_id, action="drop", image_id=image_id, rule=why)

    def _add(self, **values: object) -> None:
        for name, column in self._rows.items():
            column.append(values.get(name))
