"""The source behind a path."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from truepair.config.source import AUTO, LATER, SourceConfig
from truepair.errors import DataError, said_by
from truepair.sources.annotation_files import (
    COLUMNS,
    coco_table,
    folder_of_pictures,
    is_coco,
    is_karpathy,
    is_token_file,
    json_document,
    karpathy_table,
    object_table,
    token_table,
)
from truepair.sources.datasets import (
    is_near_metadata,
    is_saved_dataset,
    metadata_files,
    parquet_files,
    parquet_folder,
    picture_folder,
    refuse_links,
    saved_dataset,
    unread_tables,
)
from truepair.sources.demo import DEMO, demo_source
from truepair.sources.downloads import is_download_log
from truepair.sources.folders import FolderSource
from truepair.sources.picture_files import Location, folder_of
from truepair.sources.protocol import Kind, Source
from truepair.sources.stores import StorePath, is_address, located, on_disk
from truepair.sources.table_files import DelimitedTable, RowsTable, is_table, open_table
from truepair.sources.tables import Part, TableSource, refuse_options
from truepair.sources.text_files import extension_of, opened_text
from truepair.sources.webdataset import WebDatasetSource

_FLICKR8K_FILES = ("Flickr8k.token.txt", "captions.txt")
_MOST_NAMED = 5
"""Tables that a message names."""
_LITTLE = 100_000_000
"""Bytes that an archive may become whatever its own size."""
_OF_PICTURES_IN_FILES = ("image_root", "allow_outside", "delimiter")
_OF_COLUMNS = ("image_col", "caption_col", "image_id_col", "caption_id_col", "split_col")
_OF_FEATURES = ("image_feature_col", "caption_feature_col")


def open_source(path: str | Path | StorePath, options: SourceConfig = SourceConfig()) -> Source:  # noqa: B008, it is frozen
    """The pictures and captions at a path, by what is there.

    ===================================================================  =======================================
    a ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` (list of objects),
    ``.parquet`` or ``.arrow`` file, text also as ``.gz`` or ``.zst``    a table
    COCO captions or Karpathy's splits (``.json``), token files of
    Flickr8K and Flickr30K                                               a caption file of a published corpus
    a ``.tar`` file, a folder with some, ``{00000..00010}.tar``          tar shards
    a folder that ``save_to_disk`` wrote                                 a Hugging Face dataset, all its splits
    a folder with ``metadata.csv``, ``.jsonl`` or ``.parquet``           a picture folder (imagefolder)
    a folder with Parquet files, in it or one below                      a hub folder
    any other folder                                                     pictures with caption files beside them
    a ``.zip`` file                                                      the table or the folder that is in it
    ===================================================================  =======================================

    All of these may lie in a store, of which the path is an address: ``s3://bucket/photos.csv`` (see
    `truepair.sources.stores`).

    Args:
        path: What to open.
        options: Columns, paths and delimiters.

    Raises:
        DataError: If there is nothing at the path, or it cannot be read.
        ConfigError: If an option is given that this kind of source does not have, or a package for a store is missing.
    """
    where = located(path, options.cache_size)
    if isinstance(where, Path):
        _refuse(where, "on this machine", options, "cache_size")
    if _is_tar(where):
        _refuse(where, "tar shards", options, "split", *_OF_PICTURES_IN_FILES, *_OF_COLUMNS, *_OF_FEATURES)
        return WebDatasetSource(where, options)
    if where.is_dir():
        return _folder(where, options)
    if not where.exists():
        raise DataError(f"{where} does not exist; give a table, a folder of pictures, .tar files or a dataset")
    if where.suffix.lower() == ".zip":
        return _archive(where, options)
    return _file(where, where, options)


def description_of(source: Source, path: str | Path, options: SourceConfig) -> dict[str, Any]:
    """What `reopened` needs: kind, path and options, in words that JSON knows; from any folder.

    The size of the cache is none of them: it does not change what is read. Of limits only those that were changed are.
    """
    described = asdict(options) | {"caption_col": list(options.caption_col)}
    del described["cache_size"]
    for name in LATER:
        if described[name] == getattr(SourceConfig, name):
            del described[name]
    root = options.image_root
    if root is not None:
        root = root if is_address(root) else str(Path(root).resolve())
    return {"kind": source.kind, "path": _absolute(path), **described, "image_root": root}


def reopened(description: Mapping[str, Any]) -> Source:
    """The source that `description_of` described.

    Raises:
        DataError: If it is not there any more, or the description is of another version.
    """
    if description.get("path") == DEMO:
        return demo_source()
    names = {field.name for field in fields(SourceConfig)}
    options = {name: value for name, value in description.items() if name not in ("kind", "path")}
    if options.keys() - names or "path" not in description:
        raise DataError(
            f"the description of the source has {', '.join(sorted(options.keys() - names)) or 'no path'}, which this "
            "version of truepair does not know: audit it again"
        )
    try:
        known = SourceConfig(**options | {"caption_col": tuple(options.get("caption_col", ()))})
    except TypeError as error:
        raise DataError(f"the description of the source is damaged ({said_by(error)}): audit it again") from error
    return open_source(description["path"], known)


def _absolute(path: str | Path) -> str:
    """A path as it is meant from any folder; braces of tar shards stay."""
    return str(path) if str(path) == DEMO or is_address(path) else os.path.abspath(path)  # noqa: PTH100, links are the user's own


def _file(where: Path | StorePath, file: Location, options: SourceConfig) -> TableSource:
    """A table or a caption file, on disk or in an archive."""
    extension = extension_of(file.name)
    if extension == ".json":
        return _json(where, file, options)
    if extension in (".txt", ".token"):
        return _text(where, file, options)
    if not is_table(file):
        raise DataError(f"{where} is {_what(where)}; give a table, a folder of pictures, .tar files or a dataset")
    _refuse(where, "a table", options, "split")
    if not isinstance(file, zipfile.Path) and options.image_col == AUTO and is_download_log(file):
        tar = file.with_suffix(".tar")
        raise DataError(
            f"{file} is img2dataset's list of downloads, without the pictures; they are beside it: open "
            f"{tar if tar.is_file() else folder_of(file)}"
        )
    wanted = [name for name in (options.image_col, *options.caption_col) if name not in (None, AUTO)]
    table = open_table(file, [name for name in wanted if name is not None], options.delimiter)
    return TableSource(where, [Part(table, "", _root(file, options))], options)


def _json(where: Path | StorePath, file: Location, options: SourceConfig) -> TableSource:
    document = json_document(file)
    _refuse(where, "a JSON file", options, "split", "delimiter")
    if is_coco(document):
        return _annotated(where, coco_table(file, document), options, "coco", "COCO captions")
    if is_karpathy(document):
        return _annotated(where, karpathy_table(file, document), options, "karpathy", "Karpathy's splits")
    table = object_table(file, document)
    if not len(table):
        raise DataError(f"{where} has no rows")
    return TableSource(where, [Part(table, "", _root(file, options))], options)


def _text(where: Path | StorePath, file: Location, options: SourceConfig) -> TableSource:
    """A token file, or a CSV file that is called ``.txt``, as the copy of Flickr8K on Kaggle is."""
    if is_token_file(file):
        _refuse(where, "a token file", options, "split", "delimiter")
        return _annotated(where, token_table(file), options, "tokens", "a token file")
    table = DelimitedTable(file, list(options.caption_col), options.delimiter)
    if len(table.names) < 2:
        raise DataError(
            f"{where} is neither a table with a header nor a token file ('name.jpg#0', a tab, a caption): rename it to "
            ".csv or .tsv if it is a table"
        )
    names = table.columns([table.names[0]])[table.names[0]]
    root = folder_of_pictures(folder_of(file), [name.strip() for name in names[:20] if isinstance(name, str)])
    return TableSource(where, [Part(table, "", _root(file, options, root))], options)


def _annotated(
    where: Path | StorePath, table: RowsTable, options: SourceConfig, kind: Kind, called: str
) -> TableSource:
    """Rows of a caption file, whose pictures may lie in the usual folders below or beside it."""
    _refuse(where, called, options, "caption_col", "image_id_col", "caption_id_col", "split_col", *_OF_FEATURES)
    names = [name for name in table.cells["image"][:20] if name]
    root = folder_of_pictures(folder_of(table.path), names)
    columns = replace(options, **COLUMNS, image_col=None if options.image_col is None else "image")
    notes = [f"pictures are looked for in {root} (--image-root for another)"] if root != folder_of(table.path) else []
    part = Part(table, "", _root(table.path, options, root))
    return TableSource(where, [part], columns, kind=kind, notes=[] if options.image_root else notes)


def is_source_folder(folder: Path) -> bool:
    """Whether a folder holds pictures with captions, and not features."""
    if any((folder / name).is_file() for name in _FLICKR8K_FILES):
        return True
    return any(folder.iterdir()) and not any(folder.glob("*.npy"))


def _folder(where: Path | StorePath, options: SourceConfig) -> Source:
    if is_saved_dataset(where):
        _refuse(where, "a dataset", options, *_OF_PICTURES_IN_FILES)
        return saved_dataset(where, options)
    corpus = [where / name for name in _FLICKR8K_FILES if (where / name).is_file()]
    if len(corpus) > 1:
        raise DataError(f"{where} has both {' and '.join(_FLICKR8K_FILES)}: keep one of them, or open one of them")
    if corpus:
        refuse_links(corpus, where, options)
        return _file(where, corpus[0], options)
    if metadata_files(where):
        return picture_folder(where, options)
    if parquet_files(where):
        _refuse(where, "a folder of Parquet files", options, "delimiter")
        return parquet_folder(where, options)
    return _pictures_with_captions(where, where, options)


def _pictures_with_captions(where: Path | StorePath, root: Location, options: SourceConfig) -> Source:
    unread = "split", *_OF_PICTURES_IN_FILES, *_OF_COLUMNS, *_OF_FEATURES
    _refuse(where, "a folder of pictures with caption files", options, *unread)
    source = FolderSource(where, root, options)
    if not any(entry.picture and entry.sidecar for entry in source.entries()):
        _refuse_unread(where, [] if isinstance(root, zipfile.Path) else unread_tables(root))
    return source


def _refuse_unread(where: Path | StorePath, tables: Sequence[Path | StorePath]) -> None:
    """Refuse a folder of pictures without captions that holds tables, which may have the captions."""
    if not tables:
        return
    first = tables[0]
    if is_near_metadata(first):
        advice = f"{first.name} is not read: rename it to metadata{first.suffix}, or open {first} itself"
    elif len(tables) == 1:
        advice = f"if they are in {first.name}, open {first} itself"
    else:
        advice = f"if they are in one of its tables, open that itself: {', '.join(map(str, tables[:_MOST_NAMED]))}"
    raise DataError(f"{where} holds pictures without captions; {advice}")


def _archive(where: Path | StorePath, options: SourceConfig) -> Source:
    """What is in a zip archive: its only table or caption file, or pictures with caption files."""
    try:
        archive = zipfile.ZipFile(on_disk(where))
        archive.filename = str(where)  # what messages call it, also where a copy is read
        root = zipfile.Path(archive)
        members = [name for name in root.root.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{where} cannot be read as a zip archive ({said_by(error)}); is it complete?") from error
    _refuse_huge(where, archive, options)
    members = [name for name in members if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    inner = next((name for name in members if name.lower().endswith((".tar", ".zip", ".arrow"))), None)
    if inner is not None:
        raise DataError(
            f"{where} holds {inner}, which is not read inside an archive: unpack it, and open what is in it"
        )
    stems = Counter(name.rpartition(".")[0] for name in members)
    tables = [
        name
        for name in members
        if _is_caption_table(zipfile.Path(root.root, name), is_alone=stems[name.rpartition(".")[0]] == 1)
    ]
    if len(tables) > 1:
        shallow = min(name.count("/") for name in tables)
        tables = [name for name in tables if name.count("/") == shallow]
    if len(tables) > 1:
        raise DataError(f"{where} holds several tables ({', '.join(tables[:5])}): unpack it, and open one of them")
    if tables:
        return _file(where, zipfile.Path(root.root, tables[0]), options)
    top = {name.split("/")[0] for name in members}
    inside = root if len(top) != 1 or any("/" not in name for name in members) else root / f"{next(iter(top))}/"
    return _pictures_with_captions(where, inside, options)


def _refuse_huge(where: Path | StorePath, archive: zipfile.ZipFile, options: SourceConfig) -> None:
    """Refuse an archive with too many members, or of which a little stands for very much."""
    members = archive.infolist()
    if len(members) > options.most_members:
        raise DataError(
            f"{where} holds {len(members):,} files, more than {options.most_members:,}: raise --most-members"
        )
    size, stored = (sum(getattr(member, name) for member in members) for name in ("file_size", "compress_size"))
    if size > max(_LITTLE, options.most_expanded * stored):
        raise DataError(
            f"{where} would be {size:,} bytes unpacked, more than {options.most_expanded:,} times the {stored:,} that "
            "it has: is it what it should be? Raise --most-expanded to read it all the same"
        )


def _is_caption_table(member: Location, *, is_alone: bool) -> bool:
    """Whether a member of an archive is a table; a ``.json`` or ``.txt`` that is the caption of a picture is none.

    Args:
        member: The file.
        is_alone: Whether no other has its name but for the extension.
    """
    extension = extension_of(member.name)
    if extension == ".txt":
        return is_alone and (is_token_file(member) or _has_header(member))
    if extension == ".json":
        return is_alone
    return is_table(member)


def _has_header(member: Location) -> bool:
    try:
        with opened_text(member) as file:
            return file.readline().strip().lower() in ("image,caption", "file_name,caption", "file,caption")
    except DataError:
        return False


def _root(file: Location, options: SourceConfig, usual: Location | None = None) -> Location:
    if options.image_root is not None:
        return located(options.image_root, options.cache_size)
    return usual if usual is not None else folder_of(file)


def _is_tar(path: Path | StorePath) -> bool:
    return path.suffix.lower() == ".tar" or (path.is_dir() and any(path.glob("*.tar")))


def _what(path: Path | StorePath) -> str:
    if isinstance(path, StorePath) and not path.store.has_listings:
        return "no table; a web server has no listings, so that a folder is named by its tar files, {000..099}.tar"
    if path.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        return "a compressed tar file, in which no picture can be found again; unpack it to .tar"
    return "of no known kind"


def _refuse(path: Path | StorePath, kind: str, options: SourceConfig, *unread: str) -> None:
    """Refuse options that differ from their defaults and that this kind of source does not read."""
    changed = options.changed
    refuse_options(path, kind, [name for name in unread if name in changed])
