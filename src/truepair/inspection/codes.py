"""The codes of some pairs: what a model with shared and exclusive codes makes of them, in evaluation mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Inputs, Pairs, Subset
from truepair.data.splitting import one_of_each_image
from truepair.encoders.codes import Backbone, ExclusiveBranch, SharedEncoder, pooled
from truepair.layers import Code
from truepair.losses.information import along
from truepair.model import MODALITIES, MatchingModel

_ITEMS_AT_A_TIME = 256


@dataclass(frozen=True, eq=False)
class Codes:
    """Of one modality's items.

    Attributes:
        inputs: ``[items, input_width]``, what the backbone reads (`Backbone.inputs`).
        features: ``[items, width]``, h: pooled features of the backbone.
        shared: ``[items, shared]``, means of shared codes.
        exclusive: ``[items, exclusive]``, means of exclusive codes; None if the model has none.
        shared_draw: ``[items, shared]``, one draw of each shared code.
        exclusive_draw: ``[items, exclusive]``, one draw of each exclusive code.
    """

    inputs: Float[Tensor, "items input_width"]
    features: Float[Tensor, "items width"]
    shared: Float[Tensor, "items shared"]
    exclusive: Float[Tensor, "items exclusive"] | None
    shared_draw: Float[Tensor, "items shared"]
    exclusive_draw: Float[Tensor, "items exclusive"] | None


def codes_of(model: MatchingModel, pairs: Pairs, seed: int) -> dict[str, Codes]:
    """Codes of the "image" and the "text" of every pair, row by row, on the CPU. Puts the model in evaluation mode.

    Memory grows with six vectors an item, and the inputs of 256 items.

    Args:
        model: Has shared codes.
        pairs: Any.
        seed: Of the draws.
    """
    model.eval()
    images = Subset(pairs.images, pairs.image_of_caption)
    each = zip(MODALITIES, (images, inputs_of_captions(pairs)), strict=True)
    generator = torch.Generator().manual_seed(seed)
    return {modality: _codes(model, modality, inputs, generator) for modality, inputs in each}


@torch.inference_mode()
def _codes(model: MatchingModel, modality: str, inputs: Inputs, generator: torch.Generator) -> Codes:
    encoder = cast(SharedEncoder, getattr(model, f"{modality}_encoder"))
    backbone = cast(Backbone, encoder.backbone)
    branch = None if model.exclusive is None else cast(ExclusiveBranch, model.exclusive[modality])
    device = next(model.parameters()).device
    read, features, shared, exclusive = [], [], [], []
    for rows in torch.arange(len(inputs)).split(_ITEMS_AT_A_TIME):
        items = inputs.take(rows).to(device)
        h = pooled(backbone.features(items))
        read.append(backbone.inputs(items).values.float().cpu())
        features.append(h.float().cpu())
        shared.append(_moments(encoder.head(h)))
        if branch is not None:
            exclusive.append(_moments(branch(h)))
    of_shared = torch.cat(shared)  # [items, mean or deviation, size]
    of_exclusive = torch.cat(exclusive) if exclusive else None
    return Codes(
        torch.cat(read),
        torch.cat(features),
        of_shared[:, 0],
        None if of_exclusive is None else of_exclusive[:, 0],
        _draw(of_shared, generator),
        None if of_exclusive is None else _draw(of_exclusive, generator),
    )


def _moments(code: Code) -> Float[Tensor, "items 2 size"]:
    return torch.stack([code.mean, code.stddev], 1).float().cpu()


def _draw(moments: Float[Tensor, "items 2 size"], generator: torch.Generator) -> Float[Tensor, "items size"]:
    return torch.normal(moments[:, 0], moments[:, 1], generator=generator)


def drawn(pairs: Pairs, items: int, generator: np.random.Generator) -> Pairs:
    """At most `items` pairs of as many different images, drawn at random, in the order of the images."""
    order = torch.from_numpy(generator.permutation(len(pairs)))
    one_of_each = one_of_each_image(pairs.image_of_caption, order)
    chosen = np.sort(generator.permutation(len(one_of_each))[:items])
    return pairs.select(one_of_each[torch.from_numpy(chosen)])


def other_partners(items: int, generator: np.random.Generator) -> Int[Tensor, " items"]:
    """A random order of at least 2 items in which none keeps its place: one random cycle.

    >>> other_partners(2, np.random.default_rng(0)).tolist()
    [1, 0]
    """
    return along(torch.from_numpy(generator.permutation(items)))
