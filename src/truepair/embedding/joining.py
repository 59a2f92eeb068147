"""The parts that several machines made, put together into the store that one machine makes, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from truepair.config.embedding import EmbedConfig, Share
from truepair.embedding.plan import (
    EncodedBy,
    plan_of,
    refuse_other,
    refuse_other_encoders,
    refuse_unfit,
    shared_plan,
)
from truepair.embedding.run import begin_store, finish_store, made_once
from truepair.embedding.shares import Batches, pieces_of, share_folders
from truepair.embedding.store import (
    CAPTIONS,
    IMAGE_ROWS,
    IMAGES,
    PAIR_ROWS,
    Part,
    finished_part,
    move_part,
    temporary_folder,
)
from truepair.embedding.text_encoders import batches_by_length
from truepair.errors import ConfigError, DataError
from truepair.files.names import PARTS
from truepair.files.parquet import read_parquet
from truepair.sources.opening import description_of, open_source
from truepair.sources.protocol import Source


def join(
    path: str,
    out: Path,
    config: EmbedConfig,
    others: Sequence[Path] = (),
    tell: Callable[[str], None] = lambda said: None,
) -> dict[str, Any]:
    """Make a feature store of the parts that several machines encoded (`EmbedConfig.shards`).

    The files are those that `truepair.embedding.run.embed` writes, byte for byte; of ``embeddings.json`` seconds and
    hardware differ. No encoder is loaded. Parts in `out` are deleted in the end, those elsewhere stay.

    Args:
        path: As the machines had it.
        out: The folder to write to.
        config: As the machines had it; workers, device and shards do not matter.
        others: Further folders that machines wrote to, if it was not all to `out`.
        tell: Is told what was found out about the source.

    Returns:
        What ``embeddings.json`` holds.

    Raises:
        ConfigError: If a part is missing, there twice, unfinished, or made of another source, by other encoders or for
            another number of machines; or as `embed`.
        DataError: If two machines saw different things in a shard that they shared; or as `embed`.
    """
    source = open_source(path, config.source)
    for note in source.notes:
        tell(note)
    return join_source(source, description_of(source, path, config.source), out, config, others)


def join_source(
    source: Source, description: Mapping[str, Any], out: Path, config: EmbedConfig, others: Sequence[Path] = ()
) -> dict[str, Any]:
    """As `join`, for a source that is open and its description (see `truepair.sources.opening.description_of`)."""
    plan = plan_of(source, description, config)

    def joined() -> dict[str, Any]:
        shares = _gathered([out, *(other for other in others if other.resolve() != out.resolve())])
        pieces = _pieces(shares, plan)
        by = _encoded_by(list(shares.values()))
        refuse_unfit(out, plan, joins=True)
        begin_store(out, plan)
        folders = [
            _whole(shard, pieces[number], out / PARTS / f"{number:05d}", config.batch_size)
            for number, shard in enumerate(plan["shards"])
        ]
        return finish_store(out, plan, folders, by, source.notes)

    return made_once(out, plan, joined)


@dataclass(frozen=True)
class _Encoded:
    """What one machine encoded of a shard, and where."""

    folder: Path
    share: Share
    batches: Batches

    def rows(self, batches: Sequence[Sequence[int]]) -> list[int]:
        """Of rows in batches those that are here, in their order."""
        return sorted(row for number, rows in enumerate(batches) if number in self.batches for row in rows)


def _gathered(folders: Sequence[Path]) -> dict[Share, Path]:
    """The folder of every machine.

    Raises:
        ConfigError: If one is missing or there twice, or they are of different numbers of machines.
    """
    found: dict[Share, Path] = {}
    for place, out in enumerate(folders):
        shares = share_folders(out)
        if not shares and place > 0:
            raise ConfigError(f"{out} holds no part of an embedding: name a folder that --out of --shards K/N named")
        for folder, share in shares.items():
            if share in found:
                raise ConfigError(f"the part {share} is there twice, in {found[share]} and {folder}: name one of them")
            found[share] = folder
    if not found:
        raise ConfigError(f"{folders[0]} holds no parts to join: encode them with --shards 1/N to N/N first")
    first = next(iter(found))
    for share, folder in found.items():
        if share.of != first.of:
            raise ConfigError(f"{found[first]} is part {first}, but {folder} is {share}: join parts of one number")
    missing = [str(share) for number in range(first.of) if (share := Share(number + 1, first.of)) not in found]
    if missing:
        raise ConfigError(f"{len(found):,} of {first.of:,} parts are there; run --shards {' and '.join(missing)} too")
    return dict(sorted(found.items(), key=lambda item: item[0].number))


def _pieces(shares: Mapping[Share, Path], plan: Mapping[str, Any]) -> list[list[_Encoded]]:
    """What there is of every shard.

    Raises:
        ConfigError: If a machine had another plan or did not finish.
    """
    pieces: list[list[_Encoded]] = [[] for _ in plan["shards"]]
    for share, folder in shares.items():
        refuse_other(folder, shared_plan(folder), plan)
        here = pieces_of(share, len(plan["shards"]))
        done = [piece for piece in here if finished_part(folder / piece.name) is not None]
        if len(done) < len(here):
            raise ConfigError(
                f"{folder} is not finished ({len(done):,} of {len(here):,} shards): run --shards {share} again"
            )
        for piece in here:
            pieces[piece.shard].append(_Encoded(folder / piece.name, share, piece.batches))
    return pieces


def _encoded_by(folders: Sequence[Path]) -> EncodedBy:
    """What encoded all parts, on all their hardware.

    Raises:
        ConfigError: If they were encoded in different ways.
    """
    by = [EncodedBy(**shared_plan(folder)["encoded_by"]) for folder in folders]
    for folder in folders:
        refuse_other_encoders(folder, by[0])
    return replace(by[0], hardware="; ".join(dict.fromkeys(one.hardware for one in by)))


def _whole(shard: str, pieces: Sequence[_Encoded], folder: Path, batch_size: int) -> Path:
    """The part of a whole shard: a machine's own, or made in `folder` of what several encoded of it."""
    if len(pieces) == 1:
        return pieces[0].folder
    if finished_part(folder) is None:
        parts = [part for piece in pieces if (part := finished_part(piece.folder)) is not None]
        _refuse_changed(shard, pieces, parts)
        temporary = temporary_folder(folder)
        for name in (IMAGE_ROWS, PAIR_ROWS):
            shutil.copyfile(pieces[0].folder / name, temporary / name)
        images = [range(row, min(row + batch_size, parts[0].images)) for row in range(0, parts[0].images, batch_size)]
        captions = read_parquet(temporary / PAIR_ROWS, ["caption"], is_full=True)["caption"].to_pylist()
        _merge(pieces, IMAGES, images, temporary)
        if any((piece.folder / CAPTIONS).exists() for piece in pieces):
            _merge(pieces, CAPTIONS, batches_by_length(captions, batch_size), temporary)
        cut, seconds = sum(part.cut_captions for part in parts), sum(part.seconds for part in parts)
        move_part(temporary, replace(parts[0], folder=folder, cut_captions=cut, seconds=round(seconds, 3)))
    return folder


def _refuse_changed(shard: str, pieces: Sequence[_Encoded], parts: Sequence[Part]) -> None:
    """Refuse a shard of which two machines, which both decoded all of it, did not see the same.

    Raises:
        DataError: If that is so.
    """
    rows = [[read_parquet(piece.folder / name) for name in (IMAGE_ROWS, PAIR_ROWS)] for piece in pieces]
    for piece, seen, part in zip(pieces, rows, parts, strict=True):
        if seen != rows[0] or part.skipped != parts[0].skipped:
            raise DataError(
                f"shard {shard!r} changed between --shards {pieces[0].share} and {piece.share}: delete "
                f"{pieces[0].folder} and {piece.folder}, and run both again"
            )


def _merge(pieces: Sequence[_Encoded], file: str, batches: Sequence[Sequence[int]], folder: Path) -> None:
    """Put the rows of all batches in their order."""
    there = [piece for piece in pieces if (piece.folder / file).exists()]
    if not there:
        return
    arrays = [np.load(piece.folder / file, mmap_mode="r", allow_pickle=False) for piece in there]
    shape = (sum(map(len, batches)), *arrays[0].shape[1:])
    merged = np.lib.format.open_memmap(folder / file, mode="w+", dtype=np.float16, shape=shape)
    for piece, array in zip(there, arrays, strict=True):
        rows = piece.rows(batches)
        if len(rows) != len(array):
            raise DataError(
                f"{piece.folder / file} has {len(array):,} rows in place of {len(rows):,}: delete {piece.folder} and "
                f"run --shards {piece.share} again"
            )
        merged[rows] = array
    merged.flush()
