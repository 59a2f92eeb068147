"""``truepair inspect``: what a run knows of its pairs, and what its codes hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import parse

MAIN = ("run", "out", "items", "examples", "seed")


@dataclass(frozen=True)
class Inspect:
    """Look into a trained run: a page of what it knows of its pairs, and of its codes where it has some.

    Of a DisNCL run, inspect.html shows how much information the codes hold and have in common, whether shared codes
    tell matching from mismatched pairs, maps of both kinds of codes, and which pictures they bring together. Of any
    other run, figures.html shows the similarities of training pairs, the confidence in them, and what the method
    remembered of them after each epoch. The run is never changed.

    For example:
      truepair inspect runs/disncl
      truepair inspect runs/disncl --out look/ --items 500 --examples 10
    """

    run: Positional[Path]
    """A trained run's folder."""
    out: Path | None = None
    """The folder to write to; by default inspect/ in the run's folder."""
    items: int = 2000
    """Training pairs to look at, and of codes as many test pairs; all if there are fewer."""
    examples: int = 6
    """Images whose neighbours by codes are shown."""
    seed: int = 0
    """Seed of what is drawn and estimated."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, inspect, say what was found and where it is."""
    parsed = parse(Inspect, "inspect", arguments, main=MAIN)
    from truepair.training.folder import description_of_run, load_run

    out = parsed.out or parsed.run / "inspect"
    recipe, _ = description_of_run(parsed.run)
    if recipe.network.codes == "none":
        from truepair.figures.page import draw_figures

        found = draw_figures([parsed.run], out, pairs=parsed.items, rate=recipe.noise.rate, seed=parsed.seed)
        output.line(f"{recipe.method.name}: {len(found['figures'])} figures")
        output.line(f"page: {found['page']}")
        output.summary({"out": out, **found})
        return
    from truepair.inspection.run import inspect_run

    summary = inspect_run(load_run(parsed.run), out, items=parsed.items, examples=parsed.examples, seed=parsed.seed)
    output.line(inspect_lines(summary, out))
    output.summary({"out": out, **summary})


def inspect_lines(summary: dict[str, Any], out: Path) -> str:
    """What an inspection found, in a few lines."""
    separation, shared = summary["separation"], summary["shared_information"]
    lines = [
        f"{summary['method']} on {summary['corpus']}: codes of {summary['pairs']:,} training pairs",
        f"{separation['kinds'][1]} against {separation['kinds'][0]}: AUROC {separation['shared']['auroc']:.3f} in the "
        f"shared space, {separation['features']['auroc']:.3f} in the features",
    ]
    if shared is not None:
        lines.append(f"I(S_v; S_t) of test pairs: at least {shared['test']:.2f} of {shared['most']:.2f} nats")
    for modality, found in (summary["exclusive_information"] or {}).items():
        if found is not None:
            lines.append(f"I(S; X) of the {modality} codes: at least {found:.2f} nats")
    if summary["exclusive_codes"] != "there":
        lines.append("there are no exclusive codes to look at")
    return "\n".join([*lines, f"page: {out / 'inspect.html'}"])
