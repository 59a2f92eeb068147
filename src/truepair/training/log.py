"""The log of a run: one JSON object a line, and TensorBoard where asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from truepair import processes
from truepair.errors import ConfigError, DataError
from truepair.files.json import parsed_json
from truepair.files.replacing import replacing, sync_file
from truepair.training.pair_state import Histograms


class RunLog:
    """Appends to ``log.jsonl`` in a run's folder; of several processes, the first does.

    A line has ``kind`` ("steps": means over some optimisation steps, each over those that have it; "epoch": one epoch
    and its development metrics), ``epoch`` and the scalars by name. Lines of epochs have ``pair_state``, too, where the
    method remembers something of each pair: see `truepair.training.pair_state`.
    """

    def __init__(self, folder: Path, steps_per_line: int = 50, tensorboard: bool = False) -> None:
        """Open the log of `folder`, new or to go on with.

        Raises:
            ConfigError: If `tensorboard` is asked for and not installed.
        """
        self.path = folder / "log.jsonl"
        self.steps_per_line = steps_per_line
        self._pending: list[Mapping[str, float]] = []
        self._lines = 0  # of the epoch that was begun
        self._board: Any = None
        self._writes = processes.is_first()
        if tensorboard and self._writes:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError("TensorBoard is not installed: pip install 'truepair[tensorboard]'") from error
            self._board = SummaryWriter(str(folder / "tensorboard"))

    def rewind(self, epochs: int, lines: int = 0) -> None:
        """Keep what is saved only: what came after will be run, and logged, again.

        Args:
            epochs: Whole epochs, of which all lines are kept.
            lines: Of the next epoch, kept as well.
        """
        self._pending = []
        self._lines = lines
        if not self._writes or not self.path.exists():
            return
        logged = read_log(self.path)
        kept = [line for line in logged if line["epoch"] < epochs]
        kept += [line for line in logged if line["epoch"] == epochs][:lines]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def step(self, epoch: int, scalars: Mapping[str, float]) -> None:
        """Note one optimisation step; every `steps_per_line` of them make a line of means."""
        if not self._writes:
            return
        self._pending.append(scalars)
        if len(self._pending) == self.steps_per_line:
            self._flush(epoch)

    def epoch(self, epoch: int, scalars: Mapping[str, float | int], pair_state: Histograms | None = None) -> None:
        """Write the line of a finished epoch, after the steps that are still pending."""
        if not self._writes:
            return
        self._flush(epoch)
        self._write({"kind": "epoch", "epoch": epoch, **scalars, **({"pair_state": pair_state} if pair_state else {})})
        self._lines = 0
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, epoch)
            self._board.flush()
        sync_file(self.path)  # a checkpoint follows, behind which these lines are not written again

    def flush(self, epoch: int) -> int:
        """Write the steps that are still pending; how many lines the epoch then has."""
        if self._writes and self._pending:
            self._flush(epoch)
            sync_file(self.path)
        return self._lines

    def _flush(self, epoch: int) -> None:
        if not self._pending:
            return
        values: dict[str, list[float]] = {}
        for step in self._pending:
            for name, value in step.items():
                values.setdefault(name, []).append(value)
        means = {name: sum(of_name) / len(of_name) for name, of_name in values.items()}
        self._write({"kind": "steps", "epoch": epoch, "steps": len(self._pending), **means})
        self._pending = []

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._lines += 1


def means_by_epoch(lines: Iterable[Mapping[str, Any]], name: str) -> dict[int, float]:
    """The mean of a scalar over the steps of each epoch, counted from 1; lines without a finite one are passed over.

    >>> lines = [{"kind": "steps", "epoch": 0, "steps": steps, "loss": loss} for steps, loss in ((3, 1.0), (1, 5.0))]
    >>> means_by_epoch(lines, "loss")
    {1: 2.0}
    """
    found: dict[int, list[tuple[int, float]]] = {}
    for line in lines:
        if line["kind"] == "steps" and math.isfinite(line.get(name, math.nan)):
            found.setdefault(line["epoch"] + 1, []).append((line["steps"], line[name]))
    return {
        epoch: sum(steps * value for steps, value in of_epoch) / sum(steps for steps, _ in of_epoch)
        for epoch, of_epoch in found.items()
    }


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut short by a crash is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(parsed_json(line, str(path)))
        except DataError:
            break
    return lines
