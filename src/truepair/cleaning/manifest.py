"""The cleaned manifest: the user's own table without the suspects, in the same format; the input is only read."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from truepair.cleaning.decisions import Decision
from truepair.cleaning.table_copy import copy_rows
from truepair.config import DataConfig
from truepair.data.pairs import Pairs
from truepair.data.tables import SkippedRow
from truepair.errors import DataError
from truepair.sources.table_files import open_table

_FEATURE_ROWS_AT_A_TIME = 1024


def write_pairs(pairs: Pairs, decisions: Sequence[Decision], out: Path) -> list[Path]:
    """``kept.csv`` (caption_id, image_id, caption) and the lists of what changed, for pairs that came from no table.

    Args:
        pairs: All audited pairs.
        decisions: One a pair.
        out: The folder to write to.

    Returns:
        The files written.
    """
    by_id = {decision.caption_id: decision for decision in decisions}
    rows = [
        (name, by_id[name].image_id, caption)
        for name, caption in zip(pairs.caption_ids, pairs.captions, strict=True)
        if by_id[name].action != "drop"
    ]
    kept = out / "kept.csv"
    _write_csv(kept, ("caption_id", "image_id", "caption"), rows)
    return [kept, *_write_changes(decisions, [], out)]


def write_table(
    data: DataConfig, pairs: Pairs, decisions: Sequence[Decision], skipped: Sequence[SkippedRow], out: Path
) -> list[Path]:
    """``kept`` with the table's own extension, columns and row order, and the lists of what changed.

    A row that is given another image takes its image columns from the first row that has that image. Rows that were
    not audited are kept; rows whose picture cannot be read are dropped. Feature files beside the table, whose rows
    follow the table's, are written anew to match.

    Args:
        data: Which table, and what its columns are called.
        pairs: All pairs of the table, as loaded, audited or not.
        decisions: What to do, by caption id.
        skipped: Rows that were left out on loading.
        out: The folder to write to.

    Returns:
        The files written.

    Raises:
        DataError: If a file would be written over the input, or the table is not the one that was audited.
    """
    source = Path(data.path)
    kept = out / f"kept{source.suffix}"
    refuse_overwriting(kept, [source])
    ids, captions = _names(data)
    by_id = {decision.caption_id: decision for decision in decisions}
    for row, (name, caption) in enumerate(zip(ids, captions, strict=True), start=1):
        if name in by_id and by_id[name].caption != caption:
            raise DataError(
                f"{source}: row {row} ({name}) says {caption!r}, but the audit was of {by_id[name].caption!r}; was the "
                "table changed, or cleaned already? Audit it again, or give its rows ids (data.columns.caption_id)"
            )
    unreadable = {skip.row - 1 for skip in skipped}
    rows = [
        row
        for row, name in enumerate(ids)
        if row not in unreadable and (name not in by_id or by_id[name].action != "drop")
    ]
    image_of_row = _images(pairs, ids)
    first_row = {image: row for row, image in reversed(list(enumerate(image_of_row))) if image is not None}
    new_image = {
        row: by_id[ids[row]].image_id for row in rows if ids[row] in by_id and by_id[ids[row]].action == "re-pair"
    }
    donors = {row: first_row[image] for row, image in new_image.items()}
    columns = data.columns
    image_columns = [name for name in (columns.image, columns.image_id, columns.image_feature) if name is not None]
    copy_rows(source, kept, rows, donors, image_columns)

    written = [kept]
    if data.image_features is not None:
        original = {image: place for place, image in enumerate(dict.fromkeys(image_of_row))}
        present = dict.fromkeys(new_image.get(row, image_of_row[row]) for row in rows)
        written.append(out / "kept_image_features.npy")
        refuse_overwriting(written[-1], [Path(data.image_features)])
        _copy_features(Path(data.image_features), written[-1], [original[image] for image in present])
    if data.caption_features is not None:
        written.append(out / "kept_caption_features.npy")
        refuse_overwriting(written[-1], [Path(data.caption_features)])
        _copy_features(Path(data.caption_features), written[-1], rows)
    return [*written, *_write_changes(decisions, skipped, out)]


def refuse_overwriting(target: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write to one of the inputs.

    Raises:
        DataError: If `target` is the same file as one of them.
    """
    for path in inputs:
        if target.resolve() == path.resolve() or (target.exists() and path.exists() and target.samefile(path)):
            raise DataError(f"{target} is the input itself, which an audit never changes: choose another output folder")


def _names(data: DataConfig) -> tuple[list[str], list[str]]:
    """Caption id and caption of each row, as `data.tables` names them."""
    table = open_table(Path(data.path))
    captions = table.values(data.columns.caption)
    if data.columns.caption_id is None:
        return [f"row-{row}" for row in range(1, len(table) + 1)], captions
    return [str(name) for name in table.values(data.columns.caption_id)], captions


def _images(pairs: Pairs, ids: Sequence[str]) -> list[str | None]:
    """The image of each row; None where the row was left out on loading."""
    image_of_id = {
        name: pairs.image_ids[image]
        for name, image in zip(pairs.caption_ids, pairs.image_of_caption.tolist(), strict=True)
    }
    return [image_of_id.get(name) for name in ids]


def _write_changes(decisions: Sequence[Decision], skipped: Sequence[SkippedRow], out: Path) -> list[Path]:
    """``dropped.csv``, and ``re_paired.csv`` if anything was re-paired; most suspicious first."""
    ranked = sorted(decisions, key=lambda decision: -decision.mismatch_probability)
    dropped: list[tuple[object, ...]] = [
        (d.caption_id, d.image_id, d.caption, f"{d.mismatch_probability:.6f}", d.rule)
        for d in ranked
        if d.action == "drop"
    ]
    dropped += [(f"row-{skip.row}", skip.picture, "", "", f"the picture is unreadable: {skip.why}") for skip in skipped]
    written = [out / "dropped.csv"]
    _write_csv(written[0], ("caption_id", "image_id", "caption", "mismatch_probability", "reason"), dropped)
    re_paired = [
        (d.caption_id, d.former_image_id, d.image_id, d.caption, f"{d.mismatch_probability:.6f}", d.rule)
        for d in ranked
        if d.action == "re-pair"
    ]
    if re_paired:
        header = ("caption_id", "former_image_id", "image_id", "caption", "mismatch_probability", "reason")
        written.append(out / "re_paired.csv")
        _write_csv(written[1], header, re_paired)
    return written


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file, replaced atomically."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    temporary.replace(path)


def _copy_features(source: Path, target: Path, rows: Sequence[int]) -> None:
    """The chosen rows of an ``.npy`` file, some at a time."""
    values = np.load(source, mmap_mode="r", allow_pickle=False)
    temporary = target.with_name(target.name + ".part")
    written = np.lib.format.open_memmap(temporary, mode="w+", dtype=values.dtype, shape=(len(rows), *values.shape[1:]))
    for start in range(0, len(rows), _FEATURE_ROWS_AT_A_TIME):
        chosen = rows[start : start + _FEATURE_ROWS_AT_A_TIME]
        written[start : start + len(chosen)] = values[chosen]
    written.flush()
    del written
    temporary.replace(target)
