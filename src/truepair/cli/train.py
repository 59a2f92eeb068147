"""``truepair train``: train by a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from truepair.cli.output import Output, process_number
from truepair.cli.parsing import Flat, FlatThroughout, parse
from truepair.config import (
    DataConfig,
    MethodConfig,
    ModelConfig,
    NoiseConfig,
    Recipe,
    TeacherConfig,
    TrainingConfig,
    TrustedConfig,
)
from truepair.errors import ConfigError
from truepair.sources.demo import DEMO
from truepair.training.recipe import load_recipe_file, recipe_from

MAIN = (
    *("target", "out", "image-col", "caption-col", "image-root", "method.name", "noise.rate"),
    *("model.image", "model.text"),
    *("batch-size", "device"),
)


@dataclass(frozen=True)
class Train:
    """Train a retrieval model, then test its best checkpoint.

    A recipe, if one is named, says what to do; options override it. Recipes are files, or come with truepair and are
    called by their names. The same command again goes on where it stopped.

    For example:
      truepair train captions.csv --image-col file --out runs/mine
      truepair train crcl_vse_f30k_40 --out runs/f30k
      truepair train mine.toml captions.csv --out runs/mine
    """

    out: Path
    """The run's folder."""
    target: Positional[str | None] = None
    """A recipe (.toml), or the pairs to train on: a table, a folder, "demo", or both, the recipe first. Without the
    pairs, those of the recipe, and without a recipe "demo"."""
    data: FlatThroughout[DataConfig] = field(default_factory=DataConfig)
    """How a table or folder is read."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Mismatches put in on purpose."""
    trusted: TrustedConfig = field(default_factory=TrustedConfig)
    """Pairs known to match."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The backbone."""
    method: MethodConfig = field(default_factory=TeacherConfig)
    """How to train."""
    training: Flat[TrainingConfig] = field(default_factory=TrainingConfig)
    """Batches, seed, device."""

    def __post_init__(self) -> None:
        """Refuse sections that do not suit one another."""
        self.recipe()

    def recipe(self) -> Recipe:
        """What to do."""
        data = self.data if self.target is None else replace(self.data, path=self.target)
        return Recipe(data, self.noise, self.trusted, self.model, self.method, self.training)


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, train, print the results."""
    start = starting_recipe(arguments)
    sections = {section.name: getattr(start, section.name) for section in fields(start)}
    parsed = parse(Train, "train", without_recipe(arguments), main=MAIN, start=sections)
    out, recipe = parsed.out, parsed.recipe()
    output.is_first = process_number(by_slurm=recipe.training.devices * recipe.training.nodes > 1) == 0
    from truepair.cli.tables import mismatches, results_table
    from truepair.training.run import run

    results = run(recipe, out)
    if results.skipped:
        rows = "1 row was" if results.skipped == 1 else f"{results.skipped:,} rows were"
        output.note(f"{rows} left out; {out / 'run.json'} lists them with the reasons")
    for note in results.notes:
        output.note(f"note: {note}")
    if recipe.noise.rate or recipe.noise.index:
        output.line(mismatches(results.realised_noise_rate, results.realised_noise_level))
    output.line(results_table({recipe.method.name: results}))
    output.line(f"\nrun: {out}")
    output.summary({"out": out, **asdict(results)})


def starting_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe that options override: the named one, or the defaults of the named method.

    Raises:
        ConfigError: If the file is wrong, or stands for several networks and no option says which one is meant.
    """
    words = [word for argument in arguments for word in argument.split("=", 1)]
    named = _recipe_of(arguments)
    if named is not None:
        file = load_recipe_file(named)
        if file.members and not {"--model.similarity", "--help", "--help-all", "-h"} & set(words):
            raise ConfigError(
                f"{named} stands for several networks ({', '.join(file.members)}): train and test them with "
                f"'truepair reproduce {named}', or one of them, with --model.similarity {file.members[0]}"
            )
        recipe = file.recipe
        if "--noise.index" in words and "--noise.rate" not in words:  # it takes the place of the recipe's noise
            recipe = replace(recipe, noise=replace(recipe.noise, rate=0.0))
        return recipe
    name: dict[str, Any] = {"name": words[words.index("--method.name") + 1]} if "--method.name" in words[:-1] else {}
    return recipe_from({"method": name}, "the command line")


def without_recipe(arguments: Sequence[str]) -> list[str]:
    """The arguments without the recipe."""
    words = [*arguments]
    recipe = _recipe_of(arguments)
    if recipe is not None:
        words.remove(recipe)
    return words


def _recipe_of(arguments: Sequence[str]) -> str | None:
    """The word that names a recipe: a .toml file, or first of all words a name that is no path."""
    file = next((word for word in arguments if word.endswith(".toml") and not word.startswith("--")), None)
    first = arguments[0] if arguments else "-"
    is_name = not first.startswith("-") and first != DEMO and not {"/", "\\", "."} & set(first)
    return file or (first if is_name and not Path(first).exists() else None)
