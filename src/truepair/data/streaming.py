"""Corpora that are larger than memory: names and captions in files, pictures and features read a few shards at a time.

A folder, the index, holds what is known of every picture and caption: ``images.arrow`` (a row a picture: ``image_id``,
``reference``, by which the source finds it, and ``shard``, the number of the part that it lies in), ``captions.arrow``
(a row a caption: ``caption_id``, ``caption``, ``image``, the row of its picture, and ``split``, empty where the source
names none), ``skipped.csv``, and ``index.json``, which is written last. Both tables are mapped into memory. While the
index is made, each shard's rows are files of their own in ``parts``: the same call goes on with the next shard.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from truepair import processes
from truepair.data.pairs import Inputs, Pairs, Splits
from truepair.data.pictures import SourcePictures
from truepair.data.pixels import Pixels, unreadable
from truepair.data.splitting import pairs_and_their_images
from truepair.errors import ConfigError, DataError, said_by
from truepair.files.json import parsed_json, read_json, write_json
from truepair.files.locking import LOCK, alone_in
from truepair.files.names import INDEX, PARTS
from truepair.files.parquet import parquet_batches
from truepair.files.replacing import remove, replacing
from truepair.files.texts import Texts
from truepair.pretrained.pictures import PictureReader
from truepair.progress import progress
from truepair.sources.decoding import UNREADABLE
from truepair.sources.protocol import Skipped, Source
from truepair.sources.skipped import SKIPPED, read_skipped, write_skipped
from truepair.sources.stores import StorePath
from truepair.sources.tables import TableSource
from truepair.sources.versions import contents_of, versioned_shards
from truepair.sources.webdataset import UNREADABLE_SHARD, WebDatasetSource

ROWS_A_SHARD = 8192
"""Rows of a feature store that count as a shard: their features are read from one stretch of the file."""
MOST_SEARCHED = 50_000
"""Development or test images that can be searched after every epoch."""

_IMAGES, _CAPTIONS = "images.arrow", "captions.arrow"
_PLANNED = {"of": dict, "shards": list, "contents": list}
_ROWS_AT_A_TIME = 65_536
_PICTURES_AT_A_TIME = 64
_IMAGE_ROW = pa.schema([("image_id", pa.string()), ("reference", pa.string()), ("shard", pa.int32())])
_CAPTION_ROW = pa.schema(
    [("caption_id", pa.string()), ("caption", pa.string()), ("image", pa.int64()), ("split", pa.string())]
)


Rows: TypeAlias = "tuple[pa.RecordBatch | None, pa.RecordBatch | None] | Skipped"
"""Some pictures and some captions of a part, which numbers its pictures from 0; or something that was left out."""


@dataclass(frozen=True)
class StreamIndex:
    """What an index holds, mapped into memory.

    Attributes:
        images: A row a picture.
        captions: A row a caption.
        skipped: What was left out.
    """

    images: pa.Table
    captions: pa.Table
    skipped: list[Skipped]

    @property
    def splits(self) -> list[str | None]:
        """The split of each caption, as the source calls it; None where it names none."""
        encoded = self.captions["split"].combine_chunks().dictionary_encode()
        names = [name or None for name in encoded.dictionary.to_pylist()]
        return [names[code] for code in encoded.indices.to_numpy()]

    @property
    def references(self) -> Texts:
        """What the source finds each picture by."""
        return Texts(self.images["reference"])

    def pairs(self, images: Inputs, caption_inputs: Inputs | None = None) -> Pairs:
        """All pairs, whose names and captions stay on disk.

        Args:
            images: What the image encoder reads, a row a picture.
            caption_inputs: What the text encoder reads, if that is known.
        """
        return Pairs(
            images=images,
            captions=Texts(self.captions["caption"]),
            image_of_caption=torch.from_numpy(self.captions["image"].to_numpy().copy()),
            image_ids=Texts(self.images["image_id"]),
            caption_ids=Texts(self.captions["caption_id"]),
            caption_inputs=caption_inputs,
            shard_of_image=torch.from_numpy(self.images["shard"].to_numpy().copy()),
        )


def index_of_source(source: Source, description: Mapping[str, Any], folder: Path) -> StreamIndex:
    """The index of a source in `folder`: made there, gone on with, or there already.

    Names and captions are read; pictures are not looked at. Of several processes, the first makes it.

    Args:
        source: Pictures and captions.
        description: See `sources.opening.description_of`.
        folder: Of the index; made if missing.

    Raises:
        ConfigError: If the folder holds another index or other files, or another process is writing to it.
        DataError: If the source has no pair that can be read, or the index is damaged.
    """
    plan = _Plan(dict(description), versioned_shards(source), contents_of(source, with_times=True))
    parts = [partial(_rows_of_shard, source, shard, number) for number, shard in enumerate(source.shards())]
    return _opened(folder, plan, parts)


def index_of_store(images: Path, pairs: Path, folder: Path) -> StreamIndex:
    """The index of a feature store in `folder`, see `index_of_source`.

    Args:
        images: The store's table of images.
        pairs: Its table of captions.
        folder: Of the index.

    Raises:
        ConfigError: See `index_of_source`.
        DataError: If a table is damaged.
    """
    files = [file.stat() for file in (images, pairs)]
    contents = [f"{file.st_size} bytes, {file.st_mtime_ns} ns" for file in files]
    plan = _Plan({"path": str(images.resolve().parent)}, [images.name, pairs.name], contents)
    return _opened(folder, plan, [partial(_rows_of_store, images, pairs)])


def streamed_pairs(index: StreamIndex, source: Source, reader: PictureReader, most_pixels: int) -> Pairs:
    """The pairs of a source's index, whose pictures are read and decoded when they are asked for.

    Args:
        index: Of the source.
        source: Where the pictures are.
        reader: What makes pixels of pictures.
        most_pixels: Pictures with more are not decoded.
    """
    if isinstance(source, TableSource):
        source.keep_copies()
    pictures = _PicturesOfShards(index.references, lambda: source)
    pairs = index.pairs(Pixels(pictures, reader, most_pixels, is_lenient=True))
    return replace(pairs, pictures=pictures)


class _PicturesOfShards(SourcePictures):
    """Pictures of which the next ones lie in the same few shards: of a store, a shard is fetched whole.

    Of Parquet files with pictures in their cells, the row groups that the next ones lie in are copied, see
    `TableSource.keep_copies`.
    """

    def __getitem__(self, image: int) -> bytes:
        source, reference = self._open(), self.references[image]
        if isinstance(source, WebDatasetSource) and isinstance(source.path, StorePath):
            source.file_of(reference.rpartition(".tar:")[0])
        return source.picture(reference)


def searchable(splits: Splits) -> tuple[Splits, list[Skipped]]:
    """The splits with the development and test pictures that can be decoded, and what is left out of them.

    Raises:
        ConfigError: If there are more than can be searched after every epoch.
        DataError: If none of a split can be decoded.
    """
    refuse_many(splits)
    dev, lost_of_dev = _readable(splits.dev)
    test, lost_of_test = _readable(splits.test)
    return replace(splits, dev=dev, test=test), lost_of_dev + lost_of_test


def refuse_many(splits: Splits) -> None:
    """Refuse development and test images that would be searched for longer than anybody waits.

    Raises:
        ConfigError: If there are more than `MOST_SEARCHED` of either.
    """
    for split, pairs in (("development", splits.dev), ("test", splits.test)):
        if len(pairs.images) > MOST_SEARCHED:
            raise ConfigError(
                f"the {split} split has {len(pairs.images):,} images, each of which is compared with all of its "
                f"captions after every epoch: choose at most {MOST_SEARCHED:,} (--{split}-share, or the source's own "
                "splits)"
            )


def _readable(pairs: Pairs) -> tuple[Pairs, list[Skipped]]:
    """The pairs whose pictures can be decoded; each is decoded once."""
    lost: dict[int, str] = {}
    for rows in torch.arange(len(pairs.images)).split(_PICTURES_AT_A_TIME):
        pairs.images.take(rows)
        lost |= {int(rows[place]): why for place, why in unreadable(pairs.images, rows).items()}
    if not lost or pairs.pictures is None:
        return pairs, []
    skipped = [Skipped(pairs.pictures.reference(image), UNREADABLE, why) for image, why in lost.items()]
    is_kept = torch.ones(len(pairs.images), dtype=torch.bool)
    is_kept[list(lost)] = False
    kept = is_kept[pairs.image_of_caption].nonzero().flatten()
    if not len(kept):
        raise DataError(f"no picture of a split can be decoded; the first is {skipped[0].where}: {skipped[0].detail}")
    return pairs_and_their_images(pairs, kept), skipped


@dataclass(frozen=True)
class _Plan:
    """What an index is of: the same plan, the same index."""

    of: Mapping[str, Any]
    shards: Sequence[str]
    contents: Sequence[str]
    format: int = 1

    def as_stored(self) -> dict[str, Any]:
        """As JSON gives it back."""
        stored: dict[str, Any] = parsed_json(json.dumps(asdict(self)), "the plan")
        return stored


def _opened(folder: Path, plan: _Plan, parts: Sequence[Callable[[], Iterator[Rows]]]) -> StreamIndex:
    """The index in a folder, which the first process makes if it is not there."""
    processes.on_first(partial(_make, folder, plan.as_stored(), parts))
    try:
        images, captions = (
            pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all() for name in (_IMAGES, _CAPTIONS)
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"the index in {folder} cannot be read ({said_by(error)}): delete it") from error
    return StreamIndex(images, captions, read_skipped(folder / SKIPPED))


def _make(folder: Path, plan: dict[str, Any], parts: Sequence[Callable[[], Iterator[Rows]]]) -> None:
    """Make the index that `plan` says, or go on making it, unless it is there."""
    if _is_made(folder, plan) and not (folder / PARTS).exists():
        return  # without a lock: others may be reading it
    with alone_in(folder):
        if _is_made(folder, plan):
            remove(folder / PARTS)
            return
        begun = read_json(folder / PARTS / INDEX, _PLANNED)
        if begun is None:
            strange = [path.name for path in folder.iterdir() if path.name not in (LOCK, PARTS)]
            if strange:
                raise ConfigError(f"{folder} holds {strange[0]}, of something else: name another folder for the index")
        else:
            _refuse_other(folder, begun, plan)
        (folder / PARTS).mkdir(exist_ok=True)
        write_json(folder / PARTS / INDEX, plan)
        with progress("reading names and captions", "shards", len(parts)) as shown:
            for number, part in enumerate(parts):
                _write_part(folder / PARTS / f"{number:06d}", part)
                shown.advance()
        _join(folder, len(parts), str(plan["of"].get("path")))
        write_json(folder / INDEX, plan)
        remove(folder / PARTS)


def _is_made(folder: Path, plan: Mapping[str, Any]) -> bool:
    there = read_json(folder / INDEX, _PLANNED)
    if there is not None:
        _refuse_other(folder, there, plan)
    return there is not None


def _refuse_other(folder: Path, there: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Refuse an index of anything else, or of what was changed since."""
    for name, what in (("of", "is of another corpus, or of other options"), ("shards", "is of other shards")):
        if there[name] != plan[name]:
            raise ConfigError(f"the index in {folder} {what} ({name}): name another folder, or delete that one")
    changed = [
        shard for shard, was, now in zip(plan["shards"], there["contents"], plan["contents"], strict=True) if was != now
    ]
    if changed:
        raise ConfigError(
            f"{len(changed):,} of {len(plan['shards']):,} shards were changed since the index in {folder} was made "
            f"(first: {changed[0]}): restore them, or delete the index"
        )


def _write_part(stem: Path, part: Callable[[], Iterator[Rows]]) -> None:
    """The rows of one part in files of its own, of which the list of what was left out is written last."""
    skipped, done = [], stem.with_suffix(".json")
    if done.exists():
        return
    with (
        replacing(stem.with_suffix(f".{_IMAGES}")) as of_images,
        replacing(stem.with_suffix(f".{_CAPTIONS}")) as of_captions,
        pa.ipc.new_file(str(of_images), _IMAGE_ROW) as images,
        pa.ipc.new_file(str(of_captions), _CAPTION_ROW) as captions,
    ):
        for rows in part():
            if isinstance(rows, Skipped):
                skipped.append(rows)
                continue
            for batch, file in zip(rows, (images, captions), strict=True):
                if batch is not None:
                    file.write_batch(batch)
    write_json(done, {"skipped": [asdict(each) for each in skipped]})


def _join(folder: Path, parts: int, corpus: str) -> None:
    """All parts as one table each, whose pictures are numbered through."""
    stems = [folder / PARTS / f"{number:06d}" for number in range(parts)]
    skipped: list[Skipped] = []
    first = 0
    with (
        replacing(folder / _IMAGES) as of_images,
        replacing(folder / _CAPTIONS) as of_captions,
        pa.ipc.new_file(str(of_images), _IMAGE_ROW) as images,
        pa.ipc.new_file(str(of_captions), _CAPTION_ROW) as captions,
    ):
        for stem in stems:
            for batch in _batches(stem.with_suffix(f".{_CAPTIONS}")):
                place = batch.schema.get_field_index("image")
                captions.write_batch(batch.set_column(place, "image", pc.add(batch.column(place), first)))
            for batch in _batches(stem.with_suffix(f".{_IMAGES}")):
                images.write_batch(batch)
                first += len(batch)
            of_part = read_json(stem.with_suffix(".json"), {"skipped": list}) or {"skipped": []}
            skipped += [Skipped(**{**each, "caption_ids": tuple(each["caption_ids"])}) for each in of_part["skipped"]]
    if not first:
        said = f"; the first is {skipped[0].where}: {skipped[0].reason}" if skipped else ""
        raise DataError(f"{corpus} has no pair that can be read ({len(skipped):,} left out{said})")
    write_skipped(skipped, folder / SKIPPED)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as file:
        for number in range(file.num_record_batches):
            yield file.get_batch(number)


def _rows_of_shard(source: Source, shard: str, number: int) -> Iterator[Rows]:
    """The samples of a shard, a few thousand at a time.

    Raises:
        DataError: If the shard cannot be read.
    """
    images: list[tuple[str, str, int]] = []
    captions: list[tuple[str, str, int, str]] = []
    first = 0
    for item in source.read(shard, pictures=False):
        if isinstance(item, Skipped):
            if item.reason == UNREADABLE_SHARD:  # for now: it would be missing from the index for good
                raise DataError(
                    f"{item.where} cannot be read ({item.detail}): run the same command once it can, which goes on "
                    "with this shard, or name the shards without it"
                )
            yield item
            continue
        image = first + len(images)
        images.append((item.image_id, item.reference, number))
        rows = zip(item.caption_ids, item.captions, strict=True)
        captions += [(name, caption, image, item.split or "") for name, caption in rows]
        if len(captions) >= _ROWS_AT_A_TIME:
            yield _batch(images, _IMAGE_ROW), _batch(captions, _CAPTION_ROW)
            first += len(images)
            images, captions = [], []
    yield _batch(images, _IMAGE_ROW), _batch(captions, _CAPTION_ROW)


def _batch(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else ([] for _ in schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema)


def _rows_of_store(images: Path, pairs: Path) -> Iterator[Rows]:
    """The rows of both tables of a feature store."""
    first = 0
    for batch in parquet_batches(images, ["image_id", "reference"], _ROWS_AT_A_TIME):
        shard = pa.array((first + np.arange(len(batch))) // ROWS_A_SHARD, pa.int32())
        yield pa.record_batch([batch["image_id"], batch["reference"], shard], _IMAGE_ROW), None
        first += len(batch)
    for batch in parquet_batches(pairs, ["caption_id", "caption", "image"], _ROWS_AT_A_TIME):
        columns = [batch["caption_id"], batch["caption"], batch["image"].cast(pa.int64())]
        yield None, pa.record_batch([*columns, pa.array([""] * len(batch))], _CAPTION_ROW)
