"""Hugging Face datasets on disk as tables: ``save_to_disk`` folders, hub folders of Parquet files, picture folders.

Nothing is written beside them, and the library ``datasets`` is not needed: its formats
are Arrow streams, Parquet files, and ``metadata.csv`` or ``metadata.jsonl`` beside the pictures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from truepair.config.source import AUTO, SourceConfig
from truepair.errors import ConfigError, DataError
from truepair.files.json import parsed_json
from truepair.sources.downloads import is_download_log
from truepair.sources.outputs import is_table_of_audit, outside_outputs
from truepair.sources.picture_files import leads_out
from truepair.sources.skipped import SKIPPED
from truepair.sources.stores import StorePath, located, pure_path
from truepair.sources.table_files import ArrowTable, is_table, table_at
from truepair.sources.tables import Part, TableSource

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Tables of a folder of pictures, whose column ``file_name`` starts at the folder that they lie in."""
PROVENANCE = "provenance.parquet"
"""What a cleaned copy has beside its pictures and captions: what became of every pair of the source."""

_SHARD_OF_SPLIT = re.compile(r"(?P<split>[A-Za-z][A-Za-z_]*?)[-_.]\d+([-_]of[-_]\d+)?")
_SPLITS = ("train", "training", "test", "testing", "dev", "val", "valid", "validation")


def is_saved_dataset(folder: Path | StorePath) -> bool:
    """Whether ``save_to_disk`` of a Dataset or a DatasetDict wrote the folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def saved_dataset(path: Path | StorePath, options: SourceConfig) -> TableSource:
    """What ``save_to_disk`` wrote: all splits of a DatasetDict, or the one that is asked for.

    Ids are ``row-N``, N counted from 1 in the split; of a DatasetDict ``train/row-N``.

    Raises:
        DataError: If a file is missing or damaged, or a column is missing.
        ConfigError: If there is no such split.
    """
    if (path / "dataset_dict.json").is_file():
        described = _json(path / "dataset_dict.json")
        named = _plain_names(described.get("splits") or [], path / "dataset_dict.json")
        splits = _chosen(path, named, options.split)
        if not splits:
            raise DataError(f"{path} has no splits; is the dataset complete?")
        found = [_saved_part(path / split, split, split, options) for split in splits]
    else:
        state = _json(path / "state.json")
        only = state.get("_split")
        if options.split not in (None, only):
            raise ConfigError(f"{path} is of one split ({only or 'without a name'}): leave --split out")
        found = [_saved_part(path, "", only, options)]
    parts = [part for part in found if part is not None]
    if not parts:
        raise DataError(f"{path} has no rows")
    return TableSource(path, parts, options, kind="dataset")


def metadata_files(folder: Path | StorePath) -> list[Path | StorePath]:
    """The metadata tables of a folder of pictures, in the folder itself and in those below it, sorted."""
    found = [_inside(path, folder) for name in METADATA for path in folder.rglob(name)]
    names = (path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
    return sorted((folder / name for name in outside_outputs(names, folder)), key=pure_path)


def is_near_metadata(table: Path | StorePath) -> bool:
    """Whether a table has nearly the name of a metadata table, such as ``metadata1000.jsonl``."""
    extensions = [PurePath(name).suffix for name in METADATA]
    return table.stem.lower().startswith("metadata") and table.suffix in extensions and table.name not in METADATA


def unread_tables(folder: Path | StorePath) -> list[Path | StorePath]:
    """Tables beside pictures that are not read with them, those first that nearly have the name of metadata tables."""
    known = (*METADATA, PROVENANCE, SKIPPED)
    found = [path for path in folder.glob("*") if is_table(path) and path.name[0] != "." and path.name not in known]
    tables = (path for path in found if path.is_file() and not is_download_log(path) and not is_table_of_audit(path))
    return sorted(tables, key=lambda path: (not is_near_metadata(path), pure_path(path)))


def picture_folder(path: Path | StorePath, options: SourceConfig) -> TableSource:
    """A folder of pictures with ``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet``, in it or below it.

    A table that has only a header, as a split that lost all of its rows has, is passed over where others have rows.
    Ids of tables in folders below have the folder's path before them. A folder called ``train``, ``test`` and so on is
    a split.

    Raises:
        DataError: If a table cannot be read or lacks a column, no table has rows, or a folder has two of them.
        ConfigError: If there is no such split.
    """
    tables = metadata_files(path)
    refuse_links(tables, path, options)
    folders = [table.parent for table in tables]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise DataError(f"{twice} has several of {', '.join(METADATA)}: keep one of them")
    splits = {table: _split_of(_inside(table.parent, path).parts) for table in tables}
    if options.split is not None:
        known = [split for split in splits.values() if split is not None]
        _chosen(path, known, options.split)
        tables = [table for table in tables if splits[table] == options.split]
    wanted = [*options.caption_col, "file_name"]
    opened = {table: table_at(table, wanted, options.delimiter) for table in tables}
    empty = [table for table in tables if not len(opened[table])]
    tables = [table for table in tables if table not in empty]
    if not tables:
        raise DataError(f"{empty[0]} has no rows")
    if options.image_col == AUTO:
        options = replace(options, image_col="file_name" if "file_name" in opened[tables[0]].names else AUTO)
    parts = [
        Part(
            opened[table],
            "" if table.parent == path else _inside(table.parent, path).as_posix(),
            table.parent if options.image_root is None else located(options.image_root, options.cache_size),
            splits[table],
        )
        for table in tables
    ]
    return TableSource(path, parts, options, kind="imagefolder", notes=[f"{table} has no rows" for table in empty])


def parquet_files(folder: Path | StorePath) -> list[Path | StorePath]:
    """The Parquet files of a hub folder, in it or one below, that hold rows of a dataset."""
    found = [path for pattern in ("*.parquet", "*/*.parquet") for path in folder.glob(pattern)]
    named = (path for path in found if path.name not in (PROVENANCE, "metadata.parquet") and path.name[0] != ".")
    names = outside_outputs((_inside(path, folder).as_posix() for path in named), folder)
    tables = (path for name in names if not is_table_of_audit(path := folder / name))
    return sorted((path for path in tables if not is_download_log(path)), key=pure_path)


def parquet_folder(path: Path | StorePath, options: SourceConfig) -> TableSource:
    """A folder of Parquet files, as hubs and img2dataset have them: ``data/train-00000-of-00002.parquet``.

    Ids have the file's path without its extension before them.

    Raises:
        DataError: If a file cannot be read or lacks a column.
        ConfigError: If there is no such split.
    """
    files = parquet_files(path)
    refuse_links(files, path, options)
    splits = {file: _split_of_file(file) for file in files}
    if options.split is not None:
        _chosen(path, [split for split in splits.values() if split is not None], options.split)
        files = [file for file in files if splits[file] == options.split]
    parts = [
        Part(
            ArrowTable(file),
            _inside(file, path).with_suffix("").as_posix(),
            path if options.image_root is None else located(options.image_root, options.cache_size),
            splits[file],
        )
        for file in files
    ]
    return TableSource(path, parts, options, kind="parquet folder")


def refuse_links(files: Sequence[Path | StorePath], folder: Path | StorePath, options: SourceConfig) -> None:
    """Refuse tables in a folder that are links out of it.

    Raises:
        DataError: If one is, and ``follow_links`` is not set.
    """
    link = next((file for file in files if leads_out(file, folder)), None)
    if link is not None and not options.follow_links:
        raise DataError(f"{link} is a link that leads out of {folder}: read it with --follow-links, or copy the file")


def _inside(path: Path | StorePath, folder: Path | StorePath) -> PurePath:
    """A path from a folder on."""
    return pure_path(path).relative_to(pure_path(folder))


def _saved_part(folder: Path | StorePath, name: str, split: str | None, options: SourceConfig) -> Part | None:
    """One split; None if it has no rows."""
    state = _json(folder / "state.json")
    try:
        listed = [entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / 'state.json'} does not list the data files: save the dataset again") from error
    files = [folder / name for name in _plain_names(listed, folder / "state.json")]
    if not files:
        return None
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise DataError(f"{missing} is missing, which {folder / 'state.json'} lists")
    refuse_links(files, folder, options)
    return Part(ArrowTable(folder, files), name, folder, split)


def _plain_names(names: Sequence[Any], where: Path | StorePath) -> list[str]:
    """Names of files or folders beside `where`; one that leads elsewhere, where a copy would write, is refused."""
    odd = [one for one in names if not isinstance(one, str) or one in ("", ".", "..") or {*one} & {*"/\\\0"}]
    if odd:
        raise DataError(f"{where} names {odd[0]!r}, which is nothing beside it: save the dataset again")
    return list(names)


def _json(path: Path | StorePath) -> dict[str, Any]:
    try:
        document = parsed_json(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); is the dataset complete?") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} is no JSON object; is the dataset complete?")
    return document


def _chosen(path: Path | StorePath, splits: Sequence[str], asked: str | None) -> list[str]:
    present = list(dict.fromkeys(splits))
    if asked is None:
        return present
    if asked not in present:
        raise ConfigError(f"{path} has the splits {', '.join(present) or '(none)'}; there is no --split {asked}")
    return [asked]


def _split_of(parts: Sequence[str]) -> str | None:
    return next((part for part in parts if part.lower() in _SPLITS), None)


def _split_of_file(file: Path | StorePath) -> str | None:
    found = _SHARD_OF_SPLIT.fullmatch(file.stem)
    return found["split"] if found else _split_of([file.stem])
