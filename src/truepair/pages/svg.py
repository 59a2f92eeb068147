"""Charts as inline SVG: no script, nothing loaded, the same bytes for the same numbers."""

from __future__ import annotations

import html
import io
import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, INK, GREY = "#31688e", "#c2542d", "#222222", "#6b6b6b"
"""Blue for what matches (or for images), orange for what does not (or for captions): told apart without colour, too."""
STYLE: Any = {  # Any, because matplotlib types the keys as one long literal
    "svg.fonttype": "none",  # text stays text: searchable, and sharp in any size
    "svg.hashsalt": "truepair",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
}


def new_axes(x: str, y: str, height: float = 3.6) -> Axes:
    """Axes alone in a figure as wide as all charts, with these labels."""
    axes = Figure(figsize=(6.4, height), layout="constrained").subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes


def svg(axes: Axes, summary: str) -> str:
    """The axes' figure as an SVG element with a text for those who do not see it."""
    written = io.StringIO()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = text[text.index("<svg ") :]  # HTML wants neither XML's prologue nor its document type
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(summary)}" ', 1)
