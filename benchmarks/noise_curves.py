"""The noise curves of docs/papers.md: rSum against the noise rate, from the numbers of the runs.

    python benchmarks/noise_curves.py            # draw docs/pictures/noise_*.svg anew
    python benchmarks/noise_curves.py --check    # say whether they show the numbers of results/ladder.json

They are drawn as `truepair figures` draws them from run folders; what each picture shows also stands in its label, for
those who do not see it.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from accuracy import SAME_WITHOUT_NOISE
from tables import MAIN, RESULTS, Numbers, chosen

from truepair.figures.charts import curves_chart
from truepair.figures.curves import MEASURES, Curve, Point, points_of

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
SHOWN: Mapping[str, tuple[str, str]] = {
    "noise_caption": ("pooled", "caption"),
    "noise_image": ("pooled", "image"),
    "noise_vse": ("vse", "caption"),
    "noise_vse_image": ("vse", "image"),
}
"""Picture → backbone and level of noise."""
SYSTEMS = {system: system for system in MAIN} | {"plain oracle": "oracle"}
"""Systems and what they are called; the same line in all pictures."""


def curves(numbers: Sequence[Numbers], backbone: str, level: str) -> list[Curve]:
    """A line a system, without points where it was not run; runs without noise are in both levels."""
    return [
        Curve(label, _points(chosen(numbers, backbone=backbone), system, level)) for system, label in SYSTEMS.items()
    ]


def _points(numbers: Sequence[Numbers], system: str, level: str) -> tuple[Point, ...]:
    clean = chosen(numbers, system=SAME_WITHOUT_NOISE.get(system, system), rate=0.0)
    runs = clean + [run for run in chosen(numbers, system=system, level=level) if run["rate"]]
    return points_of((100 * run["rate"], run["seed"], run["test"]["rsum"]) for run in runs)


def summary(drawn: Sequence[Curve]) -> str:
    """All numbers of a picture in words."""
    lines = [
        f"{curve.label} " + ", ".join(f"{point.mean:.1f} at {point.at:.0f} %" for point in curve.points)
        for curve in drawn
        if curve.points
    ]
    return f"{MEASURES['rsum']} by noise rate: {'; '.join(lines)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="draw nothing; exit code 1 if a picture is out of date")
    arguments = parser.parse_args()
    numbers = json.loads((RESULTS / "ladder.json").read_text(encoding="utf-8"))
    for name, (backbone, level) in SHOWN.items():
        path, drawn = PICTURES / f"{name}.svg", curves(numbers, backbone, level)
        if not arguments.check:
            chart = curves_chart(drawn, "Noise rate, %", MEASURES["rsum"], summary(drawn))
            path.write_text(chart + "\n", encoding="utf-8")
        elif html.escape(summary(drawn)) not in path.read_text(encoding="utf-8"):
            sys.exit(f"{path} does not show the numbers: run python benchmarks/noise_curves.py")


if __name__ == "__main__":
    main()
