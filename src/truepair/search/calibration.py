r"""From the scores of hits to the probability that each is one, and that there is an answer at all.

A hit of a query is compared with reference pairs of the index, as a pair is in an audit (`scoring.pair_features`): its
cosine s, and its log-odds one way and the other, in units of cosines,

.. math:: s - \tau \log \frac{1}{n} \sum_{j=1}^n e^{s_j / \tau}

with the :math:`s_j` of the query with reference items of the hit's side, and of the hit with those of the query's side:
what random pairs score. A logistic regression weighs them. It is learned from the index's own pairs that no model
learned: each caption (or image) is a query twice, with its partner in the index and with it taken out, and a hit is one
if it is the partner. A probability so says how likely a hit is what the query was made for, if every second query has
no answer here.

Whether there is an answer at all is a second regression, of the best ten hits of such queries. Where encoders cannot
tell a picture from similar ones, it knows little; a query unlike any caption of the corpus is told by `typical`, the
share of the index's own queries whose hits score no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truepair.evaluation.detection import calibration_curve, expected_calibration_error
from truepair.scoring.log_odds import log_odds_one_way

LOOKED_AT = 10
"""Best hits that say whether there is an answer."""
LEAST_TYPICAL = 0.02
"""Share of the index's own queries; of a query whose hits score less than those of all others, nothing is said to
fit."""
LEAST_ANSWERED = 0.1
"""Probability of an answer below which nothing is said to fit."""
_FEWEST = 50
"""Queries below which no probability is given."""
_QUANTILES = 101
_BINS = 10
_REGULARISATION = 10.0


@dataclass(frozen=True)
class Logistic:
    """``sigmoid(offset + weights · values)``."""

    weights: tuple[float, ...]
    offset: float

    def __call__(self, values: Float[Tensor, "*rows features"]) -> Float[Tensor, "*rows"]:
        """The probability of each row."""
        result: Tensor = (values.double() @ torch.tensor(self.weights, dtype=torch.float64) + self.offset).sigmoid()
        return result

    @classmethod
    def fitted(cls, values: Float[Tensor, "rows features"], is_true: Bool[Tensor, " rows"]) -> Logistic:
        """By maximum likelihood, of rows of both kinds; a constant where there is one kind only."""
        from sklearn.linear_model import LogisticRegression  # takes a second to load

        rows, labels = values.double().numpy(), is_true.numpy()
        if labels.all() or not labels.any():
            share = (labels.sum() + 0.5) / (len(labels) + 1)
            return cls((0.0,) * rows.shape[1], float(np.log(share / (1 - share))))
        mean, scale = rows.mean(0), rows.std(0)
        scale[scale == 0] = 1
        found = LogisticRegression(C=_REGULARISATION).fit((rows - mean) / scale, labels)
        weights = found.coef_[0] / scale
        return cls(tuple(map(float, weights)), float(found.intercept_[0] - weights @ mean))


@dataclass(frozen=True)
class Measured:
    """How far the probabilities can be relied on, by queries that they were not learned from (two halves, by image).

    Attributes:
        queries: Number of queries, each asked with its partner in the index and with it taken out.
        recall_at_1: Share of them whose best hit is their partner.
        calibration_error: Expected calibration error of the hits' probabilities, over 10 bins of equal width.
        calibration_error_of_best: The same of the best hit of each query.
        reliability: Mean probability, share of right hits and number of hits of each bin that has any.
        answer_auroc: How well queries with an answer are told from those without; 0.5 is chance.
        answer_calibration_error: Expected calibration error of the probability of an answer.
    """

    queries: int
    recall_at_1: float
    calibration_error: float
    calibration_error_of_best: float
    reliability: tuple[tuple[float, float, int], ...]
    answer_auroc: float
    answer_calibration_error: float


@dataclass(frozen=True)
class Calibration:
    """What gives probabilities to hits of one side.

    Attributes:
        hit: Of the features of a hit.
        answer: Of the features of the best hits together.
        typical: Quantiles, of 0 to 1, of the mean score of the best hits of the index's own queries.
        measured: How far it holds.
    """

    hit: Logistic
    answer: Logistic
    typical: tuple[float, ...]
    measured: Measured

    def as_dict(self) -> dict[str, Any]:
        """In words that JSON knows."""
        return asdict(self)

    def typical_share(self, scores: Float[Tensor, "queries hits"]) -> Float[Tensor, " queries"]:
        """The share of the index's own queries whose best hits score, on average, no more than each query's."""
        quantiles = torch.tensor(self.typical)
        return torch.searchsorted(quantiles, mean_of_best(scores), right=True) / len(quantiles)


def hit_features(
    scores: Float[Tensor, "queries hits"],
    query_to_reference: Float[Tensor, "queries reference"],
    hit_to_reference: Float[Tensor, "queries hits reference"],
    is_own: Bool[Tensor, "queries hits reference"],
    temperature: float,
    similarity: Float[Tensor, "queries hits"] | None = None,
) -> Float[Tensor, "queries hits features"]:
    """Cosine and log-odds of each hit both ways, in units of cosines.

    Args:
        scores: Cosines.
        query_to_reference: Of each query with reference items of the hits' side.
        hit_to_reference: Of each hit with reference items of the queries' side.
        is_own: True where a reference pair is the hit's own, which is no negative.
        temperature: τ.
        similarity: What the models say, where that is no cosine: one more feature.
    """
    queries, hits = scores.shape
    own, flat = is_own.flatten(0, 1), scores.flatten()
    of_query = query_to_reference[:, None].expand(-1, hits, -1).flatten(0, 1)
    against_query, against_hit = (
        temperature * log_odds_one_way(flat, negatives, own, temperature).view(queries, hits)
        for negatives in (of_query, hit_to_reference.flatten(0, 1))
    )
    columns = [scores, against_hit, against_query, *([] if similarity is None else [similarity])]
    return torch.stack(columns, 2)


def mean_of_best(scores: Float[Tensor, "queries hits"]) -> Float[Tensor, " queries"]:
    """Mean over the hits that are there."""
    is_hit = scores.isfinite()
    return scores.masked_fill(~is_hit, 0).sum(1) / is_hit.sum(1).clamp(min=1)


def answer_features(features: Float[Tensor, "queries hits features"]) -> Float[Tensor, "queries 4"]:
    """Best cosine, mean cosine, best log-odds both ways, and the lead of the best over the mean."""
    cosines, log_odds = features[:, :, 0], features[:, :, 1:3].mean(2)
    best, mean = cosines.amax(1), mean_of_best(cosines)
    return torch.stack([best, mean, log_odds.amax(1), best - mean], 1)


def calibrated(
    with_partner: Float[Tensor, "queries hits features"],
    is_partner: Bool[Tensor, "queries hits"],
    without: Float[Tensor, "queries hits features"],
    group: Int[Tensor, " queries"],
) -> Calibration | None:
    """A calibration by the hits of held-out queries; None if there are too few.

    Args:
        with_partner: Features of the best hits of each query, best first.
        is_partner: Whether a hit is what the query belongs to.
        without: The same where the partners were taken out.
        group: The image of each query: queries of one image are never on both sides of a measurement.
    """
    if len(with_partner) < _FEWEST:
        return None
    sample = _Sample(with_partner, is_partner, without)
    is_even = group.unique(return_inverse=True)[1] % 2 == 0  # by rank: numbers may all be even
    halves = [(sample.rows(is_even), sample.rows(~is_even)), (sample.rows(~is_even), sample.rows(is_even))]
    parts = [
        _judged(learned, judged) for learned, judged in halves if len(learned.group_of_two) and len(judged.is_partner)
    ]
    if not parts:
        return None
    hit, answer = sample.fitted()
    typical = (
        mean_of_best(with_partner[:, :, 0]).double().quantile(torch.linspace(0, 1, _QUANTILES, dtype=torch.float64))
    )
    return Calibration(hit, answer, tuple(typical.tolist()), _measured(sample, parts))


@dataclass(frozen=True)
class _Sample:
    """Held-out queries, each asked twice."""

    with_partner: Float[Tensor, "queries hits features"]
    is_partner: Bool[Tensor, "queries hits"]
    without: Float[Tensor, "queries hits features"]

    def rows(self, chosen: Bool[Tensor, " queries"]) -> _Sample:
        return _Sample(self.with_partner[chosen], self.is_partner[chosen], self.without[chosen])

    @property
    def group_of_two(self) -> Float[Tensor, "both hits features"]:
        return torch.cat([self.with_partner, self.without])

    @property
    def labels(self) -> Bool[Tensor, "both hits"]:
        return torch.cat([self.is_partner, torch.zeros_like(self.is_partner)])

    @property
    def has_answer(self) -> Bool[Tensor, " both"]:
        return torch.arange(2 * len(self.is_partner)) < len(self.is_partner)

    def fitted(self) -> tuple[Logistic, Logistic]:
        """The probability of a hit, and that of an answer."""
        features, is_hit = self.group_of_two, self.group_of_two[:, :, 0].isfinite()
        hit = Logistic.fitted(features[is_hit], self.labels[is_hit])
        return hit, Logistic.fitted(answer_features(features), self.has_answer)


def _judged(learned: _Sample, judged: _Sample) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities of hits, whether they are right, probability of an answer, and whether there is one."""
    hit, answer = learned.fitted()
    features = judged.group_of_two
    return hit(features), judged.labels, answer(answer_features(features)), judged.has_answer


def _measured(sample: _Sample, parts: Sequence[tuple[Tensor, ...]]) -> Measured:
    from sklearn.metrics import roc_auc_score

    probability, is_right, answered, has_answer = (torch.cat(each) for each in zip(*parts, strict=True))
    known = probability.isfinite()
    return Measured(
        queries=len(sample.is_partner),
        recall_at_1=float(sample.is_partner[:, 0].double().mean()),
        calibration_error=expected_calibration_error(probability[known], is_right[known], _BINS),
        calibration_error_of_best=expected_calibration_error(probability[:, 0], is_right[:, 0], _BINS),
        reliability=tuple(reliability(probability[known], is_right[known])),
        answer_auroc=float(roc_auc_score(has_answer.numpy(), answered.numpy())),
        answer_calibration_error=expected_calibration_error(answered, has_answer, _BINS),
    )


def reliability(probability: Float[Tensor, " rows"], is_right: Bool[Tensor, " rows"]) -> list[tuple[float, float, int]]:
    """Mean probability, share that is right and number of rows of each of 10 bins that has any.

    >>> reliability(torch.tensor([0.1, 0.9, 0.9]), torch.tensor([False, True, True]))[0][1:]
    (0.0, 1)
    """
    curve = calibration_curve(probability, is_right, _BINS)
    bins = zip((1 - curve.mismatch_probability).tolist(), (1 - curve.mismatch_rate).tolist(), curve.pairs, strict=True)
    return [(mean, share, int(rows)) for mean, share, rows in bins][::-1]
