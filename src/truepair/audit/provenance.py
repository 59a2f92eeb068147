"""What became of every pair of a source, said in a table beside the cleaned copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.audit.decisions import Decision
from truepair.errors import DataError
from truepair.sources.protocol import Skipped

_SCHEMA = pa.schema(
    [
        ("caption_id", pa.string()),
        ("action", pa.string()),
        ("image_id", pa.string()),
        ("former_image_id", pa.string()),
        ("mismatch_probability", pa.float64()),
        ("reason", pa.string()),
    ]
)


class Provenance:
    """The fates of pairs, collected as a copy comes to them.

    Args:
        decisions: What to do, by caption id.
    """

    def __init__(self, decisions: Mapping[str, Decision]) -> None:
        self._decisions = decisions
        self._columns: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
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
                self._add(caption_id, "drop", image_id, None, None, "not audited")
                continue
            if decision.caption != caption:
                raise DataError(
                    f"{caption_id} says {caption!r:.200}, but the audit was of {decision.caption!r:.200}; "
                    "was the source changed? Audit it again"
                )
            self._met += 1
            self._add(
                caption_id,
                decision.action,
                decision.image_id,
                decision.former_image_id,
                decision.mismatch_probability,
                decision.reason,
            )
            if decision.action != "drop":
                becomes = decision.image_id if decision.action == "re-pair" else image_id
                captions_of.setdefault(becomes, []).append(caption_id)
        return captions_of

    def skip(self, skipped: Skipped) -> None:
        """Note what could not be read, and so was not audited; it has no caption id but the place where it is."""
        why = f"{skipped.reason} ({skipped.detail})" if skipped.detail else skipped.reason
        self._add(skipped.where, "drop", None, None, None, f"not audited: {why}")

    def new_images(self) -> set[str]:
        """The images that pairs are given."""
        return {decision.image_id for decision in self._decisions.values() if decision.action == "re-pair"}

    def write(self, path: Path) -> None:
        """A Parquet file with one row a pair, in the order of the source.

        Raises:
            DataError: If there are decisions about pairs that the source does not have.
        """
        if self._met < len(self._decisions):
            present = set(self._columns["caption_id"])
            strange = next(name for name in self._decisions if name not in present)
            raise DataError(
                f"{len(self._decisions) - self._met:,} of {len(self._decisions):,} decisions are about pairs that the "
                f"source does not have (first: {strange!r}); were they made for another source?"
            )
        pq.write_table(pa.table(self._columns, schema=_SCHEMA), path)

    def _add(self, *row: object) -> None:
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
