"""What the codes hold, in numbers: information in nats, and what one code tells of another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from truepair.data.pairs import Pairs
from truepair.evaluation.information import critic_information, info_nce_bound
from truepair.evaluation.probes import mlp_r2, ridge_r2
from truepair.inspection.codes import Codes
from truepair.model import MatchingModel
from truepair.scoring.encodings import Encodings, are_local

FEWEST_ITEMS = 50
"""Below this, a critic has too few items to learn from, and too few left to be tried on."""
WIDEST_TARGET = 64
COMPONENTS = 16
_FEWEST_FITTED, _FEWEST_TRIED = 20, 2
"""Items that a probe needs."""
_ROUNDING = 1e-6
_MOST_COMPARED = 1000
_MOST_COMPARED_LOCALLY = 128
"""Where regions are compared with words, each similarity costs thousands of times as much as a cosine."""


@dataclass(frozen=True)
class SharedInformation:
    """Lower bounds on I(S_v; S_t), nats.

    Attributes:
        pairs: Pairs told apart, as many of the training as of the test pairs.
        most: ``log(pairs)``, above which the bound cannot rise.
        train: Of training pairs that match, as far as known.
        test: Of test pairs.
    """

    pairs: int
    most: float
    train: float
    test: float


def shared_information(
    models: Sequence[MatchingModel], train: Pairs, test: Pairs, temperature: float, generator: np.random.Generator
) -> SharedInformation | None:
    """InfoNCE bounds on matching pairs; None if there are not two of either split.

    Args:
        models: Their similarities are averaged.
        train: Of different images.
        test: Of different images.
        temperature: τ.
        generator: Draws the pairs.
    """
    matching = [_matching(pairs) for pairs in (train, test)]
    most = _MOST_COMPARED_LOCALLY if are_local(models) else _MOST_COMPARED
    count = min(most, *(len(rows) for rows in matching))
    if count < 2:
        return None
    bounds = []
    for pairs, rows in zip((train, test), matching, strict=True):
        compared = rows[torch.from_numpy(np.sort(generator.permutation(len(rows))[:count]))]
        encodings = Encodings.of(models, pairs, pairs.image_of_caption[compared], compared)
        everyone = torch.arange(count)
        bounds.append(info_nce_bound(encodings.matrix(everyone, everyone), temperature))
    return SharedInformation(count, math.log(count), *bounds)


def _matching(pairs: Pairs) -> Int[Tensor, " matching"]:
    """Rows of the pairs that match, as far as known."""
    return torch.arange(len(pairs)) if pairs.is_clean is None else pairs.is_clean.nonzero().flatten()


def exclusive_information(codes: Mapping[str, Codes], seed: int) -> dict[str, float | None] | None:
    """Lower bounds on I(S; X) of each modality, nats: None where there are too few items, or no exclusive codes.

    Of draws, as in training: means are exact functions of the same features, and may hold any amount in common.

    Args:
        codes: By modality.
        seed: Of the critics.
    """
    found: dict[str, float | None] = {}
    for modality, of_items in codes.items():
        one, other = of_items.shared_draw, of_items.exclusive_draw
        if other is None:
            return None
        found[modality] = critic_information(one, other, seed=seed) if len(one) >= FEWEST_ITEMS else None
    return found


@dataclass(frozen=True)
class Probe:
    """How well one draw of a code tells what else is of the same items, which the prediction was not fitted to.

    A draw, as in training: where a code is mostly noise, its mean still holds traces of all that the network knows.

    Attributes:
        modality: "image" or "text".
        known: What is predicted from: "shared" or "exclusive".
        target: What is predicted: the mean of the "shared" code, or "inputs", which both codes are made of.
        components: Principal components of the target that are predicted; None where it is narrow enough as it is.
        ridge: R² of ridge regression, at most 1; None if there are too few items, or the target does not vary.
        mlp: R² of a small network; None as well.
    """

    modality: str
    known: str
    target: str
    components: int | None
    ridge: float | None
    mlp: float | None


def probes_of(codes: Mapping[str, Codes], test_codes: Mapping[str, Codes], seed: int) -> list[Probe]:
    """Of each modality: shared from exclusive codes (the leak), and inputs from either.

    Targets wider than 64 are reduced to the 16 principal components that vary most.

    Args:
        codes: By modality, of the items that predictions are fitted to.
        test_codes: Of those they are tried on.
        seed: Of the networks.
    """
    wanted = (("exclusive", "shared"), ("shared", "inputs"), ("exclusive", "inputs"))
    return [
        _probe(modality, known, target, codes[modality], test_codes[modality], seed)
        for modality in codes
        for known, target in wanted
        if getattr(codes[modality], known) is not None
    ]


def _probe(modality: str, known: str, target: str, fitted: Codes, tried: Codes, seed: int) -> Probe:
    targets, test_targets = getattr(fitted, target), getattr(tried, target)
    components = None
    if targets.shape[1] > WIDEST_TARGET:
        targets, test_targets = _components(targets, test_targets)
        components = targets.shape[1]
    varying = _varies(targets) & _varies(test_targets)
    if len(targets) < _FEWEST_FITTED or len(test_targets) < _FEWEST_TRIED or not varying.any():
        return Probe(modality, known, target, components, None, None)
    drawn, test_drawn = getattr(fitted, f"{known}_draw"), getattr(tried, f"{known}_draw")
    given = (drawn, targets[:, varying], test_drawn, test_targets[:, varying])
    return Probe(modality, known, target, components, ridge_r2(*given), mlp_r2(*given, seed=seed))


def _varies(values: Float[Tensor, "items size"]) -> Bool[Tensor, " size"]:
    """Which coordinates are more than rounding errors."""
    deviation = values.std(0, correction=0)
    return deviation > _ROUNDING * values.abs().amax().clamp(min=1e-12)


def _components(
    values: Float[Tensor, "items size"], others: Float[Tensor, "others size"]
) -> tuple[Float[Tensor, "items components"], Float[Tensor, "others components"]]:
    """Both along the 16 directions in which `values` vary most."""
    mean = values.mean(0)
    centred = (values - mean).double()
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -COMPONENTS:].flip(1)
    return (centred @ directions).float(), ((others - mean).double() @ directions).float()
