"""The page's charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from truepair.inspection.history import EpochOfCodes
from truepair.inspection.separation import Separation
from truepair.pages.svg import BLUE, GREY, INK, ORANGE, STYLE, WIDTH, legend_above, new_axes, svg

_LINES = 40
"""Pairs of a map whose two sides are joined."""


def history_chart(history: Sequence[EpochOfCodes], warm_up: int) -> str | None:
    """Information in codes and the filter's confidence, epoch by epoch; None if there is nothing to draw.

    Args:
        history: See `history_of`.
        warm_up: Epochs of the warm-up, whose end is marked.
    """
    panels = (
        ("shared_information", "I(Sᵥ; Sₜ), nats", BLUE, "."),
        ("exclusive_information", "I(S; X), nats", ORANGE, "s"),
        ("confidence", "mean confidence", INK, "^"),
    )
    drawn = [panel for panel in panels if any(getattr(entry, panel[0]) is not None for entry in history)]
    if not drawn:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 1.75 * len(drawn)), layout="constrained")
        rows: list[Axes] = list(figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0])
        for axes, (name, label, colour, marker) in zip(rows, drawn, strict=True):
            known = [entry for entry in history if getattr(entry, name) is not None]
            values = [getattr(entry, name) for entry in known]
            axes.plot([entry.epoch for entry in known], values, color=colour, marker=marker, markersize=5)
            axes.set_ylabel(label)
            low, high = min(0.0, *values), max(0.0, *values)
            margin = 0.08 * (high - low) or 1.0
            axes.set_ylim(low - margin, high + margin)
            if 0 < warm_up < history[-1].epoch:
                axes.axvline(warm_up + 0.5, color=GREY, linestyle=":", linewidth=1)
        figure.align_ylabels(rows)
        rows[-1].set_xlabel("Epoch (dotted: the end of the warm-up)" if warm_up else "Epoch")
        rows[-1].set_xlim(history[0].epoch - 0.5, history[-1].epoch + 0.5)
        rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        return svg(rows[0], "Information in the codes, and the noise filter's mean confidence, after each epoch.")


def similarity_histogram(separation: Separation, label: str, kinds: tuple[str, str]) -> str:
    """Similarities of pairs that match and of pairs that do not, as shares of each kind.

    Args:
        separation: The similarities.
        label: What they are.
        kinds: What pairs that match are called, and those that do not.
    """
    matching, mismatched = separation.matching.double().numpy(), separation.mismatched.double().numpy()
    edges = histogram_edges(separation)
    with mpl.rc_context(STYLE):
        axes = new_axes(label, "Share of the pairs")
        for values, colour, kind, look in (
            (matching, BLUE, kinds[0], {}),
            (mismatched, ORANGE, kinds[1], {"hatch": "////"}),  # readable in print and without colour
        ):
            bars: dict[str, Any] = {"alpha": 0.55, "edgecolor": colour, "linewidth": 0.8, **look}
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, edges.tolist(), weights=weights, color=colour, label=f"{kind} ({len(values):,})", **bars)
        legend_above(axes, title=f"AUROC {separation.auroc:.3f}", alignment="left")
        return svg(axes, f"Histogram of {label}: {kinds[0]} against {kinds[1]}; AUROC {separation.auroc:.3f}.")


def histogram_edges(separation: Separation) -> Float[np.ndarray, " edges"]:
    """The edges of 40 bins over all similarities."""
    values = np.concatenate([separation.matching.double().numpy(), separation.mismatched.double().numpy()])
    edges: np.ndarray = np.histogram_bin_edges(values, 40)
    return edges


def code_map(image: Float[np.ndarray, "pairs 2"], text: Float[np.ndarray, "pairs 2"], joined: Sequence[int]) -> str:
    """Images and captions where `maps.plane_map` put them.

    Args:
        image: Place of each pair's image.
        text: Place of its caption.
        joined: Pairs that match; the first 40 are joined by lines.
    """
    with mpl.rc_context(STYLE):
        axes = new_axes("", "", height=5.4)
        for pair in joined[:_LINES]:
            axes.plot([image[pair, 0], text[pair, 0]], [image[pair, 1], text[pair, 1]], color=GREY, lw=0.7, zorder=1)
        axes.scatter(image[:, 0], image[:, 1], s=15, color=BLUE, alpha=0.75, linewidths=0, label="images", zorder=2)
        axes.scatter(
            text[:, 0], text[:, 1], s=17, color=ORANGE, alpha=0.75, linewidths=0, marker="^", label="captions", zorder=2
        )
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        legend_above(axes, ncols=2, markerscale=1.5)
        return svg(axes, "Map of codes; images are dots, captions are triangles, some pairs are joined by lines.")
