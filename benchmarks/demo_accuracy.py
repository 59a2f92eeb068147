"""The ladder of `truepair demo`: its recipes at every noise rate and seed; MSCN and DisNCL without each of their parts.

    python benchmarks/demo_accuracy.py --out runs/demo            # train what is missing, then print the tables
    python benchmarks/demo_accuracy.py --out runs/demo --seeds 0

The demo corpus with its frozen vectors, on one thread; one table a noise rate. MSCN without a part at 40 % only.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from accuracy import folder_of, table

from truepair.cli.demo import recipes
from truepair.config import DisnclConfig, MscnConfig, Recipe, TrainingConfig, TrustedConfig

MAIN = {
    "teacher": "teacher",
    "plain InfoNCE": "plain",
    "CRCL": "crcl",
    "MSCN": "mscn",
    "DisNCL": "disncl",
    "plain oracle": "oracle",
}
WITHOUT = {
    "MSCN, no meta step": {"meta_step": False},
    "MSCN, no purification": {"purify": False},
    "MSCN, one network": {"networks": 1},
    "MSCN, head calibrated": {"calibrate": True},
    "MSCN, pairs believed to 99 %": {"purify_above": 0.99},
    "MSCN, negatives and confidence as released": {
        "warmup_negatives": "mean",
        "negatives": "hardest",
        "purify_above": 0.5,
    },
    "MSCN, virtual step of Adam": {"virtual_step": "adam"},
}
TRUSTED = {
    "MSCN, 0.5 % trusted": TrustedConfig("development", share=0.005),
    "MSCN, 5 % trusted": TrustedConfig("development", share=0.05),
    "MSCN, none trusted": TrustedConfig(),
}
WITHOUT_OF_DISNCL = {
    "DisNCL, cov": {"preset": "cov", "adversary_weight": 0.0},
    "DisNCL, x_input_detach": {"x_input_detach": True},
    "DisNCL, no exclusive codes": {"exclusive_branch": False},
    "DisNCL, no soft targets": {"soft_targets": False},
    "DisNCL, no filtering": {"filtering": False},
}
"""At every rate."""
RATES = (0.2, 0.4, 0.6, 0.8)


def systems(seed: int, rate: float) -> Mapping[str, Recipe]:
    """By the name of their row."""
    known = recipes(seed, TrainingConfig(seed=seed, device="cpu"), rate)
    found = {name: known[row] for name, row in MAIN.items()}
    mscn, disncl = known["mscn"], known["disncl"]
    assert isinstance(mscn.method, MscnConfig)
    assert isinstance(disncl.method, DisnclConfig)
    found |= {
        name: replace(disncl, method=replace(disncl.method, **options)) for name, options in WITHOUT_OF_DISNCL.items()
    }
    if rate == 0.4:
        found |= {name: replace(mscn, method=replace(mscn.method, **options)) for name, options in WITHOUT.items()}
        found |= {name: replace(mscn, trusted=replace(trusted, seed=seed)) for name, trusted in TRUSTED.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    parser.add_argument("--systems", nargs="*", help="rows to train; all if not given")
    arguments = parser.parse_args()
    import torch

    from truepair.data.corpora import load_corpus
    from truepair.training.run import run

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "MSCN learns from pairs that are known to match")  # it is meant
    corpus = load_corpus(Recipe().data)
    for seed in arguments.seeds:
        for rate in arguments.rates:
            for name, recipe in systems(seed, rate).items():
                folder = folder_of(arguments.out, (name, rate, seed))
                is_asked = arguments.systems is None or name in arguments.systems
                if is_asked and not (folder / "results.json").exists():
                    run(recipe, folder, corpus)
    print("\n\n".join(filter(None, (table(arguments.out, rate, systems(0, rate)) for rate in sorted(RATES)))))


if __name__ == "__main__":
    main()
