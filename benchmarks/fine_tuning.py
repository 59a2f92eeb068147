"""Fine-tuning under noise: projections alone, the text side by low-rank updates and in full, both sides; and its speed.

    python benchmarks/fine_tuning.py STORE --out runs/tuning                    # train what is missing
    python benchmarks/fine_tuning.py STORE --out runs/tuning --ways "text full" --systems teacher --rates 0.4
    python benchmarks/fine_tuning.py STORE --out runs/tuning --collect benchmarks/results/fine_tuning.json
    python benchmarks/fine_tuning.py STORE --throughput benchmarks/results/fine_tuning_speed.json

STORE is made by `truepair embed` of a table with a column `split`. Runs have all of its images, and the first captions
of each training and development image (`Way.captions`); test images have all of theirs. Every system of a way has as
many passes. Each run is a process of its own, on one thread; a run that is there is not trained again.

--throughput times steps of plain training with both networks in full against forward and backward passes of the bare
networks over the same tensors, which take turns in one process on one thread; and decoding, with and without a worker.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from accuracy import MSCN, WARMER
from runs import Options, numbers_in, train

BATCH = 64
COMMON: Options = {
    "model.projection": "plain",
    "model.feature_scaling": "auto",
    "model.input_dropout": 0.4,
    "model.embedding": 512,
    "method.optimisation.learning_rate": 1.5e-3,
    "method.optimisation.schedule": "cosine",
    "method.optimisation.weight_average": 0.95,
    "training.batch_size": BATCH,
    "training.device": "cpu",
}
TUNED: Options = {
    "training.precision": "bf16-mixed",
    "model.tower_learning_rate_factor": 1.0,
    "method.optimisation.learning_rate": 2e-3,
}
BOTH: Options = TUNED | {"model.text": "full", "model.image": "full", "training.precision": "32-true"}


@dataclass(frozen=True)
class Way:
    """What learns, and for how long.

    Attributes:
        options: Of the backbone.
        frozen: Passes over vectors that the networks give as they came (`model.projection_epochs`).
        passes: Passes in which all learn.
        images: The first so many training images; None for all.
        captions: The first so many captions of each training and development image.
    """

    options: Options
    frozen: int
    passes: int
    images: int | None = None
    captions: int = 2


WAYS: Mapping[str, Way] = {
    "projections": Way({"data.text": "features"}, 0, 10),
    "projections and words": Way({"data.text": "both", "model.words": "mean", "model.word_vectors": "captions"}, 0, 10),
    "text lora": Way(TUNED | {"model.text": "lora"}, 5, 2),
    "text full": Way(TUNED | {"model.text": "full"}, 5, 2),
    "text full, longer": Way(TUNED | {"model.text": "full"}, 9, 3),
    "projections, 500 images": Way({"data.text": "features"}, 0, 10, images=500),
    "text full, 500 images": Way(TUNED | {"model.text": "full"}, 5, 2, images=500),
    "both full": Way(BOTH, 5, 2),
    "both full, longer": Way(BOTH, 9, 3),
    "both full, six passes": Way(BOTH | {"model.tower_learning_rate_factor": 0.3}, 5, 6),
    "both full, 500 images": Way(BOTH, 5, 2, images=500),
    "projections, five captions": Way({"data.text": "features"}, 0, 10, captions=5),
    "text full, five captions": Way(TUNED | {"model.text": "full"}, 5, 2, captions=5),
    "text lora, five captions": Way(TUNED | {"model.text": "lora"}, 5, 2, captions=5),
    "both full, five captions": Way(BOTH, 5, 2, captions=5),
    "both full, five captions, slower": Way(BOTH | {"model.tower_learning_rate_factor": 0.3}, 5, 2, captions=5),
}
SYSTEMS: Mapping[str, Options] = {
    "plain": WARMER | {"method.name": "baseline"},
    "CRCL": WARMER | {"method.name": "crcl"},
    "MSCN": MSCN,
    "DisNCL": {"method.name": "disncl"},
    "teacher": {"method.name": "teacher"},
    "plain oracle": WARMER | {"method.name": "baseline", "training.oracle": "clean_pairs"},
}
FOLD_EPOCHS = 5
RATES = (0.4, 0.0)


@dataclass(frozen=True)
class Run:
    """One cell of the table, with one seed."""

    way: str
    system: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return re.sub(r"[^a-z0-9.]+", "_", f"{self.way} {self.system} {100 * self.rate:.0f} {self.seed}".lower())

    @property
    def options(self) -> Options:
        """All options of the run but where the data are."""
        way = WAYS[self.way]
        noise = {"noise.rate": self.rate, "noise.seed": self.seed, "training.seed": self.seed}
        return COMMON | way.options | schedule(self.system, way) | SYSTEMS[self.system] | noise


def schedule(system: str, way: Way) -> Options:
    """Passes of a way, by the options of a method; networks of the folds have theirs besides."""
    epochs, frozen = way.frozen + way.passes, way.frozen
    if system == "CRCL":
        options: dict[str, Any] = {"method.stages": (epochs - 2,)}
    elif system == "MSCN":
        options = {"method.warmup_epochs": epochs // 3, "method.purified_epochs": epochs - epochs // 3}
        sizes = ("method.warmup_batch_size", "method.meta_batch_size")
        options |= dict.fromkeys(sizes, BATCH)
    elif system == "DisNCL":
        options = {"method.warmup_epochs": epochs // 3, "method.main_epochs": epochs - epochs // 3}
    elif system == "teacher":
        options = {"method.epochs": epochs, "method.folds": 2, "method.fold_epochs": FOLD_EPOCHS}
        frozen += FOLD_EPOCHS if frozen else 0
    else:
        options = {"method.epochs": epochs}
    return options | ({"model.projection_epochs": frozen} if frozen else {})


def wanted(ways: Sequence[str], systems: Sequence[str], rates: Sequence[float], seeds: Sequence[int]) -> Iterable[Run]:
    """Every run, one seed after the other; without noise, an oracle is plain training."""
    return [
        Run(way, system, rate, seed)
        for seed in seeds
        for rate in rates
        for way in ways
        for system in systems
        if rate or system != "plain oracle"
    ]


# --- The corpus -------------------------------------------------------------------------------------------------------


def corpus(store: Path, out: Path, way: Way) -> Path:
    """A table of the chosen captions, with the vectors of its captions and images beside it; kept beside the runs."""
    import numpy as np

    folder = out / f"corpus_{way.images or 'all'}_{way.captions}"
    if (folder / "table.csv").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    table = Path(json.loads((store / "embeddings.json").read_text())["source"]["path"])
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept = _chosen(rows, way)
    files = {file: place for place, file in enumerate(dict.fromkeys(row["file"] for row in rows))}
    for name, places in (
        ("captions.npy", kept),
        ("images.npy", list(dict.fromkeys(files[rows[place]["file"]] for place in kept))),
    ):
        np.save(folder / name, np.load(store / name, mmap_mode="r")[places])
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "caption", "split"])
        writer.writeheader()
        writer.writerows(rows[place] | {"file": table.parent.resolve() / rows[place]["file"]} for place in kept)
    return folder


def _chosen(rows: Sequence[Mapping[str, str]], way: Way) -> list[int]:
    """The rows of the chosen captions."""
    of_image: dict[str, int] = {}
    learned: set[str] = set()
    kept = []
    for place, row in enumerate(rows):
        file, split = row["file"], row["split"]
        if split == "train" and file not in learned:
            if way.images is not None and len(learned) == way.images:
                continue
            learned.add(file)
        of_image[file] = of_image.get(file, 0) + 1
        if split not in ("train", "dev") or of_image[file] <= way.captions:
            kept.append(place)
    return kept


def options_of(run: Run, store: Path, out: Path) -> Options:
    """All options of a run."""
    folder = corpus(store, out, WAYS[run.way])
    where = {"data.path": folder / "table.csv"}
    if "model.image" not in run.options:
        where["data.image_features"] = folder / "images.npy"
    if "model.text" not in run.options:
        where["data.caption_features"] = folder / "captions.npy"
    source = {"data.source.split_col": "split", "data.source.allow_outside": True}
    return {**{name: str(path) for name, path in where.items()}, **source, **run.options}


# --- The table --------------------------------------------------------------------------------------------------------


def row_of(run: Run, folder: Path) -> list[str] | None:
    """A row of the table; None if the run has not finished."""
    found, way = numbers_in(folder), WAYS[run.way]
    if found is None:
        return None
    auroc = found["detection"]["auroc"]
    passes = f"{way.frozen} + {way.passes}" if way.frozen else f"{way.passes}"
    return [
        run.way,
        f"{100 * run.rate:.0f} %",
        run.system,
        str(run.seed),
        passes,
        f"{found['test']['rsum']:.1f}",
        "–" if auroc is None or not run.rate or run.system == "plain oracle" else f"{auroc:.3f}",
        f"{found['cpu_seconds']:.0f}",
        f"{found['peak_memory_mb']:,.0f}",
    ]


def collected(out: Path) -> dict[str, Any]:
    """What `tables.Result` reads."""
    runs = wanted([*WAYS], [*SYSTEMS], RATES, range(3))
    rows = [row for run in runs if (row := row_of(run, out / run.name)) is not None]
    return {
        "title": "[Fine-tuning](../docs/finetuning.md) under noise",
        "what": WHAT,
        "command": "python benchmarks/fine_tuning.py STORE --out runs/tuning",
        "machine": "one thread of two cores that others used",
        "columns": ["what learns", "noise", "system", "seed", "passes", "rSum", "AUROC", "CPU s", "peak MB"],
        "rows": rows,
    }


WHAT = (
    "2,500 training images of Flickr8K with two captions each (or five), 500 test images with five, EfficientNet-Lite0 "
    "and MiniLM, batch 64; projections: 10 passes; networks: 5 passes frozen and 2 in full (six passes: 5 and 6, the "
    "networks with 0.3 of the projections' learning rate), bf16-mixed; projections: three seeds; cells: test rSum / "
    "AUROC (CPU s)"
)


# --- Speed ------------------------------------------------------------------------------------------------------------


def throughput(store: Path, steps: int) -> dict[str, Any]:
    """What `tables.Result` reads: items a second of a training step, of its floor, and of decoding."""
    import torch

    from truepair.config import DataConfig, ModelConfig, SourceConfig
    from truepair.data.corpora import load_corpus

    torch.set_num_threads(1)
    table = json.loads((store / "embeddings.json").read_text())["source"]["path"]
    data = DataConfig(table, SourceConfig(split_col="split", allow_outside=True))
    model = ModelConfig(image="full", text="full", projection="plain", feature_scaling="auto", embedding=512)
    corpus = load_corpus(data, model)
    said = []
    for precision in ("32-true", "bf16-mixed"):
        step, floor, images = _steps(corpus, model, precision, steps)
        said.append(f"{step:.2f} ({images / step:.1f}); {floor:.2f} ({images / floor:.1f}); {step / floor:.2f}")
    what = "a step of 64 pairs, 32-true / bf16-mixed: CPU s (pictures/s); the bare networks alone; ratio"
    rows = [[what, " / ".join(said)]]
    alone, waited = (_decoding(corpus, workers, steps, step) for workers in (0, 1))
    rows.append(
        ["decoding the pictures of a step: in the process; waited for, with a worker", f"{alone:.2f}; {waited:.2f} s"]
    )
    return {
        "title": "A training step from pixels and tokens",
        "command": "python benchmarks/fine_tuning.py STORE --throughput FILE",
        "machine": "one thread of two cores that others used",
        "columns": ["what", "measured"],
        "rows": rows,
    }


def _steps(corpus: Any, model: Any, precision: Any, steps: int) -> tuple[float, float, int]:
    """Median CPU seconds of a step of plain training without reading, and of its floor; and pictures of a batch."""
    import torch

    from truepair.config import OptimisationConfig, TrainingConfig
    from truepair.data.loader import Loaders
    from truepair.encoders.towers import load_image_tower, load_text_tower
    from truepair.losses.contrastive import info_nce
    from truepair.model import InputShape, make_model
    from truepair.optimisation import Optimiser
    from truepair.training.device import training_fabric

    train = corpus.splits.train
    loaders = Loaders(train, BATCH, seed=0, device=torch.device("cpu"))
    batches = [*islice(loaders.train(0), 2)]
    towers = [load_image_tower(model.image_encoder), load_text_tower(model.text_encoder).train()]
    for tower in towers:
        tower.requires_grad_(True)
    with training_fabric(TrainingConfig(device="cpu", precision=precision)) as fabric:
        network = make_model(model, InputShape.of(train, None))
        optimiser = Optimiser(network, OptimisationConfig(weight_average=0.99), 1, fabric)
        network.train()

        def step(batch: Any) -> None:
            optimiser.step(info_nce(optimiser.model(batch), 0.07), 0.0)

        def floor(batch: Any) -> None:
            with fabric.autocast():
                vectors = [tower(items) for tower, items in zip(towers, (batch.images, batch.captions), strict=True)]
            sum(each.float().sum() for each in vectors).backward()

        taken = [[_seconds(work, batches[turn % 2]) for work in (step, floor)] for turn in range(steps + 1)][1:]
    of_step, of_floor = (statistics.median(each) for each in zip(*taken, strict=True))
    return of_step, of_floor, len(batches[0].images.values)


def _seconds(work: Callable[[Any], object], batch: Any) -> float:
    start = time.process_time()
    work(batch)
    return time.process_time() - start


def _decoding(corpus: Any, workers: int, steps: int, step: float) -> float:
    """Median seconds by the clock until a batch is there, where steps take a while."""
    import torch

    from truepair.data.loader import Loaders

    loaders = Loaders(corpus.splits.train, BATCH, seed=0, device=torch.device("cpu"), workers=workers)
    batches, waited = loaders.train(0), []
    for _ in range(steps + 1):
        start = time.perf_counter()
        next(batches)
        waited.append(time.perf_counter() - start)
        time.sleep(step)
    return statistics.median(waited[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"), help="the folder of all runs")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[*WAYS])
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=[*SYSTEMS])
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0,))
    parser.add_argument("--collect", type=Path, help="train nothing, write the table of all runs into this file")
    parser.add_argument("--throughput", type=Path, help="train nothing, measure speed and write it into this file")
    parser.add_argument("--steps", type=int, default=5, help="steps of --throughput")
    arguments = parser.parse_args()
    if arguments.collect or arguments.throughput:
        found = collected(arguments.out) if arguments.collect else throughput(arguments.store, arguments.steps)
        (arguments.collect or arguments.throughput).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        return
    for run in wanted(arguments.ways, arguments.systems, arguments.rates, arguments.seeds):
        train(options_of(run, arguments.store, arguments.out), arguments.out / run.name)


if __name__ == "__main__":
    main()
