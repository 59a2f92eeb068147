"""The report's charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from truepair.evaluation.detection import CalibrationCurve
from truepair.pages.svg import BLUE, GREY, INK, ORANGE, PAPER, STYLE, WIDTH, legend_above, new_axes, svg
from truepair.training.log import means_by_epoch


def score_histogram(
    log_odds: Float[Tensor, " pairs"],
    random_log_odds: Float[Tensor, " random"],
    mismatch_probability: Float[Tensor, " pairs"],
    is_clean: Bool[Tensor, " pairs"] | None,
) -> str:
    """Log-odds of the pairs, and of random pairs; by the truth if it is known, else by the estimate if there is one."""
    values, random = log_odds.double().numpy(), random_log_odds.double().numpy()
    low, high = np.quantile(np.concatenate([values, random]), [0.001, 0.999])
    if low == high:  # nothing was learned: all scores are equal
        low, high = low - 1, high + 1
    edges = np.linspace(low, high, 45).tolist()
    values, random = values.clip(low, high), random.clip(low, high)
    if is_clean is not None:
        mismatched, names = (~is_clean).double().numpy(), ["truly mismatched", "truly matching"]
    elif mismatch_probability.isnan().any():
        mismatched, names = None, ["pairs"]
    else:
        mismatched, names = mismatch_probability.double().numpy(), ["expected mismatched", "expected matching"]
    parts = [np.ones(len(values))] if mismatched is None else [mismatched, 1 - mismatched]
    with mpl.rc_context(STYLE):
        axes = new_axes("Log-odds against random pairs", "Pairs")
        axes.hist(
            [values] * len(parts),
            edges,
            weights=parts,
            stacked=True,
            color=[ORANGE, BLUE][-len(parts) :],
            label=names,
            edgecolor=PAPER,
            linewidth=0.3,
        )
        if mismatched is not None:
            for patch in axes.containers[0]:
                patch.set_hatch("////")  # readable in print and without colour
        counts, _ = np.histogram(random, edges)
        axes.stairs(
            counts * len(values) / max(len(random), 1),
            edges,
            color=INK,
            linestyle=":",
            linewidth=1.5,
            label="if all pairs were random",
        )
        legend_above(axes)
        return svg(axes, "Histogram of scores; mismatched pairs lie to the left of matching ones.")


def cut_chart(
    mismatch_probability: Float[Tensor, " pairs"], threshold: float, is_clean: Bool[Tensor, " pairs"] | None
) -> str:
    """What dropping the most suspicious pairs costs and leaves, by the estimate, and by the truth if it is known."""
    wrong = mismatch_probability.double().sort(descending=True)
    dropped = np.arange(1, len(wrong.values) + 1)
    shown = np.unique(np.linspace(0, len(dropped) - 1, 400).astype(int))

    def curves(mismatched: Tensor) -> tuple[np.ndarray, np.ndarray]:
        found = mismatched.cumsum(0).numpy()
        return dropped - found, found[-1] - found

    with mpl.rc_context(STYLE):
        axes = new_axes("Pairs dropped, most suspicious first", "Pairs", height=4.8)
        lost, left = curves(wrong.values)
        axes.plot(dropped[shown], lost[shown], color=BLUE, label="good ones among them (expected)")
        axes.plot(dropped[shown], left[shown], color=ORANGE, ls="--", label="wrong ones that stay (expected)")
        if is_clean is not None:
            lost, left = curves((~is_clean[wrong.indices]).double())
            axes.plot(dropped[shown], lost[shown], ":", color=BLUE, label="good ones among them (true)")
            axes.plot(dropped[shown], left[shown], ":", color=ORANGE, label="wrong ones that stay (true)")
        cut = int((mismatch_probability >= threshold).sum())
        axes.axvline(cut, color=GREY, linewidth=1)
        axes.annotate(f" {threshold:g}", (cut, 1), xycoords=("data", "axes fraction"), va="top", color=GREY)
        most = min(len(dropped), max(3 * cut, len(dropped) // 10))
        highest = max(lost[most - 1], left[0], 1)
        axes.set(xlim=(0, most), ylim=(0, 1.05 * highest))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        legend_above(axes)
        return svg(axes, "Expected good pairs lost and wrong pairs left for each number of dropped pairs.")


def calibration_chart(curve: CalibrationCurve) -> str:
    """What was predicted against what is true."""
    with mpl.rc_context(STYLE):
        axes = new_axes("Predicted mismatch probability", "True share of mismatches")
        axes.plot([0, 1], [0, 1], ":", color=GREY, label="perfect")
        size = 12 + 160 * curve.pairs.double().numpy() / float(curve.pairs.max())
        probability, rate = curve.mismatch_probability.numpy(), curve.mismatch_rate.numpy()
        axes.plot(probability, rate, color=BLUE, linewidth=1.2)
        axes.scatter(probability, rate, s=size, color=BLUE, zorder=3, label="this audit (area: pairs)")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        legend_above(axes)
        return svg(axes, "Calibration curve: observed share of mismatches for each predicted probability.")


def learning_curves(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Loss and development rSum per epoch, from a run's log; None if it holds no epoch."""
    epochs = [line for line in lines if line["kind"] == "epoch"]
    if not epochs:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.plot([line["epoch"] + 1 for line in epochs], [_rsum(line) for line in epochs], color=BLUE, marker=".")
        upper.set_ylabel("dev rSum (of 600)")
        losses = means_by_epoch(lines, "loss")
        lower.plot([*losses], [*losses.values()], color=ORANGE, marker=".")
        lower.set_ylabel("training loss")
        lower.set_xlabel("Epoch")
        lower.xaxis.get_major_locator().set_params(integer=True)
        return svg(upper, "Development rSum and training loss after each epoch.")


def _rsum(line: Mapping[str, Any]) -> float:
    recalls = [f"{direction}_r{k}" for direction in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    return float(sum(line[name] for name in recalls))
