"""An index that is open: queries in, hits with probabilities out."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dacite
import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from truepair.data.batch import Padded, joined
from truepair.data.pairs import Inputs, Pairs
from truepair.errors import ConfigError, DataError
from truepair.scoring.best import NONE, Best
from truepair.search.approximate import ApproximateSide
from truepair.search.calibration import (
    LEAST_ANSWERED,
    LEAST_TYPICAL,
    LOOKED_AT,
    Calibration,
    answer_features,
    hit_features,
)
from truepair.search.exact import nearest
from truepair.search.filters import filtered
from truepair.search.layout import ID_OF, SIDES, Manifest, Rows, Side, read_manifest
from truepair.search.opened import pairs_of_segment
from truepair.search.spaces import Space, opened_space
from truepair.sources.decoding import known_formats
from truepair.sources.picture_files import UnreadablePictureError

RE_RANKED = 200
"""Hits by whole vectors that SAF, SGR or a learned head ranks by its own similarity."""
_QUERIES_AT_A_TIME = 512
_HITS_AT_A_TIME = 4_096
"""Hits that are compared with reference pairs in one go: 16 MB of products with 1,024 of them."""

SCHEMA = pa.schema(
    [
        ("query", pa.int64()),
        ("rank", pa.int64()),
        ("id", pa.string()),
        ("image_id", pa.string()),
        ("caption", pa.string()),
        ("reference", pa.string()),
        ("score", pa.float32()),
        ("probability", pa.float64()),
        ("answer", pa.float64()),
        ("fits", pa.bool_()),
    ]
)
"""Columns of the hits of a search; `Index.search` says what they hold."""


@dataclass(frozen=True)
class Queries:
    """Encoded queries.

    Attributes:
        side: Whether they are texts ("captions") or images.
        vectors: ``[queries, dim]``, unit vectors.
        encodings: By model, where these rank hits by their own similarity; else empty.
        rows: Of queries that are rows of the index, their number; else None.
    """

    side: Side
    vectors: Float[Tensor, "queries dim"]
    encodings: tuple[Padded, ...] = ()
    rows: Int[Tensor, " queries"] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def part(self, chosen: slice) -> Queries:
        """Some of them."""
        rows = None if self.rows is None else self.rows[chosen]
        encodings = tuple(each.rows(chosen) for each in self.encodings)
        return Queries(self.side, self.vectors[chosen], encodings, rows)


@dataclass(frozen=True)
class Hits:
    """Rows that queries found, best first; row -1 where there are fewer.

    Attributes:
        rows: ``[queries, hits]``.
        cosines: Of whole vectors.
        similarity: What ranks them: the same, or what the models say.
    """

    rows: Int[Tensor, "queries hits"]
    cosines: Float[Tensor, "queries hits"]
    similarity: Float[Tensor, "queries hits"]

    def part(self, chosen: slice) -> Hits:
        """Those of some queries."""
        return Hits(self.rows[chosen], self.cosines[chosen], self.similarity[chosen])

    def first(self, count: int) -> Hits:
        """The best ones."""
        return self.ranks(slice(count))

    def ranks(self, chosen: slice) -> Hits:
        """Some ranks of all queries."""
        return Hits(self.rows[:, chosen], self.cosines[:, chosen], self.similarity[:, chosen])

    def without(self, is_out: Bool[Tensor, "queries hits"], count: int) -> Hits:
        """The best of those that are not out."""
        kept, order = self.similarity.masked_fill(is_out, -torch.inf).topk(min(count, self.rows.shape[1]), 1)
        missing = kept == -torch.inf
        rows = self.rows.gather(1, order).masked_fill(missing, NONE)
        return Hits(rows, self.cosines.gather(1, order).masked_fill(missing, -torch.inf), kept)


class Index:
    """An index; see `open_index`.

    Attributes:
        folder: Where it is.
        manifest: What it holds.
        images: Its images.
        captions: Its captions.
        space: What encodes queries.
        image_of_caption: ``[captions]``, the row of each caption's image.
    """

    def __init__(self, folder: Path, manifest: Manifest, space: Space) -> None:
        self.folder = folder
        self.manifest = manifest
        self.space = space
        self.images, self.captions = (Rows(folder, manifest, side) for side in SIDES)
        owner = self.captions.table.column("image").to_numpy()
        first_image = np.repeat(self.images.starts[:-1], np.diff(self.captions.starts))
        self.image_of_caption: Int[Tensor, " captions"] = torch.from_numpy(owner + first_image)

    def __len__(self) -> int:
        """Number of images."""
        return self.manifest.count("images")

    def side(self, side: Side) -> Rows:
        """Images, or captions."""
        return self.images if side == "images" else self.captions

    def search(
        self,
        texts: str | Sequence[str] | None = None,
        *,
        images: Any = None,
        like: str | Sequence[str] | None = None,
        find: Side | None = None,
        k: int | None = None,
        where: str | None = None,
        tell: Callable[[str], None] = lambda said: None,
    ) -> pa.Table:
        """The best hits of each query.

        Args:
            texts: Queries in words; one of `texts`, `images` and `like` is given.
            images: Queries as pictures: a path, encoded bytes, a PIL image, an array ``[height, width, 3]`` of bytes,
                or a list of such.
            like: Ids of images or captions of the index.
            find: "images" or "captions"; by default a picture finds captions, everything else images.
            k: Hits of a query, at most; 10 by default, or as many as there are.
            where: Only rows that pass (see `truepair.search.filters`): ``"width > 300 and caption like '%dog%'"``.
            tell: Is told what of a query was cut, or cannot be read.

        Returns:
            A row a hit: ``query`` (its number), ``rank`` from 1, ``id`` of the image or caption, ``image_id``,
            ``caption`` (of an image, its first), ``reference`` to the picture, ``score``, ``probability`` that it is
            what the query was made for, ``answer``, the probability that the index holds an answer at all, and
            ``fits``, False where nothing in it seems to fit. The last three are null where the index has no
            calibration, and where like finds like.

        Raises:
            ConfigError: If an option cannot work, or nothing encodes such queries.
            DataError: If an id is not there, or a picture cannot be read.
        """
        queries = self.queries(texts, images=images, like=like, tell=tell)
        side: Side = find or ("captions" if images is not None else "images")
        if side not in SIDES:
            raise ConfigError(f"find is {side!r}, but it is 'images' or 'captions'")
        present = self.manifest.count(side)
        k = min(10, present) if k is None else k
        if not 1 <= k <= present:
            raise ConfigError(f"--k is {k}, but it is from 1 to the number of {side} of the index, {present:,}")
        allowed = self.allowed(side, where)
        parts = [
            self.table(self.hits(part, side, max(k, LOOKED_AT), allowed), part, side, slice(k), start)
            for start in range(0, len(queries), _QUERIES_AT_A_TIME)
            for part in [queries.part(slice(start, start + _QUERIES_AT_A_TIME))]
        ]
        return pa.concat_tables(parts)

    def queries(
        self,
        texts: str | Sequence[str] | None = None,
        *,
        images: Any = None,
        like: str | Sequence[str] | None = None,
        tell: Callable[[str], None] = lambda said: None,
    ) -> Queries:
        """Queries as `search` compares them; see there."""
        given = [name for name, value in (("texts", texts), ("images", images), ("like", like)) if value is not None]
        if len(given) != 1:
            raise ConfigError(
                f"a search is for texts, for images or for what is like an id: {' and '.join(given) or 'none'} given"
            )
        if like is not None:
            return self._rows_as_queries([like] if isinstance(like, str) else list(like))
        if texts is not None:
            listed = [texts] if isinstance(texts, str) else list(texts)
            _refuse_none(listed)
            inputs, side = self.space.inputs_of_texts(listed, tell), SIDES[1]
        else:
            listed = list(images) if isinstance(images, list | tuple) else [images]
            _refuse_none(listed)
            inputs, side = self._inputs_of_pictures(listed), SIDES[0]
        every = torch.arange(len(inputs))
        encode = self.space.encoded_captions if side == "captions" else self.space.encoded_images
        try:
            encodings = encode(inputs, every)
        except RuntimeError as error:
            raise ConfigError(
                f"the encoders {self.space.by.image} and {self.space.by.text} do not fit what {self.folder} was made "
                f"of ({str(error).splitlines()[0]}): make the index again with the right ones"
            ) from error
        return self._as_queries(side, encodings, None)

    def _inputs_of_pictures(self, images: Sequence[Any]) -> Inputs:
        pictures = [encoded_picture(image) for image in images]
        try:
            return self.space.inputs_of_pictures(pictures)
        except UnreadablePictureError as error:
            files = [str(image) for image in images if isinstance(image, str | Path)]
            names = f"{'one of ' if len(images) > 1 else ''}{', '.join(files)}: " if files else ""
            raise DataError(f"{names}{error}; these formats are read: {', '.join(known_formats())}") from error

    def _rows_as_queries(self, ids: Sequence[str]) -> Queries:
        _refuse_none(ids)
        of_images, of_captions = self.found(ids)
        for side, rows in zip(SIDES, (of_images, of_captions), strict=True):
            if all(name in rows for name in ids):
                return self.row_queries(side, torch.tensor([rows[name] for name in ids]))
        raise ConfigError("like names images and captions: search for one kind at a time")

    def found(self, ids: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
        """The rows of images, and of captions, that have these names.

        Raises:
            DataError: If a name is of neither.
        """
        of_images, of_captions = self.images.found(ids), self.captions.found(ids)
        missing = [name for name in ids if name not in of_images and name not in of_captions]
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(ids):,} ids are neither images nor captions of the index (first: "
                f"{missing[0]!r})"
            )
        return of_images, of_captions

    def row_queries(self, side: Side, rows: Int[Tensor, " queries"]) -> Queries:
        """Rows of the index as queries."""
        if self.space.is_cosine:
            return Queries(side, self.side(side).take(rows).float(), rows=rows)
        return self._as_queries(side, self._encoded_rows(side, rows), rows)

    def _as_queries(self, side: Side, encodings: Sequence[Padded], rows: Int[Tensor, " queries"] | None) -> Queries:
        vectors = self.space.joined_vectors(encodings)
        if vectors.shape[1] != self.manifest.width:
            raise ConfigError(
                f"the encoder gives vectors of {vectors.shape[1]} values, but {self.folder} holds "
                f"{self.manifest.width}: the index was made with another encoder; make it again"
            )
        return Queries(side, vectors, () if self.space.is_cosine else tuple(encodings), rows)

    def allowed(self, side: Side, where: str | None) -> Bool[Tensor, " rows"] | None:
        """Rows that may be found; None for all."""
        there = self.side(side).is_there
        if where is None:
            return None if bool(there.all()) else there
        passed = filtered(self._columns(side), where)
        mask = torch.zeros(len(there), dtype=torch.bool)
        mask[torch.from_numpy(passed.to_numpy(zero_copy_only=False).copy())] = True
        return mask & there

    def columns_to_filter(self, side: Side) -> list[str]:
        """Names of the columns that a filter may look at."""
        own = self.side(side).table.column_names
        others = ["caption"] if side == "images" else self.images.table.column_names
        return [name for name in dict.fromkeys([*own, *others]) if name != "image"]

    def _columns(self, side: Side) -> pa.Table:
        """What a filter may look at: of captions, also the columns of their images."""
        images = self.images.table
        if side == "images":
            rows = self.first_caption.numpy()
            first = pa.array(rows, pa.int64(), mask=rows == len(self.captions))
            return images.append_column("caption", self.captions.table.column("caption").take(first))
        table = self.captions.table.drop_columns(["image"])
        of_images = images.take(pa.array(self.image_of_caption.numpy()))
        for name in of_images.column_names:
            table = table if name in table.column_names else table.append_column(name, of_images.column(name))
        return table

    def hits(self, queries: Queries, side: Side, count: int, allowed: Bool[Tensor, " rows"] | None) -> Hits:
        """The best rows of one side for each query."""
        is_ranked_again = bool(queries.encodings) and queries.side != side
        wanted = max(count, RE_RANKED) if is_ranked_again else count + 1
        best = self.nearest(queries.vectors, side, wanted, allowed)
        found = Hits(best.where, best.best, best.best)
        if is_ranked_again:
            found = self._ranked_again(queries, side, found)
        is_self = torch.zeros_like(found.rows, dtype=torch.bool)
        if queries.rows is not None and queries.side == side:
            is_self = found.rows == queries.rows[:, None]
        return found.without(is_self, count)

    def nearest(
        self,
        vectors: Float[Tensor, "queries dim"],
        side: Side,
        count: int,
        allowed: Bool[Tensor, " rows"] | None,
    ) -> Best:
        """The nearest rows by whole vectors: what the approximate index finds, where there is one that can."""
        found = self._approximate(side).nearest(vectors, count, allowed) if side in self._has_approximate else None
        return nearest(vectors, self.side(side).vectors, count, allowed) if found is None else found

    @property
    def _has_approximate(self) -> set[str]:
        return {side for segment in self.manifest.segments for side in segment.approximate}

    def _approximate(self, side: Side) -> ApproximateSide:
        if side not in self._opened_approximate:
            self._opened_approximate[side] = ApproximateSide(self.folder, self.manifest.segments, self.side(side))
        return self._opened_approximate[side]

    @cached_property
    def _opened_approximate(self) -> dict[str, ApproximateSide]:
        return {}

    def _ranked_again(self, queries: Queries, side: Side, found: Hits) -> Hits:
        """What whole vectors found, in the order of the models' similarity."""
        similarity = torch.full_like(found.similarity, -torch.inf)
        for number in range(len(queries)):
            rows = found.rows[number][found.rows[number] >= 0]
            if not len(rows):
                continue
            encoded = self._encoded_rows(side, rows)
            scores = []
            for model, of_query, of_rows in zip(self.space.models, queries.encodings, encoded, strict=True):
                query = of_query.rows(torch.tensor([number]))
                both = (query, of_rows) if queries.side == "images" else (of_rows, query)
                with torch.inference_mode():
                    scores.append(model.scores.matrix(*both).float().cpu().flatten())
            similarity[number, : len(rows)] = torch.stack(scores).mean(0)
        return Hits(found.rows, found.cosines, similarity)

    def _encoded_rows(self, side: Side, rows: Int[Tensor, " rows"]) -> list[Padded]:
        """Rows as the models encode them, from the embeddings that the index was made of."""
        starts = torch.tensor(self.side(side).starts[1:])
        segment = torch.searchsorted(starts, rows.contiguous(), right=True)
        parts, order = [], []
        for number in segment.unique().tolist():
            pairs, here = self.segment_pairs(number), (segment == number).nonzero().flatten()
            inputs = pairs.images if side == "images" else pairs.caption_inputs
            assert inputs is not None
            encode = self.space.encoded_images if side == "images" else self.space.encoded_captions
            parts.append(encode(inputs, rows[here] - self.side(side).starts[number]))
            order.append(here)
        back = torch.cat(order).argsort()
        return [joined(list(of_model)).rows(back) for of_model in zip(*parts, strict=True)]

    def segment_pairs(self, number: int) -> Pairs:
        """The pairs that a segment was made of, opened when they are first needed."""
        if number not in self._opened_pairs:
            self._opened_pairs[number] = pairs_of_segment(self.space, self.manifest.segments[number])
        return self._opened_pairs[number]

    @cached_property
    def _opened_pairs(self) -> dict[int, Pairs]:
        return {}

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures to look at."""
        references = self.images.table.column("reference")
        return bool(references.null_count < len(references))

    def picture(self, image_id: str) -> bytes:
        """The encoded picture of an image, from the source.

        Raises:
            DataError: If the index has no such image, its source has no pictures, or the picture is gone.
        """
        return self.picture_of_row(self.images.rows_of([image_id])[0])

    def picture_of_row(self, row: int) -> bytes:
        """As `picture`, by the row of the image."""
        if not 0 <= row < len(self.images):
            raise DataError(f"there is no picture of image {row:,}")
        segment = int(np.searchsorted(self.images.starts[1:], row, side="right"))
        pictures = self.segment_pairs(segment).pictures
        if pictures is None:
            raise DataError(f"{self.folder} was made of features without pictures")
        return pictures[row - self.images.starts[segment]]

    def calibration(self, side: Side) -> Calibration | None:
        """What gives probabilities to hits of one side; None where they are unknown."""
        return self._calibrations[side]

    @cached_property
    def _calibrations(self) -> dict[Side, Calibration | None]:
        stored = {side: self.manifest.calibration.get(side) for side in SIDES}
        return {
            side: None if each is None else dacite.from_dict(Calibration, each, dacite.Config(cast=[tuple]))
            for side, each in stored.items()
        }

    @cached_property
    def references(self) -> dict[Side, tuple[Int[Tensor, " reference"], Float[Tensor, "reference dim"]]]:
        """Of each side, the image of each reference pair, and unit vectors."""
        rows = torch.tensor(self.manifest.references, dtype=torch.int64).view(-1, 2)
        return {side: (rows[:, 0], self.side(side).take(rows[:, place]).float()) for place, side in enumerate(SIDES)}

    def features(
        self, queries: Queries, side: Side, hits: Hits, excluded: Int[Tensor, " queries"] | None = None
    ) -> Float[Tensor, "queries hits features"]:
        """Features of hits (`calibration.hit_features`).

        Args:
            queries: The queries.
            side: Of the hits.
            hits: What they found.
            excluded: The image of each query that is taken out, and no negative either; None for none.
        """
        size = _HITS_AT_A_TIME // max(1, hits.rows.shape[1]) or 1
        if len(queries) > size:
            parts = [slice(start, start + size) for start in range(0, len(queries), size)]
            return torch.cat(
                [
                    self.features(
                        queries.part(part), side, hits.part(part), None if excluded is None else excluded[part]
                    )
                    for part in parts
                ]
            )
        other: Side = "captions" if side == "images" else "images"
        (image_of_reference, same), (_, others) = self.references[side], self.references[other]
        known = hits.rows.clamp(min=0)
        vectors = self.side(side).take(known.flatten()).float()
        image = known if side == "images" else self.image_of_caption[known]
        is_own = image_of_reference == image[:, :, None]
        if excluded is not None:
            is_own = is_own | (image_of_reference == excluded[:, None])[:, None]
        return hit_features(
            hits.cosines,
            queries.vectors @ same.T,
            (vectors @ others.T).view(*known.shape, len(others)),
            is_own,
            self.manifest.config["temperature"],
            None if self.space.is_cosine else hits.similarity,
        )

    def table(self, hits: Hits, queries: Queries, side: Side, shown: slice, first_query: int = 0) -> pa.Table:
        """Some ranks of what queries found, with probabilities; columns are those of `search`.

        Args:
            hits: What `hits` gave: at least the best `LOOKED_AT` of each query, which tell whether there is an answer.
            queries: The queries.
            side: Of the hits.
            shown: Which ranks, from 0.
            first_query: The number of the first query.
        """
        probability, answer, fits = self._judged(queries, side, hits, shown)
        hits = hits.ranks(shown)
        is_hit = hits.rows >= 0
        query, rank = is_hit.nonzero(as_tuple=True)
        columns = self._named(side, hits.rows[is_hit].tolist()) | {
            "query": (query + first_query).tolist(),
            "rank": (rank + 1 + (shown.start or 0)).tolist(),
            "score": hits.similarity[is_hit].numpy(),
            "probability": None if probability is None else probability[is_hit].numpy(),
            "answer": None if answer is None else answer[query].numpy(),
            "fits": None if fits is None else fits[query].numpy(),
        }
        return _table_of(columns, len(query))

    def listed(self, side: Side, rows: Sequence[int]) -> pa.Table:
        """Rows without a query; columns are those of `search`, null where only a query gives a value."""
        return _table_of(self._named(side, rows), len(rows))

    def _named(self, side: Side, rows: Sequence[int]) -> dict[str, Any]:
        """Names and captions of rows of one side."""
        images = rows if side == "images" else self.image_of_caption[torch.tensor(rows, dtype=torch.int64)].tolist()
        captions = self._first_captions(images) if side == "images" else rows
        return {
            "id": self.side(side).column(ID_OF[side], rows),
            "image_id": self.images.column("image_id", images),
            "caption": self.captions.column("caption", captions),
            "reference": self.images.column("reference", images),
        }

    def _judged(
        self, queries: Queries, side: Side, hits: Hits, shown: slice
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Probability of the shown hits, and by the best ones that of an answer, and whether anything fits.

        None where they are unknown.
        """
        calibration = None if queries.side == side else self.calibration(side)
        if calibration is None:
            return None, None, None
        best = self.features(queries, side, hits.first(LOOKED_AT))
        answer = calibration.answer(answer_features(best))
        typical = calibration.typical_share(best[:, :, 0])
        start, stop, _ = shown.indices(hits.rows.shape[1])
        features = best[:, start:stop] if stop <= LOOKED_AT else self.features(queries, side, hits.ranks(shown))
        return calibration.hit(features), answer, (typical >= LEAST_TYPICAL) & (answer >= LEAST_ANSWERED)

    def _first_captions(self, images: Sequence[int]) -> list[int | None]:
        """The row of the first caption of each image that is there; None where there is none."""
        rows = torch.tensor(images, dtype=torch.int64)
        return [row if row < len(self.captions) else None for row in self.first_caption[rows].tolist()]

    @cached_property
    def first_caption(self) -> Int[Tensor, " images"]:
        """``[images]``, the row of the first caption that is there; the number of captions where there is none."""
        there = self.captions.is_there.nonzero().flatten()
        none = torch.full((len(self.images),), len(self.captions))
        return none.scatter_reduce(0, self.image_of_caption[there], there, "amin")


def open_index(folder: str | Path) -> Index:
    """An index, to search in; its vectors are mapped, and nothing is encoded yet.

    Args:
        folder: What ``truepair index`` wrote.

    Raises:
        DataError: If it holds no index, one of another version, or a damaged or half-copied one; or if the run that
            encodes its queries is gone or was trained anew.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    return Index(path, manifest, opened_space(manifest.space, path))


def encoded_picture(image: Any) -> bytes:
    """A picture of any kind as encoded bytes.

    Args:
        image: A path, encoded bytes, a PIL image, or an array ``[height, width, 3]`` of bytes.

    Raises:
        UnreadablePictureError: If it is none, or no file is there.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UnreadablePictureError(f"cannot be read ({error.strerror or error})", str(image)) from error
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ConfigError(
            f"images holds a {type(image).__name__}, but a picture is a path, bytes, a PIL image, or an array of bytes "
            "[height, width, 3]"
        )
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def _table_of(columns: dict[str, Any], rows: int) -> pa.Table:
    """A table of `SCHEMA`, null in columns that are missing or None."""
    given = {name: columns.get(name) for name in SCHEMA.names}
    nothing = [None] * rows
    arrays = [pa.array(nothing if v is None else v, SCHEMA.field(name).type) for name, v in given.items()]
    return pa.table(arrays, SCHEMA)


def _refuse_none(queries: Sequence[Any]) -> None:
    if not queries:
        raise ConfigError("there is no query: give at least one")
