"""Which rows of a table stay, and what changes in them: the part of a copy that is the same for every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from truepair.cleaning.provenance import Provenance
from truepair.errors import DataError
from truepair.sources.captions import kept_captions
from truepair.sources.decoding import decoded
from truepair.sources.picture_files import UnreadablePictureError
from truepair.sources.protocol import Sample, Skipped
from truepair.sources.tables import TableSource

_MOST_DECODED = 1000
"""Pictures of pairs without a finding that are decoded to say why they have none."""


@dataclass(frozen=True, slots=True)
class RowEdit:
    """A row of the copy.

    Attributes:
        row: The row of the source that it is, counted from 0 over all its tables.
        donor: The row that its image is taken from; None if it keeps its own.
        captions: Cells of caption columns that change; None if none does.
    """

    row: int
    donor: int | None = None
    captions: Mapping[str, object] | None = None


def row_edits(source: TableSource, provenance: Provenance) -> list[RowEdit]:
    """The rows of the copy, in the order of the source.

    Of a row with several captions, a column whose caption is dropped becomes empty, and a list shorter. Where captions
    of one row part ways, the row stands once for each image that they have.

    Raises:
        DataError: If a pair is to get an image that the source does not have.
    """
    pictures = source.pictures()
    image_of_row = {row: picture.image_id for picture in pictures for row in picture.rows}
    first_row = {picture.image_id: picture.rows[0] for picture in pictures}
    reason = _Reasons(lambda row: source.picture(source.reference_of(row)))
    edits: list[RowEdit] = []
    for row in range(len(source)):
        captions, image_id = source.captions_of(row), image_of_row[row]
        unread = [name for skip in captions.skipped for name in skip.caption_ids]
        is_kept = False
        for skip in captions.skipped:
            where = f"{source.path}: {skip.where}"
            is_kept |= provenance.skip(Skipped(where, skip.reason, skip.detail, skip.caption_ids))
        why = None
        if any(not provenance.is_decided(name) for name in captions.ids):
            why = reason.of(first_row[image_id])
        images = provenance.images_of(image_id, captions.texts, captions.ids, why)
        if is_kept:
            images.setdefault(image_id, []).extend(unread)
        for new_image, kept in images.items():
            if new_image not in first_row:
                raise DataError(f"{source.path} has no image {new_image!r}, which row {row + 1} should get")
            is_whole = len(kept) == len(captions.ids) + len(unread)
            cells = source.cells_of(row)
            changed = cells if is_whole else kept_captions(cells, source.name_of(row), kept)
            donor = None if new_image == image_id else first_row[new_image]
            edits.append(RowEdit(row, donor, None if changed == cells else changed))
    return edits


class _Reasons:
    """Why pairs have no finding: their picture cannot be read, or the audit did not look at them."""

    def __init__(self, picture: Callable[[int], bytes]) -> None:
        self._picture = picture
        self._known: dict[int, str] = {}

    def of(self, row: int) -> str | None:
        """A few words about the picture of a row; None if nothing is wrong with it."""
        if row not in self._known:
            if len(self._known) >= _MOST_DECODED:
                return None
            self._known[row] = reason_of(lambda: self._picture(row)) or ""
        return self._known[row] or None


def why_not_audited(sample: Sample, provenance: Provenance) -> str | None:
    """Why some of a sample's captions have no decision, in a few words; None if all have one, or nothing is wrong."""
    if all(map(provenance.is_decided, sample.caption_ids)):
        return None
    return reason_of(lambda: sample.picture)


def reason_of(picture: Callable[[], bytes]) -> str | None:
    """Why a picture cannot be read, in a few words; None if it can."""
    try:
        decoded(picture(), largest_side=64)
    except UnreadablePictureError as error:
        return error.reason
    except DataError:
        return "unreadable picture"
    return None


def edits_by_part(edits: Sequence[RowEdit], source: TableSource) -> list[list[tuple[int, RowEdit]]]:
    """Of each table of the source, its rows in the copy, each with its place in that table."""
    found: list[list[tuple[int, RowEdit]]] = [[] for _ in source.parts]
    for edit in edits:
        part, place = source.place_of(edit.row)
        found[part].append((place, edit))
    return found
