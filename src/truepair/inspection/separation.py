"""How well similarities tell matching from mismatched pairs, in the shared space and before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from truepair.data.pairs import Pairs
from truepair.evaluation.detection import detection_metrics
from truepair.inspection.codes import Codes, other_partners
from truepair.model import MatchingModel
from truepair.scoring.encodings import similarity_of_pairs


@dataclass(frozen=True, eq=False)
class Separation:
    """Similarities of pairs that match and of pairs that do not.

    Attributes:
        matching: ``[matching]``, of pairs that match, as far as known.
        mismatched: ``[mismatched]``, of pairs that surely do not.
    """

    matching: Float[Tensor, " matching"]
    mismatched: Float[Tensor, " mismatched"]

    @property
    def auroc(self) -> float:
        """Probability that a mismatched pair has the lower similarity, ties counting half; 0.5 is chance."""
        is_clean = torch.arange(len(self.matching) + len(self.mismatched)) < len(self.matching)
        auroc = detection_metrics(torch.cat([self.matching, self.mismatched]), is_clean).auroc
        assert auroc is not None  # there are pairs of both kinds
        return auroc


def truth_is_of_use(pairs: Pairs) -> bool:
    """Whether some of the pairs are known to match and others not to."""
    clean = pairs.is_clean
    return clean is not None and bool(clean.any()) and not bool(clean.all())


def separations(
    models: Sequence[MatchingModel], pairs: Pairs, codes: Mapping[str, Codes], generator: np.random.Generator
) -> dict[str, Separation]:
    """In the "shared" space, by the models' similarity, and in "features", by the cosine of h_v and h_t.

    By the truth about the pairs where it is known; otherwise all pairs against random pairings of them.

    Args:
        models: Their similarities are averaged.
        pairs: At least 2, of different images.
        codes: Of these pairs.
        generator: Draws the pairings.
    """
    shared = similarity_of_pairs(models, pairs)
    features = {modality: of_items.features for modality, of_items in codes.items()}
    cosines = cosine_similarity(features["image"], features["text"])
    if truth_is_of_use(pairs):
        clean = pairs.is_clean
        assert clean is not None
        return {
            "shared": Separation(shared[clean], shared[~clean]),
            "features": Separation(cosines[clean], cosines[~clean]),
        }
    partner = other_partners(len(pairs), generator)
    random = replace(pairs, image_of_caption=pairs.image_of_caption[partner])
    return {
        "shared": Separation(shared, similarity_of_pairs(models, random)),
        "features": Separation(cosines, cosine_similarity(features["image"][partner], features["text"])),
    }
