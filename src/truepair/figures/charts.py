"""The figures, each as an SVG element in the colours of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from truepair.figures.curves import Curve
from truepair.figures.runs import short
from truepair.losses.noise_tolerance import risk_gap_bounds
from truepair.losses.triplet import self_adaptive_margin
from truepair.pages.svg import BLUE, GREY, INK, ORANGE, STYLE, legend_above, new_axes, svg
from truepair.scoring.mixtures import Beta

_LOOKS: Sequence[dict[str, Any]] = [
    {"color": colour, "linestyle": line, "marker": marker}
    for line, markers in (("-", "os^D"), ("--", "vPXd"), (":", "<>*p"))
    for colour, marker in zip((BLUE, ORANGE, INK, GREY), markers, strict=True)
]
"""Twelve lines that can be told apart, without colour too."""
_ASIDE = 0.6
"""How far the means of all curves at one value that is no number lie apart; from one value to the next it is 1."""
_CANDIDATES = 100
_NOISE_RATES = (0.2, 0.4, 0.6)


def curves_chart(curves: Sequence[Curve], x: str, y: str, summary: str) -> str:
    """Means with a standard deviation where there are several seeds.

    Along numbers, lines join the means of a curve. Values that are no numbers stand side by side, and so do the means
    of all curves at one of them: nothing lies between two optimisers.
    """
    everything = {repr(point.at): point.at for curve in curves for point in curve.points}
    is_number = all(isinstance(at, int | float) and not isinstance(at, bool) for at in everything.values())
    place: Callable[[Any], float] = float if is_number else lambda at: float([*everything].index(repr(at)))
    with mpl.rc_context(STYLE):
        drawn = [(curve, look) for curve, look in zip(curves, _cycled(len(curves)), strict=True) if curve.points]
        axes = new_axes(x, y, height=4.2 + 0.28 * len(drawn))
        for number, (curve, look) in enumerate(drawn):
            aside = 0.0 if is_number else _ASIDE * (number - (len(drawn) - 1) / 2) / len(drawn)
            at = [place(point.at) + aside for point in curve.points]
            axes.errorbar(
                at,
                [point.mean for point in curve.points],
                [point.sd or 0.0 for point in curve.points],
                label=curve.label or None,
                markersize=6,
                linewidth=1.6,
                capsize=3,
                **look | ({} if is_number else {"linestyle": "none"}),
            )
        if not is_number:
            axes.set_xlim(-0.5, len(everything) - 0.5)
            axes.set_xticks(range(len(everything)), [short(value) for value in everything.values()])
        if any(curve.label for curve in curves):
            legend_above(axes)
        return svg(axes, summary)


def _cycled(count: int) -> list[dict[str, Any]]:
    return [_LOOKS[number % len(_LOOKS)] for number in range(count)]


def state_chart(history: Mapping[int, Mapping[str, Sequence[int]]], name: str) -> str:
    """The median of a state of pairs over epochs, and the middle 80 % of the pairs, for each kind of pair.

    Args:
        history: Epoch, from 1 → kind of pair → histogram of [0, 1].
        name: What the state is called.
    """
    looks = {"matching": (BLUE, "-"), "mismatched": (ORANGE, "--"), "all": (INK, "-")}
    with mpl.rc_context(STYLE):
        axes = new_axes("Epoch", name.capitalize())
        for kind, (colour, line) in looks.items():
            known = {epoch: kinds[kind] for epoch, kinds in history.items() if kind in kinds}
            if not known:
                continue
            low, middle, high = ([_quantile(counts, share) for counts in known.values()] for share in (0.1, 0.5, 0.9))
            pairs = sum(next(iter(known.values())))
            axes.fill_between([*known], low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot([*known], middle, color=colour, linestyle=line, marker=".", label=f"{kind} ({pairs:,})")
        axes.set_ylim(-0.03, 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_above(axes)
        return svg(axes, f"{name} of the training pairs after each epoch: median, and the middle 80 %.")


def _quantile(counts: Sequence[int], share: float) -> float:
    """Of values in equal bins of [0, 1], spread evenly within a bin."""
    below = np.concatenate([[0.0], np.cumsum(counts)])
    return float(np.interp(share * below[-1], below, np.linspace(0, 1, len(below))))


def confidence_histogram(values: Mapping[str, np.ndarray], name: str) -> str:
    """How confidence, or what else a method says of its pairs, is distributed.

    Args:
        values: Kind of pair ("matching", "mismatched" or "all") → values in [0, 1].
        name: What they are.
    """
    edges = np.linspace(0, 1, 21)
    looks = {"matching": (BLUE, ""), "mismatched": (ORANGE, "////"), "all": (INK, "")}
    with mpl.rc_context(STYLE):
        axes = new_axes(name.capitalize(), "Share of the pairs")
        for kind, some in values.items():
            colour, hatch = looks[kind]
            weights = np.full(len(some), 1 / max(len(some), 1))
            bars: dict[str, Any] = {"alpha": 0.55, "edgecolor": colour, "linewidth": 0.8, "hatch": hatch}
            axes.hist(some, edges.tolist(), weights=weights, color=colour, label=f"{kind} ({len(some):,})", **bars)
        legend_above(axes)
        return svg(axes, f"Histogram of {name} of the training pairs.")


def scalar_chart(values: Mapping[int, float], name: str) -> str:
    """A mean over the steps of each epoch."""
    with mpl.rc_context(STYLE):
        axes = new_axes("Epoch", name.capitalize(), height=3.2)
        axes.plot([*values], [*values.values()], color=INK, marker=".")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return svg(axes, f"{name} by epoch.")


def margin_chart(margin: float) -> str:
    """MSCN's self-adaptive margin against the similarity of a pair."""
    similarity = torch.linspace(0, 1, 101)
    with mpl.rc_context(STYLE):
        axes = new_axes("Similarity of the pair", "Margin", height=3.2)
        axes.plot(similarity.numpy(), self_adaptive_margin(similarity, margin).numpy(), color=BLUE)
        axes.axhline(margin, color=GREY, linestyle=":", linewidth=1)
        return svg(axes, f"The self-adaptive margin rises from 0 to {margin:g} along an S-curve.")


def mixture_chart(counts: Mapping[str, Sequence[int]], mixture: Mapping[str, float]) -> str:
    """Similarities of the training pairs in one epoch, and the mixture of two Betas that MSCN fitted to them.

    Args:
        counts: Kind of pair ("matching" and "mismatched", or "all") → histogram of [0, 1].
        mixture: ``noise_rate`` and, of both components, ``mismatched_a`` … ``clean_b``.
    """
    looks = {"matching": (BLUE, ""), "mismatched": (ORANGE, "////"), "all": (INK, "")}
    bins = len(next(iter(counts.values())))
    pairs, edges = sum(map(sum, counts.values())), np.linspace(0, 1, bins + 1)
    at = torch.linspace(0.002, 0.998, 499, dtype=torch.float64)
    parts = {"mismatched": mixture["noise_rate"], "clean": 1 - mixture["noise_rate"]}
    with mpl.rc_context(STYLE):
        axes = new_axes("Similarity", "Density", height=5.2)
        below = np.zeros(bins)
        for kind, of_kind in counts.items():
            colour, hatch = looks[kind]
            heights = np.array(of_kind) * bins / max(pairs, 1)
            bars: dict[str, Any] = {"alpha": 0.4, "edgecolor": colour, "linewidth": 0.6, "hatch": hatch}
            axes.bar(edges[:-1], heights, 1 / bins, below, align="edge", color=colour, label=kind, **bars)
            below += heights
        for (kind, weight), line in zip(parts.items(), ("--", "-"), strict=True):
            beta = Beta(mixture[f"{kind}_a"], mixture[f"{kind}_b"])
            density = weight * beta.log_density(at).exp()
            axes.plot(at.numpy(), density.numpy(), color=INK, linestyle=line, label=f"Beta of the {kind}")
        axes.set_ylim(0, 1.3 * max(float(below.max()), 1.0))
        legend_above(axes)
        return svg(axes, "Similarities of the training pairs, and the mixture of two Betas that was fitted to them.")


def components_chart(mixtures: Mapping[int, Mapping[str, float]]) -> str:
    """Means of both components of a mixture, and the weight of the mismatched one, by epoch."""
    means = {
        kind: [each[f"{kind}_a"] / (each[f"{kind}_a"] + each[f"{kind}_b"]) for each in mixtures.values()]
        for kind in ("clean", "mismatched")
    }
    with mpl.rc_context(STYLE):
        axes = new_axes("Epoch", "Similarity, or share", height=4.8)
        axes.plot([*mixtures], means["clean"], color=BLUE, marker="o", label="mean of the clean")
        axes.plot([*mixtures], means["mismatched"], color=ORANGE, marker="s", label="mean of the mismatched")
        shares = [each["noise_rate"] for each in mixtures.values()]
        axes.plot([*mixtures], shares, color=INK, linestyle=":", marker="^", label="share of the mismatched")
        axes.set_ylim(-0.03, 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_above(axes)
        return svg(axes, "Both components of the mixture by epoch.")


def tolerance_chart(rates: Sequence[float] = _NOISE_RATES, candidates: int = _CANDIDATES) -> str:
    """Bounds on what label noise costs a minimiser of the complementary loss, against its exponent."""
    exponents = np.linspace(0, 1, 101)
    with mpl.rc_context(STYLE):
        axes: Axes = new_axes("Exponent q", "Difference of the risks", height=4.6)
        axes.axhline(0, color=GREY, linewidth=0.8)
        for rate, look in zip(rates, _cycled(len(rates)), strict=True):
            lower, upper = zip(*(risk_gap_bounds(candidates, rate, float(q)) for q in exponents), strict=True)
            axes.plot(exponents, upper, color=look["color"], label=f"η = {rate:g}, noisy risk, at most")
            axes.plot(exponents, lower, color=look["color"], linestyle="--", label="clean risk, at least")
        legend_above(axes)
        return svg(axes, "The bounds shrink to 0 as the exponent q goes from 0 to 1.")
