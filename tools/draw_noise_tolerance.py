"""Draw docs/pictures/noise_tolerance.svg: what label noise can cost, against the exponent of the complementary loss.

python tools/draw_noise_tolerance.py [FILE]    another file, for instance a .png to look at
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from truepair.losses.noise_tolerance import risk_gap_bounds

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "noise_tolerance.svg"
CANDIDATES = 100
COLOUR_OF_NOISE_RATE = {
    0.2: "#0072B2",
    0.4: "#B34700",
    0.6: "#222222",
}  # told apart with any colour vision, and in grey
EXPONENTS = [step / 100 for step in range(101)]

STYLE = {
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "truepair",  # the same file every time
}


def draw(path: Path) -> None:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
        axes.axhline(0, color="#888888", linewidth=0.8)
        for noise_rate, colour in COLOUR_OF_NOISE_RATE.items():
            lower, upper = zip(*(risk_gap_bounds(CANDIDATES, noise_rate, q) for q in EXPONENTS), strict=True)
            axes.plot(EXPONENTS, upper, color=colour, linewidth=2)
            axes.plot(EXPONENTS, lower, color=colour, linewidth=2, linestyle=(0, (5, 2)))
            for bound in (lower, upper):
                axes.text(-0.02, bound[0], f"η = {noise_rate}", color=colour, ha="right", va="center")
        axes.text(1, 0.31, "solid: gap in noisy risk, at most η·d", ha="right")
        axes.text(1, -0.76, "dashed: gap in clean risk, at least −η·d/a", ha="right")
        axes.set_title(f"What uniform label noise η can cost, {CANDIDATES} candidates, one direction", fontsize=12)
        axes.set(
            xlabel="exponent q (0: plain sum, 1: noise tolerant)",
            ylabel="risk of clean − risk of noisy minimiser",
            xlim=(-0.14, 1.01),
            xticks=[0, 0.25, 0.5, 0.75, 1],
        )
        figure.savefig(path, dpi=150, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)
        plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
