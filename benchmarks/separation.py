"""How well similarity alone tells matching from mismatched training pairs, in the space of each trained system.

    python benchmarks/separation.py runs/ladder/cosine --rates 0.4

Reads the runs of `accuracy.py`: AUROC of a pair's own similarity (no competitors, no mixture), the best checkpoint, all
training pairs. Where codes are there, the same by the cosine of the features that they are made of.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from accuracy import SYSTEMS, folder_of, spread
from sklearn.metrics import roc_auc_score

from truepair.encoders.codes import SharedEncoder
from truepair.model import MatchingModel
from truepair.scoring.encodings import similarity_of_pairs
from truepair.training.folder import TrainedRun, load_run


def by_features(run: TrainedRun) -> list[MatchingModel]:
    """The run's networks without their shared heads."""
    found = []
    for model in run.models:
        encoders = (model.image_encoder, model.text_encoder)
        if not all(isinstance(encoder, SharedEncoder) for encoder in encoders):
            return []
        found.append(MatchingModel(*(encoder.backbone for encoder in encoders), model.similarity))
    return found


def separation(folder: Path, corpus) -> dict[str, float]:
    """AUROC of own-pair similarity, saved beside the run."""
    path = folder / "separation.json"
    if path.exists():
        return json.loads(path.read_text())
    run = load_run(folder, corpus)
    models = {"similarity": run.models, "features": by_features(run)}
    clean = run.train.is_clean.numpy()
    found = {
        name: float(roc_auc_score(clean, similarity_of_pairs(of_name, run.train)))
        for name, of_name in models.items()
        if of_name
    }
    path.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rates", nargs="*", type=float, default=(0.4,))
    parser.add_argument(
        "--systems", nargs="*", default=("plain InfoNCE", "CRCL", "DisNCL", "DisNCL, cov", "plain oracle")
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    corpora: dict[str, object] = {}
    print("| noise | system | seeds | AUROC of similarity | of the features' cosine |\n| --- | --- | --- | --- | --- |")
    for rate in arguments.rates:
        for system in arguments.systems:
            assert system in SYSTEMS, system
            folders = [folder_of(arguments.out, (system, rate, seed)) for seed in range(3)]
            folders = [folder for folder in folders if (folder / "results.json").exists()]
            found = []
            for folder in folders:
                path = json.loads((folder / "run.json").read_text())["recipe"]["data"]["path"]
                if path not in corpora:
                    corpora[path] = load_run(folder).corpus
                found.append(separation(folder, corpora[path]))
            if found:
                cells = [spread([one[name] for one in found if name in one] or [0.0], 3) for name in found[0]]
                print(f"| {100 * rate:.0f} % | {system} | {len(found)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
