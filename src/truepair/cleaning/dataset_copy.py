"""A Hugging Face dataset without the rows that were dropped."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pyarrow as pa

from truepair.cleaning.provenance import Provenance
from truepair.sources.captions import kept_captions
from truepair.sources.datasets import DatasetSource
from truepair.sources.protocol import Skipped


def copy_dataset(source: DatasetSource, provenance: Provenance, folder: Path) -> list[Path]:
    """A dataset of the split that was audited, with the features that it had.

    Of a row with several captions, a column whose caption is dropped becomes empty, and a list shorter.

    Returns:
        The files of the dataset.
    """
    from datasets import Dataset, concatenate_datasets

    dataset = source.dataset
    stored = dataset.with_format("arrow")
    changed_rows = folder / ".changed" / "rows.arrow"  # not in the folder itself: the library would take it for its own
    changed_rows.parent.mkdir()
    order: list[int] = []
    changed = 0
    with pa.OSFile(str(changed_rows), "wb") as file, pa.ipc.new_stream(file, dataset.features.arrow_schema) as writer:
        for item in chain.from_iterable(source.read(shard) for shard in source.shards()):
            if isinstance(item, Skipped):
                provenance.skip(item)
                continue
            row = source.row_of(item.image_id)
            for image_id, caption_ids in provenance.images_of(item.image_id, item.captions, item.caption_ids).items():
                if image_id == item.image_id and len(caption_ids) == len(item.caption_ids):
                    order.append(row)
                    continue
                donor = source.row_of(image_id)
                cells = _replaced(stored[row : row + 1], source.image_col, stored[donor : donor + 1][source.image_col])
                if len(caption_ids) < len(item.caption_ids):
                    cells = _with_captions(cells, source.caption_cols, item.image_id, caption_ids)
                writer.write_table(cells.cast(dataset.features.arrow_schema))
                order.append(len(dataset) + changed)
                changed += 1
    copied = dataset
    if changed:
        copied = concatenate_datasets(
            [dataset, Dataset.from_file(str(changed_rows))], info=dataset.info, split=dataset.split
        )
    with _quiet_unless_seen():
        copied.select(order).save_to_disk(str(folder))
    shutil.rmtree(changed_rows.parent)
    return sorted(folder.iterdir())


def _replaced(cells: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    place = cells.schema.get_field_index(column)
    return cells.set_column(place, cells.schema.field(place), values)


def _with_captions(cells: pa.Table, columns: Sequence[str], name: str, kept: Collection[str]) -> pa.Table:
    """One row with those of its captions whose ids are kept."""
    written = {column: cells[column][0].as_py() for column in columns}
    for column, cell in kept_captions(written, name, kept).items():
        cells = _replaced(cells, column, pa.array([cell], cells.schema.field(column).type))
    return cells


@contextmanager
def _quiet_unless_seen() -> Iterator[None]:
    """No progress bar of the library's where nobody looks at it."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
