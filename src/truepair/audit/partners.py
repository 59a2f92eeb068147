"""Better partners for pairs that look wrong: another image for the caption, another caption for the image."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm import tqdm

from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.scoring.plausibility import Encodings, between

_PAIRS_AT_A_TIME = 1024
_GALLERY_AT_A_TIME = 4096
"""Similarities in memory at once: 1,024 × 4,096, 16 MB."""

_NEAREST = 10
"""A mutual choice must be among so many most similar images of all: among few suspects, to choose each other says
little."""

_FEWEST_OF_A_KIND = 10
"""Probes that were given back rightly, and wrongly, below which no probability of a suggestion is given."""

NONE = -1
"""No image, or no caption, is better than the present one."""


@dataclass(frozen=True)
class Partners:
    """The best alternatives of some pairs.

    Attributes:
        image: ``[pairs]``, another image for the caption, more similar to it than its present one; -1 where there is
            none. If one of the 10 most similar images and the caption choose each other among the pairs asked for, it
            is that image; otherwise it is the most similar of all.
        image_similarity: ``[pairs]``, its similarity; NaN where there is none.
        image_probability: ``[pairs]``, probability, in [0, 1], that it is the very one, if the present one is wrong and
            the right one is in the corpus; NaN where there is none, or where too few probes were at hand.
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
        """No alternatives, for so many pairs."""
        nobody, unknown = torch.full((pairs,), NONE), torch.full((pairs,), torch.nan)
        is_mutual = torch.zeros(pairs, dtype=torch.bool)
        return cls(nobody, unknown, unknown.clone(), is_mutual, nobody.clone(), unknown.clone())


def best_partners(
    models: Sequence[MatchingModel],
    pairs: Pairs,
    asked: Int[Tensor, " asked"],
    probes: Int[Tensor, " probes"] | None = None,
) -> Partners:
    """The best alternatives of the pairs `asked` for, among all images and captions; of the others, none.

    The galleries are encoded a block at a time: memory grows with the pairs asked for, never with all.

    How likely a suggestion is right is measured on probes, pairs that probably match: each is looked at as if nobody
    knew its image, and a logistic regression learns from similarity, lead over the next image and mutual choice whether
    the image that was found is its own.

    Args:
        models: Their similarities are averaged. They should not have learned from the pairs asked for, nor from the
            probes: the image that a mismatched caption belongs to is most likely mismatched itself, and a model that
            was trained on it has learned to give it to another caption.
        pairs: All pairs.
        asked: ``[asked]``, ids of the pairs.
        probes: ``[probes]``, ids of other pairs that probably match; none by default.
    """
    result = Partners.none(len(pairs))
    if not len(asked):
        return result
    probes = asked[:0] if probes is None else probes
    ids = torch.cat([asked, probes])
    owner = pairs.image_of_caption.clone()
    owner[probes] = NONE  # nobody knows
    images = pairs.image_of_caption[ids].unique()
    known = Encodings.of(models, pairs, images, ids)
    place = torch.searchsorted(images, pairs.image_of_caption[ids])
    present = known.paired(place, torch.arange(len(ids))).clone()  # inference tensors cannot be written to
    present[len(asked) :] = -torch.inf
    number_of_text: dict[str, int] = {}
    texts = torch.tensor([number_of_text.setdefault(text, len(number_of_text)) for text in pairs.captions])

    galleries = len(pairs.images) + len(pairs)
    with tqdm(total=galleries, unit="partner", desc="better partners", disable=None, file=sys.stderr) as bar:
        nearest = _Best.unfilled(len(ids), _NEAREST + 1)
        for gallery in torch.arange(len(pairs.images)).split(_GALLERY_AT_A_TIME):
            encoded = Encodings.of(models, pairs, gallery, ids[:1])
            for rows in torch.arange(len(ids)).split(_PAIRS_AT_A_TIME):
                scores = between(encoded, torch.arange(len(gallery)), known, rows).T
                nearest.put(rows, scores.masked_fill(gallery == owner[ids[rows]][:, None], -torch.inf), gallery)
            bar.update(len(gallery))
        captions = _Best.unfilled(len(asked), 1)
        for gallery in torch.arange(len(pairs)).split(_GALLERY_AT_A_TIME):
            encoded = Encodings.of(models, pairs, images[:1], gallery)
            for rows in torch.arange(len(asked)).split(_PAIRS_AT_A_TIME):
                scores = between(known, place[rows], encoded, torch.arange(len(gallery)))
                is_own = pairs.image_of_caption[gallery] == images[place[rows]][:, None]
                is_present = is_own | (texts[gallery] == texts[asked[rows]][:, None])
                captions.put(rows, scores.masked_fill(is_present, -torch.inf), gallery)
            bar.update(len(gallery))

    among_asked, favourite = _mutual_choices(known, owner[ids], images)
    rows = torch.arange(len(ids))
    is_mutual = (
        (favourite[among_asked.where[:, 0]] == rows)
        & (among_asked.best[:, 0] >= nearest.best[:, _NEAREST - 1])
        & (among_asked.best[:, 0] > present)
    )
    best = torch.where(is_mutual, among_asked.best[:, 0], nearest.best[:, 0])
    image = torch.where(is_mutual, images[among_asked.where[:, 0]], nearest.where[:, 0])
    is_first = image == nearest.where[:, 0]
    lead = best - torch.where(is_first, nearest.best[:, 1], nearest.best[:, 0])
    is_right = image == pairs.image_of_caption[ids]
    features = torch.stack([best, lead, is_mutual.float()], dim=1)
    probability = _probability_of_suggestions(features, is_right, len(asked))

    better = (best > present)[: len(asked)]
    chosen = asked[better]
    result.image[chosen] = image[: len(asked)][better]
    result.image_similarity[chosen] = best[: len(asked)][better]
    result.image_probability[chosen] = probability[better]
    result.is_mutual[asked] = is_mutual[: len(asked)]
    better = captions.best[:, 0] > present[: len(asked)]
    result.caption[asked[better]] = captions.where[better, 0]
    result.caption_similarity[asked[better]] = captions.best[better, 0]
    return result


@dataclass(frozen=True)
class _Best:
    """The best of what was seen so far, best first; -1 where there were fewer."""

    best: Float[Tensor, "rows count"]
    where: Int[Tensor, "rows count"]

    @classmethod
    def unfilled(cls, rows: int, count: int) -> _Best:
        return cls(torch.full((rows, count), -torch.inf), torch.full((rows, count), NONE))

    def put(
        self, rows: Int[Tensor, " some"], scores: Float[Tensor, "some block"], block: Int[Tensor, " block"]
    ) -> None:
        """See some more for some of the rows."""
        count = self.best.shape[1]
        scores, places = scores.topk(min(count, scores.shape[1]), dim=1)
        together, order = torch.cat([self.best[rows], scores], dim=1).topk(count, dim=1)
        self.where[rows] = torch.cat([self.where[rows], block[places]], dim=1).gather(1, order)
        self.best[rows] = together


def _mutual_choices(
    known: Encodings, owner: Int[Tensor, " asked"], images: Int[Tensor, " images"]
) -> tuple[_Best, Int[Tensor, " images"]]:
    """Among those asked for: of each caption its best image, and of each image its favourite caption, by their rows."""
    of_captions, of_images = _Best.unfilled(len(owner), 1), _Best.unfilled(len(images), 1)
    for rows in torch.arange(len(images)).split(_PAIRS_AT_A_TIME):
        for columns in torch.arange(len(owner)).split(_GALLERY_AT_A_TIME):
            scores = known.matrix(rows, columns).masked_fill(images[rows][:, None] == owner[columns], -torch.inf)
            of_images.put(rows, scores, columns)
            of_captions.put(columns, scores.T, rows)
    return of_captions, of_images.where[:, 0]


def _probability_of_suggestions(
    features: Float[Tensor, "found features"], is_right: Bool[Tensor, " found"], asked: int
) -> Float[Tensor, " asked"]:
    """Probability that each suggestion is right, as the probes, which stand last, say."""
    probes = features[asked:].double().numpy()
    right = is_right[asked:].numpy()
    if min(right.sum(), len(right) - right.sum()) < _FEWEST_OF_A_KIND:
        return torch.full((asked,), torch.nan)
    mean, scale = probes.mean(0), probes.std(0)
    scale[scale == 0] = 1
    regression = LogisticRegression().fit((probes - mean) / scale, right)
    wanted = (features[:asked].double().numpy() - mean) / scale
    wanted = np.where(np.isfinite(wanted), wanted, 0.0)  # no second image to lead over
    return torch.from_numpy(regression.predict_proba(wanted)[:, 1]).float()
