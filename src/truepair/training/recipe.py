"""Recipes: TOML files that hold everything a run depends on."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import dacite

from truepair.config import CrclConfig, MethodConfig, Recipe
from truepair.errors import ConfigError

Config = TypeVar("Config", bound=MethodConfig | Recipe)

METHOD_CONFIGS: dict[str, type[MethodConfig]] = {config().name: config for config in get_args(MethodConfig)}


def load_recipe(path: Path) -> Recipe:
    """A recipe from its file; paths of data in it are relative to the working folder, as on the command line.

    Raises:
        ConfigError: If the file cannot be read, or holds an unknown or impossible option.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no recipe {path}; see recipes/ for those that come with truepair") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the recipe {path}: {error}") from error
    return recipe_from(values, str(path))


def recipe_from(values: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from nested mappings; what they do not say has its default.

    Args:
        values: Sections data, noise, model, method (with its ``name``) and training.
        where: What an error calls them.

    Raises:
        ConfigError: If an option is unknown, of the wrong type or out of range.
    """
    method = values.get("method", {})
    if not isinstance(method, Mapping):
        raise ConfigError(f"{where}: method is {method!r}, but it is a section: [method] with a name")
    name = method.get("name", CrclConfig().name)
    if name not in [*METHOD_CONFIGS]:
        raise ConfigError(f"{where}: unknown method {name!r}; choose one of {', '.join(METHOD_CONFIGS)}")
    _refuse_unknown(values, replace(Recipe(), method=METHOD_CONFIGS[name]()), where)
    built = _built(METHOD_CONFIGS[name], method, where, "method.")
    return _built(Recipe, {**values, "method": built}, where)


def _built(kind: type[Config], values: Mapping[str, Any], where: str, prefix: str = "") -> Config:
    check = dacite.Config(strict=True, type_hooks={float: _number, tuple[int, ...]: _tuple})
    try:
        return dacite.from_dict(kind, values, check)
    except dacite.WrongTypeError as error:
        option, wanted = f"{prefix}{error.field_path}", _in_words(error.field_type)
        raise ConfigError(f"{where}: {option} is {error.value!r}, but it must be {wanted}") from error
    except (dacite.DaciteError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _number(value: Any) -> Any:
    """Whole numbers stand for floats; anything else is left for the type check."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _tuple(value: Any) -> Any:
    """TOML and JSON have lists only; anything else is left for the type check."""
    return tuple(value) if isinstance(value, list) else value


def _refuse_unknown(values: Mapping[str, Any], known: Any, where: str, prefix: str = "") -> None:
    names = [field.name for field in fields(known)]
    for name, value in values.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"there are {', '.join(names)}"
            raise ConfigError(f"{where}: unknown option {prefix}{name}; {hint}")
        inner = getattr(known, name)
        if is_dataclass(inner):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {prefix}{name} is {value!r}, but it is a section: [{prefix}{name}]")
            _refuse_unknown(value, inner, where, f"{prefix}{name}.")
