"""Ranks and Recall@K of cross-modal retrieval, from a similarity matrix and an explicit `image_of_caption`.

Recall@K here is the field's hit rate: an image counts as found when *any* of its captions is among the first K of all
captions, a caption when its image is among the first K of all images. Ties are counted against the model, so that one
that scores everything alike finds nothing; the papers' released code breaks ties by position instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair.errors import DataError

_SCORES_AT_A_TIME = 2**18
"""Scores compared in one go: a workspace of 1 MB, which stays in the processor's cache between compare and count."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks counted from 1, in both directions.

    Attributes:
        image_to_text: ``[captioned_images]``, for each image with a caption, in the order of the images: 1 + how many
            captions of *other* images score at least as high as the best of its own captions.
        text_to_image: ``[captions]``, for each caption: 1 + how many *other* images score at least as high as its own.
    """

    image_to_text: Int[Tensor, " captioned_images"]
    text_to_image: Int[Tensor, " captions"]


def ranks(similarity: Float[Tensor, "images captions"], image_of_caption: Int[Tensor, " captions"]) -> Ranks:
    """Ranks in both directions, from the whole matrix.

    Args:
        similarity: ``[images, captions]``, higher = more similar; any floating-point type.
        image_of_caption: ``[captions]``, the row of each caption's own image. Images may have any number of captions;
            one without a caption has no image-to-text rank, but captions still have to tell it from their own.

    Returns:
        The ranks, on the device of `similarity`.

    Raises:
        DataError: If there is no caption, a caption's image has no row, or a score is NaN.

    Example:
        Image 0 owns captions 0 and 1, image 1 owns 2 and 3. The best caption of image 1 scores 0.3, and one
        caption of image 0 scores more; caption 2 would rather have image 0.

        >>> result = ranks(torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.4, 0.0, 0.1, 0.3]]), torch.tensor([0, 0, 1, 1]))
        >>> result.image_to_text, result.text_to_image
        (tensor([1, 2]), tensor([1, 1, 2, 1]))
    """
    images, captions = similarity.shape
    _refuse_missing(image_of_caption, images, captions)
    everything = torch.arange(captions, device=similarity.device)
    own = similarity[image_of_caption.to(similarity.device, torch.int64), everything]
    counts = RankCounts(image_of_caption, own, images)
    counts.add(similarity, 0, everything)
    return counts.ranks()


class RankCounts:
    """Ranks in the making, from rectangles of a matrix that never exists as a whole, in any order.

    A caption's score with its own image must be known before any other is seen, hence `own`. Own entries in the
    rectangles are recognised by their place, not by their value: where `own` was computed by another route, the two
    may differ in the last bit.

    Attributes:
        image_of_caption: ``[captions]``, the row of each caption's own image, as in `ranks`.
        own: ``[captions]``, the score of each caption with its own image.
        wrong_captions: ``[images]``, captions of other images, among those seen so far, that score at least as high
            as the best of the image's own.
        wrong_images: ``[captions]``, other images, among those seen so far, that score at least as high as the
            caption's own.
    """

    @torch.no_grad()
    def __init__(
        self, image_of_caption: Int[Tensor, " captions"], own: Float[Tensor, " captions"], images: int
    ) -> None:
        """Nothing seen yet; all that follows happens on the device of `own`.

        Raises:
            DataError: If there is no caption, a caption's image has no row, or an own score is NaN.
        """
        _refuse_missing(image_of_caption, images, len(own))
        self.image_of_caption = image_of_caption.to(own.device, torch.int64)
        self.own = own.detach()
        _refuse_nan(self.own[None], "the captions' scores with their own images", 0)
        self.wrong_captions = torch.zeros(images, dtype=torch.int64, device=own.device)
        self.wrong_images = torch.zeros_like(self.image_of_caption)
        self._best = self.own.new_full((images,), -torch.inf)
        self._best.scatter_reduce_(0, self.image_of_caption, self.own, "amax")

    @torch.no_grad()
    def add(self, scores: Float[Tensor, "rows columns"], first_image: int, captions: Int[Tensor, " columns"]) -> None:
        """Count a rectangle: consecutive images from `first_image` on, against some captions.

        Raises:
            DataError: If a score is NaN; what was counted before stays as it is.
        """
        _refuse_nan(scores, "similarity", first_image, captions)
        rows = slice(first_image, first_image + len(scores))
        best, own = self._best[rows], self.own[captions]
        wrong_captions, wrong_images = _counts_at_least(scores, best, own)

        row = self.image_of_caption[captions] - first_image
        here = ((row >= 0) & (row < len(scores))).nonzero().squeeze(1)
        row = row[here]
        score = scores[row, here]  # the own entries, which the counts include and the ranks must not
        wrong_captions.index_add_(0, row, -(score >= best[row]).long())
        wrong_images[here] -= (score >= own[here]).long()

        self.wrong_captions[rows] += wrong_captions
        self.wrong_images[captions] += wrong_images

    def ranks(self, images: slice = slice(None)) -> Ranks:
        """Ranks of a run of consecutive images and of their captions, once every pair of them has been added."""
        images = slice(*images.indices(len(self.wrong_captions)))
        has_caption = self.image_of_caption.bincount(minlength=len(self.wrong_captions)) > 0
        inside = (self.image_of_caption >= images.start) & (self.image_of_caption < images.stop)
        return Ranks(
            image_to_text=1 + self.wrong_captions[images][has_caption[images]],
            text_to_image=1 + self.wrong_images[inside],
        )


def _counts_at_least(
    block: Float[Tensor, "block captions"], of_row: Float[Tensor, " block"], of_column: Float[Tensor, " captions"]
) -> tuple[Int[Tensor, " block"], Int[Tensor, " captions"]]:
    """How many scores of each row reach `of_row`, and how many of each column reach `of_column`."""
    rows = max(1, _SCORES_AT_A_TIME // block.shape[1])
    # Zeros and ones as floats: comparing into them and adding them up takes a third of the time that booleans take.
    # Sums are exact up to 2²⁴ captions.
    reached = torch.empty((rows, block.shape[1]), dtype=torch.float32, device=block.device)
    in_row = torch.empty(block.shape[0], dtype=torch.int64, device=block.device)
    in_column = torch.zeros(block.shape[1], dtype=torch.int64, device=block.device)
    for start in range(0, block.shape[0], rows):
        part = block[start : start + rows]
        space = reached[: len(part)]
        in_row[start : start + rows] = torch.ge(part, of_row[start : start + rows, None], out=space).sum(1)
        in_column += torch.ge(part, of_column, out=space).sum(0).long()
    return in_row, in_column


def _refuse_missing(image_of_caption: Tensor, images: int, captions: int) -> None:
    if len(image_of_caption) != captions or captions == 0:
        raise DataError(
            f"similarity has {captions:,} caption columns but image_of_caption has {len(image_of_caption):,} entries; "
            "both must name the same captions, and at least one"
        )
    bad = ((image_of_caption < 0) | (image_of_caption >= images)).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"image_of_caption is out of range at {len(bad):,} of {captions:,} captions (first: caption {int(bad[0])} "
            f"belongs to image {int(image_of_caption[bad[0]])}, but similarity has {images:,} image rows)"
        )


def _refuse_nan(scores: Tensor, what: str, first_row: int, captions: Tensor | None = None) -> None:
    place = first_nan(scores)
    if place is not None:
        row, column = place
        caption = column if captions is None else int(captions[column])
        raise DataError(
            f"{what}: NaN in {int(scores.isnan().sum()):,} of {scores.numel():,} scores, first in row "
            f"{first_row + row}, caption {caption}; the model has diverged or its inputs hold NaN: lower the learning "
            "rate or check the features"
        )


def first_nan(scores: Float[Tensor, "rows columns"]) -> tuple[int, int] | None:
    """Row and column of the first score that is NaN, row by row; None if none is.

    >>> first_nan(torch.tensor([[0.1, 0.2], [torch.nan, torch.nan]]))
    (1, 0)
    """
    # The sum is NaN if any score is (or if +inf meets -inf), and reads the matrix ten times faster than isnan().
    if not scores.sum().isnan():
        return None
    bad = scores.isnan().flatten()
    return divmod(int(bad.byte().argmax()), scores.shape[1]) if bad.any() else None


def recall_at(ranks: Int[Tensor, " queries"], k: int) -> float:
    """The share of queries, in percent, whose rank is at most `k`.

    >>> recall_at(torch.tensor([1, 2, 6, 11]), k=5)
    50.0
    """
    return 100.0 * (ranks <= k).double().mean().item()


@dataclass(frozen=True)
class RetrievalMetrics:
    """Recall@1/5/10 in percent, and median and mean ranks counted from 1, in both directions."""

    image_to_text_r1: float
    image_to_text_r5: float
    image_to_text_r10: float
    text_to_image_r1: float
    text_to_image_r5: float
    text_to_image_r10: float
    image_to_text_median_rank: float
    image_to_text_mean_rank: float
    text_to_image_median_rank: float
    text_to_image_mean_rank: float

    @property
    def rsum(self) -> float:
        """The sum of the six recalls, at most 600."""
        image_to_text = self.image_to_text_r1 + self.image_to_text_r5 + self.image_to_text_r10
        return image_to_text + self.text_to_image_r1 + self.text_to_image_r5 + self.text_to_image_r10

    def as_dict(self) -> dict[str, float]:
        """All values by name, `rsum` included."""
        return {**asdict(self), "rsum": self.rsum}


def retrieval_metrics(ranks: Ranks) -> RetrievalMetrics:
    """The numbers that papers print, from ranks. An even count's median is the mean of the middle two."""
    values: dict[str, float] = {}
    for direction in ("image_to_text", "text_to_image"):
        rank = getattr(ranks, direction)
        values |= {f"{direction}_r{k}": recall_at(rank, k) for k in (1, 5, 10)}
        values[f"{direction}_median_rank"] = rank.double().quantile(0.5).item()
        values[f"{direction}_mean_rank"] = rank.double().mean().item()
    return RetrievalMetrics(**values)


def fold_slices(images: int, folds: int) -> list[slice]:
    """The images as `folds` equal runs, each of which competes by itself (MS-COCO 1K × 5).

    Raises:
        DataError: If they cannot be divided so.

    >>> fold_slices(10, 2)
    [slice(0, 5, None), slice(5, 10, None)]
    """
    if folds < 1 or images % folds:
        raise DataError(
            f"{images:,} images cannot be divided into {folds} equal folds: choose a divisor of {images:,}, or 1 to "
            "search them all at once"
        )
    size = images // folds
    return [slice(start, start + size) for start in range(0, images, size)]


def mean_metrics(metrics: Sequence[RetrievalMetrics]) -> RetrievalMetrics:
    """The mean of every value over folds or seeds; its `rsum` is the sum of the six mean recalls.

    Raises:
        DataError: If there is nothing to average.
    """
    if not metrics:
        raise DataError("no metrics to average: the list is empty")
    mean = {f.name: sum(getattr(m, f.name) for m in metrics) / len(metrics) for f in fields(RetrievalMetrics)}
    return RetrievalMetrics(**mean)
