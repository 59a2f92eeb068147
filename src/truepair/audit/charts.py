"""The report's charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from truepair.evaluation.detection import CalibrationCurve
from truepair.mixtures import Gaussian, Mixture
from truepair.svg import BLUE, GREY, INK, ORANGE, STYLE, new_axes, svg


def score_histogram(
    log_odds: Tensor, random_log_odds: Tensor, is_clean: Tensor | None, mixture: Mixture[Gaussian] | None
) -> str:
    """How plausible the pairs are, against random pairings; by truth if it is known, else with the mixture."""
    values, random = log_odds.double().numpy(), random_log_odds.double().numpy()
    low, high = np.quantile(np.concatenate([values, random]), [0.001, 0.999])
    edges = np.linspace(low, high, 45)
    values, random = values.clip(low, high), random.clip(low, high)
    bars: dict[str, Any] = {"bins": edges, "edgecolor": "white", "linewidth": 0.3}
    with mpl.rc_context(STYLE):
        axes = new_axes("Log-odds of the pair against its competitors", "Pairs")
        if is_clean is not None:
            clean = is_clean.numpy()
            axes.hist(
                [values[~clean], values[clean]],
                stacked=True,
                color=[ORANGE, BLUE],
                label=["truly mismatched", "truly matching"],
                **bars,
            )
            for patch in axes.containers[0]:
                patch.set_hatch("////")  # readable in print and without colour
            summary = "Histogram of scores; truly mismatched pairs lie to the left of truly matching ones."
        else:
            axes.hist(values, color=BLUE, alpha=0.75, label="your pairs", **bars)
            summary = "Histogram of the scores of all pairs."
        counts, _ = np.histogram(random, edges)
        axes.stairs(counts, edges, color=INK, linestyle=":", linewidth=1.5, label="random pairings, for comparison")
        if mixture is not None and is_clean is None:
            grid = np.linspace(low, high, 300)
            pairs_per_density = len(values) * (edges[1] - edges[0])
            parts = (
                (mixture.noise_rate, mixture.mismatched, ORANGE, "--", "estimated mismatched"),
                (1 - mixture.noise_rate, mixture.clean, INK, "-", "estimated matching"),
            )
            for weight, component, colour, line, label in parts:
                axes.plot(
                    grid,
                    pairs_per_density * weight * _density(component, grid),
                    line,
                    color=colour,
                    lw=1.8,
                    label=label,
                )
        axes.legend(loc="upper left", fontsize=9.5)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.22)
        return svg(axes, summary)


def calibration_chart(curve: CalibrationCurve) -> str:
    """What was predicted against what is true."""
    with mpl.rc_context(STYLE):
        axes = new_axes("Predicted mismatch probability", "True share of mismatches")
        axes.plot([0, 1], [0, 1], ":", color=GREY, label="perfect")
        size = 12 + 160 * curve.pairs.double().numpy() / float(curve.pairs.max())
        probability, rate = curve.mismatch_probability.numpy(), curve.mismatch_rate.numpy()
        axes.plot(probability, rate, color=BLUE, linewidth=1.2)
        axes.scatter(probability, rate, s=size, color=BLUE, zorder=3, label="this audit (area: number of pairs)")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.legend(loc="upper left", fontsize=9.5)
        return svg(axes, "Calibration curve: observed share of mismatches for each predicted probability.")


def learning_curves(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Loss and development rSum per epoch, from a run's log; None if it holds no epoch."""
    epochs = [line for line in lines if line["kind"] == "epoch"]
    steps = [line for line in lines if line["kind"] == "steps" and "loss" in line]
    if not epochs:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.plot([line["epoch"] + 1 for line in epochs], [_rsum(line) for line in epochs], color=BLUE, marker=".")
        upper.set_ylabel("dev rSum (of 600)")
        by_epoch: dict[int, list[float]] = {}
        for line in steps:
            by_epoch.setdefault(line["epoch"], []).append(line["loss"])
        lower.plot([e + 1 for e in by_epoch], [sum(v) / len(v) for v in by_epoch.values()], color=ORANGE, marker=".")
        lower.set_ylabel("training loss")
        lower.set_xlabel("Epoch")
        lower.xaxis.get_major_locator().set_params(integer=True)
        return svg(upper, "Development rSum and training loss after each epoch.")


def _rsum(line: Mapping[str, Any]) -> float:
    recalls = [f"{direction}_r{k}" for direction in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    return float(sum(line[name] for name in recalls))


def _density(component: Gaussian, grid: np.ndarray) -> np.ndarray:
    density: np.ndarray = np.exp(-0.5 * (grid - component.mean) ** 2 / component.variance) / np.sqrt(
        2 * np.pi * component.variance
    )
    return density
