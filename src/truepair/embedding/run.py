"""An embedding from beginning to end: shard by shard through frozen encoders into a feature store; resumes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from truepair import __version__
from truepair.config import DataConfig, SourceConfig
from truepair.config.embedding import EmbedConfig, Share
from truepair.data.corpora import refuse_unread_once_embedded
from truepair.data.embeddings import FORMAT
from truepair.embedding.choosing import load_encoders
from truepair.embedding.on_ray import embed_on_ray
from truepair.embedding.own_encoders import registered
from truepair.embedding.plan import (
    EncodedBy,
    finished_store,
    plan_of,
    refuse_other_encoders,
    refuse_unfit,
    refuse_unfit_share,
)
from truepair.embedding.shard import Encoders, embed_shard
from truepair.embedding.shares import ALL, Batches, pieces_of, share_folder, share_folders
from truepair.embedding.store import CAPTIONS, IMAGES, encoded_rows, finished_part, join_parts, parts_of
from truepair.errors import ConfigError, DataError, of_system
from truepair.files.json import write_json
from truepair.files.locking import LOCK, alone_in, make_folder
from truepair.files.names import EMBEDDINGS, PARTS, PLAN, STORE
from truepair.files.replacing import is_leftover, remove
from truepair.progress import progress
from truepair.sources.first_look import look_first
from truepair.sources.opening import description_of, open_source
from truepair.sources.protocol import Source


def embedded_corpus(
    data: DataConfig,
    folder: Path,
    embedding: EmbedConfig,
    tell: Callable[[str], None] = lambda said: None,
    first_part: Callable[[Path], None] = lambda part: None,
) -> DataConfig:
    """A corpus of pictures as a corpus of embeddings, which lie in a folder in `folder`; made now, or there already.

    Args:
        data: The corpus.
        folder: Where to; made if missing. The same call finds the embeddings again, or goes on with them.
        embedding: With which encoders; how the source is read, `data` says.
        tell: See `embed`.
        first_part: See `embed`.

    Raises:
        TruepairError: If an option of `data` has no meaning once it is embedded, or as `embed`.
    """
    refuse_unread_once_embedded(data, embedding.text_encoder)
    make_folder(folder)
    store = (folder / EMBEDDINGS).resolve()
    tell(f"pictures are embedded with {embedding.image_encoder}, captions with {embedding.text_encoder}, into {store}")
    embed(data.path, store, replace(embedding, source=data.source), tell, first_part)
    return replace(data, path=str(store), source=SourceConfig())


def found_store(path: str, stores: Sequence[Path], config: EmbedConfig) -> Path | None:
    """The feature store that `embed` would make, if it is one of those that are there.

    Args:
        path: See `embed`.
        stores: Feature stores, of anything.
        config: How `embed` would be called.

    Raises:
        DataError: If the source cannot be read.
    """
    source = open_source(path, config.source)
    plan = plan_of(source, description_of(source, path, config.source), config)
    for store in stores:
        with suppress(ConfigError):  # of something else
            if finished_store(store, plan) is not None:
                return store
    return None


def embed(
    path: str,
    out: Path,
    config: EmbedConfig,
    tell: Callable[[str], None] = lambda said: None,
    first_part: Callable[[Path], None] = lambda part: None,
) -> dict[str, Any]:
    """Encode a source of pictures and captions into a feature store, or go on with the one that is there.

    `out` then holds ``images.npy``, ``captions.npy`` (unless captions stay words), ``images.parquet``,
    ``pairs.parquet``, ``skipped.csv`` and ``embeddings.json`` (see `truepair.data.embeddings`). Until then it holds
    ``parts/``: shards that are in there are not encoded again, and a run that was killed ends with the same bytes.

    Workers, engine and device may change from one call to the next; everything else makes another store. With `shards`
    only the share of one of several machines is encoded; `truepair.embedding.joining.join` then makes the store.

    Args:
        path: A table, a folder, tar shards or a dataset (see `truepair.sources.opening.open_source`).
        out: The folder to write to; made if missing.
        config: How.
        tell: Is told, before any work, what was found out about the source: the delimiter, the columns.
        first_part: Is given the first part that this call finishes, where others follow; not with an engine.

    Returns:
        What ``embeddings.json`` holds; of one machine of several what it did.

    Raises:
        ConfigError: If the folder holds another store or other files of these names, another process is writing to it,
            or an encoder cannot be loaded.
        DataError: If the source cannot be read, nothing in it could be encoded, or there is no room.
    """
    source = open_source(path, config.source)
    for note in source.notes:
        tell(note)
    return embed_source(source, description_of(source, path, config.source), out, config, first_part)


def embed_source(
    source: Source,
    description: Mapping[str, Any],
    out: Path,
    config: EmbedConfig,
    first_part: Callable[[Path], None] = lambda part: None,
) -> dict[str, Any]:
    """As `embed`, for a source that is open.

    Args:
        source: Pictures and captions.
        description: What opens it again (see `description_of`).
        out: See `embed`.
        config: Encoders, grid, batch size, workers and device; the rest has been used.
        first_part: See `embed`.
    """
    plan, share = plan_of(source, description, config), config.share
    if share is not None:
        return made_once(out, plan, lambda: _embed_share(source, plan, out, config, share), share)
    return made_once(out, plan, lambda: _embed_all(source, plan, out, config, first_part))


def made_once(
    out: Path, plan: Mapping[str, Any], make: Callable[[], dict[str, Any]], share: Share | None = None
) -> dict[str, Any]:
    """What `make` makes of a store, where no other process writes; nothing is made of a finished one.

    Args:
        out: The store, whose parts are deleted once it is finished.
        plan: What it is made of.
        make: Writes the store, or the folder of one of several machines in it; returns what it did.
        share: That of the machine, which owns its folder; None owns the store.

    Raises:
        ConfigError: If the store is of something else, or another process is writing to the folder.
        DataError: If there is no room.
    """
    summary = finished_store(out, plan)
    if summary is not None:
        _clean(out)
        return summary
    try:
        with alone_in(out if share is None else share_folder(out, share)):
            summary = finished_store(out, plan) or make()
            if share is None:
                _clean(out)
            return summary
    except OSError as error:
        raise DataError(f"{out} cannot be written ({of_system(error)})") from error


def begin_store(out: Path, plan: Mapping[str, Any]) -> None:
    """Write down what the parts in a store's folder are of, before any part."""
    (out / PARTS).mkdir(exist_ok=True)
    write_json(out / PARTS / PLAN, plan)


def finish_store(
    out: Path, plan: Mapping[str, Any], folders: Sequence[Path], by: EncodedBy, notes: Sequence[str]
) -> dict[str, Any]:
    """Join the parts of all shards into the store's files.

    Args:
        out: The store.
        plan: What it was made of.
        folders: The parts, in order.
        by: What encoded them.
        notes: What was found out about the source.

    Returns:
        What ``embeddings.json`` holds.

    Raises:
        DataError: If there is no image in them, or one is missing.
    """
    summary = _summary(plan, by, folders) | {"hardware": by.hardware, "notes": list(notes)}
    if summary["images"] == 0:
        _refuse_nothing(summary["skipped"], out / PARTS, folders)
    join_parts(folders, out)
    write_json(out / STORE, summary)  # last: it says that all the others are whole
    return summary


def _clean(out: Path) -> None:
    """Delete the parts of a finished store, and what a kill left there; not where another process is at it."""
    if (out / PARTS / PLAN).exists() or (out / LOCK).exists() or any(map(is_leftover, out.iterdir())):
        with suppress(ConfigError, OSError), alone_in(out):
            if (out / PARTS / PLAN).exists():
                remove(out / PARTS)


def _embed_all(
    source: Source, plan: Mapping[str, Any], out: Path, config: EmbedConfig, first_part: Callable[[Path], None]
) -> dict[str, Any]:
    """Encode every shard and join the parts."""
    parts = out / PARTS
    refuse_unfit(out, plan)
    if not (parts / PLAN).exists():  # else an earlier run has looked
        look_first(source, config.source.largest_pixels)  # before an encoder is loaded
    folders = {shard: parts / f"{number:05d}" for number, shard in enumerate(source.shards())}
    begin = partial(begin_store, out, plan)  # binds the folder, once the encoders are loaded
    if config.engine == "ray":
        own = [name for name in (config.image_encoder, config.text_encoder) if registered(name) is not None]
        if own:
            raise ConfigError(
                f"engine is 'ray', whose workers do not know the registered encoder {own[0]!r}: use 'local'"
            )
        by = embed_on_ray(plan["source"], folders, config, begin)
    else:
        encoders, by = load_encoders(config)
        begin()
        todo = {folder: (shard, ALL) for shard, folder in folders.items()}
        _embed_shards(source, todo, encoders, config.workers, first_part)
    return finish_store(out, plan, list(folders.values()), by, source.notes)


def _embed_share(
    source: Source, plan: Mapping[str, Any], out: Path, config: EmbedConfig, share: Share
) -> dict[str, Any]:
    """Encode what one of several machines has to; returns what it did."""
    shared = {**plan, "share": str(share)}
    refuse_unfit_share(out, shared, share)
    folder = share_folder(out, share)
    shards = source.shards()
    todo = {folder / piece.name: (shards[piece.shard], piece.batches) for piece in pieces_of(share, len(shards))}
    if not (folder / PLAN).exists():
        look_first(source, config.source.largest_pixels)
    if not (folder / PLAN).exists() or any(finished_part(part) is None for part in todo):
        encoders, by = load_encoders(config)
        for other in share_folders(out):
            refuse_other_encoders(other, by)  # now, not after hours, when the parts are put together
        write_json(folder / PLAN, shared | {"encoded_by": asdict(by), "notes": list(source.notes)})
        _embed_shards(source, todo, encoders, config.workers, lambda part: None)
    return _share_summary(share, list(todo))


def _share_summary(share: Share, parts: Sequence[Path]) -> dict[str, Any]:
    """What one of several machines did."""
    images = sum(encoded_rows(part / IMAGES) for part in parts)
    seconds = sum(part.seconds for part in parts_of(parts))
    return {
        "share": str(share),
        "images": images,
        "captions": sum(encoded_rows(part / CAPTIONS) for part in parts),
        "seconds": round(seconds, 1),
        "images_per_second": round(images / seconds, 1) if seconds else None,
    }


def _embed_shards(
    source: Source,
    todo: Mapping[Path, tuple[str, Batches]],
    encoders: Encoders,
    workers: int | None,
    first_part: Callable[[Path], None],
) -> None:
    """Encode the shards, or batches of them, whose parts are still to do."""
    counts = [encoded_rows(part / IMAGES) for part in todo if finished_part(part) is not None]
    done, images = len(counts), sum(counts)
    started_with = done
    with (
        ThreadPoolExecutor(workers or os.cpu_count(), thread_name_prefix="decode") as pool,
        progress("embedding", "images", done=images) as shown,
    ):
        for folder, (shard, batches) in todo.items():
            if finished_part(folder) is not None:
                continue
            embed_shard(source.read(shard), folder, encoders, pool, shown.advance, batches)
            images += encoded_rows(folder / IMAGES)
            done += 1
            if done == started_with + 1 < len(todo):
                first_part(folder)
            shown.total = round(images / done * len(todo))  # sources do not know how many pictures they have


def _summary(plan: Mapping[str, Any], by: EncodedBy, folders: Sequence[Path]) -> dict[str, Any]:
    """What a reader of the store must know: where it is from, what encoded it, and what the parts add up to."""
    image, text = by.image_encoder, by.text_encoder
    images = captions = cut = 0
    seconds = 0.0
    skipped = Counter[str]()
    for part in parts_of(folders):
        images += part.images
        captions += part.captions
        cut += part.cut_captions
        seconds += part.seconds
        skipped.update(skip.reason for skip in part.skipped)
    return {
        "format": FORMAT,
        "truepair": __version__,
        **plan,
        "image_encoder": image,
        "text_encoder": text,
        "shared_space": image["shared_space"] and text is not None and text["name"] == image["name"],
        "images": images,
        "captions": captions,
        "skipped": dict(skipped.most_common()),
        "cut_captions": cut,
        "seconds": round(seconds, 1),
        "images_per_second": round(images / seconds, 1) if seconds else None,
    }


def _refuse_nothing(skipped: Mapping[str, int], parts: Path, folders: Sequence[Path]) -> None:
    """An error that says why there are no features; the parts are deleted, so that a mended source is read anew."""
    first = next((skip for part in parts_of(folders) for skip in part.skipped), None)
    remove(parts)
    if first is None:
        raise DataError("the source holds no picture with a caption; is it the right file or folder?")
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in skipped.items())
    raise DataError(f"no picture could be encoded: {reasons}; the first is {first.where}: {first.detail}")
