"""``truepair figures``: the papers' figures from finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from truepair.cli.output import Output
from truepair.cli.parsing import parse

MAIN = ("runs", "out", "pairs", "rate", "seed")


@dataclass(frozen=True)
class Figures:
    """Draw figures from finished runs: one page, and an SVG file for each.

    Draws the test numbers against the noise rate and against each option that the runs vary, with the spread over
    seeds; of one run a system, the similarities of matching and mismatched training pairs, the confidence in them and
    what the method remembered of them after each epoch; and the bounds on what noise can cost the complementary loss.
    Runs of different corpora, galleries or noise levels never share a plot. The runs are never changed.

    For example:
      truepair figures runs --out figures
      truepair figures runs/crcl runs/acl --out figures --pairs 10000
    """

    runs: Positional[tuple[Path, ...]] = ()
    """Folders of runs, or folders that hold runs. Without any, only what needs no run is drawn."""
    out: Path = Path("figures")
    """The folder to write to: figures.html and the SVG files."""
    pairs: int = 2000
    """Training pairs of a run whose similarities are drawn; 0 draws none and reads no corpus."""
    rate: float = 0.4
    """Noise rate of the runs whose training pairs are shown: of each system, the nearest one."""
    seed: int = 0
    """Seed of the pairs that are drawn."""


def command(arguments: Sequence[str], output: Output) -> None:
    """Parse, draw, say what was drawn and where it is."""
    parsed = parse(Figures, "figures", arguments, main=MAIN)
    from truepair.figures.page import draw_figures

    found = draw_figures(parsed.runs, parsed.out, pairs=parsed.pairs, rate=parsed.rate, seed=parsed.seed)
    for folder, why in found["left_out"].items():
        output.note(f"note: {folder}: {why}")
    drawn = len(found["figures"])
    output.line(f"{found['runs']} runs, {drawn} figures\npage: {found['page']}")
    output.summary(found)
