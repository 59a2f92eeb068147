"""What an index is to be made of, and whether a folder holds that already."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from truepair.cleaning.summary import read_summary
from truepair.config import DataConfig, EmbedConfig
from truepair.config.search import IndexConfig
from truepair.data.corpora import reads_patches
from truepair.data.embeddings import is_embeddings
from truepair.embedding.run import embedded_corpus
from truepair.errors import ConfigError
from truepair.files.names import AUDIT, EMBEDDINGS, RUN
from truepair.search.index import open_index
from truepair.search.layout import Manifest


@dataclass(frozen=True)
class Target:
    """What an index is to be made of.

    Attributes:
        name: As it was given; of an audit's folder, what the audit embedded or scored with.
        run: The folder of the run whose networks encode; None for the untrained space that features share.
        store: The feature store that is read; None for the corpus of the run.
        is_embedded: Whether frozen encoders make the store first, of pictures and captions.
    """

    name: str
    run: Path | None
    store: Path | None
    is_embedded: bool = False


def target_of(given: str, out: Path, config: IndexConfig, embedding: EmbedConfig, of: Path | None) -> Target:
    """Tell what to index; see `truepair.search.building.build_index` for the arguments.

    Raises:
        ConfigError: If it is an audit of features from elsewhere, or an option is for runs and it is none.
        DataError: If it cannot be found or read.
    """
    name = _audited(given)
    path = Path(name)
    if (path / RUN).exists():
        return Target(name, path, of)
    if of is not None:
        raise ConfigError(
            f"--of is {of}, but {name} is no run: a feature store is encoded by a run (truepair index RUN --of STORE)"
        )
    if config.pairs != "all":
        raise ConfigError(f"pairs is {config.pairs!r}, but {name} is no run: its pairs are indexed together")
    if reads_patches(DataConfig(name, embedding.source)):
        return Target(name, None, out / EMBEDDINGS, is_embedded=True)
    if not is_embeddings(path):
        raise ConfigError(f"{name} cannot be searched without training: train a run on it, and index the run")
    return Target(name, None, path)


def finished_index(target: Target, out: Path, config: IndexConfig, embedding: EmbedConfig) -> Manifest:
    """The index that a folder holds, where the same call made it; pairs may have been added and taken out since.

    Args:
        target: What the index is asked for.
        out: The index.
        config: How it was made; the device may be another.
        embedding: See `truepair.search.building.build_index`.

    Raises:
        ConfigError: If it was made of something else, or with other options.
        DataError: If it is damaged, or what encodes its queries is gone.
    """
    manifest = open_index(out).manifest
    first, space = manifest.segments[0], manifest.space
    if (first.store, space.get("folder")) != (_whole(target.store), _whole(target.run)):
        raise _another(out, f"it was made of {first.store or space.get('folder')}, not of {target.name}")
    if target.is_embedded:  # refuses another source, and other encoders
        embedded_corpus(DataConfig(target.name, embedding.source), out, embedding)
    named = {} if target.is_embedded else named_encoders(embedding)
    asked = asdict(config) | {f"{side}_encoder": name for side, name in named.items()}
    by = space if target.run is None else space.get("named", {})
    known = manifest.config | {"image_encoder": by.get("image"), "text_encoder": by.get("text")}
    for name, value in asked.items():
        if name != "device" and known.get(name) != value:
            raise _another(out, f"{name} is {known.get(name)!r} there, not {value!r}")
    return manifest


def named_encoders(embedding: EmbedConfig) -> dict[str, str]:
    """Encoders that the user named, by side ("image", "text"), of features that do not say what made them."""
    named = {side: getattr(embedding, f"{side}_encoder") for side in ("image", "text")}
    return {side: name for side, name in named.items() if name != getattr(EmbedConfig, f"{side}_encoder")}


def _audited(given: str) -> str:
    """Of an audit's folder what it embedded, or the run that scored; anything else as it is.

    Raises:
        ConfigError: If it audited features from elsewhere.
    """
    folder = Path(given)
    if not (folder / AUDIT).exists():
        return given
    run = read_summary(folder).scored_by.run
    if run is not None:
        return run
    if not is_embeddings(folder / EMBEDDINGS):
        raise ConfigError(
            f"{folder} is an audit that embedded nothing itself: index the features that it audited (truepair index "
            "FEATURES --out …)"
        )
    return str(folder / EMBEDDINGS)


def _whole(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _another(out: Path, how: str) -> ConfigError:
    return ConfigError(
        f"{out} holds an index, but another one ({how}): add to it (--add SOURCE), or choose another --out"
    )
