"""Pretrained networks with the weights that a run gave them, saved as transformers saves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from truepair.encoders.towers import HubImageTower, HubTextTower, SentenceTower
from truepair.exporting.model import Exportable, Side
from truepair.pretrained.captions import text_folder
from truepair.pretrained.hub import (
    has_both_sides,
    load_image_processor,
    load_network,
    load_tokenizer,
    network_folder,
    quiet,
)


def save_networks(model: Exportable, folder: Path, sides: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Write every network once, with its tokenizer and its image processor.

    Both sides have one folder where they are two halves of one network.

    Args:
        model: What to export, without low-rank updates beside its weights.
        folder: Where to.
        sides: See `exported_sides`.

    Returns:
        Of each side, the names of the folders, in the order of its parts.
    """
    of_side: dict[str, tuple[str, ...]] = {}
    halves = _joined(model) if len(sides) == 2 else None
    if halves is not None:
        names = tuple(f"network{number}" for number in _numbers(model.text))
        for name, network in zip(names, halves, strict=True):
            _save(network, model.text.name, folder / name)
        return dict.fromkeys(sides, names)
    for side_name in sides:
        side = model.image if side_name == "image" else model.text
        of_side[side_name] = tuple(f"{side_name}{number}" for number in _numbers(side))
        for name, part in zip(of_side[side_name], side.networks, strict=True):
            network = _complete(side.name, part.tower)
            assert network is not None  # a tower agrees with itself
            _save(network, side.name, folder / name)
    return of_side


def exported_sides(model: Exportable) -> tuple[str, ...]:
    """The sides whose pictures or captions go through a network of transformers."""
    is_network = all(isinstance(part.tower, HubImageTower) for part in model.image.networks)
    return ("image", "text") if is_network else ("text",)


def pooling_of(tower: Any) -> str:
    """How a network makes one vector: "mean" or "cls" of its tokens, or "network", by its own get_…_features."""
    return tower.pooling if isinstance(tower, SentenceTower) else "network"


def _numbers(side: Side) -> list[str]:
    """What the names of a side's folders end with: nothing if there is one."""
    count = len(side.parts)
    return [""] if count == 1 else [f"-{number}" for number in range(1, count + 1)]


def _joined(model: Exportable) -> list[Any] | None:
    """The networks of both sides, if they are halves of the same ones; else None."""
    image, text = model.image, model.text
    places = {network_folder(side.name) or side.name for side in (image, text)}
    is_same = len(places) == 1 and len(image.parts) == len(text.parts)
    towers = [(one.tower, other.tower) for one, other in zip(image.networks, text.networks, strict=False)]
    if not is_same or not all(isinstance(other, HubTextTower) for _, other in towers):
        return None
    networks = [_complete(text.name, *both) for both in towers]
    return None if any(network is None for network in networks) else networks


def _complete(name: str, *towers: Any) -> Any | None:
    """The published network with the weights of its towers; None if they differ in a weight that both have."""
    states = [tower.network.state_dict() for tower in towers]
    shared = set.intersection(*({*state} for state in states))
    if any(not torch.equal(state[key], states[0][key]) for state in states for key in shared):
        return None
    network = load_network(text_folder(name))
    for state in states:
        network.load_state_dict(state, strict=False)  # without the other side, which stays as published
    return network


def _save(network: Any, name: str, folder: Path) -> None:
    """The network with all that makes its inputs, also those of a side that is not used: other tools ask for both."""
    from transformers.utils import logging

    with quiet(logging):
        network.save_pretrained(folder)
        tokenizer = load_tokenizer(text_folder(name))
        tokenizer.padding_side = "right"  # as captions were read; other tools pad by what the tokenizer says
        tokenizer.save_pretrained(folder)
        if has_both_sides(text_folder(name)):
            load_image_processor(name).save_pretrained(folder)
