"""Recipes: TOML files that hold everything a run depends on, and may hold the published number to compare it with."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import dacite

from truepair.config import MethodConfig, ModelConfig, Recipe, TeacherConfig
from truepair.errors import ConfigError, said_by

METHOD_CONFIGS: dict[str, type[MethodConfig]] = {config().name: config for config in get_args(MethodConfig)}

Recalls = tuple[float, float, float]
"""R@1, R@5 and R@10 in percent."""
Member = Literal["cosine", "saf", "sgr"]
"""What `model.similarity` can be."""


@dataclass(frozen=True)
class Published:
    """A recipe's ``[published]`` section: the numbers that ``truepair reproduce`` puts beside ours."""

    source: str
    """Paper, table and row; a number that is not its authors' own says so."""
    image_to_text: Recalls
    """Image → text, as printed."""
    text_to_image: Recalls
    """Text → image, as printed."""
    rsum: float
    """Sum of the six as printed, even where the columns add up to something else."""
    note: str = ""
    """What to know when comparing."""
    noise_rate: float | None = None
    """Share of the training captions that were mismatched; the recipe's own `noise.rate` if left out."""
    noise_level: Literal["caption", "image"] | None = None
    """At which level they were; left out where no paper or code tells."""

    def __post_init__(self) -> None:
        """Refuse what cannot have been printed."""
        for name in ("image_to_text", "text_to_image"):
            r1, r5, r10 = getattr(self, name)
            if not 0 <= r1 <= r5 <= r10 <= 100:
                raise ConfigError(
                    f"published.{name} is {r1:g}, {r5:g}, {r10:g}, but R@1, R@5 and R@10 are percentages that do not "
                    "fall"
                )
        if not 0 <= self.rsum <= 600:
            raise ConfigError(f"published.rsum is {self.rsum:g}, but the sum of six percentages is in [0, 600]")
        if self.noise_rate is not None and not 0 <= self.noise_rate < 1:
            raise ConfigError(f"published.noise_rate is {self.noise_rate:g}, but it is a share in [0, 1)")


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe's file says."""

    recipe: Recipe
    """What to do."""
    members: tuple[Member, ...] = ()
    """``members`` at the top of the file: `model.similarity` of each of several networks, trained one by one, whose
    similarities are averaged (SGRAF: saf and sgr); empty for a single network, the recipe's own."""
    published: Published | None = None
    """What to compare with, if anything."""

    def __post_init__(self) -> None:
        """Refuse a network that would be trained twice."""
        if len(set(self.members)) < len(self.members):
            raise ConfigError(f"members are {', '.join(self.members)}: name each once")

    @property
    def similarities(self) -> tuple[Member, ...]:
        """`model.similarity` of each network."""
        return self.members or (self.recipe.model.similarity,)


Config = TypeVar("Config", bound=MethodConfig | ModelConfig | Recipe | Published | RecipeFile)


SHIPPED = Path(str(files("truepair").joinpath("recipes")))
"""The folder of the recipes that come with truepair."""


def find_recipe(named: str | Path) -> Path:
    """The file of a recipe that is named by its path, or, of those that come with truepair, by its name.

    >>> find_recipe("crcl_vse_f30k_40").name
    'crcl_vse_f30k_40.toml'

    Raises:
        ConfigError: If there is none; the message names the nearest of those that come with truepair.
    """
    path = Path(named)
    shipped = SHIPPED / f"{path.name.removesuffix('.toml')}.toml"
    if path.is_file():
        return path
    if path.name == str(path) and shipped.is_file():
        return shipped
    if path.exists():  # a folder, which opening says better
        return path
    names = sorted(file.stem for file in SHIPPED.rglob("*.toml"))  # sets of them, too
    nearest = difflib.get_close_matches(shipped.stem, names, n=3, cutoff=0.0)
    raise ConfigError(
        f"there is no recipe {named}: name a .toml file, or one of the {len(names)} recipes and sets that come with "
        f"truepair, such as {', '.join(nearest)}"
    )


def load_recipe(named: str | Path) -> Recipe:
    """A recipe from its file; paths of data in it are relative to the working folder, as on the command line.

    Args:
        named: Its path, or, of the recipes that come with truepair, its name, such as "crcl_vse_f30k_40".

    Raises:
        ConfigError: If the file cannot be read, or holds an unknown or impossible option.
    """
    return load_recipe_file(named).recipe


def load_recipe_file(named: str | Path) -> RecipeFile:
    """A recipe with its members and its published number, if it has them.

    Args:
        named: See `load_recipe`.

    Raises:
        ConfigError: See `load_recipe`; also if the file names members beside a similarity.
    """
    path = find_recipe(named)
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"cannot read the recipe {path}: {said_by(error)}") from error
    where, published, members = str(path), values.pop("published", None), values.pop("members", ())
    recipe = recipe_from(_with_members(values, members), where)
    if published is not None:
        published = _published_from(published, where)
    built = _built(RecipeFile, {"recipe": recipe, "members": members, "published": published}, where)
    if built.members and "similarity" in values.get("model", {}):
        raise ConfigError(
            f"{path}: model.similarity is {recipe.model.similarity!r}, but members ({', '.join(built.members)}) says "
            "what the networks are: leave one of them out"
        )
    return built


def _with_members(values: Mapping[str, Any], members: Any) -> Mapping[str, Any]:
    """The options with the similarity of that member which reads the most of them: SGR all that SAF does."""
    model = values.get("model", {})
    known = [member for member in get_args(Member) if isinstance(members, list) and member in members]
    if not known or not isinstance(model, Mapping) or "similarity" in model:
        return values
    return {**values, "model": {**model, "similarity": known[-1]}}


def _published_from(section: Any, where: str) -> Published:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: published is {section!r}, but it is a section: [published]")
    _refuse_unknown(section, Published("", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0), where, "published.")
    return _built(Published, section, where, "published.")


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
    name = method.get("name", TeacherConfig().name)
    if name not in [*METHOD_CONFIGS]:
        raise ConfigError(f"{where}: unknown method {name!r}; choose one of {', '.join(METHOD_CONFIGS)}")
    default = METHOD_CONFIGS[name]()
    _refuse_unknown(values, replace(Recipe(), method=default), where)
    if "optimisation" in method:  # what it does not say has the method's default, not that of the class
        method = {**method, "optimisation": asdict(default.optimisation) | dict(method["optimisation"])}
    built = _built(METHOD_CONFIGS[name], method, where, "method.")
    model = values.get("model", {})
    if isinstance(model, Mapping):  # what it does not say has the method's default, not that of the class
        model = asdict(built.default_model) | dict(model)
    return _built(Recipe, {**values, "model": model, "method": built}, where)


def recipe_of_run(values: Mapping[str, Any], where: str) -> Recipe:
    """As `recipe_from`, of a run's folder, which names every option.

    Options of the backbone that it does not read have today's defaults, whatever these were when the run was made.
    """
    method, model = (values.get(section, {}) for section in ("method", "model"))
    with suppress(ConfigError, KeyError, AttributeError):  # which are said below
        config = _built(METHOD_CONFIGS[method["name"]], method, where)
        unread = config.network(_built(ModelConfig, model, where)).unread
        values = {**values, "model": {name: value for name, value in model.items() if name not in unread}}
    return recipe_from(values, where)


def _built(kind: type[Config], values: Mapping[str, Any], where: str, prefix: str = "") -> Config:
    check = dacite.Config(strict=True, type_hooks=TYPE_HOOKS)
    try:
        return dacite.from_dict(kind, values, check)
    except dacite.WrongTypeError as error:
        option, wanted = f"{prefix}{error.field_path}", _in_words(error.field_type)
        raise ConfigError(f"{where}: {option} is {error.value!r}, but it must be {wanted}") from error
    except dacite.MissingValueError as error:
        raise ConfigError(f"{where}: {prefix}{error.field_path} is missing") from error
    except (dacite.DaciteError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        kinds = [one for one in get_args(kind) if one is not Ellipsis]
        count = "" if Ellipsis in get_args(kind) else f"{len(kinds)} "
        plural = {int: "whole numbers", float: "numbers", str: "texts"}
        return f"a list of {count}{plural.get(kinds[0]) or _in_words(kinds[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind) or (kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", ""))


def _number(value: Any) -> Any:
    """Whole numbers stand for floats; anything else is left for the type check."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _tuple(value: Any) -> Any:
    """TOML and JSON have lists only; anything else is left for the type check."""
    return tuple(value) if isinstance(value, list) else value


TYPE_HOOKS: dict[Any, Callable[[Any], Any]] = {
    float: _number,
    tuple[int, ...]: _tuple,
    tuple[str, ...]: _tuple,
    tuple[Member, ...]: _tuple,
    Recalls: _tuple,
}
"""What TOML and JSON write for a type, made that type, for dacite."""


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
