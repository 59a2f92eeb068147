"""Features that frozen encoders made: a store of ``truepair embed``, a folder of clip-retrieval, or two .npy files.

A store holds ``images.npy`` (``[images, dim]`` or ``[images, regions, dim]``), ``images.parquet`` (a row an image:
``image_id``, ``reference``, by which the source finds the picture, ``sha256`` of its bytes, ``difference_hash``,
``width``, ``height``, ``is_blank``), ``captions.npy`` (``[captions, dim]``; missing if captions are to be read as
words), ``pairs.parquet`` (a row a caption: ``caption_id``, ``caption``, ``image``, the row of its image, and
``image_id``), ``skipped.csv`` and ``embeddings.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from truepair.data.features import FeatureFile, check_finite
from truepair.data.joining import JoinedInputs
from truepair.data.pairs import Pairs, Pictures, Splits, Subset
from truepair.data.pictures import PictureFiles, SourcePictures
from truepair.data.splitting import randomly_split
from truepair.data.streaming import index_of_store, refuse_many
from truepair.errors import ConfigError, DataError, said_by
from truepair.files.json import read_json
from truepair.files.lines import lines_of
from truepair.files.names import PARTS, PLAN, SHARE_FOLDERS, STORE
from truepair.files.parquet import parquet_columns, read_parquet
from truepair.sources.decoding import MOST_PIXELS
from truepair.sources.opening import reopened

FORMAT = 2

_CAPTION_FILE = "captions.txt"
_IMAGE_FOLDER, _CAPTION_FOLDER, _METADATA_FOLDER = "img_emb", "text_emb", "metadata"
_IMAGE_NAMES = ("image_path", "key", "url")
"""Columns of clip-retrieval's metadata that name an image, the best first."""


def is_embeddings(folder: Path) -> bool:
    """Whether a folder holds features in one of the forms that `load_embeddings_splits` reads."""
    return _is_store(folder) or _is_clip_retrieval(folder) or _is_array_pair(folder)


def load_embeddings_splits(
    folder: Path,
    *,
    development_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
    notes: list[str] | None = None,
    stream_index: Path | None = None,
) -> Splits:
    """Features as training, development and test pairs; images are drawn at random with all of their captions.

    Features stay on disk and are read row by row; captions and names are in memory.

    - A store of ``truepair embed``. Pictures are read from its source when they are looked at.
    - A folder of clip-retrieval: ``img_emb/img_emb_0.npy`` …, ``metadata/metadata_0.parquet`` … with a column
      ``caption``, and ``text_emb/text_emb_0.npy`` … if captions have features. Rows with the same ``image_path``, or
      else ``key``, or ``url``, are of one image, whose features are those of the first of these rows.
    - ``images.npy`` and ``captions.npy`` with equally many rows, one pair a row, and ``captions.txt`` with one caption
      a line if the words are known.

    Args:
        folder: The folder; its name becomes the corpus's.
        development_share: Share of the images, in (0, 1), for development.
        test_share: Share of the images, in (0, 1), for the test.
        seed: Seed of the random split.
        notes: A list to which sentences are added: how many rows were left out because they have no caption.
        stream_index: Of a store of ``truepair embed``: a folder for its captions and names, which then stay on disk
            (see `truepair.data.streaming`).

    Raises:
        DataError: If the store is not finished, a file is missing or damaged, counts differ, features hold NaN or
            infinite values, or there are no captions.
        ConfigError: As `splitting.random_split`; with an index, also as `index_of_store` and `refuse_many`.
    """
    if stream_index is not None and not _is_store(folder):
        raise ConfigError(f"data.stream_index is for folders of 'truepair embed', and {folder} is none: leave it out")
    pairs = load_embeddings(folder, notes) if stream_index is None else _load_store(folder, stream_index)
    splits = randomly_split(pairs, development_share, test_share, seed, folder.resolve().name)
    if stream_index is not None:
        refuse_many(splits)
    return splits


def load_embeddings(folder: Path, notes: list[str] | None = None) -> Pairs:
    """All pairs of a folder of features, in its order, as `load_embeddings_splits` reads them.

    Args:
        folder: The folder.
        notes: See there.

    Raises:
        DataError: See there.
    """
    if _is_store(folder):
        return _load_store(folder)
    if _is_clip_retrieval(folder):
        return _load_clip_retrieval(folder, [] if notes is None else notes)
    return _load_array_pair(folder)


def stored_source(folder: Path) -> dict[str, Any] | None:
    """What a finished feature store was made of, as `sources.opening.description_of` says it.

    None if the folder is no feature store of ``truepair embed``.
    """
    described = read_json(folder / STORE, holds={"source": dict})
    return None if described is None else dict(described["source"])


def most_pixels_of(folder: Path) -> int:
    """Pixels of a picture that a feature store was made with at most."""
    return int((stored_source(folder) or {}).get("largest_pixels", MOST_PIXELS))


def stored_encoders(folder: Path) -> tuple[str, str] | None:
    """The names of what encoded the images and the captions of a feature store; None where it is not known."""
    described = read_json(folder / STORE, holds={"image_encoder": {"name": str}})
    if described is None or not described.get("text_encoder"):
        return None
    return described["image_encoder"]["name"], described["text_encoder"]["name"]


def _is_store(folder: Path) -> bool:
    plans = chain([folder / PARTS / PLAN], (folder / PARTS).glob(f"{SHARE_FOLDERS}/{PLAN}"))
    return (folder / STORE).is_file() or any(plan.is_file() for plan in plans)


def _is_clip_retrieval(folder: Path) -> bool:
    return (folder / _IMAGE_FOLDER).is_dir() and (folder / _METADATA_FOLDER).is_dir()


def _is_array_pair(folder: Path) -> bool:
    return (folder / "images.npy").is_file() and (folder / "captions.npy").is_file()


def _load_store(folder: Path, stream_index: Path | None = None) -> Pairs:
    described = read_json(folder / STORE, holds={"format": int, "source": dict, "text_encoder": dict | None})
    if described is None:
        raise DataError(
            f"{folder} is not finished: run 'truepair embed' again, as before, and it goes on; parts of several "
            "machines are put together with --join"
        )
    if described["format"] != FORMAT:
        raise DataError(
            f"{folder} has format {described['format']}, but this version of truepair reads {FORMAT}: update truepair, "
            "or embed again"
        )
    has_captions = described.get("text_encoder") is not None
    references: Sequence[str]
    if stream_index is None:
        pairs = part_pairs(folder, has_captions=has_captions)
        references = read_parquet(folder / "images.parquet", ["reference"], is_full=True)["reference"].to_pylist()
    else:
        index = index_of_store(folder / "images.parquet", folder / "pairs.parquet", stream_index)
        pairs = index.pairs(*_features_of(folder, len(index.images), len(index.captions), has_captions))
        references = index.references
    return replace(pairs, pictures=SourcePictures(references, lambda: reopened(described["source"])))


def part_pairs(folder: Path, *, has_captions: bool = True) -> Pairs:
    """The pairs of a feature store, or of one of its parts, without their pictures.

    Args:
        folder: The store, or the part.
        has_captions: Whether captions have features.
    """
    images = read_parquet(folder / "images.parquet", ["image_id"], is_full=True)
    pairs = read_parquet(folder / "pairs.parquet", ["caption_id", "caption", "image"], is_full=True)
    of_images, of_captions = _features_of(folder, len(images), len(pairs), has_captions)
    return Pairs(
        images=of_images,
        captions=pairs["caption"].to_pylist(),
        image_of_caption=torch.tensor(pairs["image"].to_numpy()),
        image_ids=images["image_id"].to_pylist(),
        caption_ids=pairs["caption_id"].to_pylist(),
        caption_inputs=of_captions,
    )


def _features_of(
    folder: Path, images: int, captions: int, has_captions: bool
) -> tuple[FeatureFile, FeatureFile | None]:
    """The features of a store, or of one of its parts, on both sides."""
    of_images = _features(folder / "images.npy", images, "rows in images.parquet")
    if not has_captions:
        return of_images, None
    return of_images, _features(folder / "captions.npy", captions, "rows in pairs.parquet")


def _load_clip_retrieval(folder: Path, notes: list[str]) -> Pairs:
    tables = _numbered_files(folder / _METADATA_FOLDER, ".parquet")
    names = parquet_columns(next(iter(tables.values())))
    if "caption" not in names:
        raise DataError(
            f"{folder / _METADATA_FOLDER} has no column 'caption' (but {', '.join(names)}): nothing says what the "
            "images are paired with; run clip-retrieval inference with captions"
        )
    named_by = next((name for name in _IMAGE_NAMES if name in names), None)
    columns = ["caption"] if named_by is None else ["caption", named_by]
    parts = {number: read_parquet(path, columns) for number, path in tables.items()}
    try:
        rows = pa.concat_tables(parts.values(), promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"the files in {folder / _METADATA_FOLDER} do not fit together: {said_by(error)}") from error
    counts = {number: len(part) for number, part in parts.items()}
    captions = rows["caption"].to_pylist()
    kept = [row for row, caption in enumerate(captions) if isinstance(caption, str) and caption.strip()]
    if len(kept) < len(captions):
        notes.append(f"{len(captions) - len(kept):,} of the {len(captions):,} rows have no caption and are left out")

    row_names = [f"row-{row}" for row in range(1, len(rows) + 1)]
    given = [None] * len(rows) if named_by is None else rows[named_by].to_pylist()
    image_names = [row_name if name is None else str(name) for name, row_name in zip(given, row_names, strict=True)]
    first_rows: dict[str, int] = {}
    for row in kept:
        first_rows.setdefault(image_names[row], row)
    image_of_name = {name: image for image, name in enumerate(first_rows)}
    has_captions = (folder / _CAPTION_FOLDER).is_dir()
    return Pairs(
        images=Subset(_joined(folder / _IMAGE_FOLDER, counts), torch.tensor(list(first_rows.values()))),
        captions=[captions[row] for row in kept],
        image_of_caption=torch.tensor([image_of_name[image_names[row]] for row in kept]),
        image_ids=list(first_rows),
        caption_ids=[row_names[row] for row in kept],
        caption_inputs=Subset(_joined(folder / _CAPTION_FOLDER, counts), torch.tensor(kept)) if has_captions else None,
        pictures=_pictures_at(list(first_rows)) if named_by == "image_path" else None,
    )


def _load_array_pair(folder: Path) -> Pairs:
    captions = FeatureFile(folder / "captions.npy")
    images = _features(folder / "images.npy", len(captions), "rows in captions.npy; one row of each is a pair")
    check_finite(captions, str(captions.path))
    texts = [f"caption {row}" for row in range(len(captions))]
    has_texts = (folder / _CAPTION_FILE).is_file()
    if has_texts:
        texts = list(lines_of(folder / _CAPTION_FILE))
        if len(texts) != len(captions):
            raise DataError(
                f"{folder / _CAPTION_FILE} has {len(texts):,} lines but captions.npy has {len(captions):,} rows; write "
                "one caption a line"
            )
    return Pairs(
        images=images,
        captions=texts,
        image_of_caption=torch.arange(len(captions)),
        image_ids=[f"image-{row}" for row in range(len(captions))],
        caption_ids=[f"caption-{row}" for row in range(len(captions))],
        caption_inputs=captions,
        has_texts=has_texts,
    )


def _joined(folder: Path, counts: Mapping[int, int]) -> JoinedInputs:
    """The features of numbered files, whose rows are those of the metadata of the same number."""
    files = _numbered_files(folder, ".npy")
    if files.keys() != counts.keys():
        raise DataError(
            f"{folder} has the numbers {_shown(files)}, but {_METADATA_FOLDER} has {_shown(counts)}: copy what is "
            "missing"
        )
    parts = [_features(files[number], count, f"rows in metadata {number}") for number, count in counts.items()]
    shapes = {part.header.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise DataError(f"{folder} has files of unlike widths, {' and '.join(map(str, sorted(shapes)))}; embed again")
    return JoinedInputs(parts)


def _features(path: Path, expected: int, of_what: str) -> FeatureFile:
    features = FeatureFile(path)
    if len(features) != expected:
        raise DataError(f"{path} has {len(features):,} rows, but there are {expected:,} {of_what}")
    check_finite(features, str(path))
    return features


def _numbered_files(folder: Path, suffix: str) -> dict[int, Path]:
    """The files of a folder by the number at the end of their name, in its order."""
    numbers = {path: re.search(r"_(\d+)$", path.stem) for path in sorted(folder.glob(f"*{suffix}"))}
    files = {int(number[1]): path for path, number in numbers.items() if number is not None}
    if not files:
        raise DataError(f"{folder} holds no numbered {suffix} files, such as {folder.name}_0{suffix}")
    return dict(sorted(files.items()))


def _pictures_at(paths: Sequence[str]) -> Pictures | None:
    """The files that the metadata names, if they are on this machine."""
    return PictureFiles([Path(path) for path in paths]) if paths and Path(paths[0]).is_file() else None


def _shown(numbers: Mapping[int, object]) -> str:
    """A few numbers of many."""
    first = ", ".join(map(str, list(numbers)[:5]))
    return first if len(numbers) <= 5 else f"{first} … {len(numbers):,} in all"
