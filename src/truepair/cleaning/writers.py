"""One writer a kind of source: a source that can be read can be written back in its own format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from truepair.cleaning.folder_copies import copy_folder
from truepair.cleaning.provenance import Provenance
from truepair.cleaning.table_copies import (
    copy_coco,
    copy_dataset,
    copy_karpathy,
    copy_parquet_folder,
    copy_picture_folder,
    copy_table,
    copy_tokens,
)
from truepair.cleaning.tar_copies import copy_tars
from truepair.sources.protocol import Kind

WRITERS: Mapping[Kind, Callable[[Any, Provenance, Path], list[Path]]] = {
    "table": copy_table,
    "imagefolder": copy_picture_folder,
    "parquet folder": copy_parquet_folder,
    "dataset": copy_dataset,
    "coco": copy_coco,
    "karpathy": copy_karpathy,
    "tokens": copy_tokens,
    "folder": copy_folder,
    "webdataset": copy_tars,
}
"""(source, provenance, empty folder) → the files written. A pair without a decision is noted as not audited."""
