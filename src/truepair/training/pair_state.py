"""What a method remembers of its pairs, epoch by epoch, in a few numbers: a histogram a kind of pair."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BINS = 20
"""Equal bins of [0, 1]."""

Histograms = Mapping[str, Mapping[str, list[int]]]
"""State → kind of pair ("matching" and "mismatched", or "all" where the truth is not known) → `BINS` counts."""


def histograms(
    states: Mapping[str, Float[Tensor, " pairs"]], is_clean: Bool[Tensor, " pairs"] | None
) -> dict[str, dict[str, list[int]]]:
    """How the states of pairs are distributed; kinds without a pair are left out.

    Args:
        states: See `Method.pair_state`.
        is_clean: Which pairs truly match, if it is known.

    Example:
        >>> found = histograms({"confidence": torch.tensor([0.0, 0.97, 1.0])}, torch.tensor([False, True, True]))
        >>> sum(found["confidence"]["mismatched"]), found["confidence"]["matching"][-1]
        (1, 2)
    """
    found: dict[str, dict[str, list[int]]] = {}
    for name, values in states.items():
        known = values.detach().float().cpu()
        kinds = {"all": known} if is_clean is None else {"matching": known[is_clean], "mismatched": known[~is_clean]}
        found[name] = {
            kind: torch.histc(some, BINS, 0.0, 1.0).int().tolist() for kind, some in kinds.items() if len(some)
        }
    return found
