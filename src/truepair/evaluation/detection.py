"""How well a score finds the pairs that do not match, when the truth is known.

Every function takes a score per pair, low = suspicious, and finding a *mismatched* pair is what counts as success.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truepair.errors import ConfigError, DataError


@dataclass(frozen=True)
class DetectionMetrics:
    """What `detection_metrics` measures; None where a value is not defined.

    Attributes:
        auroc: Probability that a mismatched pair scores below a clean one, ties counting half; 0.5 is chance.
            Like the other four values of ranking, None unless there are both mismatched and clean pairs.
        average_precision: Of mismatched pairs, least confident first; the noise rate is chance.
        best_f1: The largest F1 of flagging every pair whose score is at most some threshold: an upper bound, since the
            threshold is chosen with the truth in hand.
        best_f1_threshold: That threshold, in the score's own units.
        precision_at_noise_count: Share of mismatched pairs among the k lowest scores, k being their true number (there,
            precision and recall are equal). Where a tie crosses k, the expected value over orders of the tied pairs.
        expected_calibration_error: Of the mismatch probability ``1 - confidence``; see `expected_calibration_error`.
            None unless every score is in [0, 1].
        estimated_noise_rate: Mean mismatch probability. None unless every score is in [0, 1].
        true_noise_rate: Share of mismatched pairs.
    """

    auroc: float | None
    average_precision: float | None
    best_f1: float | None
    best_f1_threshold: float | None
    precision_at_noise_count: float | None
    expected_calibration_error: float | None
    estimated_noise_rate: float | None
    true_noise_rate: float

    def as_dict(self) -> dict[str, float | None]:
        """All values by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """Predicted against observed mismatch, over the bins that hold any pair.

    Attributes:
        mismatch_probability: ``[bins]``, mean of ``1 - confidence`` in each bin, increasing.
        mismatch_rate: ``[bins]``, share of pairs in the bin that truly do not match.
        pairs: ``[bins]``, how many pairs the bin holds.
    """

    mismatch_probability: Float[Tensor, " bins"]
    mismatch_rate: Float[Tensor, " bins"]
    pairs: Int[Tensor, " bins"]


def detection_metrics(
    confidence: Float[Tensor, " pairs"], is_clean: Bool[Tensor, " pairs"], bins: int = 15
) -> DetectionMetrics:
    """How well low `confidence` finds the pairs that do not match.

    Args:
        confidence: Probability that each pair matches, in [0, 1]; or any score that is low where a pair is
            suspicious, for which the values that need a probability are None.
        is_clean: True where the pair truly matches.
        bins: Bins of the calibration error.

    Raises:
        DataError: If there is no pair, the counts differ, or a score is NaN or infinite.

    Example:
        Of six (mismatched, clean) combinations, only the one of 0.6 and 0.5 is in the wrong order.

        >>> confidence = torch.tensor([0.1, 0.6, 0.5, 0.8, 0.9])
        >>> metrics = detection_metrics(confidence, torch.tensor([False, False, True, True, True]))
        >>> round(metrics.auroc, 3), metrics.precision_at_noise_count
        (0.833, 0.5)
    """
    confidence, is_clean = _checked(confidence, is_clean)
    is_probability = bool(((confidence >= 0) & (confidence <= 1)).all())
    auroc = average_precision = best_f1 = best_f1_threshold = precision = None
    if is_clean.any() and not is_clean.all():
        auroc, average_precision = _areas(confidence, is_clean)
        best_f1, best_f1_threshold = _best_f1(confidence, is_clean)
        precision = _precision_at_noise_count(confidence, is_clean)
    return DetectionMetrics(
        auroc=auroc,
        average_precision=average_precision,
        best_f1=best_f1,
        best_f1_threshold=best_f1_threshold,
        precision_at_noise_count=precision,
        expected_calibration_error=expected_calibration_error(confidence, is_clean, bins) if is_probability else None,
        estimated_noise_rate=(1 - confidence).mean().item() if is_probability else None,
        true_noise_rate=(~is_clean).double().mean().item(),
    )


def calibration_curve(
    confidence: Float[Tensor, " pairs"], is_clean: Bool[Tensor, " pairs"], bins: int = 15
) -> CalibrationCurve:
    """Mean mismatch probability against the true share of mismatches, in bins of equal width over [0, 1].

    Args:
        confidence: Probability that each pair matches, in [0, 1].
        is_clean: True where the pair truly matches.
        bins: How many, at least 1. A bin without a pair is left out of the curve.

    Raises:
        DataError: If there is no pair, the counts differ, or a confidence is NaN or outside [0, 1].
        ConfigError: If `bins` is below 1.
    """
    confidence, is_clean = _checked(confidence, is_clean)
    if bins < 1:
        raise ConfigError(f"bins is {bins}, but a calibration curve needs at least 1")
    outside = (confidence < 0) | (confidence > 1)
    if outside.any():
        raise DataError(
            f"confidence is outside [0, 1] for {int(outside.sum()):,} of {len(confidence):,} pairs (range "
            f"{confidence.min():.4g} … {confidence.max():.4g}); calibration needs probabilities: see `mixtures`"
        )
    mismatch_probability = 1 - confidence
    bin_of_pair = (mismatch_probability * bins).long().clamp(max=bins - 1)  # probability 1 belongs to the last bin
    pairs = bin_of_pair.bincount(minlength=bins)
    filled = pairs > 0
    probability_sum = bin_of_pair.bincount(mismatch_probability, minlength=bins)
    mismatches = bin_of_pair.bincount((~is_clean).double(), minlength=bins)
    return CalibrationCurve(
        mismatch_probability=probability_sum[filled] / pairs[filled],
        mismatch_rate=mismatches[filled] / pairs[filled],
        pairs=pairs[filled],
    )


def expected_calibration_error(
    confidence: Float[Tensor, " pairs"], is_clean: Bool[Tensor, " pairs"], bins: int = 15
) -> float:
    """Mean distance, in [0, 1], between predicted and observed mismatch.

    ``Σ_b n_b/N · |mean probability in bin b - mismatch rate in bin b|``, with bins of equal width (Guo et al., ICML
    2017, Eq. 3, https://arxiv.org/abs/1706.04599, for the probability of a mismatch in place of the top class).

    Args:
        confidence: Probability that each pair matches, in [0, 1].
        is_clean: True where the pair truly matches.
        bins: How many, at least 1.

    Raises:
        DataError: As in `calibration_curve`.
        ConfigError: As in `calibration_curve`.

    >>> expected_calibration_error(torch.tensor([0.75, 0.75, 0.75, 0.75]), torch.tensor([True, True, False, False]))
    0.25
    """
    curve = calibration_curve(confidence, is_clean, bins)
    distance = (curve.mismatch_probability - curve.mismatch_rate).abs()
    return ((curve.pairs * distance).sum() / curve.pairs.sum()).item()


def _checked(confidence: Tensor, is_clean: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the CPU, scores as float64, so that a threshold separates what the score separates."""
    if len(confidence) != len(is_clean) or len(confidence) == 0:
        raise DataError(
            f"there are {len(confidence):,} confidences and {len(is_clean):,} truths; "
            "detection needs as many of the one as of the other, and at least one"
        )
    bad = (~confidence.isfinite()).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"confidence is NaN or infinite for {len(bad):,} of {len(confidence):,} pairs "
            f"(first: pair {int(bad[0])}); check the model that scored them"
        )
    return confidence.detach().cpu().double(), is_clean.cpu()


def _areas(confidence: Tensor, is_clean: Tensor) -> tuple[float, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    is_mismatched, suspicion = (~is_clean).numpy(), -confidence.numpy()
    return float(roc_auc_score(is_mismatched, suspicion)), float(average_precision_score(is_mismatched, suspicion))


def _best_f1(confidence: Tensor, is_clean: Tensor) -> tuple[float, float]:
    score, order = confidence.sort()
    found = (~is_clean[order]).cumsum(0)  # mismatched pairs among the first 1, 2, … pairs
    flagged = torch.arange(1, len(score) + 1)
    f1 = 2 * found / (flagged + found[-1])
    splits_tie = torch.cat([score[1:] == score[:-1], torch.tensor([False])])  # no threshold can separate equal scores
    f1[splits_tie] = -1
    best = int(f1.argmax())
    return f1[best].item(), score[best].item()


def _precision_at_noise_count(confidence: Tensor, is_clean: Tensor) -> float:
    count = int((~is_clean).sum())
    limit = confidence.sort().values[count - 1]
    below, tied = confidence < limit, confidence == limit
    found = (~is_clean & below).sum() + (count - below.sum()) * (~is_clean[tied]).double().mean()
    return (found / count).item()
