"""An embedding from beginning to end: shard by shard through frozen encoders into a feature store; resumes."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from truepair import __version__
from truepair.config.embedding import EmbedConfig
from truepair.data.embeddings import DESCRIPTION, FORMAT, PARTS, PLAN
from truepair.embedding.choosing import load_image_encoder, load_text_encoder
from truepair.embedding.shard import Encoders, embed_shard
from truepair.embedding.store import (
    CAPTIONS,
    IMAGE_ROWS,
    IMAGES,
    PAIR_ROWS,
    finished_part,
    join_parts,
    parts_of,
)
from truepair.errors import ConfigError, DataError
from truepair.files.json import read_json, write_json
from truepair.progress import progress
from truepair.sources.first_look import look_first
from truepair.sources.opening import description_of, open_source
from truepair.sources.protocol import Source
from truepair.sources.skipped import SKIPPED
from truepair.sources.versions import versioned_shards
from truepair.training.device import hardware, make_fabric

_CACHE = "cache"
_PLANNED = {"source": dict, "options": dict, "shards": list}
"""What two calls must have in common to be of one store."""


def embed(path: str, out: Path, config: EmbedConfig, tell: Callable[[str], None] = lambda said: None) -> dict[str, Any]:
    """Encode a source of pictures and captions into a feature store, or go on with the one that is there.

    `out` then holds ``images.npy``, ``captions.npy`` (unless captions stay words), ``images.parquet``,
    ``pairs.parquet``, ``skipped.csv`` and ``embeddings.json`` (see `truepair.data.embeddings`). Until then it holds
    ``parts/``: shards that are in there are not encoded again, and a run that was killed ends with the same bytes.

    Workers and device may change from one call to the next; everything else makes another store.

    Args:
        path: A table, a folder, tar shards or a dataset (see `truepair.sources.opening.open_source`).
        out: The folder to write to; made if missing.
        config: How.
        tell: Is told, before any work, what was found out about the source: the delimiter, the columns.

    Returns:
        What ``embeddings.json`` holds.

    Raises:
        ConfigError: If the folder holds another store or other files of these names, or an encoder cannot be loaded.
        DataError: If the source cannot be read, nothing in it could be encoded, or there is no room.
    """
    source = open_source(path, config.source)
    for note in source.notes:
        tell(note)
    return embed_source(source, description_of(source, path, config.source), out, config)


def embed_source(source: Source, description: Mapping[str, Any], out: Path, config: EmbedConfig) -> dict[str, Any]:
    """As `embed`, for a source that is open.

    Args:
        source: Pictures and captions.
        description: What opens it again (see `description_of`).
        out: See `embed`.
        config: Encoders, grid, batch size, workers and device; the rest has been used.
    """
    shards = list(source.shards())
    plan = {
        "source": dict(description),
        "options": {name: getattr(config, name) for name in ("image_encoder", "text_encoder", "grid", "batch_size")},
        "shards": versioned_shards(source),
    }
    plan = json.loads(json.dumps(plan))  # as it will be read again, to be compared
    summary = _finished(out, plan)
    parts = out / PARTS
    if summary is None:
        try:
            _refuse_unfit(out, plan)
            if not (parts / PLAN).exists():  # else an earlier run has looked
                look_first(source, config.source.largest_pixels)  # before an encoder is loaded
            device = make_fabric(config.device).device
            encoders = _load_encoders(config, device, parts / _CACHE)
            parts.mkdir(parents=True, exist_ok=True)
            write_json(parts / PLAN, plan)  # only now: a folder is not bound to encoders that cannot be loaded
            folders = [parts / f"{number:05d}" for number in range(len(shards))]
            _embed_shards(source, dict(zip(shards, folders, strict=True)), encoders, config.workers)
            summary = _summary(plan, encoders, folders) | {"hardware": hardware(device), "notes": list(source.notes)}
            if summary["images"] == 0:
                _refuse_nothing(summary["skipped"], parts, folders)
            join_parts(folders, out)
            write_json(out / DESCRIPTION, summary)  # last: it says that all the others are whole
        except OSError as error:
            raise DataError(f"{out} cannot be written ({error}): make room; the same command then goes on") from error
    if (parts / PLAN).exists():
        shutil.rmtree(parts)
    return summary


def _load_encoders(config: EmbedConfig, device: torch.device, cache: Path) -> Encoders:
    return Encoders(
        image=load_image_encoder(config.image_encoder, grid=config.grid, device=device, cache=cache),
        text=load_text_encoder(config.text_encoder, device),
        batch_size=config.batch_size,
        most_pixels=config.source.largest_pixels,
    )


def _embed_shards(source: Source, folders: Mapping[str, Path], encoders: Encoders, workers: int | None) -> None:
    """Encode the shards that are still to do."""
    counts = [part.images for part in map(finished_part, folders.values()) if part is not None]
    done, images = len(counts), sum(counts)
    with (
        ThreadPoolExecutor(workers or os.cpu_count(), thread_name_prefix="decode") as pool,
        progress("embedding", "images", done=images) as shown,
    ):
        for shard, folder in folders.items():
            if finished_part(folder) is not None:
                continue
            images += embed_shard(source.read(shard), folder, encoders, pool, shown.advance).images
            done += 1
            shown.total = round(images / done * len(folders))  # sources do not know how many pictures they have


def _summary(plan: Mapping[str, Any], encoders: Encoders, folders: Sequence[Path]) -> dict[str, Any]:
    """What a reader of the store must know: where it is from, what encoded it, and what the parts add up to."""
    image, text = encoders.image.description, None if encoders.text is None else encoders.text.description
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
        "image_encoder": asdict(image),
        "text_encoder": None if text is None else asdict(text),
        "shared_space": image.shared_space and text is not None and text.name == image.name,
        "images": images,
        "captions": captions,
        "skipped": dict(skipped.most_common()),
        "cut_captions": cut,
        "seconds": round(seconds, 1),
        "images_per_second": round(images / seconds, 1) if seconds else None,
    }


def _finished(out: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The description of a store that is done; None if it is not."""
    summary = read_json(out / DESCRIPTION, holds=_PLANNED)
    if summary is not None:
        _refuse_other(out, summary, plan)
    return summary


def _refuse_unfit(out: Path, plan: Mapping[str, Any]) -> None:
    """Refuse a folder that holds parts of another store, or files that would be overwritten or deleted."""
    planned = read_json(out / PARTS / PLAN, holds=_PLANNED)
    if planned is not None:
        _refuse_other(out, planned, plan)
        return
    present = [name for name in (IMAGES, CAPTIONS, IMAGE_ROWS, PAIR_ROWS, SKIPPED) if (out / name).exists()]
    if (out / PARTS).exists() and any(path.name != _CACHE for path in (out / PARTS).iterdir()):
        present.append(PARTS)
    if present:
        raise ConfigError(f"{out} already holds {', '.join(present)}, of something else: choose another folder")


def _refuse_other(out: Path, there: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Refuse to go on with features of another source or other encoders."""
    for section in ("source", "options"):
        for name in sorted({*there[section], *plan[section]}):
            was, asked = there[section].get(name), plan[section].get(name)
            if was != asked:
                raise ConfigError(
                    f"{out} holds features with {name} {was!r}, but {asked!r} was asked for: choose another folder, or "
                    "delete that one"
                )
    if there["shards"] != plan["shards"]:
        raise ConfigError(
            f"{out} holds features of {len(there['shards']):,} parts of {plan['source'].get('path')}, which now has "
            f"{len(plan['shards']):,}, or others: it was changed; choose another folder, or delete that one"
        )


def _refuse_nothing(skipped: Mapping[str, int], parts: Path, folders: Sequence[Path]) -> None:
    """An error that says why there are no features; the parts are deleted, so that a mended source is read anew."""
    first = next((skip for part in parts_of(folders) for skip in part.skipped), None)
    shutil.rmtree(parts)
    if first is None:
        raise DataError("the source holds no picture with a caption; is it the right file or folder?")
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in skipped.items())
    raise DataError(f"no picture could be encoded: {reasons}; the first is {first.where}: {first.detail}")
