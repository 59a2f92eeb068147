"""Numbers over seeds, as every table writes them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def plus_minus(mean: float, sd: float | None, digits: int = 1) -> str:
    """A mean and its sample standard deviation; the mean alone where there is one value.

    >>> plus_minus(242.84, 1.26), plus_minus(0.9876, None, 3)
    ('242.8 ± 1.3', '0.988')
    """
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and sample standard deviation of values; a dash where there is none.

    >>> spread([1.0, 3.0]), spread([])
    ('2.0 ± 1.4', '–')
    """
    if not values:
        return "–"
    return plus_minus(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, digits)
