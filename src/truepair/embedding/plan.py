"""What a feature store is to be made of, and the refusal of a folder that holds anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truepair.config.embedding import EmbedConfig, Share
from truepair.embedding.shares import share_folder, share_folders
from truepair.embedding.store import CAPTIONS, IMAGE_ROWS, IMAGES, PAIR_ROWS
from truepair.errors import ConfigError
from truepair.files.json import parsed_json, read_json
from truepair.files.names import PARTS, PLAN, SHARE_FOLDERS, STORE
from truepair.files.replacing import is_leftover
from truepair.sources.protocol import Source
from truepair.sources.skipped import SKIPPED
from truepair.sources.versions import contents_of, versioned_shards

_PLANNED = {"source": dict, "options": dict, "shards": list}
"""What two calls must have in common to be of one store."""
_SHARED = {**_PLANNED, "share": str, "encoded_by": {"image_encoder": dict, "hardware": str}}
"""What the plan of one of several machines holds."""


@dataclass(frozen=True)
class EncodedBy:
    """What a reader of a store must know of what encoded it.

    Attributes:
        image_encoder: The description of the image encoder.
        text_encoder: That of the text encoder; None if captions stay words.
        hardware: What computed, in words.
    """

    image_encoder: dict[str, Any]
    text_encoder: dict[str, Any] | None
    hardware: str


def plan_of(source: Source, description: Mapping[str, Any], config: EmbedConfig) -> dict[str, Any]:
    """What the store will be: source, options, shards and what tells whether these change, as JSON holds them."""
    plan = {
        "source": dict(description),
        "options": {name: getattr(config, name) for name in ("image_encoder", "text_encoder", "grid", "batch_size")},
        "shards": versioned_shards(source),
        "contents": contents_of(source),
    }
    read: dict[str, Any] = parsed_json(json.dumps(plan), "the plan")  # as it will be read again, to be compared
    return read


def shared_plan(folder: Path) -> dict[str, Any]:
    """The plan of one of several machines, of one of `share_folders`.

    Raises:
        CheckpointError: If it is damaged.
    """
    return read_json(folder / PLAN, holds=_SHARED) or {}


def finished_store(out: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The description of a store that is done; None if it is not."""
    summary = read_json(out / STORE, holds=_PLANNED)
    if summary is not None:
        refuse_other(out, summary, plan)
    return summary


def refuse_unfit(out: Path, plan: Mapping[str, Any], *, joins: bool = False) -> None:
    """Refuse a folder that holds parts of another store, or files that would be overwritten or deleted.

    Args:
        out: The folder.
        plan: What is to be in it.
        joins: Whether parts of several machines may be there, which are then known to be of this plan.

    Raises:
        ConfigError: If it is.
    """
    planned = read_json(out / PARTS / PLAN, holds=_PLANNED)
    if planned is not None:
        refuse_other(out, planned, plan)
        return
    shares = list(share_folders(out).values())
    if shares and not joins:
        raise ConfigError(
            f"{out} holds parts of several machines ({shares[0]}): finish them with --shards, put them together with "
            "--join, or choose another folder"
        )
    if not shares:
        _refuse_files(out)


def refuse_unfit_share(out: Path, plan: Mapping[str, Any], share: Share) -> None:
    """As `refuse_unfit`, for one of several machines, whose plans must agree with those of the others.

    Raises:
        ConfigError: If the folder holds anything but shares of this plan.
    """
    there = share_folders(out)
    for folder, other in there.items():
        if other.of != share.of:
            raise ConfigError(
                f"{out} holds the part {other}, but {share} was asked for: give all machines the same number after the "
                "slash, or choose another folder"
            )
        refuse_other(folder, shared_plan(folder), plan)
    if (out / PARTS / PLAN).exists() and share_folder(out, share) not in there:
        raise ConfigError(
            f"{out} holds an embedding that was begun without --shards: run it again without, or choose another folder"
        )
    if not there:
        _refuse_files(out)


def _refuse_files(out: Path) -> None:
    """Refuse to write over files, or beside parts, that are not of a feature store."""
    present = [name for name in (IMAGES, CAPTIONS, IMAGE_ROWS, PAIR_ROWS, SKIPPED) if (out / name).exists()]
    found = (path for path in (out / PARTS).glob("*") if not is_leftover(path))
    if any(not path.match(SHARE_FOLDERS) for path in found):  # those are left behind by runs that were killed early
        present.append(PARTS)
    if present:
        raise ConfigError(f"{out} already holds {', '.join(present)}, of something else: choose another folder")


def refuse_other(out: Path, there: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Refuse to go on with features of another source or other encoders.

    Args:
        out: The folder that holds them.
        there: What is planned or done in it.
        plan: What was asked for.

    Raises:
        ConfigError: If source, options or shards differ, or, where both sides hold them, contents of shards.
    """
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
    where = " on all machines" if out.parent.name == PARTS else ""  # of one of them
    for shard, was, now in zip(plan["shards"], there.get("contents", ()), plan.get("contents", ()), strict=False):
        if was != now:
            raise ConfigError(
                f"{plan['source'].get('path')} is not what it was when {out} was begun (part {shard!r} of it): restore "
                f"it, or delete {out}{where}, and run the same command again"
            )


def refuse_other_encoders(folder: Path, by: EncodedBy) -> None:
    """Refuse to put features beside those of one of several machines that computes them otherwise.

    Args:
        folder: One of `share_folders`.
        by: What is to encode the others.

    Raises:
        ConfigError: If any property of an encoder differs.
    """
    there = shared_plan(folder)["encoded_by"]
    for name, now in (("image_encoder", by.image_encoder), ("text_encoder", by.text_encoder)):
        was = there[name] or {}
        for key in sorted({*was, *(now or {})}):
            if was.get(key) != (now or {}).get(key):
                raise ConfigError(
                    f"{folder} was encoded with {name} {key} {was.get(key)!r}, not {(now or {}).get(key)!r} as here: "
                    "use the same encoders, packages and kind of device on all machines"
                )
