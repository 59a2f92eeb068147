"""How pictures and captions are read, whatever they lie in; the same options for every command that reads them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from truepair.errors import ConfigError

LATER = ("largest_file", "longest_caption", "most_members", "most_expanded", "follow_links")
"""Options that descriptions of sources name only where they differ from their defaults: older ones lack them."""
AUTO = "auto"
"""In place of a column's name: the column is found by its usual names."""


@dataclass(frozen=True)
class SourceConfig:
    """Columns, paths and delimiters of a source of pictures and captions."""

    image_col: str | None = AUTO
    """Column of the picture: a path, or the encoded bytes. "auto" finds image, file_name, filepath, jpg and the like;
    "none" says that there is no such column."""
    caption_col: tuple[str, ...] = ()
    """Column of the caption, or several columns, each of which gives captions of its own; a cell may be a list of
    captions. By default it is found by its usual names: caption, text, title and the like."""
    image_id_col: str | None = None
    """Column of the image's name; rows with the same name are captions of one image."""
    caption_id_col: str | None = None
    """Column of the caption's name, unique."""
    split_col: str | None = None
    """Column that says which split a row belongs to: train, dev (or val, validation) or test."""
    image_feature_col: str | None = None
    """Column of the image's feature vector, a list of numbers (JSONL, Parquet, Arrow)."""
    caption_feature_col: str | None = None
    """Column of the caption's feature vector, a list of numbers (JSONL, Parquet, Arrow)."""
    image_root: str | None = None
    """Folder that relative picture paths start from, and that no picture may lie outside of; by default the folder of
    the table, which only absolute paths may leave."""
    allow_outside: bool = False
    """Read pictures from anywhere that a path leads to."""
    delimiter: str | None = None
    """Character between the cells of a CSV or TSV file; by default comma, semicolon, tab or | as the header shows."""
    split: str | None = None
    """The only split to read of a dataset with several; by default all of them."""
    largest_pixels: int = 250_000_000
    """Pictures with more pixels (width × height) are left out as "huge": decoded, one pixel takes 3 to 12 bytes."""
    largest_file: int = 1_000_000_000
    """Picture files, and pictures in cells and archives, of more bytes are left out as "huge file"."""
    longest_caption: int = 10_000_000
    """Captions of more characters, and caption files of more bytes, are left out as "huge caption"."""
    most_members: int = 2_000_000
    """Files in one tar or zip archive: what follows them in a tar file is left out, a zip archive with more is
    refused."""
    most_expanded: int = 200
    """Zip archives whose content is more than this many times as large as they are, and more than 100 MB, are
    refused."""
    follow_links: bool = False
    """Read files that links inside the source's folder (or the image root) lead to outside of it; such files are
    left out otherwise."""
    cache_size: float = 20.0
    """GB of copies that are kept on this machine, of tables, tar and Parquet files of a store (s3://, gs://, hf://,
    https:// …) and of row groups of pictures that training streams; what was asked for longest ago goes first."""

    @property
    def changed(self) -> list[str]:
        """Names of the options that are not as by default."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]

    def __post_init__(self) -> None:
        """Refuse a delimiter of several characters; "none" of a file of options is None."""
        if self.image_col == "none":
            object.__setattr__(self, "image_col", None)
        if self.delimiter is not None and len(self.delimiter.replace("\\t", "\t")) != 1:
            raise ConfigError(f"delimiter is {self.delimiter!r}, but it is one character: , ; | or \\t")
        for name in ("largest_pixels", "largest_file", "longest_caption", "most_members", "most_expanded"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least 1")
        if not self.cache_size >= 0:
            raise ConfigError(f"cache_size is {self.cache_size}, but it is a number of GB, 0 or more")
