"""How well an index finds its own pairs, how much an approximate one misses, and how long a query takes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair.data.joining import JoinedInputs
from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Pairs, Subset
from truepair.evaluation.recall import RankCounts, RetrievalMetrics, retrieval_metrics
from truepair.evaluation.retrieval import evaluate
from truepair.progress import progress
from truepair.search.exact import nearest
from truepair.search.index import Index
from truepair.search.layout import SIDES, Side

_IMAGES_AT_A_TIME, _CAPTIONS_AT_A_TIME = 1_024, 4_096
_TIMED = 100
_ASKED = 200
"""Queries by which an approximate index is compared with exact search."""


@dataclass(frozen=True)
class IndexMetrics:
    """What is measured of an index.

    Attributes:
        retrieval: Recall and ranks of its own pairs, both ways, every image against every caption.
        recall_of_approximate: By side, the share of the exact ten best hits that the approximate index finds; empty
            without one.
        milliseconds: By side of the hits, the median and the 95th percentile of a search for the ten best of one query
            that is encoded already.
    """

    retrieval: RetrievalMetrics
    recall_of_approximate: dict[str, float]
    milliseconds: dict[str, tuple[float, float]]

    def as_dict(self) -> dict[str, Any]:
        """All values, by names of JSON."""
        milliseconds = {f"{side}_ms_p50": p50 for side, (p50, _) in self.milliseconds.items()}
        milliseconds |= {f"{side}_ms_p95": p95 for side, (_, p95) in self.milliseconds.items()}
        approximate = {f"{side}_recall_of_approximate": value for side, value in self.recall_of_approximate.items()}
        return {**self.retrieval.as_dict(), **approximate, **milliseconds}


def measure_index(index: Index) -> IndexMetrics:
    """Recall of its own pairs, recall of its approximate indexes, and the time of a query.

    Where the similarity is no cosine of vectors (SAF, SGR, a learned head), every pair is scored by the models, as
    `evaluation.retrieval.evaluate` does; a search looks at the 200 nearest by whole vectors only.
    """
    return IndexMetrics(
        retrieval=_of_cosines(index) if index.space.is_cosine else _of_models(index),
        recall_of_approximate=_approximate_recall(index),
        milliseconds={side: _milliseconds(index, side) for side in SIDES},
    )


def _of_cosines(index: Index) -> RetrievalMetrics:
    """From the stored vectors, a rectangle at a time."""
    there = _there(index)
    images, captions, owner = there.images, there.captions, there.owner
    own = torch.cat(
        [_products(index, i, c) for i, c in zip(images[owner].split(4096), captions.split(4096), strict=True)]
    )
    counts = RankCounts(owner, own, len(images))
    with progress("ranks", "pairs", len(images) * len(captions)) as shown:
        for columns in torch.arange(len(captions)).split(_CAPTIONS_AT_A_TIME):
            of_captions = index.captions.take(captions[columns]).float()
            for rows in torch.arange(len(images)).split(_IMAGES_AT_A_TIME):
                scores = index.images.take(images[rows]).float() @ of_captions.T
                counts.add(scores, int(rows[0]), columns)
                shown.advance(scores.numel())
    return retrieval_metrics(counts.ranks())


@dataclass(frozen=True)
class _There:
    """Rows that were not dropped.

    Attributes:
        images: Rows of the images.
        captions: Rows of the captions whose image is there.
        owner: Of each of these captions, the place of its image in `images`.
    """

    images: Int[Tensor, " images"]
    captions: Int[Tensor, " captions"]
    owner: Int[Tensor, " captions"]


def _there(index: Index) -> _There:
    images = index.images.is_there.nonzero().flatten()
    captions = index.captions.is_there.nonzero().flatten()
    number = torch.full((len(index.images),), -1)
    number[images] = torch.arange(len(images))
    owner = number[index.image_of_caption[captions]]
    return _There(images, captions[owner >= 0], owner[owner >= 0])


def _products(index: Index, images: Int[Tensor, " p"], captions: Int[Tensor, " p"]) -> Float[Tensor, " p"]:
    return (index.images.take(images).float() * index.captions.take(captions).float()).sum(1)


def _of_models(index: Index) -> RetrievalMetrics:
    """By every pair that is there, whose embeddings are opened again."""
    segments = [index.segment_pairs(number) for number in range(len(index.manifest.segments))]
    there = _there(index)
    pairs = Pairs(
        images=Subset(JoinedInputs([pairs.images for pairs in segments]), there.images),
        captions=[""] * len(there.captions),
        image_of_caption=there.owner,
        image_ids=[str(row) for row in there.images.tolist()],
        caption_ids=[str(row) for row in there.captions.tolist()],
        caption_inputs=Subset(JoinedInputs([inputs_of_captions(pairs) for pairs in segments]), there.captions),
        has_texts=False,
    )
    return evaluate(index.space.models, pairs)


def _approximate_recall(index: Index) -> dict[str, float]:
    found: dict[str, float] = {}
    for side in SIDES:
        if not any(side in segment.approximate for segment in index.manifest.segments):
            continue
        queries = _stored_queries(index, side, _ASKED)
        allowed = index.allowed(side, None)
        exact = nearest(queries, index.side(side).vectors, 10, allowed).where
        hits = torch.cat([index.nearest(query, side, 10, allowed).where for query in queries.split(1)])
        found[side] = float((exact[:, :, None] == hits[:, None]).any(2).double().mean())
    return found


def _one(side: Side, row: int) -> tuple[Side, Int[Tensor, " one"]]:
    return ("captions" if side == "images" else "images"), torch.tensor([row])


def _query_rows(index: Index, side: Side, most: int) -> list[int]:
    """Rows of the other side, evenly spaced."""
    other = index.side(_one(side, 0)[0])
    rows = other.is_there.nonzero().flatten()
    return rows[:: max(1, len(rows) // most)][:most].tolist()


def _stored_queries(index: Index, side: Side, most: int) -> Float[Tensor, "queries dim"]:
    return index.side(_one(side, 0)[0]).take(torch.tensor(_query_rows(index, side, most))).float()


def _milliseconds(index: Index, side: Side) -> tuple[float, float]:
    """Median and 95th percentile of a search by one row of the other side."""
    allowed, times = index.allowed(side, None), []
    count = min(10, index.manifest.count(side))
    for row in _query_rows(index, side, _TIMED):
        query = index.row_queries(*_one(side, row))
        started = time.perf_counter()
        index.hits(query, side, count, allowed)
        times.append(1000 * (time.perf_counter() - started))
    measured = torch.tensor(times[1:] or times, dtype=torch.float64)
    return float(measured.quantile(0.5)), float(measured.quantile(0.95))
