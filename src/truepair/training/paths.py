"""Paths that a run was given, as they are meant from any working folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

from truepair.config import DataConfig, Recipe
from truepair.pretrained.captions import MINILM
from truepair.pretrained.lite0 import NAME
from truepair.sources.demo import DEMO
from truepair.sources.stores import is_address
from truepair.training.recipe import recipe_from
from truepair.training.recipe_sets import with_options

_BUILT_IN = (NAME, MINILM)
FILES = (
    *("data.path", "data.vocabulary", "data.source.image_root", "data.image_features", "data.caption_features"),
    *("noise.index", "trusted.path"),
)
"""Options that name a file or a folder that is read."""
_OPTIONS = (*FILES, "data.stream_index", "model.image_encoder", "model.text_encoder")
"""Options that name something on a disk, or may: an encoder may be a name on the hub."""


def whole_paths(recipe: Recipe) -> dict[str, str]:
    """By option, paths of a recipe from the root on, of what is there in this working folder."""
    found = {}
    for option, value in _values(recipe).items():
        is_pattern = option == "data.path" and "{" in str(value)  # of tar shards
        if value not in (None, DEMO, *_BUILT_IN) and not is_address(value):
            path = Path(value).expanduser()
            if is_pattern or path.exists():
                found[option] = os.path.abspath(path)  # noqa: PTH100, links are the user's own
    return found


def whole_data(data: DataConfig) -> DataConfig:
    """Options of data with whole paths."""
    recipe = Recipe(data)
    return with_whole_paths(recipe, whole_paths(recipe), "the data").data


def with_whole_paths(recipe: Recipe, whole: Mapping[str, str], where: str) -> Recipe:
    """A recipe that was given in another working folder.

    Args:
        recipe: As it was given.
        whole: What `whole_paths` told there; a path that is not there any more, where the one that was given is, is
            passed over.
        where: What an error calls the recipe.
    """
    values = _values(recipe)
    moved = {
        option: path
        for option, path in whole.items()
        if values.get(option) is not None and (_is_there(path) or not _is_there(values[option]))
    }
    return recipe_from(with_options(asdict(recipe), moved), where) if moved else recipe


def _is_there(path: str) -> bool:
    """Whether a path, or the folder of a pattern of tar shards, is there."""
    place = Path(path).expanduser()
    return (place.parent if "{" in place.name else place).exists()


def _values(recipe: Recipe) -> dict[str, Any]:
    """The options, but for those of networks that the run does not have."""
    unread = {f"model.{name}" for name in recipe.network.unread}
    return {name: reduce(getattr, name.split("."), recipe) for name in _OPTIONS if name not in unread}
