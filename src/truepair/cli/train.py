"""``truepair train``: train by a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from truepair.config import Recipe
from truepair.training.recipe import load_recipe, recipe_from


@dataclass(frozen=True)
class Train:
    """Train a retrieval model, then test its best checkpoint.

    The first word may be a recipe; options override it. The same command again goes on where it stopped.

    Example:
      truepair train recipes/crcl_vse_demo_40.toml --out runs/crcl
      truepair train --data.path captions.csv --data.columns.image file --method.name crcl --out runs/mine
    """

    out: Path
    """The run's folder."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    """What to do."""


def command(arguments: Sequence[str]) -> None:
    """Parse, train, print the results."""
    parsed = tyro.cli(
        tyro.conf.AvoidSubcommands[Train],
        prog="truepair train",
        args=without_recipe(arguments),
        default=Train(out=tyro.MISSING, recipe=starting_recipe(arguments)),
    )
    from truepair.cli.tables import results_table
    from truepair.training.run import run

    results = run(parsed.recipe, parsed.out)
    print(results_table({parsed.recipe.method.name: results}))
    print(f"\nrun: {parsed.out}")


def starting_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe that options override: the named file, or the defaults of the named method."""
    if arguments and arguments[0].endswith(".toml"):
        return load_recipe(Path(arguments[0]))
    words = [word for argument in arguments for word in argument.split("=", 1)]
    name: dict[str, Any] = {"name": words[words.index("--method.name") + 1]} if "--method.name" in words[:-1] else {}
    return recipe_from({"method": name}, "the command line")


def without_recipe(arguments: Sequence[str]) -> list[str]:
    """The options alone."""
    return list(arguments[1:] if arguments and arguments[0].endswith(".toml") else arguments)
