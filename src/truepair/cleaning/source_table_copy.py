"""A source's table without the rows that were dropped."""

from __future__ import annotations

from pathlib import Path

from truepair.cleaning.provenance import Provenance
from truepair.cleaning.table_copy import copy_rows
from truepair.errors import ConfigError, DataError
from truepair.sources.protocol import Skipped
from truepair.sources.tables import TableSource


def copy_source_table(source: TableSource, provenance: Provenance, folder: Path) -> list[Path]:
    """A table of the same name, with all columns; a pair that gets another image takes it from that image's first row.

    Returns:
        The table.

    Raises:
        ConfigError: If a row has several captions.
        DataError: If a pair is to get an image that the table does not have.
    """
    if not source.has_one_caption_a_row:
        raise ConfigError(
            f"{source.path} has rows with several captions, and a row is kept or dropped as a whole; give each caption "
            "a row of its own and audit that table"
        )
    rows_of_image = dict(source.pictures())
    image_of_row = {row: image_id for image_id, rows in rows_of_image.items() for row in rows}
    rows, donors = [], {}
    for row in range(len(image_of_row)):
        captions = source.captions_of(row)
        for skip in captions.skipped:
            provenance.skip(Skipped(f"{source.path}: {skip.where}", skip.reason, skip.detail))
        for image_id in provenance.images_of(image_of_row[row], captions.texts, captions.ids):
            rows.append(row)
            if image_id != image_of_row[row]:
                if image_id not in rows_of_image:
                    raise DataError(f"{source.path} has no image {image_id!r}, which row {row + 1} should get")
                donors[row] = rows_of_image[image_id][0]
    target = folder / source.path.name
    columns = [source.image_col, *([] if source.image_id_col is None else [source.image_id_col])]
    copy_rows(source.path, target, rows, donors, columns)
    return [target]
