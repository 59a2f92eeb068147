"""Results as tables that fit a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # PyTorch takes seconds to load
    import truepair.data.noise
    import truepair.training.results


def _cells(results: truepair.training.results.RunResults) -> dict[str, str]:
    test = results.test
    recalls = {
        f"{short} R@{k}": f"{getattr(test, f'{way}_r{k}'):.1f}"
        for short, way in (("i2t", "image_to_text"), ("t2i", "text_to_image"))
        for k in (1, 5, 10)
    }
    return {"rSum": f"{test.rsum:.1f}", **recalls, "AUROC": auroc(results), "seconds": f"{results.seconds:.0f}"}


def auroc(results: truepair.training.results.RunResults) -> str:
    """How well mismatches are detected, in [0, 1]; a dash where the truth is not known."""
    detection = results.detection
    return "-" if detection is None or detection.auroc is None else f"{detection.auroc:.3f}"


def results_table(results: Mapping[str, truepair.training.results.RunResults]) -> str:
    """One row a run: retrieval on the test pairs (R@K in percent), detection AUROC on the training pairs, seconds."""
    cells = {name: _cells(result) for name, result in results.items()}
    header = ["", *next(iter(cells.values()))]
    rows = [header, *([name, *row.values()] for name, row in cells.items())]
    first, *others = (max(len(row[place]) for row in rows) for place in range(len(header)))
    lines = [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def mismatches(realised_rate: float | None, level: truepair.data.noise.NoiseLevel | None) -> str:
    """How much noise the training pairs were given, and at which level, in a line.

    Args:
        realised_rate: Share in [0, 1] of the training pairs that truly do not match; None if it is not known.
        level: What the pairs show; None if it is not known.
    """
    share = "not known, none put in" if realised_rate is None else f"{realised_rate:.2%}, put in"
    return f"mismatched training captions: {share}{'' if level is None else f' ({level.in_words})'}"
