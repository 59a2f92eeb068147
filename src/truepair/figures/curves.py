"""What is drawn as lines: test numbers against the noise rate, and against an option."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truepair.figures.runs import FinishedRun, short, systems_of, varying_options

MEASURES = {"rsum": "rSum", "image_to_text_r1": "image → text R@1, %", "text_to_image_r1": "text → image R@1, %"}
"""Numbers that are drawn, and their labels."""


@dataclass(frozen=True)
class Point:
    """One cell: mean and sample standard deviation over seeds.

    Attributes:
        at: Noise rate, or value of an option.
        mean: Of a measure.
        sd: Over seeds; None for one seed.
        seeds: Which.
    """

    at: Any
    mean: float
    sd: float | None
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Curve:
    """A line: one system, or one setting of the other options; without points, it keeps a look for its system."""

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class NoiseFigure:
    """Several systems on one corpus, at one level of noise.

    Attributes:
        corpus: The corpus and its gallery.
        level: See `FinishedRun.level`.
        curves: Measure → a line a system.
        systems: Folder → system, of the runs that are drawn.
    """

    corpus: str
    level: str
    curves: Mapping[str, Sequence[Curve]]
    systems: Mapping[Path, str]

    @property
    def rates(self) -> int:
        """How many noise rates there are."""
        return len({point.at for curve in self.curves["rsum"] for point in curve.points})


@dataclass(frozen=True)
class OptionFigure:
    """One option of one method, everything else as it is.

    Attributes:
        corpus: The corpus and its gallery.
        noise: Rate and level, in words.
        method: Name of the method.
        option: Its dotted name.
        curves: Measure → a line for each setting of the other options that vary.
    """

    corpus: str
    noise: str
    method: str
    option: str
    curves: Mapping[str, Sequence[Curve]]


def noise_figures(runs: Sequence[FinishedRun]) -> list[NoiseFigure]:
    """A figure for each corpus and level; never two corpora or levels in one. Runs without noise are in all of them."""
    figures = []
    for corpus in dict.fromkeys(run.corpus for run in runs):
        here = [run for run in runs if run.corpus == corpus]
        systems = systems_of(here)
        levels = [level for level in dict.fromkeys(run.level for run in here) if level != "none"] or ["none"]
        for level in levels:
            drawn = [run for run in here if run.level in (level, "none")]
            names = dict.fromkeys(systems.values())  # those without a run here, too: a system looks alike in all plots
            curves = {
                measure: [
                    Curve(name, _points([(r.rate, r) for r in drawn if systems[r.folder] == name], measure))
                    for name in names
                ]
                for measure in MEASURES
            }
            figures.append(NoiseFigure(corpus, level, curves, {run.folder: systems[run.folder] for run in drawn}))
    return figures


def option_figures(runs: Sequence[FinishedRun]) -> list[OptionFigure]:
    """A figure for each option in which runs of one method differ and nothing else does but what other lines show."""
    figures = []
    for (corpus, noise, method), same in _cells(runs).items():
        varying = varying_options(same)
        for option in varying:
            lines: dict[str, list[FinishedRun]] = {}
            for run in same:
                others = ", ".join(f"{o.rpartition('.')[2]} {short(run.options[o])}" for o in varying if o != option)
                lines.setdefault(others, []).append(run)
            lines = {others: of_line for others, of_line in lines.items() if _values(of_line, option) > 1}
            if lines:
                curves = {
                    measure: [
                        Curve(others, _points([(r.options[option], r) for r in of_line], measure))
                        for others, of_line in lines.items()
                    ]
                    for measure in MEASURES
                }
                figures.append(OptionFigure(corpus, noise, method, option, curves))
    return figures


def _cells(runs: Sequence[FinishedRun]) -> dict[tuple[str, str, str], list[FinishedRun]]:
    """Runs that differ in options and seeds only, by corpus, noise and method."""
    cells: dict[tuple[str, str, str], list[FinishedRun]] = {}
    for run in runs:
        cells.setdefault((run.corpus, run.noise, run.recipe.method.name), []).append(run)
    return cells


def _values(runs: Sequence[FinishedRun], option: str) -> int:
    return len({repr(run.options[option]) for run in runs})


def _points(runs: Sequence[tuple[Any, FinishedRun]], measure: str) -> tuple[Point, ...]:
    return points_of((at, run.results.seed, run.results.test.as_dict()[measure]) for at, run in runs)


def points_of(measured: Iterable[tuple[Any, int, float]]) -> tuple[Point, ...]:
    """One point for each place, in order; of a seed that was run twice, the run that comes last counts.

    Args:
        measured: Of each run its place, its seed and its value.
    """
    places: dict[str, tuple[Any, dict[int, float]]] = {}
    for at, seed, value in measured:
        _, of_seed = places.setdefault(repr(at), (at, {}))
        of_seed[seed] = value
    points = []
    for at, of_seed in sorted(places.values(), key=lambda place: _order(place[0])):
        values = [*of_seed.values()]
        sd = statistics.stdev(values) if len(values) > 1 else None
        points.append(Point(at, statistics.mean(values), sd, tuple(sorted(of_seed))))
    return tuple(points)


def _order(at: Any) -> tuple[int, float, str]:
    """Numbers by size, before everything else by name."""
    is_number = isinstance(at, int | float) and not isinstance(at, bool)
    return (0, float(at), "") if is_number else (1, 0.0, short(at))
