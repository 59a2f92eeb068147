"""What a caller gives to audit from Python, whatever it is: a corpus on disk, pairs, or a table of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from truepair.audit.judging import refuse_too_few
from truepair.audit.preview import preview
from truepair.audit.run import refuse_inputs
from truepair.config import AuditConfig, DataConfig, EmbedConfig, SourceConfig
from truepair.data.arrays import TABLE, PairsInMemory, pairs_of_arrays, pairs_of_table
from truepair.data.corpora import Corpus, load_corpus, reads_patches
from truepair.data.pairs import Pairs
from truepair.embedding.run import embed, embedded_corpus
from truepair.errors import ConfigError, DataError, TooFewImagesError, TruepairError, of_system
from truepair.files.replacing import part_of, put_in_place
from truepair.sources.columns import Columns
from truepair.sources.in_memory import arrow_table, found_by_content, is_table

_OF_ARRAYS = ("image_of_caption", "image_ids", "caption_ids", "caption_texts")
_OF_TABLES = tuple(field.name for field in fields(SourceConfig))
_TAKEN = (
    "a path, a DataConfig, Pairs, a table (of pandas, Polars, DuckDB, PyArrow or datasets, or a dict of columns), or "
    "images and captions"
)


def embedded(
    data: DataConfig,
    folder: Path,
    embedding: EmbedConfig,
    config: AuditConfig,
    tell: Callable[[str], None] = lambda said: None,
) -> DataConfig:
    """A corpus on disk with embeddings of its pictures: those it has, or those that are made now.

    Args:
        data: The corpus.
        folder: The audit's folder, where embeddings are kept: the same command finds them again, or goes on with them.
        embedding: With which encoders; how the source is read, `data` says.
        config: Of the audit, of whose first pairs a preview is told.
        tell: Is told how the source was read, and what is being made.

    Raises:
        TruepairError: If the corpus cannot be read, an option has no meaning once it is embedded, an encoder cannot be
            loaded, or the source was changed since it was embedded into the same folder.
    """
    if not reads_patches(data):
        return data
    refuse_inputs(data, folder)
    if config.pairs == "train":
        raise ConfigError(
            "pairs is 'train', the training split, which embeddings made here do not know: audit all pairs, or give "
            "features (--image-feature-col, --image-features)"
        )

    def look_ahead(part: Path) -> None:
        said = preview(part, config, embedding)
        if said is not None:
            tell(said)

    return embedded_corpus(data, folder, embedding, tell, look_ahead)


def corpus_of(data: DataConfig) -> Corpus:
    """The corpus that is to be audited.

    Raises:
        TruepairError: As `load_corpus`; of too few images it says so, not how to split them.
    """
    try:
        return load_corpus(data)
    except TooFewImagesError as error:
        refuse_too_few(error.images)
        raise


@dataclass(frozen=True)
class TableOfPictures:
    """A table in memory that holds or names pictures, and how it is read.

    Attributes:
        table: Its rows.
        options: Its columns, and where paths start.
    """

    table: pa.Table
    options: SourceConfig

    def stored(self, folder: Path, embedding: EmbedConfig) -> DataConfig:
        """The same as a corpus on disk: the table as a file, and features of its pictures where it has none itself.

        Both are found again in the same folder, if the table is the same.

        Args:
            folder: Where to; a folder in it is made.
            embedding: How pictures are embedded.

        Raises:
            TruepairError: If nothing can be read, or an encoder cannot be loaded.
        """
        file = _written(self, folder.resolve())  # found again from any working folder
        with _called_the_table(file):
            if self.options.image_feature_col is not None:
                return DataConfig(str(file), self.options)
            features = file.with_name("features")
            embed(str(file), features, replace(embedding, source=self.options))
        return DataConfig(str(features))


def is_to_embed(data: DataConfig | PairsInMemory | TableOfPictures) -> bool:
    """Whether it holds pictures that have no embeddings."""
    if isinstance(data, TableOfPictures):
        return data.options.image_feature_col is None
    return isinstance(data, DataConfig) and reads_patches(data)


def given(data: Any, captions: Any, options: Mapping[str, Any]) -> DataConfig | PairsInMemory | TableOfPictures:
    """What is to be audited.

    Args:
        data: See `truepair.audit.lab.PairLab`.
        captions: See there.
        options: See there.

    Raises:
        ConfigError: If it is of a type that nothing is known of, or has no such options.
        DataError: If it is empty, contradicts itself, or nothing says what an image looks like.
    """
    if captions is not None:
        return _images_and_captions(data, captions, options)
    if isinstance(data, DataConfig | Pairs):
        if options:
            raise ConfigError(f"{', '.join(options)}: say that in the {type(data).__name__}")
        return PairsInMemory(data) if isinstance(data, Pairs) else data
    if isinstance(data, str | Path):
        return DataConfig(str(data), _source_options(options))
    if is_table(data):
        return _table(arrow_table(data), _source_options(options))
    shape = getattr(data, "shape", None)
    what = f"of shape {tuple(shape)}" if shape is not None else f"{data!r:.60}"
    hint = "; of images alone nothing can be said: give captions as well" if _is_listed(data) else ""
    raise ConfigError(f"data is of type {type(data).__name__} ({what}), but PairLab takes {_TAKEN}{hint}")


def _source_options(options: Mapping[str, Any]) -> SourceConfig:
    """Options of reading, by the names of `SourceConfig`."""
    _refuse_unknown(options, _OF_TABLES, "a table or a corpus")
    captions = options.get("caption_col")
    columns = {} if captions is None else {"caption_col": (captions,) if isinstance(captions, str) else tuple(captions)}
    return SourceConfig(**{**options, **columns})


def _refuse_unknown(options: Mapping[str, Any], known: Sequence[str], of_what: str) -> None:
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ConfigError(f"{of_what} has no option {', '.join(unknown)}; there are {', '.join(known)}")


def _table(table: pa.Table, options: SourceConfig) -> PairsInMemory | TableOfPictures:
    """Pairs where vectors are all there is; else the table, whose pictures are embedded, or shown, later."""
    found = found_by_content(table, options)
    if found.image_col is None:
        return pairs_of_table(table, found)
    Columns.of(TABLE, table.column_names, found)
    if found.image_root is None:  # as for Python's own open()
        found = replace(found, image_root=str(Path.cwd()), allow_outside=True)
    return TableOfPictures(table, found)


def _images_and_captions(images: Any, captions: Any, options: Mapping[str, Any]) -> PairsInMemory | TableOfPictures:
    """Two arrays; or a list of pictures and one of texts."""
    for name, values in (("images", images), ("captions", captions)):
        if not _is_listed(values):
            raise ConfigError(
                f"{name} is of type {type(values).__name__} ({values!r:.60}), but an array or a list is expected, one "
                "entry an image or caption"
            )
    if isinstance(_first(images), str | bytes | Path | Image.Image):
        _refuse_unknown(options, _OF_TABLES, "a list of pictures")
        return _table(arrow_table({"image": list(images), "caption": list(captions)}), _source_options(options))
    _refuse_unknown(options, _OF_ARRAYS, "an array of embeddings")
    if isinstance(_first(captions), str):
        if "caption_texts" in options:
            raise ConfigError("captions are texts already: leave caption_texts out, or give captions as embeddings")
        return pairs_of_arrays(images, **{**options, "caption_texts": list(captions)})
    return pairs_of_arrays(images, captions, **options)


def _is_listed(values: Any) -> bool:
    """Whether values are a list, an array, or a column."""
    is_single = isinstance(values, str | bytes | Mapping) or getattr(values, "ndim", 1) == 0
    return hasattr(values, "__len__") and not is_single


def _first(values: Any) -> object:
    """The first of several values; None for none, and for a matrix."""
    return next(iter(values), None) if getattr(values, "ndim", 1) == 1 else None


def _written(given: TableOfPictures, folder: Path) -> Path:
    """The table as a file, in a folder that is called by what is in it: another table never meets its features."""
    part = part_of(folder / "pairs.arrow")
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, given.table.schema) as writer:
            writer.write_table(given.table)
        with part.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256")
        digest.update(repr(given.options).encode())
        file = folder / f"table-{digest.hexdigest()[:12]}" / "pairs.arrow"
        file.parent.mkdir(exist_ok=True)
        put_in_place(part, file)
        return file
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({of_system(error)})") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _called_the_table(file: Path) -> Iterator[None]:
    """Errors speak of the caller's table, not of the file that it was written to."""
    try:
        yield
    except TruepairError as error:
        error.args = (str(error).replace(str(file), TABLE),)
        raise
