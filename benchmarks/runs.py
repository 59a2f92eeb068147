"""Runs that benchmarks are made of: each a process of its own, on one thread; one that is there is not made again.

python benchmarks/runs.py RECIPE FOLDER     # RECIPE: as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

Options = Mapping[str, Any]
"""Options of a recipe by section and name, such as "model.embedding"."""


def train(options: Options, folder: Path) -> None:
    """Train and test a run in a process of its own, if it is not there."""
    if (folder / "results.json").exists():
        return
    recipe = json.dumps(_nested(options))
    command = [sys.executable, __file__, recipe, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"{folder.parent.name}/{folder.name}: {'done' if done.returncode == 0 else done.stderr.strip()}", flush=True)


def numbers_in(folder: Path) -> dict[str, Any] | None:
    """What tables need of a run; None if it has not finished."""
    path = folder / "results.json"
    if not path.exists():
        return None
    results = json.loads(path.read_text())
    detection = results["detection"] or {}
    names = ("auroc", "average_precision", "expected_calibration_error", "estimated_noise_rate")
    return {
        "test": results["test"],
        "detection": {name: detection.get(name) for name in names},
        "best_epoch": results["best"]["epoch"] + 1,
        "cpu_seconds": results["cpu_seconds"],
        "peak_memory_mb": results["peak_memory_mb"],
    }


def average(members: Sequence[Path], folder: Path) -> None:
    """Test the mean similarity of finished runs of the same pairs, and their mean confidence; not if it is there."""
    path, numbers = folder / "results.json", [numbers_in(member) for member in members]
    if path.exists() or None in numbers:
        return
    import torch
    from pyarrow import parquet

    from truepair.evaluation.detection import detection_metrics
    from truepair.evaluation.retrieval import evaluate
    from truepair.training.folder import load_runs

    torch.set_num_threads(1)
    runs, pairs = load_runs(members), [parquet.read_table(member / "pairs.parquet") for member in members]
    confidence = torch.stack([torch.from_numpy(each["confidence"].to_numpy().copy()) for each in pairs]).mean(0)
    truth = runs[0].splits.train.is_clean
    found = {
        "test": evaluate([model for run in runs for model in run.models], runs[0].splits.test).as_dict(),
        "detection": None if truth is None else asdict(detection_metrics(confidence, truth)),
        "best": {"epoch": max(each["best_epoch"] for each in numbers) - 1},
        "cpu_seconds": sum(each["cpu_seconds"] for each in numbers),
        "peak_memory_mb": max(each["peak_memory_mb"] for each in numbers),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")


def _nested(options: Options) -> dict[str, Any]:
    """Options by section, as a recipe's file has them."""
    sections: dict[str, Any] = {}
    for name, value in options.items():
        *path, last = name.split(".")
        section = sections
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return sections


def main() -> None:
    import torch

    from truepair.training.recipe import recipe_from
    from truepair.training.run import run

    recipe, folder = sys.argv[1:]
    torch.set_num_threads(1)
    run(recipe_from(json.loads(recipe), "the benchmark"), Path(folder))


if __name__ == "__main__":
    main()
