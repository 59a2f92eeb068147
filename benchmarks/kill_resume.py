"""Kill a training run again and again, resume it each time, and compare the end with that of a run left in peace.

    python benchmarks/kill_resume.py --kills 20
    python benchmarks/kill_resume.py --kills 20 --method mscn

Each kill is a SIGKILL to a process that trains CRCL over two stages, both networks of MSCN with its meta steps and
purified sets, two networks of DisNCL with their critics, or the teacher with its confidences; with averaged weights,
input dropout and injected noise: at a random moment, or (every other one) as soon as a file is being written. Weights,
optimiser, correspondences, random generators, log and results must come out the same, bit for bit. Exits with 1 if they
do not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.metrics  # noqa: F401  imported once, before any fork; detection metrics need it at a run's end
import torch
from latent_factors import latent_factor_pairs

from truepair.config import (
    CrclConfig,
    DisnclConfig,
    ModelConfig,
    MscnConfig,
    NoiseConfig,
    OptimisationConfig,
    Recipe,
    TeacherConfig,
    TrainingConfig,
    TrustedConfig,
)
from truepair.data.corpora import Corpus
from truepair.data.pairs import Splits
from truepair.files.checkpoint import load_checkpoint
from truepair.training.log import read_log
from truepair.training.run import run

MEASURED = {"seconds", "cpu_seconds", "peak_memory_mb"}
"""What no two runs have in common."""


def recipe(method: str, epochs: int) -> Recipe:
    """A second part, CRCL's stage or what follows MSCN's warm-up, begins after a fifth of the epochs: early enough."""
    first, optimisation = epochs // 5, OptimisationConfig(weight_average=0.9)
    methods = {
        "crcl": CrclConfig(stages=(first - 2, epochs - first - 2), optimisation=optimisation),
        "mscn": MscnConfig(
            warmup_epochs=first, purified_epochs=epochs - first, calibrate=True, optimisation=optimisation
        ),
        "disncl": DisnclConfig(
            warmup_epochs=first, main_epochs=epochs - first, networks=2, critics_from=1, optimisation=optimisation
        ),
        "teacher": TeacherConfig(warmup_epochs=first, epochs=epochs, optimisation=optimisation),
    }
    return Recipe(
        noise=NoiseConfig(rate=0.4),
        trusted=TrustedConfig(source="development" if method == "mscn" else "none"),
        model=ModelConfig(embedding=128, input_dropout=0.1, **({"similarity_size": 32} if method == "mscn" else {})),
        method=methods[method],
        training=TrainingConfig(batch_size=32, device="cpu"),
    )


def train(folder: Path, method: str, epochs: int) -> None:
    """What the killed process does; the same whether it starts or resumes."""
    torch.set_num_threads(1)
    splits = [latent_factor_pairs(count, world_seed=0, draw_seed=count).pairs for count in (301, 80, 90)]
    run(recipe(method, epochs), folder, Corpus(Splits(*splits, name="latent factors"), None, []))


def process(folder: Path, method: str, epochs: int) -> multiprocessing.Process:
    """A started process. Forked, so that a start takes milliseconds; this process itself never trains."""
    started = multiprocessing.get_context("fork").Process(target=train, args=(folder, method, epochs))
    started.start()
    return started  # type: ignore[return-value]


def parts(folder: Path) -> set[tuple[str, int]]:
    """Files that are being written, or were when an earlier process was killed: name and time of the last change."""
    found = set()
    for path in folder.glob("*.part"):
        with suppress(FileNotFoundError):  # complete, and renamed, in this very moment
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def await_file(folder: Path, stale: set[tuple[str, int]], count: int, writer: multiprocessing.Process) -> None:
    """Return while `writer` is writing its `count`-th file, or when it has ended."""
    writing: set[str] = set()
    while writer.is_alive():
        now = {name for name, _ in parts(folder) - stale}
        count -= len(now - writing)
        writing = now
        if count <= 0:
            return


def epochs_done(folder: Path) -> int:
    """As the checkpoint says."""
    last = folder / "last.safetensors"
    return load_checkpoint(last)["state"]["epoch"] if last.exists() else 0


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves, without what was measured."""
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "last": without_measurements(load_checkpoint(folder / "last.safetensors")),
        "best": load_checkpoint(folder / "best.safetensors"),
        "log": without_measurements(read_log(folder / "log.jsonl")),
        "pairs": (folder / "pairs.parquet").read_bytes(),
        "results": without_measurements(json.loads((folder / "results.json").read_text(encoding="utf-8"))),
    }


def without_measurements(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_measurements(item) for key, item in value.items() if key not in MEASURED}
    return [without_measurements(item) for item in value] if isinstance(value, list) else value


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two outcomes are not the same bits."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [text for key in a for text in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        return [text for place in range(len(a)) for text in differences(a[place], b[place], f"{where}/{place}")]
    return [] if a == b else [where]


def count_tensors(value: Any) -> int:
    if isinstance(value, (dict, list, tuple)):
        return sum(map(count_tensors, value.values() if isinstance(value, dict) else value))
    return int(isinstance(value, torch.Tensor))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill (default: 20)")
    names = ["crcl", "disncl", "mscn", "teacher"]
    parser.add_argument("--method", choices=names, default="crcl", help="what is trained")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    arguments = parser.parse_args()
    epochs = 12 + 2 * arguments.kills  # more than a run gets through between kills
    random = np.random.default_rng(arguments.seed)
    work = Path(tempfile.mkdtemp(prefix="kill_resume_"))
    try:
        started = time.perf_counter()
        reference = process(work / "peace", arguments.method, epochs)
        reference.join()
        total = time.perf_counter() - started
        if reference.exitcode:
            return 1
        training = load_checkpoint(work / "peace" / "last.safetensors")["state"]["seconds"]
        print(f"left in peace: {epochs} epochs in {training:.2f} s, {total - training:.2f} s for the rest")

        killed, folder = 0, work / "killed"
        while killed < arguments.kills:
            stale = parts(folder)
            victim = process(folder, arguments.method, epochs)
            if killed % 2:
                await_file(folder, stale, random.integers(1, 6), victim)
            else:
                victim.join(random.uniform(0, (total - training) / 2 + 2 * training / epochs))
            victim.kill()
            victim.join()
            if victim.exitcode == 0:  # it finished first
                break
            killed += 1
            half_written = ", ".join(name for name, _ in parts(folder) - stale) or "nothing"
            print(f"kill {killed}: after epoch {epochs_done(folder)} of {epochs}, half written: {half_written}")
        final = process(folder, arguments.method, epochs)
        final.join()
        if final.exitcode:
            print(f"FAILED: the last resume ended with {final.exitcode}")
            return 1

        peace, resumed = outcome(work / "peace"), outcome(folder)
        different = differences(peace, resumed)
        tensors = count_tensors(peace)
        if different:
            print(f"DIFFERENT after {killed} kills: {', '.join(different)}")
            return 1
        print(f"{killed} kills of {arguments.kills}: {tensors} tensors, log and results equal bit for bit")
        return int(killed == 0)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
