"""The cleaned copy of a source of pictures, in the source's own format; the source is only read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from truepair.cleaning.dataset_copy import copy_dataset
from truepair.cleaning.decisions import Decision
from truepair.cleaning.folder_copy import copy_folder
from truepair.cleaning.provenance import Provenance
from truepair.cleaning.source_table_copy import copy_source_table
from truepair.cleaning.tar_copy import copy_tars
from truepair.errors import ConfigError, DataError
from truepair.sources.datasets import DatasetSource
from truepair.sources.folders import FolderSource
from truepair.sources.opening import PROVENANCE
from truepair.sources.protocol import Source
from truepair.sources.tables import TableSource
from truepair.sources.webdataset import WebDatasetSource

_Copied = WebDatasetSource | FolderSource | DatasetSource | TableSource


def export(
    source: Source,
    decisions: Mapping[str, Decision],
    target: str | Path,
    *,
    time: str | None = None,
    model: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the pairs that are to be kept, and ``provenance.parquet``: what became of each pair (see `Provenance`).

    - Tar shards become tar shards of the same names: all files of kept samples, byte for byte. A pair that gets
      another image keeps its key, ``.txt`` and ``.json``, and gets that image's bytes and extension. What lies beside
      the tar files is not copied.
    - A folder becomes a folder: pictures, and text files without the lines that were dropped.
    - A Hugging Face dataset becomes one, as ``save_to_disk`` writes it, with all its columns.
    - A table becomes a table; its pictures are not copied, so relative paths go on from the old image root.

    Where captions of one picture part ways, the second and further get a sample of their own, with ``~2``, ``~3`` …
    behind the key or file name. Pairs without a decision are not in the copy; their rule is ``not audited``.

    Everything is written beside the target first, and moved there when it is complete: a full disk or a kill leaves no
    half copy under the target's name, and what a kill leaves beside it the next call removes.

    Args:
        source: What was audited.
        decisions: What to do, by caption id.
        target: The folder to write to; missing or empty, and not in the source.
        time: When the rule was applied, for the provenance.
        model: What scored the pairs, for the provenance.

    Returns:
        The files written, the last of which is the provenance.

    Raises:
        DataError: If the target is not empty or lies in the source, it cannot be written, the decisions do not fit the
            source, or the source cannot be read any more.
        ConfigError: If a table has several captions a row, or the source is of a kind of your own.
    """
    if not isinstance(source, _Copied):
        raise ConfigError(f"no copy can be made of a source of kind {source.kind!r}")
    target = Path(target)
    _check_target(source.path, target)
    whole = target.resolve()
    partial = whole.with_name(f".{whole.name}.part")
    provenance = Provenance(decisions, time=time, model=model)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        written = _copy(source, provenance, partial)
        provenance.write(partial / PROVENANCE)
        if whole.is_dir():
            whole.rmdir()
        partial.replace(whole)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"the copy {target} was not made ({error}); nothing of it is left and the source is as it was; "
            "is there enough room?"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [target / file.relative_to(partial) for file in (*written, partial / PROVENANCE)]


def _copy(source: _Copied, provenance: Provenance, folder: Path) -> list[Path]:
    if isinstance(source, WebDatasetSource):
        return copy_tars(source, provenance, folder)
    if isinstance(source, FolderSource):
        return copy_folder(source, provenance, folder)
    if isinstance(source, DatasetSource):
        return copy_dataset(source, provenance, folder)
    return copy_source_table(source, provenance, folder)


def _check_target(source: Path, target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} exists and is not an empty folder; choose another one for the copy")
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{target} lies in {source}, which is only read; choose a folder outside for the copy")
