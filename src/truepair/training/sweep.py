"""A sweep: one run for each combination of option values and each seed, in folders named after the values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from truepair.config import Recipe
from truepair.data.corpora import corpora_one_by_one
from truepair.errors import ConfigError, DataError, TruepairError
from truepair.files.json import parsed_json, write_json
from truepair.files.locking import alone_in
from truepair.files.names import shortened
from truepair.progress import progress
from truepair.training.folder import finished, refuse_another_run
from truepair.training.recipe import METHOD_CONFIGS, recipe_from
from truepair.training.recipe_sets import with_options
from truepair.training.results import RunResults
from truepair.training.run import run

_LONGEST_NAME = 150
"""Letters of a folder's name; file systems take 255."""


@dataclass(frozen=True)
class Setting:
    """One run of a sweep.

    Attributes:
        values: Dotted option → its value.
        seed: Of noise and training.
        recipe: What to do.
        folder: Where.
    """

    values: Mapping[str, Any]
    seed: int
    recipe: Recipe
    folder: Path


@dataclass(frozen=True)
class Swept:
    """What became of a setting: its results, or why there are none."""

    setting: Setting
    results: RunResults | None
    error: str = ""


def values_of(varied: Sequence[str]) -> dict[str, list[Any]]:
    """Options and their values, as typed: ``method.temperature=0.03,0.05``; lists in brackets.

    >>> values_of(["method.temperature=0.03,0.05", "method.name=crcl,mscn", "method.stages=[4,12],[1,11]"])
    {'method.temperature': [0.03, 0.05], 'method.name': ['crcl', 'mscn'], 'method.stages': [[4, 12], [1, 11]]}

    Raises:
        ConfigError: If there is no value, one twice, or an option twice.
    """
    found: dict[str, list[Any]] = {}
    for text in varied:
        name, equals, written = text.partition("=")
        if not equals or not name or not written:
            raise ConfigError(f"--vary is {text!r}, but it is an option and its values: method.temperature=0.03,0.05")
        if name in found:
            raise ConfigError(f"--vary names {name} twice: write all its values after one =")
        values = _parsed(written)
        twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
        if twice is not None:
            raise ConfigError(f"--vary {name} has the value {twice!r} twice: name each once")
        found[name] = values
    return found


def _parsed(written: str) -> list[Any]:
    try:
        values: list[Any] = parsed_json(f"[{written}]", "--vary")
        return values
    except DataError:  # words; what is a number among them is one
        return [_number_or_word(word) for word in written.split(",")]


def _number_or_word(word: str) -> Any:
    try:
        return parsed_json(word, "--vary")
    except DataError:
        return word


def settings_of(
    recipe: Recipe,
    values: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    out: Path,
    given: Mapping[str, Any] = {},
) -> list[Setting]:
    """All runs of a sweep, every combination with every seed; nothing is trained or written.

    Args:
        recipe: What all runs have but for what varies.
        values: Of each option that varies, by its dotted name.
        seeds: One run each.
        out: The sweep's folder.
        given: Options of the recipe's method, by dotted name, that other methods are to have too where
            ``method.name`` varies; the others have their own defaults there.

    Raises:
        ConfigError: If there is nothing to vary, an option does not exist or cannot have a value, a seed is missing,
            negative or there twice; if a method that is tried does not have a given option.
        CheckpointError: If a folder holds another run.
    """
    if not values:
        raise ConfigError("name an option to vary: --vary method.temperature=0.03,0.05")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ConfigError(
            f"--seeds is {' '.join(map(str, seeds)) or 'missing'}: name one or more, each once, from 0 on"
        )
    settings = []
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        _refuse_of_other_methods(chosen.get("method.name"), given)
        for seed in seeds:
            seeds_of = {"noise.seed": seed, "trusted.seed": seed, "training.seed": seed}
            nested = with_options(asdict(recipe), {**seeds_of, **given, **chosen})
            built = recipe_from(nested, "--vary")
            _refuse_devices(built)
            called = "_".join(f"{name}={_slug(value)}" for name, value in chosen.items())
            folder = out / f"{shortened(called, _LONGEST_NAME)}_{seed}"
            refuse_another_run(folder, built)
            settings.append(Setting(chosen, seed, built, folder))
    if len({setting.folder for setting in settings}) < len(settings):
        raise ConfigError("--vary has values whose folders would have the same name: sweep them into two folders")
    return settings


def _refuse_devices(recipe: Recipe) -> None:
    training = recipe.training
    if training.devices * training.nodes > 1:
        raise ConfigError(
            f"training.devices is {training.devices} and training.nodes {training.nodes}, but the runs of a sweep have "
            "a device each: leave these options out, or train the runs one by one (truepair train)"
        )


def _refuse_of_other_methods(method: Any, given: Mapping[str, Any]) -> None:
    """Refuse options that a method does not have, as any other command would."""
    if method not in METHOD_CONFIGS:  # none, or one that is refused below
        return
    for option in given:
        section: Any = asdict(METHOD_CONFIGS[method]())
        for name in option.split(".")[1:]:
            if name not in section:
                raise ConfigError(
                    f"--{option.replace('_', '-')} is given, but method.name {method} has no such option: leave it "
                    "out, or sweep that method by itself"
                )
            section = section[name]


def _slug(value: Any) -> str:
    """A value as part of a folder's name."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-")


def sweep(settings: Sequence[Setting], out: Path, tell: Callable[[Swept], None] = lambda done: None) -> list[Swept]:
    """Train and test every setting that is not there yet; one that fails does not keep the others from running.

    ``sweep.json`` in `out` then holds all settings with their numbers.

    Args:
        settings: Of `settings_of`.
        out: The sweep's folder.
        tell: Called with each setting when it is done.

    Raises:
        ConfigError: If another process is writing to `out`.
    """
    with alone_in(out):
        swept = _swept(settings, tell)
        _write(swept, out)
    return swept


def _swept(settings: Sequence[Setting], tell: Callable[[Swept], None]) -> list[Swept]:
    corpus = corpora_one_by_one()
    swept = []
    with progress("sweep", "runs", len(settings)) as shown:
        for setting in settings:
            shown.describe(setting.folder.name)
            try:
                results = finished(setting.recipe, setting.folder)
                results = results or run(setting.recipe, setting.folder, corpus(setting.recipe))
                swept.append(Swept(setting, results))
            except TruepairError as error:
                swept.append(Swept(setting, None, str(error)))
            tell(swept[-1])
            shown.advance()
    return swept


def _write(swept: Sequence[Swept], out: Path) -> None:
    write_json(
        out / "sweep.json",
        {
            "runs": [
                {
                    "folder": done.setting.folder.name,
                    "values": dict(done.setting.values),
                    "seed": done.setting.seed,
                    "error": done.error or None,
                    "results": None if done.results is None else done.results.as_dict(),
                }
                for done in swept
            ]
        },
    )
