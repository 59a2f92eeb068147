"""The source behind a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.errors import ConfigError, DataError
from truepair.sources.datasets import DatasetSource
from truepair.sources.folders import FolderSource
from truepair.sources.protocol import Source
from truepair.sources.table_files import is_table
from truepair.sources.tables import TableSource
from truepair.sources.webdataset import WebDatasetSource

PROVENANCE = "provenance.parquet"
"""What a cleaned copy has beside its pictures and captions: the fate of every pair of the source."""

_DATASET_FILES = ("dataset_info.json", "dataset_dict.json", "state.json", "metadata.jsonl", "metadata.csv")


def open_source(
    path: str | Path,
    *,
    image_col: str = "image",
    caption_cols: Sequence[str] = ("caption",),
    image_root: str | Path | None = None,
    image_id_col: str | None = None,
    caption_id_col: str | None = None,
    split: str | None = None,
) -> Source:
    """The pictures and captions at a path, by what is there.

    ===================================================================  =====================
    a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file                `TableSource`
    a ``.tar`` file, a folder with some, ``{00000..00010}.tar``          `WebDatasetSource`
    a folder with ``dataset_info.json``, ``dataset_dict.json``,
    ``metadata.jsonl`` or ``metadata.csv``, or with Parquet files        `DatasetSource`
    any other folder                                                     `FolderSource`
    ===================================================================  =====================

    Args:
        path: What to open.
        image_col: The column of pictures, for tables and datasets.
        caption_cols: The columns of captions, for tables and datasets.
        image_root: Where relative picture paths start, for tables.
        image_id_col: The column of image ids, for tables.
        caption_id_col: The column of caption ids, for tables.
        split: The split, for datasets.

    Raises:
        DataError: If there is nothing at the path, or it cannot be read.
        ConfigError: If an option is given that this kind of source does not have.
    """
    where = Path(path)
    of_tables = {"image_root": image_root, "image_id_col": image_id_col, "caption_id_col": caption_id_col}
    of_columns = {
        "image_col": None if image_col == "image" else image_col,
        "caption_cols": None if tuple(caption_cols) == ("caption",) else caption_cols,
    }
    if is_table(where):
        _refuse(where, "a table", {"split": split})
        if image_col == "image" and _is_download_log(where):
            tar = where.with_suffix(".tar")
            raise DataError(
                f"{where} is img2dataset's list of downloads, without the pictures; they are in the tar files beside "
                f"it: open {tar if tar.is_file() else where.parent}"
            )
        return TableSource(where, image_col, caption_cols, image_root, image_id_col, caption_id_col)
    if _is_tar(where):
        _refuse(where, "tar shards", {"split": split, **of_tables, **of_columns})
        return WebDatasetSource(where)
    if not where.is_dir():
        raise DataError(f"{where} is {_what(where)}; give a table, a folder of pictures, .tar files or a dataset")
    if _is_dataset(where):
        _refuse(where, "a dataset", of_tables)
        return DatasetSource(where, image_col, caption_cols, split)
    _refuse(where, "a folder of pictures", {"split": split, **of_tables, **of_columns})
    return FolderSource(where)


def _is_tar(path: Path) -> bool:
    return path.suffix.lower() == ".tar" or (path.is_dir() and any(path.glob("*.tar")))


def _is_dataset(folder: Path) -> bool:
    """Whether there are files of a dataset, in the folder itself or, for splits and Parquet files, one below."""
    if any(any(folder.glob(name)) or any(folder.glob(f"*/{name}")) for name in _DATASET_FILES):
        return True
    tables = chain(folder.glob("*.parquet"), folder.glob("*/*.parquet"))
    return any(table.name != PROVENANCE and not _is_download_log(table) for table in tables)


def _what(path: Path) -> str:
    if path.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        return "a compressed tar file, in which no picture can be found again; unpack it to .tar"
    return "of no known kind" if path.exists() else "not there"


def _refuse(path: Path, kind: str, options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{path} is {kind}, which has no {', '.join(given)}; leave that out")


def _is_download_log(path: Path) -> bool:
    """Whether a table is what img2dataset writes beside a shard: what it downloaded, without the pictures."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return False
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        return False  # opening it says what is wrong
    return {"url", "status", "key"} <= set(names) and not {"image", "jpg", "png", "webp"} & set(names)
