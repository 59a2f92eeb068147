"""Whether a folder holds the index that is asked for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from truepair.config import DataConfig, EmbedConfig
from truepair.config.search import IndexConfig
from truepair.data.corpora import reads_patches
from truepair.embedding.run import EMBEDDINGS, embedded_corpus
from truepair.errors import ConfigError
from truepair.search.index import open_index
from truepair.search.layout import Manifest


def finished_index(target: str, out: Path, config: IndexConfig, embedding: EmbedConfig, of: Path | None) -> Manifest:
    """The index that a folder holds, where the same call made it; pairs may have been added and taken out since.

    Args:
        target: A run, a folder of features, or what was embedded into ``out/embeddings``.
        out: The index.
        config: How it was made; the device may be another.
        embedding: See `truepair.search.building.build_index`.
        of: See there.

    Raises:
        ConfigError: If it was made of something else, or with other options.
        DataError: If it is damaged, or what encodes its queries is gone.
    """
    manifest = open_index(out).manifest
    first, space = manifest.segments[0], manifest.space
    data, is_run = DataConfig(target, embedding.source), (Path(target) / "run.json").exists()
    embeds = not is_run and reads_patches(data)
    store = of if is_run else out / EMBEDDINGS if embeds else Path(target)
    if (first.store, space.get("folder")) != (_whole(store), _whole(target) if is_run else None):
        raise _another(out, f"it was made of {first.store or space.get('folder')}, not of {target}")
    if embeds:
        embedded_corpus(data, out, embedding)  # refuses another source, and other encoders
    named = {} if embeds else named_encoders(embedding)
    asked = asdict(config) | {f"{side}_encoder": name for side, name in named.items()}
    by = space.get("named", {}) if is_run else space
    known = manifest.config | {"image_encoder": by.get("image"), "text_encoder": by.get("text")}
    for name, value in asked.items():
        if name != "device" and known.get(name) != value:
            raise _another(out, f"{name} is {known.get(name)!r} there, not {value!r}")
    return manifest


def named_encoders(embedding: EmbedConfig) -> dict[str, str]:
    """Encoders that the user named, by side ("image", "text"), of features that do not say what made them."""
    named = {side: getattr(embedding, f"{side}_encoder") for side in ("image", "text")}
    return {side: name for side, name in named.items() if name != getattr(EmbedConfig, f"{side}_encoder")}


def _whole(path: Path | str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _another(out: Path, how: str) -> ConfigError:
    return ConfigError(
        f"{out} holds an index, but another one ({how}): add to it (--add SOURCE), or choose another --out"
    )
