"""What became of every pair, and why, said in a table beside the cleaned copy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from truepair.cleaning.decisions import Decision
from truepair.errors import DataError
from truepair.files.parquet import write_parquet
from truepair.sources.picture_files import utf8_name
from truepair.sources.protocol import Skipped

NOT_AUDITED = "not audited"
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


@dataclass(frozen=True)
class Account:
    """How many pairs of the input became what.

    Attributes:
        kept: Kept as they were.
        dropped: Dropped by a decision.
        re_paired: Given another image.
        not_audited: By the reason why no decision was made; dropped too, unless these are to be kept.
    """

    kept: int
    dropped: int
    re_paired: int
    not_audited: Mapping[str, int]

    def __str__(self) -> str:
        counts = f"{self.kept:,} kept, {self.dropped:,} dropped, {self.re_paired:,} re-paired"
        without = sum(self.not_audited.values())
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in self.not_audited.items())
        return f"{counts}, {without:,} not audited: {reasons}" if without else counts


def refuse_other_caption(caption_id: str, caption: str, audited: str) -> None:
    """Refuse a source in which a caption is not what was audited.

    Raises:
        DataError: If it is another.
    """
    if caption != audited:
        raise DataError(
            f"{caption_id} says {caption!r:.200}, but the audit was of {audited!r:.200}; was the source changed? Audit "
            "it again, into another folder"
        )


class Provenance:
    """What becomes of pairs, collected as a copy comes to them.

    Columns of the table: ``caption_id``, ``action``, ``image_id`` (the one that the pair has now), ``former_image_id``
    (what it was, if re-paired), ``mismatch_probability``, ``rule`` ("by hand", "threshold 0.50", "issue: blank", or
    "not audited" and why), ``time`` (of the decision) and ``model`` (what scored the pairs, as JSON).

    Args:
        decisions: What to do, by caption id.
        keep_unaudited: Whether pairs without a decision stay.
        time: When the rule was applied, ISO 8601; unknown if not given.
        model: What scored the pairs; unknown if not given.
    """

    def __init__(
        self,
        decisions: Mapping[str, Decision],
        *,
        keep_unaudited: bool = False,
        time: str | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> None:
        self._decisions = decisions
        self.keep_unaudited = keep_unaudited
        self._time = time
        self._model = None if model is None else json.dumps(dict(model))
        self._rows: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
        self._actions = Counter[str]()
        self._not_audited = Counter[str]()

    def images_of(
        self, image_id: str, captions: Sequence[str], caption_ids: Sequence[str], why: str | None = None
    ) -> dict[str, list[str]]:
        """What is to stand in the copy: images, with the ids of the captions that they have there.

        Captions without a decision are not audited: they are dropped, or stay if these are to be kept.

        Args:
            image_id: The image that the captions have in the source.
            captions: Captions.
            caption_ids: Their ids.
            why: Why they have no decision, if they have none.

        Raises:
            DataError: If a decision was made for another caption.
        """
        captions_of: dict[str, list[str]] = {}
        for caption, caption_id in zip(captions, caption_ids, strict=True):
            decision = self._decisions.get(caption_id)
            if decision is None:
                self._add_not_audited(caption_id, image_id, why or "", "")
                if self.keep_unaudited:
                    captions_of.setdefault(image_id, []).append(caption_id)
                continue
            refuse_other_caption(caption_id, caption, decision.caption)
            self.add(decision)
            if decision.action != "drop":
                becomes = decision.image_id if decision.action == "re-pair" else image_id
                captions_of.setdefault(becomes, []).append(caption_id)
        return captions_of

    def is_decided(self, caption_id: str) -> bool:
        """Whether there is a decision about a pair."""
        return caption_id in self._decisions

    def add(self, decision: Decision) -> None:
        """Note one of the decisions."""
        self._actions[decision.action] += 1
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

    def skip(self, skipped: Skipped) -> bool:
        """Note what could not be read, and so was not audited.

        Returns:
            Whether it is to be kept all the same.
        """
        for name in skipped.caption_ids or (skipped.where,):
            self._add_not_audited(name, None, skipped.reason, skipped.detail)
        return self.keep_unaudited

    def again(self) -> Provenance:
        """An empty one that decides alike."""
        return Provenance(self._decisions, keep_unaudited=self.keep_unaudited)

    def new_images(self) -> set[str]:
        """The images that pairs are given."""
        return {decision.image_id for decision in self._decisions.values() if decision.action == "re-pair"}

    def account(self) -> Account:
        """How many pairs became what so far."""
        counts = self._actions
        return Account(counts["keep"], counts["drop"], counts["re-pair"], dict(self._not_audited.most_common()))

    def write(self, path: Path) -> None:
        """A Parquet file with one row a pair, in the order of the source.

        Raises:
            DataError: If there are decisions about pairs that the source does not have.
        """
        met = self._actions.total()
        if met < len(self._decisions):
            present = set(self._rows["caption_id"])
            strange = next(name for name in self._decisions if name not in present)
            raise DataError(
                f"{len(self._decisions) - met:,} of {len(self._decisions):,} decisions are about pairs that the source "
                f"does not have (first: {strange!r}); were they made for another source, or was it changed?"
            )
        write_parquet(pa.table(self._rows, schema=_SCHEMA), path)

    def _add_not_audited(self, caption_id: str, image_id: str | None, reason: str, detail: str) -> None:
        self._not_audited[reason or "without a finding"] += 1
        why = f"{reason} ({detail})" if detail else reason
        rule = f"{NOT_AUDITED}: {why}" if why else NOT_AUDITED
        action = "keep" if self.keep_unaudited else "drop"
        name = None if image_id is None else utf8_name(image_id)
        self._add(caption_id=caption_id, action=action, image_id=name, rule=rule)

    def _add(self, **values: object) -> None:
        for name, column in self._rows.items():
            column.append(values.get(name))
