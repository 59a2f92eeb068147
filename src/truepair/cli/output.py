"""What a command says: lines for people or JSON for programs on standard output, notes on standard error."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Output:
    """Where a command's words go."""

    is_json: bool = False
    """Only the summary is printed."""
    is_quiet: bool = False
    """No notes."""
    is_first: bool = True
    """Of several processes that do the same, the first prints."""

    def line(self, text: str = "") -> None:
        """A line, or several, of the result for people; with ``--json`` none."""
        if self.is_first and not self.is_json:
            print(text, flush=True)

    def note(self, text: str) -> None:
        """A line on standard error that the result can do without; with ``--quiet`` none."""
        if self.is_first and not self.is_quiet:
            print(text, file=sys.stderr)

    def summary(self, values: Mapping[str, Any]) -> None:
        """All that came of a command as one JSON object; nothing without ``--json``."""
        if self.is_first and self.is_json:
            print(json.dumps(as_json(values), indent=2, allow_nan=False), flush=True)


def process_number(*, by_slurm: bool = False) -> int:
    """The number that torchrun gave this process, 0 where it did not start it.

    Args:
        by_slurm: Whether tasks of SLURM train together, whose numbers count then.
    """
    name = "RANK" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_PROCID" if by_slurm else ""
    return int(os.environ.get(name, "0"))


def as_json(value: Any) -> Any:
    """`value` in types that JSON has; numbers that are none become null."""
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
