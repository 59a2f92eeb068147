"""The small real corpus that ships with the package: clip art and emoji with English captions and frozen features."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from truepair.config.source import SourceConfig
from truepair.sources.table_files import ArrowTable
from truepair.sources.tables import Part, TableSource

DEMO = "demo"
"""What the corpus is called wherever a path is asked for."""
DEMO_OPTIONS = SourceConfig(
    image_id_col="id",
    caption_id_col="id",
    split_col="split",
    image_feature_col="image_feature",
    caption_feature_col="text_feature",
)


def demo_table() -> Path:
    """The Parquet file of the demo corpus, a table like any other; its datasheet and licences lie beside it."""
    return Path(str(files("truepair").joinpath("data", "demo_corpus", "pairs.parquet")))


def demo_source() -> TableSource:
    """The demo corpus: pictures, captions, 256-d image features and 384-d caption features.

    See ``demo_corpus/DATASHEET.md`` for where it is from and what it is not for.
    """
    table = demo_table()
    return TableSource(table, [Part(ArrowTable(table), "", table.parent)], DEMO_OPTIONS)
