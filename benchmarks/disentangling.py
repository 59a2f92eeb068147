"""Do shared and exclusive codes come apart? Pairs whose factors are known (METHODS: synthetic latent factors).

    python benchmarks/disentangling.py --out runs/disentangling          # train what is missing, then print the tables
    python benchmarks/disentangling.py --out runs/disentangling --draw   # also draw docs/pictures/disentangling.svg

Image and caption are made of 8 factors c that both have and 8 (a, b) that only one has, by a random nonlinear map each;
3,000 pairs to learn from and 2,000 to measure on, no backbone: heads of 256 on the 64 features, codes of 16. Every
number is R² on the fresh pairs (ridge and a small network), information in nats, or a share. On one thread; about half
a minute a run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from jaxtyping import Float
from latent_factors import SyntheticPairs, latent_factor_pairs
from lightning_fabric import Fabric
from torch import Tensor

from truepair.config import DisnclConfig, OptimisationConfig
from truepair.data.batch import Padded
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.data.pairs import Pairs
from truepair.encoders.codes import ExclusiveBranch, GaussianHead, SharedEncoder
from truepair.errors import TrainingError
from truepair.evaluation.detection import detection_metrics
from truepair.evaluation.information import critic_information, info_nce_bound
from truepair.evaluation.probes import mlp_r2, ridge_r2
from truepair.layers import unit_length
from truepair.methods.disncl import Disncl
from truepair.model import MODALITIES, MatchingModel
from truepair.similarity.cosine import CosineSimilarity

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "disentangling.svg"
FEATURES, HIDDEN, SIZE, TEMPERATURE = 64, 256, 16, 0.1
COMMON = {
    "warmup_epochs": 3,
    "main_epochs": 47,
    "temperature": TEMPERATURE,
    "target_temperature": TEMPERATURE,
    "critic_learning_rate": 1e-3,
    "critics_from": 0,
    "adversary_epochs": 0,
    "smoothing": 0.0,
    "neighbour_weight": 0.0,
    "optimisation": OptimisationConfig(learning_rate=1e-3, weight_decay=0.0, schedule="cosine"),
}
_DEFAULT = DisnclConfig(preset="cov")
ALONE = {  # the disentangling loss by itself, γ · matching + γβ · alignment + (1 - γ) L_X, divided by γ
    "alignment_weight": _DEFAULT.alignment_weight / 0.3,
    "reconstruction_weight": _DEFAULT.reconstruction_weight / 0.3,
    "prior_weight": _DEFAULT.prior_weight / 0.3,
    "correlation_weight": _DEFAULT.correlation / 0.3,
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "no penalty": {"preset": "none"},
    "paper_like": {"preset": "paper_like"},
    "cov": {"preset": "cov"},
    "paper_like, 2 critic steps": {"preset": "paper_like", "critic_steps": 2},
    "linear correlations only": {"preset": "cov", "correlation_features": 0, "correlation_weight": 3.0},
    "no alignment (β = 0)": {"preset": "none", "alignment_weight": 0.0},
    "coupled, γ = 0.3": {"preset": "cov", "coupled": True, "balance": 0.3, **ALONE},
    "decoupled, γ = 0.3": {"preset": "cov", "balance": 0.3, **ALONE},
}
# Weights of the two penalties, for the picture of what leaks against what is kept.
SWEEPS = {
    "adversary": [{"preset": "paper_like", "adversary_weight": weight} for weight in (0.5, 1.5, 5.0, 15.0)],
    "correlations": [{"preset": "cov", "correlation_weight": weight} for weight in (0.8, 8.0, 80.0, 400.0)],
}
COLUMNS = {
    "c_from_s": "c from S",
    "a_from_s": "a from S",
    "a_from_x": "a from X",
    "c_from_x": "leak: c from X",
    "c_from_x_network": "by a network",
    "information": "I(S;X), nats",
    "c_swapped": "swapped: c",
    "a_swapped": "a",
    "recall": "R@1",
    "filter": "filter right",
    "auroc": "AUROC",
    "seconds": "CPU s",
}


def swapped_r2(
    decode: Callable[[Tensor, Tensor], Tensor],
    shared: Float[Tensor, "items shared"],
    exclusive: Float[Tensor, "items exclusive"],
    shared_factors: Float[Tensor, "items shared_factors"],
    exclusive_factors: Float[Tensor, "items exclusive_factors"],
    *,
    seed: int,
) -> tuple[float, float]:
    """Whether decoding the shared code of one item with the exclusive code of another mixes the two as it should.

    On half of the items, ridge probes learn to read both kinds of factors from features decoded of an item's own codes.
    On the other half, every item gets the exclusive code of another item, and the probes shall still read the shared
    factors of the item and the exclusive factors of the other one. What the exclusive code wrongly holds of the shared
    factors, the decoder writes over them: the first value falls. What the shared code holds of the exclusive factors
    lowers the second.

    Args:
        decode: ``(shared, exclusive) → features``, one row an item, such as a trained `ExclusiveBranch.decoded`.
        shared: Shared codes, of items that nothing was trained on.
        exclusive: Exclusive codes of the same items.
        shared_factors: c of each item.
        exclusive_factors: a of each item.
        seed: Decides the halves and who gets whose code. The global generators stay as they are.

    Returns:
        R² of c of the shared code's item and R² of a of the exclusive code's item; both near 1 for codes that are
        disentangled and a decoder that is faithful.

    Raises:
        DataError: As in `ridge_r2`, for the halves.
    """
    order = torch.randperm(len(shared), generator=torch.Generator().manual_seed(seed))
    own, swapped = order.tensor_split(2)
    donor = swapped.roll(1)
    with torch.no_grad():
        learned = decode(shared[own.to(shared.device)], exclusive[own.to(exclusive.device)])
        mixed = decode(shared[swapped.to(shared.device)], exclusive[donor.to(exclusive.device)])
    shared_factors, exclusive_factors = shared_factors.cpu(), exclusive_factors.cpu()
    return (
        ridge_r2(learned, shared_factors[own], mixed, shared_factors[swapped]),
        ridge_r2(learned, exclusive_factors[own], mixed, exclusive_factors[donor]),
    )


class Features(nn.Module):
    """The backbone that does nothing."""

    def features(self, items: Padded) -> Padded:
        return items

    def encoding(self, features: Padded) -> Padded:
        return Padded(unit_length(features.values))


def fresh_model() -> MatchingModel:
    branches = {modality: ExclusiveBranch(FEATURES, HIDDEN, SIZE, SIZE) for modality in MODALITIES}
    image, text = (SharedEncoder(Features(), GaussianHead(FEATURES, HIDDEN, SIZE)) for _ in MODALITIES)
    return MatchingModel(image, text, CosineSimilarity(), nn.ModuleDict(branches))


@dataclass(frozen=True)
class Trained:
    """What a run leaves behind."""

    method: Disncl
    loaders: Loaders
    learned: SyntheticPairs
    fresh: SyntheticPairs

    @property
    def noisy(self) -> Pairs:
        return self.loaders.pairs


def train(options: Mapping[str, Any], noise: float, seed: int) -> Trained:
    """A run on 3,000 pairs, of which the share `noise` is shuffled."""
    learned = latent_factor_pairs(3000, world_seed=seed, draw_seed=2 * seed)
    fresh = latent_factor_pairs(2000, world_seed=seed, draw_seed=2 * seed + 1)
    loaders = Loaders(inject_noise(learned.pairs, noise, seed), 256, seed, torch.device("cpu"))
    torch.manual_seed(seed)
    config = DisnclConfig(**{**COMMON, **options})
    method = Disncl(config, fresh_model, 3000, Fabric(accelerator="cpu", devices=1))
    for epoch in range(config.epochs):
        for _ in method.train_epoch(epoch, loaders):
            pass
    return Trained(method, loaders, learned, fresh)


@dataclass(frozen=True)
class Codes:
    """Means of codes, and a draw of each, of one modality."""

    shared: torch.Tensor
    exclusive: torch.Tensor
    draws: tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def codes(model: MatchingModel, pairs: Pairs, modality: str) -> Codes:
    inputs = pairs.images if modality == "image" else pairs.caption_inputs
    values = inputs.take(torch.arange(len(pairs))).values
    shared = getattr(model, f"{modality}_encoder").head(values)
    exclusive = model.exclusive[modality](values)
    return Codes(shared.mean, exclusive.mean, (shared.sample(), exclusive.sample()))


def measure(run: Trained, seed: int, *, quick: bool = False) -> dict[str, float]:
    """Everything in `COLUMNS` but the time; `quick` leaves out what a network must be trained for."""
    model = run.method.models[0].eval()
    learned, fresh = (codes(model, part.pairs, "image") for part in (run.learned, run.fresh))
    c, a = (run.learned.shared, run.fresh.shared), (run.learned.image_only, run.fresh.image_only)
    found = {
        "c_from_s": ridge_r2(learned.shared, c[0], fresh.shared, c[1]),
        "a_from_s": ridge_r2(learned.shared, a[0], fresh.shared, a[1]),
        "a_from_x": ridge_r2(learned.exclusive, a[0], fresh.exclusive, a[1]),
        "c_from_x": ridge_r2(learned.exclusive, c[0], fresh.exclusive, c[1]),
    }
    if not quick:
        found["c_from_x_network"] = mlp_r2(learned.exclusive, c[0], fresh.exclusive, c[1], seed=seed)
        found["information"] = critic_information(*fresh.draws, seed=seed)
    decode = model.exclusive["image"].decoded
    found["c_swapped"], found["a_swapped"] = swapped_r2(decode, fresh.shared, fresh.exclusive, c[1], a[1], seed=seed)
    other = codes(model, run.fresh.pairs, "text")
    similarity = unit_length(fresh.shared[:1000]) @ unit_length(other.shared[:1000]).T
    found["recall"] = (similarity.argmax(1) == torch.arange(1000)).double().mean().item()
    found["bound"] = info_nce_bound(similarity, TEMPERATURE)
    clean = run.noisy.is_clean
    if not clean.all():
        found["filter"] = ((run.method.pair_confidence[0] > 0.5) == clean).double().mean().item()
        found["auroc"] = detection_metrics(run.method.confidence(run.loaders), clean).auroc
    return found


def run_one(path: Path, options: Mapping[str, Any], noise: float, seed: int) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*collapsed at epoch")
    began = time.process_time()
    try:
        trained = train(options, noise, seed)
    except TrainingError as error:
        found: dict[str, Any] = {"failed": str(error)}
    else:
        seconds = time.process_time() - began
        found = measure(trained, seed) | {"seconds": seconds, "notes": list(trained.method.notes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    print(
        path.stem, found.get("failed") or {name: round(found[name], 3) for name in COLUMNS if name in found}, flush=True
    )


def row(name: str, runs: list[dict[str, Any]]) -> str:
    failed = [run["failed"] for run in runs if "failed" in run]
    runs = [run for run in runs if "failed" not in run]
    if not runs:
        return f"| {name} | {len(failed)} | " + failed[0].split(";")[0] + " |" * (len(COLUMNS) - 0)
    cells = []
    for column in COLUMNS:
        values = [run[column] for run in runs if column in run]
        digits = 0 if column == "seconds" else 3
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.{digits}f}{spread}" if values else "–")
    return f"| {name} | {len(runs)} | " + " | ".join(cells) + " |"


def results(out: Path, name: str, seeds: range) -> list[dict[str, Any]]:
    paths = [out / f"{name}_{seed}.json" for seed in seeds]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def draw(out: Path, path: Path) -> None:
    """What leaks against what is kept: weights of both penalties, and the three presets."""
    import matplotlib.pyplot as plt

    from truepair.pages.svg import STYLE

    colours = {"adversary": "#31688e", "correlations": "#c2542d"}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
        nothing = results(out, "no_penalty_0", range(3))
        axes.scatter(*points(nothing), color="#222222", marker="s", zorder=3)
        axes.annotate("no penalty", middle(nothing), (0, 14), textcoords="offset points", ha="center")
        for name, sweep in SWEEPS.items():
            weights = [next(value for key, value in options.items() if key.endswith("_weight")) for options in sweep]
            groups = [results(out, f"{name}_{weight:g}", range(3)) for weight in weights]
            groups = [group for group in groups if group]
            axes.plot(*zip(*map(middle, groups), strict=True), color=colours[name], lw=1.2)
            for weight, group in zip(weights, groups, strict=False):
                axes.scatter(*points(group), color=colours[name], s=22, zorder=3)
                label = f"{'η_adv' if name == 'adversary' else 'η_cov'} = {weight:g}"
                offset = (-4, 7) if name == "adversary" else (4, -14)
                side = "right" if name == "adversary" else "left"
                axes.annotate(
                    label, middle(group), offset, textcoords="offset points", ha=side, color=colours[name], size=9.5
                )
        axes.set(
            xlabel="R² of exclusive factors from the exclusive code (kept; ridge)",
            ylabel="R² of shared factors from it (leak; network)",
            yscale="log",
            ylim=(0.05, 1),
            yticks=[0.05, 0.1, 0.2, 0.5, 1],
            yticklabels=["0.05", "0.1", "0.2", "0.5", "1"],
        )
        axes.margins(x=0.14)
        figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)


def points(runs: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [run["a_from_x"] for run in runs], [run["c_from_x_network"] for run in runs]


def middle(runs: list[dict[str, Any]]) -> tuple[float, float]:
    kept, leak = points(runs)
    return statistics.mean(kept), statistics.mean(leak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/disentangling"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--draw", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out
    tasks = [
        (out / f"{slug(name)}_{noise:g}_{seed}.json", SYSTEMS[name], noise, seed)
        for seed in range(3)
        for noise in (0.0, 0.4)
        for name in ("no penalty", "paper_like", "cov")
    ]
    for seed in range(3):
        tasks += [(out / f"{slug(name)}_0_{seed}.json", options, 0.0, seed) for name, options in SYSTEMS.items()]
        for name, sweep in SWEEPS.items():
            for options in sweep:
                weight = next(value for key, value in options.items() if key.endswith("_weight"))
                tasks.append((out / f"{name}_{weight:g}_{seed}.json", options, 0.0, seed))
    with ProcessPoolExecutor(arguments.jobs) as pool:
        missing = {task[0]: task for task in tasks if not task[0].exists()}
        waiting = [pool.submit(run_one, *task) for task in missing.values()]
        for done in waiting:
            done.result()
    for noise in (0.0, 0.4):
        print(f"\n### {100 * noise:.0f} % noise\n")
        print("| system | seeds | " + " | ".join(COLUMNS.values()) + " |")
        print("| --- " * (len(COLUMNS) + 2) + "|")
        for name in SYSTEMS:
            runs = results(out, f"{slug(name)}_{noise:g}", range(3))
            if runs:
                print(row(name, runs))
    if arguments.draw:
        draw(out, PICTURE)


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


if __name__ == "__main__":
    main()
