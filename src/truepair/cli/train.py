"""``truepair train``: train by a recipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from truepair.config import Recipe
from truepair.errors import ConfigError
from truepair.training.recipe import load_recipe_file, recipe_from


def command(arguments: Sequence[str]) -> None:
    """Parse, train, print the results."""
    start = starting_recipe(arguments)

    @tyro.conf.configure(tyro.conf.AvoidSubcommands)
    def train(out: Path, recipe: Annotated[Recipe, tyro.conf.arg(name="")] = start) -> tuple[Path, Recipe]:
        """Train a retrieval model, then test its best checkpoint.

        The first word may be a recipe: a file, or the name of one that comes with truepair; options override it. The
        same command again goes on where it stopped.

        For example:
          truepair train crcl_vse_f30k_40 --out runs/f30k
          truepair train --data.path captions.csv --data.columns.image file --method.name crcl --out runs/mine

        Args:
            out: The run's folder.
            recipe: What to do.
        """
        return out, recipe

    out, recipe = tyro.cli(train, prog="truepair train", args=without_recipe(arguments))
    from truepair.cli.tables import mismatches, results_table
    from truepair.training.run import run

    results = run(recipe, out)
    if results.skipped:
        rows = "1 row was" if results.skipped == 1 else f"{results.skipped:,} rows were"
        listed = out / "run.json"
        print(f"{rows} left out because their pictures cannot be read; {listed} lists them", file=sys.stderr)
    for note in results.notes:
        print(f"note: {note}", file=sys.stderr)
    if recipe.noise.rate or recipe.noise.index:
        print(mismatches(results.realised_noise_rate))
    print(results_table({recipe.method.name: results}))
    print(f"\nrun: {out}")


def starting_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe that options override: the named one, or the defaults of the named method.

    Raises:
        ConfigError: If the file is wrong, or stands for several networks and no option says which one is meant.
    """
    words = [word for argument in arguments for word in argument.split("=", 1)]
    if _names_a_recipe(arguments):
        file = load_recipe_file(arguments[0])
        if file.members and not {"--model.similarity", "--help", "-h"} & set(words):
            raise ConfigError(
                f"{arguments[0]} stands for several networks ({', '.join(file.members)}): train and test them with "
                f"'truepair reproduce {arguments[0]}', or one of them, with --model.similarity {file.members[0]}"
            )
        return file.recipe
    name: dict[str, Any] = {"name": words[words.index("--method.name") + 1]} if "--method.name" in words[:-1] else {}
    return recipe_from({"method": name}, "the command line")


def without_recipe(arguments: Sequence[str]) -> list[str]:
    """The options alone."""
    return list(arguments[1:] if _names_a_recipe(arguments) else arguments)


def _names_a_recipe(arguments: Sequence[str]) -> bool:
    return bool(arguments) and not arguments[0].startswith("-")
