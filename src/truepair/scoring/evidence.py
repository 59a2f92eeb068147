"""What speaks for a pair: how it holds out against competitors, and how neighbours on one side fit the other side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truepair.data.batch import Padded
from truepair.data.pairs import Pairs
from truepair.model import MatchingModel
from truepair.scoring.plausibility import Encodings, affordable_candidates, against, between

KINDS = ("similarity", "against captions", "against images", "captions of like images", "images of like captions")
"""Columns of evidence, all in units of cosines."""
NEIGHBOURS = 10
"""Nearest witnesses that are asked."""
RANDOM_PAIRS = 4096
"""Random couples to compare with, about, if there are as many pairs."""
_PAIRS_AT_A_TIME = 1024


@dataclass(frozen=True)
class Evidence:
    """What speaks for each pair, and what would speak for random couples; columns are `KINDS`.

    Attributes:
        pairs: ``[pairs, 5]``, of each pair.
        random: ``[random, 5]``, of some captions with random images: what pairs look like that surely do not match.
    """

    pairs: Float[Tensor, "pairs kinds"]
    random: Float[Tensor, "random kinds"]

    @property
    def own(self) -> Float[Tensor, " pairs"]:
        """What speaks for each pair itself: τ times its log-odds, the mean of both directions."""
        return self.pairs[:, 1:3].mean(1)

    @property
    def random_own(self) -> Float[Tensor, " random"]:
        """`own` of the random couples."""
        return self.random[:, 1:3].mean(1)

    @property
    def neighbours(self) -> Float[Tensor, " pairs"]:
        """What neighbours on either side say, summed; in [-2, 2]."""
        return self.pairs[:, 3:5].sum(1)

    @property
    def random_neighbours(self) -> Float[Tensor, " random"]:
        """`neighbours` of the random couples."""
        return self.random[:, 3:5].sum(1)


def evidence_for(
    models: Sequence[MatchingModel],
    pairs: Pairs,
    chosen: Int[Tensor, " chosen"],
    witness: Int[Tensor, " witnesses"],
    strangers: Int[Tensor, " strangers"],
    temperature: float,
    generator: np.random.Generator,
    *,
    couples: int = 1,
    progress: Callable[[int], object] = lambda pairs: None,
) -> Evidence:
    """Evidence for the chosen pairs, in their order, a block at a time.

    Every pair is encoded once. Memory grows with the encodings of the witnesses, with those of 1,024 pairs and with
    1,024 · witnesses.

    Args:
        models: Who judges; put into evaluation mode.
        pairs: The pairs.
        chosen: Which of them are judged.
        witness: Ids of pairs of different images that probably match, at least 3; they are the competitors too.
        strangers: Images to make random couples with, drawn from all: those of witnesses would be too good.
        temperature: τ of the log-odds.
        generator: Draws random couples.
        couples: Random couples of a pair that has any.
        progress: Told how many pairs a block had.
    """
    owners = pairs.image_of_caption[witness]
    known = Encodings.of(models, pairs, owners, witness)
    witnesses = ([whole(each) for each in known.images], [whole(each) for each in known.captions])
    rivals = torch.arange(affordable_candidates(models, len(witness)))
    strange = Encodings.of(models, pairs, strangers, witness[:1])
    of_strangers = between(strange, torch.arange(len(strangers)), known, rivals)
    of_pairs, of_random = torch.empty(len(chosen), len(KINDS)), []
    every = max(1, len(chosen) // RANDOM_PAIRS)
    for places in pairs.image_of_caption[chosen].argsort(stable=True).split(_PAIRS_AT_A_TIME):  # an image, encoded once
        ids = chosen[places]
        image, place = pairs.image_of_caption[ids].unique(return_inverse=True)
        block, rows = Encodings.of(models, pairs, image, ids), torch.arange(len(ids))
        images, captions = [whole(each)[place] for each in block.images], [whole(each) for each in block.captions]
        of_images = between(block, torch.arange(len(image)), known, rivals)[place]  # [pairs, rivals]
        of_captions = between(known, rivals, block, rows).T  # [pairs, rivals]
        is_own = owners == image[place][:, None]
        of_pairs[places] = torch.stack(
            [
                *_against_competitors(
                    block.paired(place, rows), of_images, of_captions, is_own[:, rivals], temperature
                ),
                *neighbour_evidence(images, captions, witnesses, is_own),
            ],
            dim=1,
        )

        some = rows[::every]
        for _ in range(couples):
            other = torch.from_numpy(generator.integers(len(strangers), size=len(some)))
            other = torch.where(strangers[other] == image[place[some]], (other + 1) % len(strangers), other)
            is_either = is_own[some] | (owners == strangers[other][:, None])
            both = Encodings(models, [each.rows(other) for each in strange.images], block.captions)
            similarity = both.paired(torch.arange(len(some)), some)
            strangers_of = [whole(each) for each in both.images]
            of_random.append(
                torch.stack(
                    [
                        *_against_competitors(
                            similarity, of_strangers[other], of_captions[some], is_either[:, rivals], temperature
                        ),
                        *neighbour_evidence(strangers_of, [each[some] for each in captions], witnesses, is_either),
                    ],
                    dim=1,
                )
            )
        progress(len(ids))
    return Evidence(of_pairs, torch.cat(of_random))


def neighbour_evidence(
    images: Sequence[Float[Tensor, "pairs _"]],
    captions: Sequence[Float[Tensor, "pairs _"]],
    witnesses: tuple[Sequence[Float[Tensor, "witnesses _"]], Sequence[Float[Tensor, "witnesses _"]]],
    excluded: Bool[Tensor, "pairs witnesses"],
    neighbours: int = NEIGHBOURS,
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    r"""How well each caption fits captions of like images, and each image images of like captions.

    .. math::
        \frac{1}{k} \sum_{w \in N_k(i)} \langle c_w, c \rangle, \quad
        \frac{1}{k} \sum_{w \in M_k(c)} \langle i_w, i \rangle

    with the k witnesses N whose images are most like the pair's image, and M whose captions are most like its caption.
    This is how LEMoN weighs neighbours (Zhang et al., ICML 2025, https://arxiv.org/abs/2407.18941), less its distances.

    Args:
        images: Of each model, unit vectors ``[pairs, size]`` of the pairs' images; evidence is the mean over models.
        captions: Of each model, those of their captions.
        witnesses: Of each model, unit vectors of the witnesses' images, and of their captions.
        excluded: ``[pairs, witnesses]``, True where a witness may not be asked.
        neighbours: k; fewer where there are not so many witnesses.

    Returns:
        ``[pairs]`` each, in [-1, 1].
    """
    of_captions, of_images = torch.zeros(len(excluded)), torch.zeros(len(excluded))
    for image, caption, of_image, of_caption in zip(images, captions, *witnesses, strict=True):
        k = min(neighbours, len(of_image))
        like_image = (image @ of_image.T).masked_fill(excluded, -torch.inf).topk(k, 1)
        like_caption = (caption @ of_caption.T).masked_fill(excluded, -torch.inf).topk(k, 1)
        fits = (of_caption[like_image.indices] * caption[:, None]).sum(2)
        of_captions += _mean_where(fits, like_image.values) / len(images)
        fits = (of_image[like_caption.indices] * image[:, None]).sum(2)
        of_images += _mean_where(fits, like_caption.values) / len(images)
    return of_captions, of_images


def _against_competitors(
    similarity: Float[Tensor, " pairs"],
    of_images: Float[Tensor, "pairs rivals"],
    of_captions: Float[Tensor, "pairs rivals"],
    is_none: Bool[Tensor, "pairs rivals"],
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The first three kinds."""
    captions = temperature * against(similarity, of_images, is_none, temperature)
    return similarity, captions, temperature * against(similarity, of_captions, is_none, temperature)


def _mean_where(values: Tensor, likeness: Tensor) -> Tensor:
    """Mean over those that are no excluded witness; 0 if there is none."""
    asked = likeness > -torch.inf
    return values.masked_fill(~asked, 0).sum(1) / asked.sum(1).clamp(min=1)


def whole(encodings: Padded) -> Float[Tensor, "items _"]:
    """One vector an item, on the CPU: of SAF and SGR, that of the whole, which stands before its parts."""
    values = encodings.values if encodings.lengths is None else encodings.values[:, 0]
    return values.float().cpu()
