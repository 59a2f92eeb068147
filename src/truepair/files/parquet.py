"""Parquet files of a run's or an audit's folder: replaced atomically."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from truepair.files.replacing import replacing


def write_parquet(table: pa.Table, path: Path) -> None:
    """A Parquet file, replaced atomically."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
