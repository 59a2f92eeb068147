"""Sets of recipes: the rows of a table, each a recipe or a recipe with some options changed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import dacite

from truepair.errors import ConfigError, said_by
from truepair.training.recipe import SHIPPED, RecipeFile, load_recipe_file, recipe_from

SETS = SHIPPED / "sets"
"""The folder of the sets that come with truepair."""


@dataclass(frozen=True)
class Row:
    """A row as a set's file names it."""

    name: str
    """What it shows; its folder is named after it."""
    recipe: str
    """A recipe's name or path."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the recipe that are changed, by dotted name. A row that changes any has no published number."""


@dataclass(frozen=True)
class RecipeSet:
    """The rows of a table."""

    title: str
    """What the table shows."""
    rows: list[Row]
    """In their order."""

    def __post_init__(self) -> None:
        """Refuse a table without rows, or with two of one name."""
        names = [row.name for row in self.rows]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"rows are {', '.join(names) or 'missing'}: name one or more, each differently")


def find_set(named: str | Path) -> Path | None:
    """The file of a set that comes with truepair, or of a file that has rows; None if it is no set.

    >>> find_set("crcl_ablation").name, find_set("crcl_vse_f30k_40")
    ('crcl_ablation.toml', None)
    """
    path = Path(named)
    shipped = SETS / f"{path.name.removesuffix('.toml')}.toml"
    if path.name == str(path) and not path.is_file() and shipped.is_file():
        return shipped
    if path.suffix == ".toml" and path.is_file() and "rows" in _read(path):
        return path
    return None


def load_set(path: Path) -> tuple[RecipeSet, dict[str, RecipeFile]]:
    """A set, and what each of its rows does, by name.

    Raises:
        ConfigError: If the file or a recipe of it cannot be read, or an option of a row is unknown or impossible.
    """
    try:
        found = dacite.from_dict(RecipeSet, _read(path), dacite.Config(strict=True))
    except (dacite.DaciteError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return found, {row.name: _file_of(row, f"{path}, row {row.name!r}") for row in found.rows}


def _file_of(row: Row, where: str) -> RecipeFile:
    file = load_recipe_file(row.recipe)
    if not row.options:
        return file
    recipe = recipe_from(with_options(asdict(file.recipe), row.options), where)
    members = () if "model.similarity" in row.options else file.members
    return replace(file, recipe=recipe, members=members, published=None)


def with_options(nested: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's nested options with some of them replaced.

    With another method, the options of the method before go; the backbone stays the recipe's.

    Raises:
        ConfigError: If a dotted name goes on after an option.

    >>> with_options({"method": {"name": "crcl", "momentum": 0.8}}, {"method.momentum": 0.5})
    {'method': {'name': 'crcl', 'momentum': 0.5}}
    """
    made = dict(nested)
    name = options.get("method.name")
    if name is not None and name != made["method"]["name"]:
        made["method"] = {"name": name}
    for option, value in options.items():
        section = made
        *path, last = option.split(".")
        for part in path:
            if not isinstance(section.get(part, {}), Mapping):
                raise ConfigError(f"unknown option {option}; {part} is an option, not a section")
            section[part] = dict(section.get(part, {}))
            section = section[part]
        section[last] = value
    return made


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {said_by(error)}") from error
