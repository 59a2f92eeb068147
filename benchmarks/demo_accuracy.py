"""The ladder of `truepair demo`: its recipes at every noise rate and seed; the default method without each part.

    python benchmarks/demo_accuracy.py --out runs/demo            # train what is missing, then print the tables
    python benchmarks/demo_accuracy.py --out runs/demo --seeds 0
    python benchmarks/demo_accuracy.py --out runs/demo --collect benchmarks/results/demo.json

The demo corpus with its frozen vectors and its words, on one thread; one table a noise rate.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from accuracy import Run, numbers_of
from tables import ladder_tables

from truepair.cli.demo import recipes
from truepair.config import Recipe, TeacherConfig, TrainingConfig

MAIN = {
    "teacher": "teacher",
    "plain InfoNCE": "plain",
    "CRCL": "crcl",
    "MSCN": "mscn",
    "DisNCL": "disncl",
    "plain oracle": "oracle",
}
WITHOUT = {
    "teacher, no out-of-sample stage": {"fold_epochs": 0, "judge_every": 1},
    "teacher, two folds": {"folds": 2},
    "teacher, first estimate kept": {"judge_every": 0},
    "teacher, no soft targets": {"target_weight": 0.0},
}
RATES = (0.2, 0.4, 0.6, 0.8)


def systems(seed: int, rate: float) -> Mapping[str, Recipe]:
    """By the name of their row."""
    known = recipes(seed, TrainingConfig(seed=seed, device="cpu"), rate)
    found = {name: known[row] for name, row in MAIN.items()}
    teacher = known["teacher"]
    assert isinstance(teacher.method, TeacherConfig)
    if rate == 0.4:
        found |= {
            name: replace(teacher, method=replace(teacher.method, **options)) for name, options in WITHOUT.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    parser.add_argument("--systems", nargs="*", help="rows to train; all if not given")
    parser.add_argument("--collect", type=Path, help="write the numbers of all runs into this file, too")
    arguments = parser.parse_args()
    import torch

    from truepair.data.corpora import load_corpus
    from truepair.training.run import run

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "MSCN learns from pairs that are known to match")  # it is meant
    corpus, numbers = load_corpus(Recipe().data), []
    for seed in arguments.seeds:
        for rate in arguments.rates:
            for name, recipe in systems(seed, rate).items():
                cell = Run("demo", "caption", name, rate, seed)
                folder = arguments.out / cell.name
                is_asked = arguments.systems is None or name in arguments.systems
                if is_asked and not (folder / "results.json").exists():
                    run(recipe, folder, corpus)
                numbers.append(numbers_of(cell, folder))
    there = [each for each in numbers if each is not None]
    if arguments.collect:
        arguments.collect.write_text("[\n" + ",\n".join(map(json.dumps, there)) + "\n]\n")
    print(ladder_tables(there))


if __name__ == "__main__":
    main()
