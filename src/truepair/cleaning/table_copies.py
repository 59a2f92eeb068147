"""Copies of sources that are tables: a file, a picture folder, a hub folder, a saved dataset, a caption file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from truepair.cleaning.provenance import Provenance
from truepair.cleaning.row_edits import RowEdit, edits_by_part, row_edits
from truepair.cleaning.table_writers import image_cells, write_json_like, write_rows
from truepair.files.json import parsed_json
from truepair.sources.annotation_files import token_lines
from truepair.sources.picture_files import Location
from truepair.sources.stores import on_disk
from truepair.sources.table_files import Table
from truepair.sources.tables import Part, TableSource
from truepair.sources.text_files import opened_bytes, opened_text, written_bytes

_FEATURE_ROWS_AT_A_TIME = 1024
_SIZES = ("splits", "download_size", "dataset_size", "size_in_bytes", "download_checksums")
"""What a dataset's description says of how large it is."""


def copy_table(source: TableSource, provenance: Provenance, folder: Path) -> list[Path]:
    """A table of the same name, format and columns; of an archive, an archive with the pictures that rows name.

    A pair that gets another image takes the image columns of that image's first row. Pictures on disk are not copied;
    paths with ``..``, which start at the table's folder, become paths from the image root, or whole ones.
    """
    edits = row_edits(source, provenance)
    table = source.parts[0].table
    if isinstance(table.path, zipfile.Path):
        return [_copy_archive(source, edits, folder)]
    target = folder / table.path.name
    (here,) = edits_by_part(edits, source)
    _write_from_root(source, table, here, target)
    return [target]


def _write_from_root(source: TableSource, table: Table, here: Sequence[tuple[int, RowEdit]], target: Path) -> None:
    """As `_write_part`, with new paths where they hold ``..``."""
    names = _names_from_root(source, [edit for _, edit in here])
    _write_part(source, table, [(place, _renamed_edit(source, edit, names)) for place, edit in here], target, names)


def _names_from_root(source: TableSource, edits: Sequence[RowEdit]) -> dict[int, str]:
    """New paths of pictures whose path holds ``..``, by row: a table in another folder would mean another file."""
    names: dict[int, str] = {}
    for row in dict.fromkeys(edit.row if edit.donor is None else edit.donor for edit in edits):
        path = PurePosixPath(_path_of(source, row))
        if ".." not in path.parts or path.is_absolute():
            continue
        file, root = source.file_of(row), source.parts[source.place_of(row)[0]].root
        if isinstance(file, Path) and isinstance(root, Path):
            whole, start = (Path(os.path.abspath(each)) for each in (file, root))  # noqa: PTH100, links stay links
            names[row] = (whole.relative_to(start) if whole.is_relative_to(start) else whole).as_posix()
    return names


def copy_picture_folder(source: TableSource, provenance: Provenance, folder: Path) -> list[Path]:
    """Pictures that rows name, at the paths that they had, and the metadata tables beside them.

    Where a pair gets a picture of another folder, that picture is copied into its own; so is one that lay outside the
    folder, which the row then names there.
    """
    edits = row_edits(source, provenance)
    written: list[Path] = []
    for part, here in zip(source.parts, edits_by_part(edits, source), strict=True):
        inside = folder / part.name
        inside.mkdir(parents=True, exist_ok=True)
        names = _names_in_folder(source, [edit.row if edit.donor is None else edit.donor for _, edit in here], part)
        for row, name in names.items():
            target = inside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                file = source.file_of(row)
                assert file is not None
                target.write_bytes(file.read_bytes())
                written.append(target)
        renamed = [(place, _renamed_edit(source, edit, names)) for place, edit in here]
        table = inside / Path(str(part.table.path)).name
        _write_part(source, part.table, renamed, table, names)
        written.append(table)
    return written


def _renamed_edit(source: TableSource, edit: RowEdit, names: Mapping[int, str]) -> RowEdit:
    """The edit of a row; one whose own picture has another name in the copy takes that as from a donor."""
    is_renamed = edit.donor is None and names.get(edit.row, _path_of(source, edit.row)) != _path_of(source, edit.row)
    return replace(edit, donor=edit.row) if is_renamed else edit


def copy_parquet_folder(source: TableSource, provenance: Provenance, folder: Path) -> list[Path]:
    """The Parquet files at the paths that they had, and the card (README.md) without the sizes that it states."""
    edits = row_edits(source, provenance)
    written = []
    for part, here in zip(source.parts, edits_by_part(edits, source), strict=True):
        target = folder / f"{part.name}{Path(str(part.table.path)).suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_from_root(source, part.table, here, target)
        written.append(target)
    card = source.path / "README.md"
    if card.is_file():
        (folder / card.name).write_text(_without_sizes(card.read_text(encoding="utf-8")), encoding="utf-8")
        written.append(folder / card.name)
    return written


def copy_dataset(source: TableSource, provenance: Provenance, folder: Path) -> list[Path]:
    """A dataset, or one of the same splits, as ``save_to_disk`` writes it, with the features that it had."""
    edits = row_edits(source, provenance)
    written = []
    for part, here in zip(source.parts, edits_by_part(edits, source), strict=True):
        inside = folder / part.name
        inside.mkdir(parents=True, exist_ok=True)
        rows = inside / "data-00000-of-00001.arrow"
        _write_from_root(source, part.table, here, rows)
        stored = part.table.path
        state = parsed_json((stored / "state.json").read_bytes(), str(stored / "state.json"))
        state["_data_files"] = [{"filename": rows.name}]
        state["_fingerprint"] = _fingerprint(rows)
        (inside / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True), encoding="utf-8")
        written += [rows, inside / "state.json"]
        described = stored / "dataset_info.json"
        if described.is_file():
            info = parsed_json(described.read_bytes(), str(described))
            kept = {name: value for name, value in info.items() if name not in _SIZES}
            (inside / described.name).write_text(json.dumps(kept, indent=2, sort_keys=True), encoding="utf-8")
            written.append(inside / described.name)
    if source.parts[0].name:
        names = json.dumps({"splits": [part.name for part in source.parts]})
        (folder / "dataset_dict.json").write_text(names, encoding="utf-8")
        written.append(folder / "dataset_dict.json")
    return written


def copy_coco(source: TableSource, provenance: Provenance, folder: Path) -> list[Path]:
    """COCO captions: the annotations that stay, and the images that have some, or never had any."""

    def changed(document: dict[str, Any], edits: Sequence[RowEdit]) -> dict[str, Any]:
        annotations = document["annotations"]
        kept = [
            annotations[edit.row] | ({} if edit.donor is None else {"image_id": annotations[edit.donor]["image_id"]})
            for edit in edits
        ]
        shown, before = ({item["image_id"] for item in items} for items in (kept, annotations))
        names = {annotations[row]["image_id"]: name for row, name in _names_from_root(source, edits).items()}
        images = [
            image | ({"file_name": names[image["id"]]} if image["id"] in names else {})
            for image in document["images"]
            if image["id"] in shown or image["id"] not in before
        ]
        return document | {"images": images, "annotations": kept}

    return _copy_document(source, provenance, folder, changed)


def copy_karpathy(source: TableSource, provenance: Provenance, folder: Path) -> list[Path]:
    """Karpathy's splits: the sentences that stay, under the image that they have, and the images that have some."""

    def changed(document: dict[str, Any], edits: Sequence[RowEdit]) -> dict[str, Any]:
        sentences = [(place, item) for place, image in enumerate(document["images"]) for item in image["sentences"]]
        of_image: dict[int, list[Any]] = {}
        names = {sentences[row][0]: name for row, name in _names_from_root(source, edits).items()}
        for edit in edits:
            owner = sentences[edit.row if edit.donor is None else edit.donor][0]
            of_image.setdefault(owner, []).append(sentences[edit.row][1])
        images = []
        for place, kept in sorted(of_image.items()):
            image = document["images"][place] | {"sentences": kept}
            if place in names:
                image |= {"filename": names[place]} | ({"filepath": ""} if "filepath" in image else {})
            images.append(image | ({"sentids": [item["sentid"] for item in kept]} if "sentids" in image else {}))
        return document | {"images": images}

    return _copy_document(source, provenance, folder, changed)


def copy_tokens(source: TableSource, provenance: Provenance, folder: Path) -> list[Path]:
    """A token file: the lines that stay; a caption that gets another image gets its name, and a free number."""
    edits = row_edits(source, provenance)
    file = source.parts[0].table.path
    with opened_text(file) as stored:
        lines = token_lines(stored)
    taken, names = {line.partition("\t")[0] for line in lines}, _names_from_root(source, edits)
    taken |= {names[row] + lines[row].partition("\t")[0][len(lines[row].partition("#")[0]) :] for row in names}
    kept = []
    for edit in edits:
        line = lines[edit.row] if lines[edit.row].endswith("\n") else lines[edit.row] + "\n"
        if edit.donor is not None:
            name = names.get(edit.donor, lines[edit.donor].partition("#")[0])
            token = next(f"{name}#{number}" for number in count() if f"{name}#{number}" not in taken)
            taken.add(token)
            line = token + "\t" + line.partition("\t")[2]
        elif edit.row in names:
            line = names[edit.row] + line[len(line.partition("#")[0]) :]
        kept.append(line)
    return _written(source, edits, folder, "".join(kept).encode("utf-8"))


def copy_features(source: TableSource, edits: Sequence[RowEdit], files: Mapping[str, Path], folder: Path) -> list[Path]:
    """Feature files beside a table, whose rows follow the copy's: one a distinct image, or one a row.

    Args:
        source: The table.
        edits: The rows of the copy.
        files: ``images`` and ``captions``, where there are such files.
        folder: The folder to write to.
    """
    written: list[Path] = []
    pictures = source.pictures()
    image_of_row = {row: number for number, picture in enumerate(pictures) for row in picture.rows}
    if "images" in files:
        shown = (image_of_row[edit.row if edit.donor is None else edit.donor] for edit in edits)
        written.append(folder / files["images"].name)
        _copy_feature_rows(files["images"], written[-1], list(dict.fromkeys(shown)))
    if "captions" in files:
        written.append(folder / files["captions"].name)
        _copy_feature_rows(files["captions"], written[-1], [edit.row for edit in edits])
    return written


def _write_part(
    source: TableSource,
    table: Table,
    here: Sequence[tuple[int, RowEdit]],
    target: Path,
    names: Mapping[int, str] | None = None,
) -> None:
    """One table of a source.

    Args:
        source: The source.
        table: One of its tables.
        here: Rows of the copy that are this table's, each with its place in it.
        target: The file to write.
        names: By row, what a picture is called in the copy, where it is not called as before.
    """
    columns = [source.columns.image, source.options.image_id_col, source.options.image_feature_col]
    wanted = [name for name in columns if name is not None]
    donors = [edit.donor for _, edit in here if edit.donor is not None]
    rows_of_owner: dict[int, dict[int, int]] = {}
    for row in donors:
        owner, place = source.place_of(row)
        rows_of_owner.setdefault(owner, {})[place] = row
    images: dict[int, Any] = {}
    for owner, rows in rows_of_owner.items():
        for place, cells in image_cells(source.parts[owner].table, list(rows), wanted).items():
            images[rows[place]] = cells
    if names and source.columns.image is not None:
        for row in donors:
            if row in names:
                images[row] = _renamed(images[row], source.columns.image, names[row])
    write_rows(table, target, here, images)


def _renamed(cells: Any, column: str, name: str) -> Any:
    """Cells of a donor with another path."""
    if not isinstance(cells, pa.Table):
        return dict(cells) | {column: name}
    place = cells.schema.get_field_index(column)
    return cells.set_column(place, cells.schema.field(place), pa.array([name], cells.schema.field(place).type))


def _names_in_folder(source: TableSource, rows: Sequence[int], part: Part) -> dict[int, str]:
    """What the pictures of rows are called in the copy of a picture folder.

    One keeps its name if it lies in the folder; each of the others has a name that no other picture has, neither in the
    source nor in the copy.

    Returns:
        By row; rows without a picture file are left out.
    """
    names: dict[int, str] = {}
    files = {row: source.file_of(row) for row in dict.fromkeys(rows)}
    there = {row: file for row, file in files.items() if file is not None and file.is_file()}
    for row in there:
        written, (number, _) = PurePosixPath(_path_of(source, row)), source.place_of(row)
        if source.parts[number] is part and not written.is_absolute() and ".." not in written.parts:
            names[row] = str(written)
    taken = {*names.values()}
    called: dict[str, str] = {}
    for row, file in there.items():
        if row in names:
            continue
        if str(file) not in called:
            name = PurePosixPath(_path_of(source, row))
            free = (f"{name.stem}{suffix}{name.suffix}" for suffix in chain([""], (f"~{copy}" for copy in count(2))))
            called[str(file)] = next(each for each in free if each not in taken and not (part.root / each).exists())
            taken.add(called[str(file)])
        names[row] = called[str(file)]
    return names


def _path_of(source: TableSource, row: int) -> str:
    """What a row's picture is called, with ``/``."""
    return str(source.path_of(row)).replace("\\", "/")


def _copy_document(source: TableSource, provenance: Provenance, folder: Path, changed: Any) -> list[Path]:
    edits = row_edits(source, provenance)
    with opened_bytes(source.parts[0].table.path) as file:
        text = file.read().decode("utf-8-sig")
    target = folder / source.parts[0].table.path.name
    write_json_like(target, changed(parsed_json(text, target.name, keep_numbers=True), edits), text)
    if isinstance(source.parts[0].table.path, zipfile.Path):
        content = target.read_bytes()
        target.unlink()
        return _written(source, edits, folder, content)
    return [target]


def _written(source: TableSource, edits: Sequence[RowEdit], folder: Path, content: bytes) -> list[Path]:
    """A caption file, or the archive that it is in."""
    file = source.parts[0].table.path
    if isinstance(file, zipfile.Path):
        return [_pack(source, edits, folder, content)]
    with written_bytes(folder / file.name) as target:
        target.write(content)
    return [folder / file.name]


def _copy_archive(source: TableSource, edits: Sequence[RowEdit], folder: Path) -> Path:
    beside = folder / ".table"
    beside.mkdir()
    table = source.parts[0].table
    target = beside / table.path.name
    (here,) = edits_by_part(edits, source)
    _write_part(source, table, here, target)
    content = target.read_bytes()
    shutil.rmtree(beside)
    return _pack(source, edits, folder, content)


def _pack(source: TableSource, edits: Sequence[RowEdit], folder: Path, content: bytes) -> Path:
    """An archive with another table in it, and without the pictures that only dropped rows name."""
    table = source.parts[0].table.path
    assert isinstance(table, zipfile.Path)
    named = {_member(source.file_of(row)) for row in range(len(source))}
    kept = {_member(source.file_of(edit.row if edit.donor is None else edit.donor)) for edit in edits}
    target = folder / source.path.name
    with zipfile.ZipFile(on_disk(source.path)) as stored, zipfile.ZipFile(target, "w") as archive:
        for info in stored.infolist():
            if info.filename == table.at:
                archive.writestr(info, content)
            elif info.filename not in named or info.filename in kept:
                archive.writestr(info, stored.read(info))
    return target


def _member(file: Location | None) -> str | None:
    return file.at if isinstance(file, zipfile.Path) else None


def _without_sizes(card: str) -> str:
    """A dataset's card without ``dataset_info``, whose numbers of rows and bytes are those of another dataset."""
    kept, is_inside = [], False
    for line in card.splitlines(keepends=True):
        is_inside = line.startswith("dataset_info:") or (
            is_inside and line.startswith((" ", "-", "\t")) and line != "---\n"
        )
        if not is_inside:
            kept.append(line)
    return "".join(kept)


def _fingerprint(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stored:
        for chunk in iter(lambda: stored.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _copy_feature_rows(source: Path, target: Path, rows: Sequence[int]) -> None:
    """The chosen rows of an ``.npy`` file, some at a time."""
    values = np.load(source, mmap_mode="r", allow_pickle=False)
    written = np.lib.format.open_memmap(target, mode="w+", dtype=values.dtype, shape=(len(rows), *values.shape[1:]))
    for start in range(0, len(rows), _FEATURE_ROWS_AT_A_TIME):
        chosen = rows[start : start + _FEATURE_ROWS_AT_A_TIME]
        written[start : start + len(chosen)] = values[chosen]
    written.flush()
    del written
