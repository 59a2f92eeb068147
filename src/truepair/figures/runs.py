"""Finished runs, found in folders, and what tells one system from another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from truepair.config import NoiseConfig, Recipe
from truepair.errors import CheckpointError, ConfigError
from truepair.files.names import RUN
from truepair.training.folder import description_of_run, learning_options
from truepair.training.log import read_log
from truepair.training.results import RunResults, read_results

_NOT_OF_A_SYSTEM = (
    *("data.path", "data.source.", "data.stream_index", "data.shards_at_once", "data.test_split", "data.test_folds"),
    *("data.split_seed", "noise.rate", "noise.level", "noise.partners", "noise.seed", "noise.index"),
    *("trusted.seed", "training.seed", "training.patience", "method.name"),
)
"""Options that a system keeps its name under, or how their names begin: seeds, and what `FinishedRun.corpus`,
`FinishedRun.rate` and `FinishedRun.level` say."""
SIMILAR = "similar captions"
"""The level at which captions exchange images two and two that are alike in their words."""
_LABELS = {
    "method.loss=info_nce": "InfoNCE",
    "method.loss=triplet_hardest": "triplet, hardest negative",
    "method.loss=triplet_sum": "triplet, sum over negatives",
    "training.oracle=clean_pairs": "true pairs only",
    "training.oracle=true_correspondence": "true correspondences",
    "training.oracle=none": "",
    "method.refine=False": "without SCC",
    "method.refine=True": "",
    "noise.development=True": "noisy development pairs",
    "noise.development=False": "",
}
"""What a deviation is called where its option says less."""
_NAMES = {"baseline": "plain", "crcl": "CRCL", "mscn": "MSCN", "disncl": "DisNCL", "teacher": "teacher"}
"""What methods are called."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that was trained and tested.

    Attributes:
        folder: Where it is.
        recipe: What it did.
        results: What it came to.
    """

    folder: Path
    recipe: Recipe
    results: RunResults

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """All that decided what was learned, by dotted name; what is done with noise is nothing where there is none."""
        recipe = self.recipe
        return dict(_flat(learning_options(recipe if self.level != "none" else replace(recipe, noise=NoiseConfig()))))

    @property
    def rate(self) -> float:
        """Share of the training pairs that do not match: as put in, or as an index file had it."""
        noise = self.recipe.noise
        if noise.index is None or self.results.realised_noise_rate is None:
            return noise.rate
        return round(self.results.realised_noise_rate, 2)

    @property
    def level(self) -> str:
        """At which level they do not match: "caption", `SIMILAR`, "image", or what an index file was; "none"."""
        noise = self.recipe.noise
        if noise.index is None:
            return "none" if not noise.rate else SIMILAR if noise.partners == "similar" else noise.level
        found = self.results.realised_noise_level
        return "unknown" if found is None else found.level

    @property
    def noise(self) -> str:
        """Rate and level, in words."""
        if self.level == "none":
            return "no noise"
        return f"{100 * self.rate:.0f} % noise, " + (SIMILAR if self.level == SIMILAR else f"{self.level} level")

    @property
    def corpus(self) -> str:
        """What the test numbers are of: the corpus and the size of the gallery."""
        protocol = self.results.protocol
        folds = f", in {protocol.folds} parts" if protocol.folds > 1 else ""
        return f"{self.results.corpus}, {protocol.images:,} × {protocol.captions:,} {protocol.split} pairs{folds}"

    def log(self) -> list[dict[str, Any]]:
        """Lines of its log; none where it was not kept."""
        path = self.folder / "log.jsonl"
        return read_log(path) if path.exists() else []


@dataclass(frozen=True)
class LeftOut:
    """A run that cannot be shown, and why."""

    folder: Path
    why: str


def find_runs(folders: Sequence[Path]) -> tuple[list[FinishedRun], list[LeftOut]]:
    """All finished runs in these folders and below; those that have not finished, or are damaged, are left out.

    Raises:
        ConfigError: If a folder holds no run at all.
    """
    runs, left_out = list[FinishedRun](), list[LeftOut]()
    for folder in _run_folders(folders):
        try:
            results = read_results(folder)
            if results is None:
                left_out.append(LeftOut(folder, "it has not finished: run the command that began it again"))
                continue
            runs.append(FinishedRun(folder, description_of_run(folder)[0], results))
        except CheckpointError as error:
            left_out.append(LeftOut(folder, str(error)))
    return runs, left_out


def _run_folders(folders: Sequence[Path]) -> list[Path]:
    found: dict[Path, Path] = {}  # by its real path: a folder and one below it may both be named
    for folder in folders:
        here = sorted(path.parent for path in folder.rglob(RUN)) if folder.is_dir() else []
        if not here:
            raise ConfigError(f"there is no run in {folder}: name the folder of a run, or one that holds several")
        found |= {path.resolve(): path for path in here}
    return list(found.values())


def systems_of(runs: Sequence[FinishedRun]) -> dict[Path, str]:
    """What each run's system is called: its method, and where it deviates from others of that method.

    Args:
        runs: Of one corpus.

    Returns:
        Folder → name.
    """
    named = {}
    for method in dict.fromkeys(run.recipe.method.name for run in runs):
        of_method = [run for run in runs if run.recipe.method.name == method]
        varying = varying_options(of_method)
        for run in of_method:
            deviations = [_said(name, run.options[name]) for name in varying]
            named[run.folder] = ", ".join([_NAMES.get(method, method), *filter(None, deviations)])
    return named


def varying_options(runs: Iterable[FinishedRun]) -> list[str]:
    """Options of a system in which the runs differ."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.options.items():
            if not name.startswith(_NOT_OF_A_SYSTEM):
                values.setdefault(name, set()).add(repr(value))
    return [name for name, found in values.items() if len(found) > 1]


def _said(name: str, value: Any) -> str:
    if name in ("data.image_features", "data.caption_features", "data.vocabulary") and value is not None:
        value = Path(value).name
    return _LABELS.get(f"{name}={value}", f"{name.rpartition('.')[2]} {short(value)}")


def short(value: Any) -> str:
    """An option's value as a figure has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
