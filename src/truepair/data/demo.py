"""The small real corpus that ships with the package: clip art and emoji with English captions and frozen features."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from truepair.config import TableColumns
from truepair.data.pairs import Splits
from truepair.data.tables import load_table_splits

DEMO_COLUMNS = TableColumns(
    image_id="id",
    caption_id="id",
    split="split",
    image_feature="image_feature",
    caption_feature="text_feature",
)


def demo_table() -> Path:
    """The Parquet file of the demo corpus, a table like any other; its datasheet and licences lie beside it."""
    return Path(str(files("truepair.data").joinpath("demo_corpus", "pairs.parquet")))


def load_demo() -> Splits:
    """The demo corpus: 256-d image features, 384-d caption features, and the pictures, read when looked at.

    See ``demo_corpus/DATASHEET.md`` for where it is from and what it is not for.
    """
    return load_table_splits(demo_table(), DEMO_COLUMNS, name="demo")
