"""``truepair sweep``: one run for each combination of option values."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from truepair.cli.output import Output
from truepair.cli.parsing import parse, together
from truepair.cli.train import Train, starting_recipe, without_recipe
from truepair.errors import ConfigError, TrainingError
from truepair.spread import spread

MAIN = ("target", "out", "vary", "seeds", "method.name", "noise.rate", "device", "workers")


@dataclass(frozen=True)
class Sweep(Train):
    """Train and test once for each combination of option values and each seed, and print the runs, the best first.

    The order is by development rSum, as options must not be chosen on test pairs. Each run has a folder in OUT named
    after its values. The same command again goes on where it stopped; runs that are there are read, not repeated.
    Draw them with 'truepair figures OUT'. Where method.name varies, all have one backbone, and the --method options
    that are given.

    For example:
      truepair sweep crcl_cosine_demo_40 --out runs/tau --vary method.temperature=0.03,0.05,0.07
      truepair sweep a.toml --out runs/two --vary method.momentum=0.5,0.8 --vary model.embedding=256,512
    """

    vary: tuple[str, ...] = ()
    """An option by its whole name and the values to try: method.temperature=0.03,0.05. Several options are combined."""
    seeds: tuple[int, ...] = ()
    """One run each; a seed is that of the noise, the trusted pairs and the training. By default the recipe's
    training.seed, which is 0 where it does not say."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, refuse what cannot run, train and test, print the table."""
    _refuse_other_seeds(arguments)
    start = starting_recipe(arguments)
    sections = {section.name: getattr(start, section.name) for section in fields(start)}
    parsed = parse(Sweep, "sweep", together(without_recipe(arguments), "--vary"), main=MAIN, start=sections)
    from truepair.training.sweep import Swept, settings_of, sweep, values_of

    values = values_of(parsed.vary)
    recipe = parsed.recipe()
    seeds = parsed.seeds or (recipe.training.seed,)
    settings = settings_of(recipe, values, seeds, parsed.out, _given(arguments, parsed.method))

    def tell(done: Swept) -> None:
        if done.error:
            output.note(f"{done.setting.folder.name}: {done.error}")

    swept = sweep(settings, parsed.out, tell)
    output.line(table(swept, [*values]))
    output.line(f"\nruns: {parsed.out}")
    output.summary({"out": parsed.out, "runs": [_numbers(done) for done in swept]})
    failed = [done.setting.folder.name for done in swept if done.results is None]
    if failed:
        raise TrainingError(f"{len(failed)} of {len(swept)} runs failed: {', '.join(failed)}")


def _refuse_other_seeds(arguments: Sequence[str]) -> None:
    """Seeds of one run, which those of the sweep would take the place of."""
    flags = [word.partition("=")[0].replace("_", "-") for word in arguments]
    given = next((flag for flag in flags if flag in ("--seed", "--noise.seed", "--trusted.seed")), None)
    if given is not None:
        raise ConfigError(
            f"{given} is of one run, but a sweep has the seeds of all its runs in --seeds: type them there"
        )


def _given(arguments: Sequence[str], method: Any) -> dict[str, Any]:
    """The options of the method that were typed, by dotted name."""
    given = {}
    for word in arguments:
        flag = word.partition("=")[0]
        if flag.startswith("--method.") and flag != "--method.name":
            names, value = flag.removeprefix("--method.").replace("-", "_").split("."), method
            if not hasattr(value, names[-1]) and names[-1].startswith("no_") and len(names) == 1:
                names[-1] = names[-1].removeprefix("no_")  # a switch that was typed to be off
            for name in names:
                value = getattr(value, name)
            given[".".join(["method", *names])] = value
    return given


def table(swept: Sequence[Any], options: Sequence[str]) -> str:
    """One line a combination, the best development rSum first; those without a finished run last."""
    lines: dict[str, tuple[list[str], list[Any]]] = {}
    for done in swept:
        values = [str(done.setting.values[option]) for option in options]
        lines.setdefault(repr(values), (values, []))[1].append(done.results)
    rows = []
    for values, results in lines.values():
        known = [one for one in results if one is not None]
        dev = [one.best.dev_rsum for one in known]
        found = [one.detection.auroc for one in known if one.detection and one.detection.auroc is not None]
        numbers = [spread(dev, 1), spread([one.test.rsum for one in known], 1), spread(found, 3)]
        rows.append(
            (statistics.mean(dev) if dev else float("-inf"), [*values, *numbers, f"{len(known)}/{len(results)}"])
        )
    head = [*(option.rpartition(".")[2] for option in options), "dev rSum", "test rSum", "AUROC", "seeds"]
    cells = [head, *(row for _, row in sorted(rows, key=lambda row: -row[0]))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _numbers(done: Any) -> dict[str, Any]:
    results = done.results
    return {
        "folder": done.setting.folder,
        "values": dict(done.setting.values),
        "seed": done.setting.seed,
        "error": done.error or None,
        "dev_rsum": None if results is None else results.best.dev_rsum,
        "test_rsum": None if results is None else results.test.rsum,
    }
