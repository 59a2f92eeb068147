"""Better partners of suspects: another image for the caption, and another caption for the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.progress import progress
from truepair.scoring.best import NONE, Best
from truepair.scoring.encodings import Encodings, evaluating, similarity_between

_PAIRS_AT_A_TIME = 1024
_GALLERY_AT_A_TIME = 4096
"""Similarities in memory at once: 1,024 × 4,096, 16 MB."""

_NEAREST = 10
"""A mutual choice must be among this number of most similar images of all: among few suspects, a mutual choice says
little."""

_FEWEST_OF_A_KIND = 10
"""Right suggestions for probes, and wrong ones, below which no probability of a suggestion is given."""


@dataclass(frozen=True)
class Partners:
    """The best alternatives of some pairs.

    Attributes:
        image: ``[pairs]``, another image for the caption, more similar to it than its present one; -1 where there is
            none. If one of the 10 most similar images and the caption choose each other among the pairs asked for, it
            is that image; otherwise it is the most similar of all.
        image_similarity: ``[pairs]``, its similarity; NaN where there is none.
        image_probability: ``[pairs]``, probability, in [0, 1], that it is the right one, if the present one is
            wrong and the right one is in the corpus; NaN where there is none, or where too few probes were at hand.
        is_mutual: ``[pairs]``, True where caption and image choose each other.
        caption: ``[pairs]``, the caption most similar to the image among those that it does not own and that say
            something else, or -1 where the present one is at least as similar.
        caption_similarity: ``[pairs]``, its similarity; NaN where there is none.
    """

    image: Int[Tensor, " pairs"]
    image_similarity: Float[Tensor, " pairs"]
    image_probability: Float[Tensor, " pairs"]
    is_mutual: Bool[Tensor, " pairs"]
    caption: Int[Tensor, " pairs"]
    caption_similarity: Float[Tensor, " pairs"]

    @classmethod
    def none(cls, pairs: int) -> Partners:
        """No alternatives, for a number of pairs."""
        no_item, unknown = torch.full((pairs,), NONE), torch.full((pairs,), torch.nan)
        is_mutual = torch.zeros(pairs, dtype=torch.bool)
        return cls(no_item, unknown, unknown.clone(), is_mutual, no_item.clone(), unknown.clone())


def best_partners(
    models: Sequence[MatchingModel],
    pairs: Pairs,
    asked: Int[Tensor, " asked"],
    probes: Int[Tensor, " probes"] | None = None,
) -> Partners:
    """The best alternatives of the pairs `asked` for, among all images and captions; of the others, none.

    The galleries are encoded a block at a time: memory grows with the pairs asked for, never with all.

    How likely a suggestion is right is measured on probes, pairs that probably match: each is treated as if its image
    were unknown, and a logistic regression learns from similarity, lead over the next image and mutual choice whether
    the image that was found is its own.

    Args:
        models: Their similarities are averaged. They should not have learned from the pairs asked for, nor from the
            probes: the image that a mismatched caption belongs to is most likely mismatched itself, and a model that
            was trained on it has learned to give it to another caption.
        pairs: All pairs.
        asked: ``[asked]``, ids of the pairs.
        probes: ``[probes]``, ids of other pairs that probably match; none by default.
    """
    if not len(asked):
        return Partners.none(len(pairs))
    with evaluating(models):
        # The most similar images and captions of the corpus.
        wanted = _Wanted.encoded(models, pairs, asked, asked[:0] if probes is None else probes)
        galleries = len(pairs.images) + len(pairs)
        with progress("better partners", "partners", galleries) as shown:
            nearest = _nearest_images(wanted, pairs, shown.advance)
            captions = _best_captions(wanted, pairs, shown.advance)

        # One image each, and the probability that it is the right one.
        suggested = _suggested_images(wanted, nearest)
    probability = _probability_of_suggestions(wanted, suggested)
    return _better_than_the_present(pairs, wanted, suggested, probability, captions)


@dataclass(frozen=True)
class _Wanted:
    """The pairs asked for, and after them the probes, whose image is hidden."""

    ids: Int[Tensor, " wanted"]
    asked: int
    """Number of pairs asked for; the others are probes."""
    images: Int[Tensor, " images"]
    """Different images of these pairs, sorted."""
    image: Int[Tensor, " wanted"]
    """Of each pair, the row of its image in `images`."""
    hidden: Int[Tensor, " wanted"]
    """Of each pair asked for, the image that may not be suggested: its present one; `NONE` for probes."""
    present: Float[Tensor, " wanted"]
    """Similarity of each pair asked for; -∞ for probes."""
    encodings: Encodings

    @classmethod
    def encoded(
        cls,
        models: Sequence[MatchingModel],
        pairs: Pairs,
        asked: Int[Tensor, " asked"],
        probes: Int[Tensor, " probes"],
    ) -> _Wanted:
        ids = torch.cat([asked, probes])
        owner = pairs.image_of_caption[ids]
        images, image = owner.unique(return_inverse=True)
        encodings = Encodings.of(models, pairs, images, ids)
        present = encodings.paired(image, torch.arange(len(ids))).clone()  # inference tensors cannot be written to
        present[len(asked) :] = -torch.inf
        hidden = torch.cat([owner[: len(asked)], torch.full_like(probes, NONE)])
        return cls(ids, len(asked), images, image, hidden, present, encodings)


def _nearest_images(wanted: _Wanted, pairs: Pairs, progress: Callable[[int], object]) -> Best:
    """Of each caption asked for and each probe, the most similar images of the corpus, without its hidden one."""
    nearest = Best.unfilled(len(wanted.ids), _NEAREST + 1)
    for gallery in torch.arange(len(pairs.images)).split(_GALLERY_AT_A_TIME):
        encoded = Encodings.of(wanted.encodings.models, pairs, gallery, wanted.ids[:1])
        for rows in torch.arange(len(wanted.ids)).split(_PAIRS_AT_A_TIME):
            scores = similarity_between(encoded, torch.arange(len(gallery)), wanted.encodings, rows).T
            nearest.put(rows, scores, gallery, partial(_is_hidden, wanted, gallery))
        progress(len(gallery))
    return nearest


def _best_captions(wanted: _Wanted, pairs: Pairs, progress: Callable[[int], object]) -> Best:
    """Of each image asked for, the most similar caption that it does not own and that says something else."""
    number: dict[str, int] = {}  # of the texts of these pairs
    present = torch.tensor(
        [number.setdefault(pairs.captions[i], len(number)) for i in wanted.ids[: wanted.asked].tolist()]
    )
    captions = Best.unfilled(wanted.asked, 1)
    for gallery in torch.arange(len(pairs)).split(_GALLERY_AT_A_TIME):
        encoded = Encodings.of(wanted.encodings.models, pairs, wanted.images[:1], gallery)
        owner = pairs.image_of_caption[gallery]
        texts = torch.tensor([number.get(pairs.captions[i], NONE) for i in gallery.tolist()])
        for rows in torch.arange(wanted.asked).split(_PAIRS_AT_A_TIME):
            image = wanted.image[rows]
            scores = similarity_between(wanted.encodings, image, encoded, torch.arange(len(gallery)))
            captions.put(rows, scores, gallery, partial(_is_present, wanted, owner, texts, present))
        progress(len(gallery))
    return captions


def _is_hidden(wanted: _Wanted, gallery: Int[Tensor, " g"], rows: Int[Tensor, " rows"]) -> Bool[Tensor, "rows g"]:
    """Whether an image may not be suggested to a caption."""
    return gallery == wanted.hidden[rows][:, None]


def _is_present(
    wanted: _Wanted,
    owner: Int[Tensor, " g"],
    texts: Int[Tensor, " g"],
    present: Int[Tensor, " asked"],
    rows: Int[Tensor, " rows"],
) -> Bool[Tensor, "rows g"]:
    """Whether a caption is the image's own, or says the same as its present one."""
    return (owner == wanted.images[wanted.image[rows]][:, None]) | (texts == present[rows][:, None])


@dataclass(frozen=True)
class _Suggested:
    """One image for each caption asked for, and for each probe."""

    image: Int[Tensor, " wanted"]
    similarity: Float[Tensor, " wanted"]
    lead: Float[Tensor, " wanted"]
    """Its similarity less that of the most similar other image."""
    is_mutual: Bool[Tensor, " wanted"]


def _suggested_images(wanted: _Wanted, nearest: Best) -> _Suggested:
    """The mutual choice of each caption, where there is one, or else its nearest image.

    A choice is mutual if caption and image choose each other among the pairs asked for and the probes, if the image is
    among the 10 nearest of all, and if it is more similar than the present one.
    """
    among_wanted, favourite = _mutual_choices(wanted)
    choice, chosen = among_wanted.best[:, 0], among_wanted.where[:, 0]  # [wanted]: similarity, and row of the image
    is_mutual = (
        (favourite[chosen] == torch.arange(len(wanted.ids)))
        & (choice >= nearest.best[:, _NEAREST - 1])
        & (choice > wanted.present)
    )
    similarity = torch.where(is_mutual, choice, nearest.best[:, 0])
    image = torch.where(is_mutual, wanted.images[chosen], nearest.where[:, 0])
    is_nearest = image == nearest.where[:, 0]
    lead = similarity - torch.where(is_nearest, nearest.best[:, 1], nearest.best[:, 0])
    return _Suggested(image, similarity, lead, is_mutual)


def _mutual_choices(wanted: _Wanted) -> tuple[Best, Int[Tensor, " images"]]:
    """Among the wanted pairs: of each caption its best image, and of each image its favourite caption, by rows."""
    of_captions, of_images = Best.unfilled(len(wanted.ids), 1), Best.unfilled(len(wanted.images), 1)
    for rows in torch.arange(len(wanted.images)).split(_PAIRS_AT_A_TIME):
        for columns in torch.arange(len(wanted.ids)).split(_GALLERY_AT_A_TIME):
            is_hidden = wanted.images[rows][:, None] == wanted.hidden[columns]  # [rows, columns]
            scores = wanted.encodings.matrix(rows, columns).masked_fill(is_hidden, -torch.inf)
            of_images.put(rows, scores, columns)
            of_captions.put(columns, scores.T, rows)
    return of_captions, of_images.where[:, 0]


def _probability_of_suggestions(wanted: _Wanted, suggested: _Suggested) -> Float[Tensor, " asked"]:
    """Probability that each suggestion is right, learned from the probes, whose right image is known."""
    features = torch.stack([suggested.similarity, suggested.lead, suggested.is_mutual.float()], dim=1).double().numpy()
    of_asked, of_probes = features[: wanted.asked], features[wanted.asked :]  # [asked, 3] and [probes, 3]
    is_right = (suggested.image == wanted.images[wanted.image])[wanted.asked :].numpy()
    if min(is_right.sum(), len(is_right) - is_right.sum()) < _FEWEST_OF_A_KIND:
        return torch.full((wanted.asked,), torch.nan)
    mean, scale = of_probes.mean(0), of_probes.std(0)
    scale[scale == 0] = 1
    from sklearn.linear_model import LogisticRegression  # takes a second to load

    regression = LogisticRegression().fit((of_probes - mean) / scale, is_right)
    rows = (of_asked - mean) / scale
    rows = np.where(np.isfinite(rows), rows, 0.0)  # no second image to lead over
    return torch.from_numpy(regression.predict_proba(rows)[:, 1]).float()


def _better_than_the_present(
    pairs: Pairs,
    wanted: _Wanted,
    suggested: _Suggested,
    probability: Float[Tensor, " asked"],
    captions: Best,
) -> Partners:
    """The suggestions for the pairs asked for that are more similar than their present partners."""
    result = Partners.none(len(pairs))
    asked, count = wanted.ids[: wanted.asked], wanted.asked
    present = wanted.present[:count]

    is_better = suggested.similarity[:count] > present
    result.image[asked[is_better]] = suggested.image[:count][is_better]
    result.image_similarity[asked[is_better]] = suggested.similarity[:count][is_better]
    result.image_probability[asked[is_better]] = probability[is_better]
    result.is_mutual[asked] = suggested.is_mutual[:count]

    is_better = captions.best[:, 0] > present
    result.caption[asked[is_better]] = captions.where[is_better, 0]
    result.caption_similarity[asked[is_better]] = captions.best[is_better, 0]
    return result
