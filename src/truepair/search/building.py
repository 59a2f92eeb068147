"""An index from beginning to end: what it is made of, its segments, and its calibration."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor

from truepair.config import DataConfig, EmbedConfig
from truepair.config.search import IndexConfig
from truepair.data.embeddings import is_embeddings
from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Pairs
from truepair.data.pixels import pairs_without_picture, unreadable
from truepair.data.splitting import one_of_each_image
from truepair.embedding.run import embedded_corpus, found_store
from truepair.embedding.store import RowWriter
from truepair.encoders.towers import refuse_other_weights
from truepair.errors import ConfigError, DataError, of_system
from truepair.files.locking import alone_in, make_folder
from truepair.files.names import AUDIT, INDEX, RUN, STORE
from truepair.files.replacing import part_of, put_in_place
from truepair.progress import progress
from truepair.random_streams import Stream
from truepair.search.approximate import ApproximateFile, faiss
from truepair.search.calibration import LOOKED_AT, calibrated
from truepair.search.columns import columns_to_filter
from truepair.search.index import Index, open_index
from truepair.search.layout import (
    ID_OF,
    SEGMENT_FILES,
    SIDES,
    Manifest,
    Rows,
    Segment,
    Side,
    read_manifest,
    write_manifest,
    write_table,
)
from truepair.search.opened import pairs_of_run, pairs_of_store
from truepair.search.spaces import Encoded, Space, embed_config, run_space, save_space, untrained_space
from truepair.search.target import Target, finished_index, named_encoders, target_of
from truepair.training.folder import TrainedRun, load_run

_ROWS_AT_A_TIME = 4_096
_MOST_LOCAL_QUERIES = 200
_MOST_PARTNERS = 40
"""Captions of an image that are looked for among the hits of its query, when an index is calibrated."""
_GROWTH = 0.1
"""Share of the images by which an index has changed when it is calibrated again."""
_COUNTED = re.compile(r"(.*/)?row-\d+(\W.*)?")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class _Made:
    """What an index is made of.

    Attributes:
        space: What encodes it.
        pairs: Its pairs, with what the space reads.
        store: The feature store that they are from; None for the corpus of a run.
        is_learned: Of each image, whether the space learned from it.
    """

    space: Space
    pairs: Pairs
    store: Path | None
    is_learned: Sequence[bool] | None = None


def build_index(
    target: str,
    out: Path,
    config: IndexConfig = IndexConfig(),  # noqa: B008, it is frozen
    embedding: EmbedConfig = EmbedConfig(),  # noqa: B008
    of: Path | None = None,
    tell: Tell = lambda said: None,
) -> Manifest:
    """Make an index, which appears whole or not at all; embeddings that are made for it stay, and are found again.

    Nothing is made where the folder holds the index of the same call.

    Args:
        target: A run's folder; a feature store, a folder of clip-retrieval, or images.npy and captions.npy; an audit's
            folder, for what it embedded; or anything that ``truepair embed`` reads, which is embedded into
            ``out/embeddings`` first.
        out: The folder to write to; made if missing.
        config: How.
        embedding: With which encoders, and how the source is read.
        of: With a run, a feature store to index in place of its corpus.
        tell: Is told what is being done.

    Returns:
        What ``index.json`` holds.

    Raises:
        ConfigError: If the folder holds another index, or something else; if embeddings share no space and there is
            no run; or if faiss is missing.
        TruepairError: If something cannot be read or embedded.
    """
    asked = target_of(target, out, config, embedding, of)
    if (out / INDEX).exists():
        manifest = finished_index(asked, out, config, embedding)
        tell(f"{out} holds this index already: nothing was made")
        return manifest
    _refuse_folder(out)
    if config.approximate != "none":
        faiss()  # before hours of encoding
    made = _made(asked, out, config, embedding, tell)
    make_folder(out)
    with alone_in(out):
        if (out / INDEX).exists():  # made by another process meanwhile
            return finished_index(asked, out, config, embedding)
        save_space(made.space, out)
        with made.space.encoding_on(config.device):
            written = _written_segment(made, out, "00000", config.pairs)
        written.tell(tell)
        manifest = Manifest(made.space.description, written.width, asdict(config), (written.segment,))
        return _finished(out, manifest, made.space, config, tell)


def add_to_index(
    out: Path, target: str, embedding: EmbedConfig | None = None, tell: Tell = lambda said: None
) -> Manifest:
    """Add pairs to an index: a new segment, which appears with the new ``index.json``.

    Args:
        out: The index.
        target: A feature store by the same encoders, or pictures with captions, which are embedded by them.
        embedding: How the source is read; encoders are those of the index.
        tell: Is told what is being done.

    Raises:
        ConfigError: If another process is changing the index, or the encoders are unknown.
        DataError: If an id is in the index already, or features do not fit.
    """
    read_manifest(out)  # a folder without an index gets no lock
    with alone_in(out):
        index = open_index(out)
        manifest = index.manifest
        name = f"{len(manifest.segments):05d}"
        store, made = Path(target), None
        if not is_embeddings(store):
            wanted = embed_config(index.space)
            if embedding is not None:
                wanted = replace(wanted, source=embedding.source, device=embedding.device)
            stores = [Path(segment.store) for segment in manifest.segments if segment.store is not None]
            there = found_store(target, stores, wanted)
            if there is None:
                made = out / f"added-{name}-{_digest_of(target)}"
                store = Path(embedded_corpus(DataConfig(target, wanted.source), made, wanted, tell).path)
            else:  # what is added again is refused at once, or was dropped
                store = there
        _refuse_other_encoders(index.space, store)
        try:
            pairs = _new_names(index, pairs_of_store(index.space, store), name, target)
        except DataError:
            if made is not None:
                shutil.rmtree(made)  # nothing of it can be added, and the source will change
            raise
        is_learned = _of_names(pairs, _learned_names(index.space))
        with index.space.encoding_on("cpu" if embedding is None else embedding.device):
            written = _written_segment(_Made(index.space, pairs, store.resolve(), is_learned), out, name, "all")
        if written.width != manifest.width:
            raise DataError(f"{target} gives vectors of {written.width} values, but {out} holds {manifest.width}")
        changed = replace(manifest, segments=(*manifest.segments, written.segment))
        for leftover in out.glob(f"added-{name}-*"):  # of another addition, which was stopped
            if leftover != made:
                shutil.rmtree(leftover)
        return _settled(out, changed, index.space, tell)


def _digest_of(target: str) -> str:
    """A short name for where an addition comes from: one that was stopped goes on, and is in no other's way."""
    return hashlib.sha256(str(Path(target).resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def drop_from_index(out: Path, ids: Sequence[str], tell: Tell = lambda said: None) -> Manifest:
    """Take images, with their captions, or single captions out of an index; their vectors stay on disk, unseen.

    Args:
        out: The index.
        ids: Of images or captions.
        tell: Is told what is being done.

    Raises:
        ConfigError: If nothing would be left.
        DataError: If an id is not there.
    """
    read_manifest(out)
    with alone_in(out):
        index = open_index(out)
        of_images, of_captions = index.found(ids)
        images = {*of_images.values()}
        captions = {row for name, row in of_captions.items() if name not in of_images}
        is_dropped = torch.isin(index.image_of_caption, torch.tensor(sorted(images), dtype=torch.int64))
        captions |= set(is_dropped.nonzero().flatten().tolist())
        if len(images) >= index.manifest.count("images") or len(captions) >= index.manifest.count("captions"):
            raise ConfigError(f"these {len(ids):,} ids are all that {out} holds: delete the folder instead")
        segments = []
        for number, segment in enumerate(index.manifest.segments):
            i, c = (
                _within(rows.starts, number, gone)
                for rows, gone in ((index.images, images), (index.captions, captions))
            )
            segments.append(
                replace(
                    segment,
                    dropped_images=tuple(sorted({*segment.dropped_images, *i})),
                    dropped_captions=tuple(sorted({*segment.dropped_captions, *c})),
                )
            )
        return _settled(out, replace(index.manifest, segments=tuple(segments)), index.space, tell)


def _within(starts: Sequence[int], number: int, rows: set[int]) -> list[int]:
    return [row - starts[number] for row in rows if starts[number] <= row < starts[number + 1]]


def _made(target: Target, out: Path, config: IndexConfig, embedding: EmbedConfig, tell: Tell) -> _Made:
    if target.run is not None:
        return _made_by_run(target.run, target.store, config, embedding)
    if target.is_embedded:
        embedded_corpus(DataConfig(target.name, embedding.source), out, embedding, tell)
    assert target.store is not None
    pairs = pairs_of_store(None, target.store)
    by = Encoded.of_features(target.store)
    if not target.is_embedded:
        by = _named_encoders(by, target.name, embedding)
    return _Made(untrained_space(pairs, by, target.name), pairs, target.store.resolve())


def _named_encoders(by: Encoded, target: str, embedding: EmbedConfig) -> Encoded:
    """What made features: as they say themselves, or as the user says where they do not."""
    usual = EmbedConfig()
    if (embedding.image_encoder, embedding.text_encoder) == (usual.image_encoder, usual.text_encoder):
        return by
    if by.names is None:
        return Encoded(embedding.image_encoder, embedding.text_encoder)
    raise ConfigError(
        f"image_encoder is {embedding.image_encoder!r} and text_encoder {embedding.text_encoder!r}, but {target} was "
        f"made by {by.image} and {by.text}: leave them out"
    )


def _made_by_run(folder: Path, store: Path | None, config: IndexConfig, embedding: EmbedConfig) -> _Made:
    space = run_space(folder, named_encoders(embedding))
    if store is not None:
        _refuse_other_encoders(space, store)
        pairs = pairs_of_store(space, store)
        return _Made(space, pairs, store.resolve(), _of_names(pairs, _learned_names(space)))
    run = load_run(folder)
    learned = _learned(run)
    of_splits = learned.values() if config.pairs == "all" else [learned[config.pairs]]
    return _Made(space, pairs_of_run(run, config.pairs), None, [*chain.from_iterable(of_splits)])


def _learned(run: TrainedRun) -> dict[str, list[bool]]:
    """By split, in its order, which images a run learned from: those of training pairs, and of trusted ones."""
    stored, left = run.corpus.splits, run.splits
    found = {"train": [True] * len(stored.train.images)}
    for name, part, kept in (("dev", stored.dev, left.dev), ("test", stored.test, left.test)):
        held_out = set(kept.image_ids)
        found[name] = [image not in held_out for image in part.image_ids]
    return found


def _learned_names(space: Space) -> set[str]:
    """Names of the images that a space learned from."""
    if space.description["kind"] != "run":
        return set()
    run = load_run(Path(space.description["folder"]))
    of_splits = ((getattr(run.corpus.splits, split).image_ids, learned) for split, learned in _learned(run).items())
    return {name for names, learned in of_splits for name, is_learned in zip(names, learned, strict=True) if is_learned}


def _of_names(pairs: Pairs, names: Container[str]) -> list[bool]:
    return [name in names for name in pairs.image_ids]


@dataclass(frozen=True)
class _Written:
    """A segment, which is without the pictures that cannot be decoded, and the width of its vectors."""

    segment: Segment
    width: int

    def tell(self, tell: Tell) -> None:
        """Say how many pictures it is without."""
        lost = len(self.segment.dropped_images)
        if lost:
            count, are = ("1 picture", "is") if lost == 1 else (f"{lost:,} pictures", "are")
            tell(f"{count} cannot be decoded, and {are} not in the index")


def _written_segment(made: _Made, out: Path, name: str, split: str) -> _Written:
    """A segment's files, in a folder that appears when they are whole."""
    pairs, space, temporary = made.pairs, made.space, part_of(out / name)
    for there in (temporary, out / name):
        _discard(there)
    temporary.mkdir()
    captions = inputs_of_captions(pairs)
    try:
        with progress("index", "vectors", len(pairs.images) + len(pairs)) as shown:
            width = _write_vectors(
                temporary / "images.npy",
                len(pairs.images),
                shown.advance,
                lambda rows: space.vectors_of_images(pairs.images, rows),
            )
            _write_vectors(
                temporary / "captions.npy",
                len(pairs),
                shown.advance,
                lambda rows: space.vectors_of_captions(captions, rows),
            )
        write_table(temporary / "images.arrow", _image_table(made))
        write_table(temporary / "captions.arrow", _caption_table(pairs))
        put_in_place(temporary, out / name)
    except OSError as error:
        raise DataError(f"{out} cannot be written ({of_system(error)})") from error
    store = None if made.store is None else str(made.store)
    no_picture = unreadable(pairs.images, torch.arange(len(pairs.images)))  # known now that all were read
    no_pair = pairs_without_picture(pairs)
    segment = Segment(name, len(pairs.images), len(pairs), store, split, tuple(no_picture), tuple(no_pair))
    return _Written(segment, width)


def _discard(folder: Path) -> None:
    """Delete what a process that was killed left behind, which no ``index.json`` knows.

    Raises:
        ConfigError: If something else lies in the folder.
    """
    if not folder.exists():
        return
    others = [path.name for path in folder.iterdir() if path.name not in SEGMENT_FILES]
    if others:
        raise ConfigError(f"{folder} holds {others[0]}, of something else: choose another folder for the index")
    shutil.rmtree(folder)


def _write_vectors(path: Path, rows: int, advance: Callable[[int], None], encode: Callable[[Tensor], Tensor]) -> int:
    width = 0
    with RowWriter(path) as file:
        for some in torch.arange(rows).split(_ROWS_AT_A_TIME):
            vectors = encode(some)
            width = vectors.shape[1]
            file.append(vectors.half().numpy())
            advance(len(some))
    return width


def _image_table(made: _Made) -> pa.Table:
    pairs, pictures = made.pairs, made.pairs.pictures
    references = [None if pictures is None else pictures.reference(image) for image in range(len(pairs.images))]
    columns = {
        "image_id": pa.array(pairs.image_ids, pa.string()),
        "reference": pa.array(references, pa.string()),
        "is_learned": pa.array(made.is_learned or [False] * len(pairs.images), pa.bool_()),
    }
    return pa.table(columns | columns_to_filter(made.store, references, (*columns, "caption", "caption_id")))


def _caption_table(pairs: Pairs) -> pa.Table:
    columns = {
        "caption_id": pa.array(pairs.caption_ids, pa.string()),
        "caption": pa.array(pairs.captions, pa.string()),
        "image": pa.array(pairs.image_of_caption.numpy()),
    }
    return pa.table(columns)


def _finished(out: Path, manifest: Manifest, space: Space, config: IndexConfig, tell: Tell) -> Manifest:
    """Calibrate, make approximate indexes, and write ``index.json``."""
    index = Index(out, manifest, space)
    tell("probabilities are learned from the pairs of the index")
    manifest = calibrated_manifest(index, config)
    if config.approximate != "none":
        manifest = _with_approximate(Index(out, manifest, space), config, tell)
    write_manifest(out, manifest)
    return manifest


def _settled(out: Path, manifest: Manifest, space: Space, tell: Tell) -> Manifest:
    """Write ``index.json`` after a change; where the number of images changed by much, calibrate first."""
    before, now = manifest.calibrated_images, manifest.count("images")
    if abs(now - before) > _GROWTH * before:
        tell("the index has changed by more than a tenth: probabilities are learned again")
        manifest = calibrated_manifest(Index(out, manifest, space), IndexConfig(**manifest.config))
    write_manifest(out, manifest)
    return manifest


def _with_approximate(index: Index, config: IndexConfig, tell: Tell) -> Manifest:
    first = index.manifest.segments[0]
    found: dict[str, Any] = {}
    for side in SIDES:
        other: Side = "captions" if side == "images" else "images"
        made = ApproximateFile(index.folder / first.name / f"{side}.faiss", config)
        queries = index.side(other).take(_spread(len(index.side(other)), 200)).float()
        found[side] = made.build(index.side(side).vectors[0], queries)
        tell(
            f"{side}: recall@10 of the approximate index against exact search {found[side]['recall']:.3f} "
            f"({config.approximate}, {found[side]['parameter']})"
        )
    return replace(index.manifest, segments=(replace(first, approximate=found), *index.manifest.segments[1:]))


def _spread(rows: int, most: int) -> Int[Tensor, " some"]:
    return torch.arange(0, rows, max(1, rows // most))[:most]


def calibrated_manifest(index: Index, config: IndexConfig) -> Manifest:
    """The manifest with reference pairs, and with a calibration of each side where there are enough pairs."""
    generator = Stream.SEARCH.generator(config.seed)
    is_there = index.captions.is_there & index.images.is_there[index.image_of_caption]
    there = is_there.nonzero().flatten()
    order = torch.from_numpy(generator.permutation(len(there)))
    one_each = there[one_of_each_image(index.image_of_caption[there], order)]
    one_each = one_each[torch.from_numpy(generator.permutation(len(one_each)))]
    chosen = one_each[: config.references]
    pairs = tuple(zip(index.image_of_caption[chosen].tolist(), chosen.tolist(), strict=True))
    known = Index(index.folder, replace(index.manifest, references=pairs), index.space)

    is_learned = torch.from_numpy(index.images.table.column("is_learned").to_numpy().astype(bool))
    held_out = there[~is_learned[index.image_of_caption[there]]]
    most = min(config.calibration, _MOST_LOCAL_QUERIES) if index.space.is_local else config.calibration
    captions = held_out[torch.from_numpy(generator.permutation(len(held_out)))][:most]
    images = index.image_of_caption[held_out].unique()
    images = images[torch.from_numpy(generator.permutation(len(images)))][:most]
    found = {"images": _calibration(known, "images", captions), "captions": _calibration(known, "captions", images)}
    return replace(known.manifest, calibration=found, calibrated_images=index.manifest.count("images"))


def _calibration(index: Index, side: Side, queries: Int[Tensor, " queries"]) -> dict[str, Any] | None:
    """Of the hits of one side, by rows of the other as queries; None if there are too few."""
    if len(queries) < 2 or len(index.manifest.references) < 4:
        return None
    from_images = side == "captions"
    own = queries if from_images else index.image_of_caption[queries]
    partners = min(_MOST_PARTNERS, int(index.image_of_caption.bincount().max())) if from_images else 1
    results: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows, image in zip(queries.split(256), own.split(256), strict=True):
        asked = index.row_queries("images" if from_images else "captions", rows)
        found = index.hits(asked, side, LOOKED_AT + partners, index.allowed(side, None))
        image_of_hit = index.image_of_caption[found.rows.clamp(min=0)] if from_images else found.rows
        is_partner = (image_of_hit == image[:, None]) & (found.rows >= 0)
        first, without = found.first(LOOKED_AT), found.without(is_partner, LOOKED_AT)
        results.append(
            (
                index.features(asked, side, first),
                is_partner[:, :LOOKED_AT],
                index.features(asked, side, without, excluded=image),
            )
        )
    features, is_partner, without_partner = (torch.cat(each) for each in zip(*results, strict=True))
    found_calibration = calibrated(features, is_partner, without_partner, own)
    return None if found_calibration is None else found_calibration.as_dict()


def _refuse_other_encoders(space: Space, store: Path) -> None:
    """Refuse features of a side that is read, if both encoders are known and not the same."""
    by = Encoded.of_features(store)
    images = (by.image, by.grid), (space.by.image, space.by.grid)
    for side in ("image", "text"):
        name = getattr(by, side)
        if name is not None and name == getattr(space.by, side):
            refuse_other_weights(name, getattr(space.by, f"{side}_weights"), getattr(by, f"{side}_weights"))
    are_unlike = None not in (by.image, space.by.image) and images[0] != images[1]
    if are_unlike or (None not in (by.text, space.by.text) and by.text != space.by.text):
        raise DataError(
            f"{store} was made by {by.image} and {by.text} (grid {by.grid}), but the space by {space.by.image} and "
            f"{space.by.text} (grid {space.by.grid}): embed it again with the same encoders"
        )


def _new_names(index: Index, pairs: Pairs, segment: str, target: str) -> Pairs:
    """The pairs, with names that the index does not have yet.

    Names that count rows ("row-17") are made up where a table has none, and say nothing: the segment goes before them.

    Raises:
        DataError: If an image or caption with a name of its own is in the index already.
    """
    image_ids = _new_ids(index.images, pairs.image_ids, segment, target)
    return replace(pairs, image_ids=image_ids, caption_ids=_new_ids(index.captions, pairs.caption_ids, segment, target))


def _new_ids(rows: Rows, names: Sequence[str], segment: str, target: str) -> Sequence[str]:
    there = rows.table.column(ID_OF[rows.side]).filter(pa.array(rows.is_there.numpy()))
    known = {*there.to_pylist()}
    twice = [name for name in names if name in known]
    if not twice:
        return names
    if all(_COUNTED.fullmatch(name) for name in names):
        return [f"{segment}/{name}" for name in names]
    raise DataError(
        f"{len(twice):,} {rows.side} of {target} are in the index already (first: {twice[0]!r}): drop them first "
        "(--drop), or leave them out"
    )


def _refuse_folder(out: Path) -> None:
    """Refuse a folder of something else: an index would lie among its files."""
    for name in (STORE, RUN, "images.npy", AUDIT):
        if (out / name).exists():
            raise ConfigError(f"{out} holds {name}, of something else: choose another folder for the index")
