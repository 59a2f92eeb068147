"""Charts as inline SVG: no script, nothing loaded, the same bytes for the same numbers."""

from __future__ import annotations

import html
import io
import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, INK, GREY, PAPER = "#31688e", "#c2542d", "#222222", "#6b6b6b", "#fbfaf8"
"""Blue for what matches (or for images), orange for what does not (or for captions): told apart without colour, too.
PAPER is what lies behind."""
_THEME = {BLUE: "blue", ORANGE: "orange", INK: "ink", GREY: "grey", PAPER: "paper"}
"""The variable of ``page.css`` that each colour follows on a page, light or dark; elsewhere it is the colour itself."""
WIDTH = 5.0
"""Of a chart, in inches: 360 units, about a telephone's width, so that its text keeps its size on every screen."""
_TEXT = 14
STYLE: Any = {  # Any, because matplotlib types the keys as one long literal
    "svg.fonttype": "none",  # text stays text: searchable, and sharp in any size
    "svg.hashsalt": "truepair",
    "font.family": "sans-serif",
    "font.size": _TEXT,
    "axes.labelsize": _TEXT,
    "xtick.labelsize": _TEXT - 1,
    "ytick.labelsize": _TEXT - 1,
    "legend.fontsize": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.labelspacing": 0.25,
    "legend.handlelength": 1.4,
    "legend.handletextpad": 0.5,
}


def new_axes(x: str, y: str, height: float = 4.2) -> Axes:
    """Axes alone in a figure as wide as all charts, with these labels."""
    axes = Figure(figsize=(WIDTH, height), layout="constrained").subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes


def legend_above(axes: Axes, **options: Any) -> None:
    """A legend above the plot, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), borderaxespad=0, **options)


def svg(axes: Axes, summary: str) -> str:
    """The axes' figure as an SVG element in the page's colours, with a text for those who do not see it."""
    written = io.StringIO()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = text[text.index("<svg ") :]  # HTML wants neither XML's prologue nor its document type
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'fill="(#\w+)"', r'style="fill: \1"', text)  # of hatches; an attribute cannot hold a variable
    for colour, name in _THEME.items():
        text = text.replace(f": {colour}", f": var(--{name}, {colour})")  # in style attributes, which are CSS
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(summary)}" ', 1)
