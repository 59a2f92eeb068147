"""One shard of a source through the encoders: decoding in threads, encoding in batches, the features on disk."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16

from truepair.embedding.image_encoders import ImageEncoder
from truepair.embedding.shares import ALL, Batches
from truepair.embedding.store import (
    CAPTIONS,
    IMAGES,
    ImageRow,
    PairRow,
    Part,
    RowWriter,
    finish_part,
    temporary_folder,
)
from truepair.embedding.text_encoders import TextEncoder, batches_by_length, encode_batches
from truepair.errors import DataError
from truepair.sources.decoding import MOST_PIXELS, DecodingMemory, decoded, decoded_side
from truepair.sources.facts import PictureFacts, facts_of
from truepair.sources.picture_files import UnreadablePictureError, left_out
from truepair.sources.protocol import Sample, Skipped


@dataclass(frozen=True)
class Encoders:
    """What a shard goes through.

    Attributes:
        image: For the pictures.
        text: For the captions; None to leave them as words.
        batch_size: How many go through together.
        memory: What pictures may take while they wait and are decoded.
        most_pixels: Pictures with more are left out.
    """

    image: ImageEncoder
    text: TextEncoder | None
    batch_size: int
    memory: DecodingMemory
    most_pixels: int = MOST_PIXELS


def embed_shard(
    items: Iterable[Sample | Skipped],
    folder: Path,
    encoders: Encoders,
    pool: Executor,
    progress: Callable[[int], None],
    batches: Batches = ALL,
) -> Part:
    """The shard's features and rows, in a folder that appears when they are whole.

    A picture that cannot be decoded is left out with its captions. Where some batches are another machine's, the rows
    of all are written, and the features of this one's only.

    Args:
        items: What the source read.
        folder: The part; its parent is made if needed.
        encoders: Networks and batch size.
        pool: Threads that decode.
        progress: Is told how many images were encoded, after each batch.
        batches: The batches to encode.

    Returns:
        What the part holds.

    Raises:
        DataError: If an encoder gives values that float16 cannot hold.
    """
    started = time.perf_counter()
    temporary = temporary_folder(folder)
    skipped: list[Skipped] = []
    images: list[ImageRow] = []
    pairs: list[PairRow] = []
    batch: list[np.ndarray] = []
    with RowWriter(temporary / IMAGES) as rows:

        def encode_batch() -> None:
            if (len(images) - 1) // encoders.batch_size in batches:
                features = encoders.image.encode(batch)
                names = [image.image_id for image in images[-len(batch) :]]
                rows.append(_stored(features, names, encoders.image.description.name))
                progress(len(batch))
            batch.clear()

        for seen in _seen(items, encoders, pool, ahead=2 * encoders.batch_size):
            if isinstance(seen, Skipped):
                skipped.append(seen)
                continue
            sample = seen.sample
            for name, caption in zip(sample.caption_ids, sample.captions, strict=True):
                pairs.append(PairRow(name, caption, len(images), sample.image_id))
            images.append(ImageRow(sample.image_id, sample.reference, seen.facts))
            batch.append(seen.values)
            if len(batch) == encoders.batch_size:
                encode_batch()
        if batch:
            encode_batch()
    cut = 0 if encoders.text is None else _encode_captions(pairs, temporary / CAPTIONS, encoders, batches)
    seconds = round(time.perf_counter() - started, 3)
    done = Part(folder, len(images), len(pairs), cut, seconds, tuple(skipped))
    finish_part(temporary, done, images, pairs)
    return done


@dataclass(frozen=True)
class _Seen:
    """A sample whose picture was decoded."""

    sample: Sample
    facts: PictureFacts
    values: np.ndarray


def _seen(
    items: Iterable[Sample | Skipped], encoders: Encoders, pool: Executor, ahead: int
) -> Iterator[_Seen | Skipped]:
    """What becomes of each item, in their order; up to `ahead` pictures are decoded before they are asked for."""
    waiting: deque[tuple[Future[_Seen | Skipped] | Skipped, int]] = deque()
    held = 0  # bytes of the files that wait
    for item in items:
        size = 0 if isinstance(item, Skipped) else len(item.picture)
        waiting.append((item if isinstance(item, Skipped) else pool.submit(_see, item, encoders), size))
        held += size
        while len(waiting) > ahead or held > encoders.memory.most:
            first, size = waiting.popleft()
            yield _awaited(first)
            held -= size
    for first, _ in waiting:
        yield _awaited(first)


def _awaited(item: Future[_Seen | Skipped] | Skipped) -> _Seen | Skipped:
    return item if isinstance(item, Skipped) else item.result()


def _see(sample: Sample, encoders: Encoders) -> _Seen | Skipped:
    side = decoded_side(encoders.image.description.side)
    with encoders.memory.of(sample.picture, side):
        try:
            picture = decoded(sample.picture, side, encoders.most_pixels)
        except UnreadablePictureError as error:
            return left_out(sample, error)
        values = encoders.image.preprocess(picture)
        return _Seen(replace(sample, picture=b""), facts_of(sample.picture, picture), values)


def _encode_captions(pairs: list[PairRow], path: Path, encoders: Encoders, batches: Batches) -> int:
    """Write the captions' features; how many captions were cut."""
    assert encoders.text is not None
    captions = [pair.caption for pair in pairs]
    chosen = [rows for batch, rows in enumerate(batches_by_length(captions, encoders.batch_size)) if batch in batches]
    if not chosen:
        return 0
    encoded = encode_batches(encoders.text, captions, chosen)
    names = [pairs[row].caption_id for row in sorted(row for rows in chosen for row in rows)]
    with RowWriter(path) as rows_of:
        rows_of.append(_stored(encoded.features, names, encoders.text.description.name))
    return encoded.cut


def _stored(
    features: Float[np.ndarray, " rows *row"], names: list[str], encoder: str
) -> Float16[np.ndarray, " rows *row"]:
    """The features in the precision of the store."""
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused
        stored = features.astype(np.float16)
    bad = np.flatnonzero(~np.isfinite(stored).reshape(len(stored), -1).all(axis=1))
    if len(bad):
        raise DataError(
            f"{encoder} gives {names[bad[0]]!r} features that are not numbers or beyond float16 (±65,504), and "
            f"{len(bad) - 1:,} others of its batch: choose another encoder, or leave that one out of the source"
        )
    return stored
