"""How far a long loop is: a bar on a terminal, and a plain line now and then where standard error is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_SECONDS_WITHOUT_BAR = 2.0
"""A bar for less would only flicker."""

_SECONDS_BETWEEN_LINES = 10.0
"""Work that is shorter prints no line."""

_TOO_LONG_TO_READ = 1_000_000
"""A bar counts from here on in thousands and millions."""

_IS_QUIET: ContextVar[bool] = ContextVar("is_quiet", default=False)


@contextmanager
def no_progress() -> Iterator[None]:
    """Within it, loops show nothing (``--quiet``)."""
    token = _IS_QUIET.set(True)
    try:
        yield
    finally:
        _IS_QUIET.reset(token)


class Progress:
    """How far a loop is; made by `progress`."""

    def __init__(self, description: str, unit: str, total: int | None, done: int) -> None:
        self.description, self.unit, self.total, self.done = description, unit, total, done
        self.remark = ""
        self._show: Callable[[int], None] = lambda count: None

    def describe(self, description: str) -> None:
        """Say what is being done now."""
        self.description = description
        self._show(0)

    def advance(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self.done += count
        self._show(count)


@contextmanager
def progress(
    description: str,
    unit: str,
    total: int | None = None,
    done: int = 0,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Progress of a long loop, shown until the block ends.

    On a terminal it is a bar with a rate and the remaining time; elsewhere a line every ten seconds at most, such as
    "scoring: 1,024 of 5,000 pairs, 210 pairs/s, about 19 s left".

    Args:
        description: What is being done. `describe` changes it while the loop runs; `total` and `remark` may be set.
        unit: What is counted, in the plural.
        total: How many units there are; None if it is not known.
        done: How many of them were done before.
        clock: The time in seconds.
    """
    shown = Progress(description, unit, total, done)
    if _IS_QUIET.get() or sys.stderr is None:  # a program without a console has no standard error
        yield shown
    elif sys.stderr.isatty():
        from tqdm import tqdm  # pipes and other programs do not need it

        with tqdm(
            desc=description,
            total=total,
            initial=done,
            unit=f" {unit}",
            unit_scale=total is not None and total >= _TOO_LONG_TO_READ,
            delay=_SECONDS_WITHOUT_BAR,
            leave=None,  # the outermost bar stays
            file=sys.stderr,
        ) as bar:
            shown._show = _bar(shown, bar, clock)
            yield shown
            bar.total = shown.total
    else:
        shown._show = _lines(shown, clock)
        yield shown


def _bar(shown: Progress, bar: Any, clock: Callable[[], float]) -> Callable[[int], None]:
    begun = clock()

    def show(count: int) -> None:
        bar.total = shown.total
        bar.set_description_str(shown.description, refresh=False)  # the bar adds the colon
        bar.set_postfix_str(shown.remark, refresh=False)
        if count:
            bar.update(count)
        elif clock() - begun >= _SECONDS_WITHOUT_BAR:
            bar.refresh()

    return show


def _lines(shown: Progress, clock: Callable[[], float]) -> Callable[[int], None]:
    begun = last = clock()
    at_first = shown.done

    def show(count: int) -> None:
        nonlocal last
        now = clock()
        if now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        sys.stderr.write(_line(shown, shown.done - at_first, now - begun) + "\n")
        sys.stderr.flush()

    return show


def _line(shown: Progress, done: int, seconds: float) -> str:
    """The plain line; the rate is that of all that was `done` in these `seconds`."""
    of = "" if shown.total is None else f" of {shown.total:,}"
    parts = [f"{shown.done:,}{of} {shown.unit}"]
    if done:
        rate = done / seconds
        parts.append(f"{rate:,.0f} {shown.unit}/s" if rate >= 1 else f"{_duration(1 / rate)} each")
        if shown.total is not None and shown.total > shown.done:
            parts.append(f"about {_duration((shown.total - shown.done) / rate)} left")
    if shown.remark:
        parts.append(shown.remark)
    return f"{shown.description}: {', '.join(parts)}"


def _duration(seconds: float) -> str:
    """A time in words, as exactly as it is worth."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
