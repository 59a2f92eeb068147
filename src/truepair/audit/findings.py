"""Findings of an audit: each pair's mismatch probability, rank and suggested partners, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truepair.audit.partners import Partners, best_partners
from truepair.data.pairs import Pairs
from truepair.data.splitting import one_of_each_image
from truepair.model import MatchingModel
from truepair.random_streams import Stream
from truepair.scoring.best import NONE
from truepair.scoring.encodings import are_local
from truepair.scoring.log_odds import Scores

_SURE = 0.1
"""Mismatch probability below which a pair may be a probe."""
_MOST_PROBES = 1000


@dataclass(frozen=True, eq=False)
class Findings:
    """One entry a pair, in the order of the pairs.

    Attributes:
        pairs: The pairs.
        mismatch_probability: ``[pairs]``, in [0, 1]; NaN for every pair where nothing is known.
        threshold: From which probability on a pair is a suspect.
        re_pair_threshold: From which suggestion probability on a mutual suggestion may be taken.
        scores: Similarity and log-odds.
        order: ``[pairs]``, pair ids, most suspicious first; equal or unknown probabilities by the log-odds.
        partners: Better partners, where they were looked for.
    """

    pairs: Pairs
    mismatch_probability: Float[Tensor, " pairs"]
    threshold: float
    re_pair_threshold: float
    scores: Scores
    order: Int[Tensor, " pairs"]
    partners: Partners

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known about any pair: every mismatch probability is NaN, and no pair is a suspect."""
        return bool(self.mismatch_probability.isnan().all())

    @property
    def is_suspect(self) -> Bool[Tensor, " pairs"]:
        """True where the mismatch probability reaches the threshold; False where it is unknown."""
        return self.mismatch_probability >= self.threshold

    @property
    def suggestion_probability(self) -> Float[Tensor, " pairs"]:
        """``[pairs]``, that the pair does not match and the suggested image is the caption's own; NaN where unknown."""
        return self.mismatch_probability * self.partners.image_probability

    @property
    def may_re_pair(self) -> Bool[Tensor, " pairs"]:
        """True where caption and suggested image choose each other and are likely enough to be each other's own.

        Where no probability is known, every mutual suggestion may be taken.
        """
        return self.partners.is_mutual & ~(self.suggestion_probability < self.re_pair_threshold)

    def image_id(self, image: int) -> str | None:
        """An image's name; None for none."""
        return None if image == NONE else self.pairs.image_ids[image]

    def caption_id(self, caption: int) -> str | None:
        """A caption's name; None for none."""
        return None if caption == NONE else self.pairs.caption_ids[caption]


def find(
    pairs: Pairs,
    scores: Scores,
    mismatch_probability: Float[Tensor, " pairs"],
    models_for: Callable[[Int[Tensor, " asked"]], Sequence[MatchingModel]],
    *,
    threshold: float,
    re_pair_threshold: float,
    at_least: int,
    at_most: int,
    seed: int,
) -> Findings:
    """Findings of all pairs: their ranks, and better partners of the suspects.

    No partners are looked for where every probability is unknown, nor by SAF or SGR, which would take days.

    Args:
        pairs: The pairs.
        scores: Their scores.
        mismatch_probability: ``[pairs]``, in [0, 1]; or NaN for every pair, where nothing is known.
        models_for: Gives the models that look for partners of the given pairs: best if they did not learn from these,
            nor from the probes that are among them. Not called where nothing is known.
        threshold: From which probability on a pair is a suspect.
        re_pair_threshold: From which suggestion probability on a mutual suggestion may be taken.
        at_least: Number of pairs that partners are looked for, even if fewer are suspects: those that a report shows.
        at_most: Largest number of pairs that partners are looked for, the most suspicious ones; counts before
            `at_least`.
        seed: Of the probes.
    """
    by_score = scores.log_odds.argsort(stable=True)
    if mismatch_probability.isnan().all():
        none = Partners.none(len(pairs))
        return Findings(pairs, mismatch_probability, threshold, re_pair_threshold, scores, by_score, none)
    order = by_score[mismatch_probability[by_score].argsort(stable=True, descending=True)]
    suspects = int((mismatch_probability >= threshold).sum())
    asked = order[: min(max(suspects, at_least), at_most)]
    if not len(asked):
        none = Partners.none(len(pairs))
        return Findings(pairs, mismatch_probability, threshold, re_pair_threshold, scores, order, none)
    probes = _probes(pairs, mismatch_probability, asked, seed)
    models = models_for(torch.cat([order[:suspects], asked[suspects:], probes]))
    partners = Partners.none(len(pairs)) if are_local(models) else best_partners(models, pairs, asked, probes)
    return Findings(pairs, mismatch_probability, threshold, re_pair_threshold, scores, order, partners)


def _probes(
    pairs: Pairs, mismatch_probability: Float[Tensor, " pairs"], asked: Int[Tensor, " asked"], seed: int
) -> Int[Tensor, " probes"]:
    """Pairs that surely match, of images of their own, to try suggestions on: a tenth of them, 1,000 at most."""
    is_free = mismatch_probability < _SURE
    is_free[asked] = False
    free = is_free.nonzero().flatten()
    generator = Stream.PROBES.generator(seed)
    order = torch.from_numpy(generator.permutation(len(free)))
    chosen = one_of_each_image(pairs.image_of_caption[free], order)
    drawn = generator.permutation(chosen.numpy())[: min(_MOST_PROBES, len(chosen) // 10)]
    return free[torch.from_numpy(drawn)]


def findings_table(findings: Findings) -> pa.Table:
    """One row a pair, most suspicious first: what ``findings.parquet`` holds.

    Columns: ``rank`` (from 1), ``pair`` (its place among the audited pairs, from 0), ``caption_id``, ``image_id``,
    ``caption``, ``mismatch_probability`` (empty for every pair where nothing is known), ``is_suspect``, ``similarity``
    (a cosine, in [-1, 1]; in (0, 1) with SAF or SGR), ``log_odds``, ``suggested_image_id`` and
    ``suggested_caption_id`` with their similarities (empty where nothing is better, or none was looked for: partners
    are those of suspects and of a report's cards), ``suggestion_probability`` (that the pair does not match and the
    suggested image is the caption's very own), ``suggestion_is_mutual`` (caption and image choose each other among the
    pairs that were looked at), ``may_re_pair`` (and are likely enough), and ``is_clean`` if the truth is known.
    """
    pairs, partners, order = findings.pairs, findings.partners, findings.order
    ids = order.tolist()
    columns: dict[str, pa.Array] = {
        "rank": pa.array(range(1, len(ids) + 1), pa.int64()),
        "pair": pa.array(ids, pa.int64()),
        "caption_id": pa.array([pairs.caption_ids[i] for i in ids], pa.string()),
        "image_id": pa.array([pairs.image_ids[i] for i in pairs.image_of_caption[order].tolist()], pa.string()),
        "caption": pa.array([pairs.captions[i] for i in ids], pa.string()),
        "mismatch_probability": pa.array(
            findings.mismatch_probability[order].numpy(), from_pandas=True
        ),  # NaN is missing
        "is_suspect": pa.array(findings.is_suspect[order].numpy()),
        "similarity": pa.array(findings.scores.similarity[order].numpy()),
        "log_odds": pa.array(findings.scores.log_odds[order].numpy()),
        "suggested_image_id": pa.array([findings.image_id(i) for i in partners.image[order].tolist()], pa.string()),
        "suggested_image_similarity": _numbers(partners.image_similarity[order]),
        "suggestion_probability": _numbers(findings.suggestion_probability[order]),
        "suggestion_is_mutual": pa.array(partners.is_mutual[order].numpy()),
        "may_re_pair": pa.array(findings.may_re_pair[order].numpy()),
        "suggested_caption_id": pa.array(
            [findings.caption_id(i) for i in partners.caption[order].tolist()], pa.string()
        ),
        "suggested_caption_similarity": _numbers(partners.caption_similarity[order]),
    }
    if pairs.is_clean is not None:
        columns["is_clean"] = pa.array(pairs.is_clean[order].numpy())
    return pa.table(columns)


def _numbers(values: Tensor) -> pa.Array:
    """Missing, not NaN, where there is no number."""
    return pa.array([None if math.isnan(value) else value for value in values.tolist()], pa.float32())


def precision_at(findings: Findings, count: int) -> float | None:
    """Share of true mismatches among the `count` most suspicious pairs; None without the truth or with fewer pairs."""
    clean = findings.pairs.is_clean
    if clean is None or len(clean) < count:
        return None
    return float((~clean[findings.order[:count]]).double().mean())


def right_suggestions(findings: Findings, chosen: Bool[Tensor, " pairs"]) -> int | None:
    """For how many of the chosen pairs the suggested image is the caption's true one; None without the truth."""
    truth = findings.pairs.true_image_of_caption
    return None if truth is None else int((findings.partners.image[chosen] == truth[chosen]).sum())


def suspects_at(mismatch_probability: Float[Tensor, " pairs"], threshold: float) -> dict[str, float | None]:
    """Number of suspects at a threshold, and what the probabilities say about them.

    Returns:
        ``threshold``; ``suspects`` (pairs that reach it); ``expected_mismatched`` (how many of them do not match);
        ``expected_missed`` (how many mismatched pairs would stay). Without probabilities there is no suspect, and the
        expected numbers are None.
    """
    if mismatch_probability.isnan().all():
        return {"threshold": threshold, "suspects": 0, "expected_mismatched": None, "expected_missed": None}
    flagged = mismatch_probability >= threshold
    return {
        "threshold": threshold,
        "suspects": int(flagged.sum()),
        "expected_mismatched": float(mismatch_probability[flagged].double().sum()),
        "expected_missed": float(mismatch_probability[~flagged].double().sum()),
    }
