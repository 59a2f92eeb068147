"""Searches of a page: a query is encoded and ranked once, and its ranking is shown in parts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int

from truepair.errors import ConfigError
from truepair.review.serving import UnknownError
from truepair.search.index import RE_RANKED, Hits, Index, Queries
from truepair.search.layout import SIDES, Side

MOST_RANKED = 2_000
"""Hits of a query that can be looked through."""
_RANKINGS_KEPT = 64
_PICTURES_KEPT = 64

Kind = Literal["text", "like", "picture", "all"]


@dataclass(frozen=True)
class Asked:
    """A query; two that are equal have one ranking.

    Attributes:
        kind: A text, the id of a row, the key of a picture that was given before, or no query: every row.
        value: The text, the id, or the key; "" for every row.
        find: What is looked for; None for images, or captions where the query is a picture.
        where: A filter (see `truepair.search.filters`); "" for none.
    """

    kind: Kind
    value: str
    find: Side | None = None
    where: str = ""

    @property
    def side(self) -> Side:
        """What is looked for."""
        return self.find or (SIDES[1] if self.kind == "picture" else SIDES[0])


@dataclass(frozen=True)
class Ranking:
    """What a query found.

    Attributes:
        queries: The query, encoded; None for every row.
        hits: Its best rows; None for every row.
        rows: ``[rows]``, best first, or all in their order.
        said: What of the query was cut, or cannot be read.
    """

    queries: Queries | None
    hits: Hits | None
    rows: Int[np.ndarray, " rows"]
    said: tuple[str, ...] = ()


class Searching:
    """Searches in one index. Threads may share it: one of them works at a time.

    Attributes:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._working = Lock()  # encoders are loaded once, and products use all cores
        self._ranking_of = lru_cache(maxsize=_RANKINGS_KEPT)(self._rank)
        self._pictures: dict[str, Queries] = {}

    def look_up_picture(self, encoded: bytes) -> str:
        """Encode a picture; its key stands for it in queries.

        Raises:
            DataError: If it cannot be decoded.
            ConfigError: If nothing encodes pictures for this index.
        """
        key = hashlib.sha256(encoded).hexdigest()
        with self._working:
            if key not in self._pictures:
                self._pictures[key] = self.index.queries(images=[encoded])
            while len(self._pictures) > _PICTURES_KEPT:
                del self._pictures[next(iter(self._pictures))]  # the oldest
        return key

    def part(self, asked: Asked, offset: int, limit: int) -> tuple[Ranking, pa.Table]:
        """The ranking of a query, and some of its ranks as a table (columns of `Index.search`).

        Raises:
            UnknownError: If the picture was given too long ago.
            ConfigError: If the query is empty, the filter is none, or nothing encodes such queries.
            DataError: If there is no row with the id.
        """
        with self._working:
            ranking = self._ranking_of(asked)
            rows = ranking.rows[offset : offset + limit]
            if ranking.queries is None or ranking.hits is None:
                return ranking, self.index.listed(asked.side, rows.tolist())
            shown = slice(offset, offset + len(rows))
            return ranking, self.index.table(ranking.hits, ranking.queries, asked.side, shown)

    def _rank(self, asked: Asked) -> Ranking:
        allowed = self.index.allowed(asked.side, asked.where or None)
        if asked.kind == "all":
            there = torch.ones(len(self.index.side(asked.side)), dtype=torch.bool) if allowed is None else allowed
            return Ranking(None, None, there.nonzero().flatten().int().numpy())
        said: list[str] = []
        queries = self._queries(asked, said)
        count = MOST_RANKED if self.index.space.is_cosine or queries.side == asked.side else RE_RANKED
        hits = self.index.hits(queries, asked.side, min(count, len(self.index.side(asked.side))), allowed)
        rows = hits.rows[0].numpy()
        return Ranking(queries, hits, rows[rows >= 0], tuple(said))

    def _queries(self, asked: Asked, said: list[str]) -> Queries:
        if asked.kind == "picture":
            queries = self._pictures.get(asked.value)
            if queries is None:
                raise UnknownError("the picture that was dropped here is not kept any more: drop it again")
            return queries
        if asked.kind == "like":
            return self.index.queries(like=asked.value)
        return self.index.queries(asked.value, tell=said.append)

    def captions_of(self, image: int) -> list[str]:
        """All captions of an image, by its row."""
        order, starts = self._captions_by_image
        rows = order[starts[image] : starts[image + 1]]
        there = self.index.captions.is_there.numpy()
        return self.index.captions.column("caption", rows[there[rows]].tolist())

    @cached_property
    def _captions_by_image(self) -> tuple[Int[np.ndarray, " captions"], Int[np.ndarray, " starts"]]:
        """Rows of captions in the order of their images, and where those of each image start."""
        image_of_caption = self.index.image_of_caption.numpy()
        counts = np.bincount(image_of_caption, minlength=len(self.index.images))
        return image_of_caption.argsort(kind="stable"), np.concatenate([[0], counts.cumsum()])

    def warm_up(self) -> None:
        """Load what encodes texts, which takes seconds; where nothing does, the first query says so."""
        with self._working:
            try:
                self.index.queries("a photograph")
            except ConfigError:
                return
