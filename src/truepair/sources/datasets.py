"""Hugging Face datasets on disk. Nothing is fetched from a hub, and nothing is written beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from truepair.errors import ConfigError, DataError
from truepair.sources.blocks import block, block_names
from truepair.sources.captions import Captions, captions_in
from truepair.sources.columns import check_columns
from truepair.sources.picture_files import UnreadablePictureError, encoded_picture
from truepair.sources.protocol import Sample, Skipped
from truepair.sources.rows import row_name, row_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


class DatasetSource:
    """The rows of one split of a dataset: a picture each, with one or several captions.

    The folder is one that ``save_to_disk`` wrote, or one that ``datasets.load_dataset`` reads: pictures with
    ``metadata.jsonl`` or ``metadata.csv``, or Parquet files with a column of pictures. The library makes a copy of the
    latter kinds in its own cache, as it always does (``HF_DATASETS_CACHE``): of Parquet files with the pictures.

    Ids are ``row-N``, N counted from 1 in the split; captions get more behind it where a row has several of them (see
    `truepair.sources.captions.captions_in`). Equal pictures in different rows stay different images.

    Args:
        path: The folder.
        image_col: The column of pictures: an ``Image``, or bytes.
        caption_cols: The columns of captions, texts or lists of texts.
        split: Which split; may be left out if there is only one.

    Raises:
        DataError: If the folder is missing or holds no dataset, or a column is missing or holds no pictures.
        ConfigError: If there are several splits and none, or an unknown one, is asked for; if there is no caption
            column; if the library is not installed.
    """

    kind = "dataset"

    def __init__(
        self,
        path: str | Path,
        image_col: str = "image",
        caption_cols: Sequence[str] = ("caption",),
        split: str | None = None,
    ) -> None:
        if not caption_cols:
            raise ConfigError("caption_cols is empty; name the columns that hold captions")
        self.path = Path(path)
        self.image_col = image_col
        self.caption_cols = tuple(caption_cols)
        self.dataset: Dataset = _one_split(self.path, _loaded(self.path), split).with_format(None)
        check_columns(self.path, self.dataset.column_names, [image_col, *caption_cols])
        self._captions = self.dataset.select_columns(list(dict.fromkeys(caption_cols)))
        self._pictures = _encoded(self.path, self.dataset, image_col)

    def shards(self) -> Sequence[str]:
        """Blocks of rows."""
        return block_names(len(self.dataset))

    def read(self, shard: str) -> Iterator[Sample | Skipped]:
        """See `truepair.sources.protocol.Source.read`."""
        rows = block(shard, len(self.dataset))
        try:
            for row, captions in zip(rows, self.captions_of(rows), strict=True):
                for skip in captions.skipped:
                    yield Skipped(f"{self.path}: {skip.where}", skip.reason, skip.detail)
                if captions.texts:
                    yield self._sample(row, captions)
        except (pa.ArrowException, OSError) as error:
            yield Skipped(f"{self.path}: shard {shard}", "damaged dataset", str(error))

    def picture(self, reference: str) -> bytes:
        """See `truepair.sources.protocol.Source.picture`.

        Args:
            reference: ``row-N``.

        Raises:
            DataError: If there is no such row, or its picture is not there any more.
        """
        try:
            return self._encoded_picture(self.row_of(reference))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: {reference} cannot be read ({error}); was it moved or changed?") from error

    def captions_of(self, rows: range) -> list[Captions]:
        """The captions of some rows, counted from 0."""
        columns = self._captions[rows.start : rows.stop]
        return [
            captions_in({name: columns[name][place] for name in self.caption_cols}, row_name(row))
            for place, row in enumerate(rows)
        ]

    def row_of(self, image_id: str) -> int:
        """The row, counted from 0, that an image's id or reference names.

        Raises:
            DataError: If there is none.
        """
        return row_of(image_id, len(self.dataset), self.path)

    def _sample(self, row: int, captions: Captions) -> Sample | Skipped:
        name = row_name(row)
        try:
            encoded = self._encoded_picture(row)
        except UnreadablePictureError as error:
            return Skipped(f"{self.path}: {name}", error.reason, str(error))
        return Sample(name, encoded, captions.texts, captions.ids, name)

    def _encoded_picture(self, row: int) -> bytes:
        cell = self._pictures[row][self.image_col]
        encoded, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if encoded is None and path:
            return encoded_picture(Path(path))
        if encoded is None:
            raise UnreadablePictureError("missing picture", f"{self.path}: {row_name(row)}")
        if not encoded:
            raise UnreadablePictureError("empty picture", f"{self.path}: {row_name(row)}")
        return bytes(encoded)


def _loaded(path: Path) -> Dataset | DatasetDict:
    try:
        from datasets import load_dataset, load_from_disk
    except ImportError as error:
        raise ConfigError(
            f"{path} is read with the package datasets, which is not installed: pip install 'truepair[hf]'"
        ) from error
    if not path.is_dir():
        raise DataError(f"there is no folder {path}")
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return load_from_disk(str(path))
        _refuse_remote_files(path)
        return load_dataset(str(path.resolve()))  # a relative path could be taken for a name on the hub
    except DataError:
        raise
    except Exception as error:  # the library raises nearly anything
        raise DataError(f"{path} cannot be read as a Hugging Face dataset ({error})") from error


def _refuse_remote_files(path: Path) -> None:
    """A dataset's card may say that its files lie on a server, where `load_dataset` would get them."""
    import yaml
    from huggingface_hub import DatasetCard

    card, configuration = path / "README.md", path / ".huggingface.yaml"
    said = [DatasetCard.load(card).data.to_dict()] if card.is_file() else []
    said += [yaml.safe_load(configuration.read_text(encoding="utf-8"))] if configuration.is_file() else []
    if any("://" in str(one.get("configs")) for one in said if isinstance(one, dict)):
        raise DataError(
            f"{path}: README.md or .huggingface.yaml says that files lie elsewhere; fetch the dataset first"
        )


def _one_split(path: Path, loaded: Dataset | DatasetDict, split: str | None) -> Dataset:
    from datasets import DatasetDict

    splits: dict[str, Any] = dict(loaded) if isinstance(loaded, DatasetDict) else {str(loaded.split): loaded}
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        asked = "say which is meant (split)" if split is None else f"there is no split {split!r}"
        raise ConfigError(f"{path} has the splits {', '.join(splits)}; {asked}")
    return splits[split]


def _encoded(path: Path, dataset: Dataset, column: str) -> Dataset:
    """The column of pictures, encoded as they are stored."""
    from datasets import Image, Value

    feature = dataset.features[column]
    pictures = dataset.select_columns([column])
    if isinstance(feature, Image):
        return pictures.cast_column(column, Image(decode=False))
    if feature not in (Value("binary"), Value("large_binary")):
        raise DataError(
            f"{path}: column {column!r} is {feature}, not Image or bytes; cast it to datasets.Image() first"
        )
    return pictures
