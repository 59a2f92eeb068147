"""An audit of a million embedding pairs: how long, how much memory, and how well the mismatched fifth is found.

    python benchmarks/audit_million.py runs/million                        # make the pairs unless they are there; audit
    python benchmarks/audit_million.py runs/small --pairs 50000 --threads 1
    python benchmarks/audit_million.py runs/million --repetitions 1  # options of the command go on to it

The folder then holds ``pairs/``, which ``truepair audit`` reads (images.npy and captions.npy, float16, one pair a row),
with the truth beside it in ``truth.npz``, and ``audit/``. The audit is the command in a process of its own, so that its
memory is its own.

Image and caption share 32 latent dimensions, which lie in clusters, so that pairs have neighbours. Each side adds what
only it shows to the latent vector, takes that through a random linear map of its own to 512 dimensions, and adds noise
to every value. 20 % of the captions have gone round among themselves. How well a judge could tell them who knew each
side's latent vector, though not the clusters, is printed beside the audit's AUROC: the likelihood ratio of a matching
and a random pair.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score

from truepair.cleaning.summary import read_summary
from truepair.evaluation.detection import detection_metrics

LATENT, WIDTH = 32, 512
CLUSTER = 50  # pairs, on average
WITHIN, OWN, NOISE = 0.5, 1.0, 0.5  # standard deviations: in a cluster (its centres' is 1), of one side only, of values
RATE = 0.2
ROWS_AT_A_TIME = 1 << 14


def make(folder: Path, pairs: int, seed: int) -> None:
    """Write ``pairs/`` and ``truth.npz``; the latter, which comes last, tells that all of it is there."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, pairs // CLUSTER), LATENT), np.float32)
    shared = centres[random.integers(len(centres), size=pairs)]
    shared += np.float32(WITHIN) * random.standard_normal(shared.shape, np.float32)
    images, captions = (
        shared + np.float32(OWN) * random.standard_normal(shared.shape, np.float32) for _ in ("image", "caption")
    )
    moved = random.permutation(pairs)[: round(RATE * pairs)]
    captions[moved] = captions[np.roll(moved, 1)]
    is_clean = np.ones(pairs, dtype=bool)
    is_clean[moved] = False

    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    for name, latent in (("images", images), ("captions", captions)):
        to_features = random.standard_normal((LATENT, WIDTH), np.float32) / np.float32(LATENT**0.5)
        with (folder / "pairs" / f"{name}.npy").open("wb") as file:  # written, not mapped: a map is resident memory
            header = {"descr": "<f2", "fortran_order": False, "shape": (pairs, WIDTH)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, pairs, ROWS_AT_A_TIME):
                values = latent[start : start + ROWS_AT_A_TIME] @ to_features
                values += np.float32(NOISE) * random.standard_normal(values.shape, np.float32)
                file.write(values.astype("<f2").tobytes())
    ideal = roc_auc_score(is_clean, log_likelihood_ratio(images, captions))
    np.savez(folder / "truth.npz", is_clean=is_clean, ideal_auroc=ideal, seed=seed)


def log_likelihood_ratio(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Of a matching and of a random pair, up to a constant, if the shared part is normal: [pairs]."""
    variance = 1 + WITHIN**2 + OWN**2
    correlation = (1 + WITHIN**2) / variance
    squares, products = (images**2 + captions**2).sum(1), (images * captions).sum(1)
    return (correlation * products - correlation**2 * squares / 2) / (variance * (1 - correlation**2))


def audit(folder: Path, threads: int | None, options: list[str]) -> float:
    """Run the command on ``pairs/``; how many seconds it takes from beginning to end."""
    limit = "" if threads is None else f"import torch; torch.set_num_threads({threads}); "
    command = [sys.executable, "-c", f"{limit}import sys; from truepair.cli.main import main; sys.exit(main())"]
    started = time.perf_counter()
    subprocess.run([*command, "audit", str(folder / "pairs"), "--out", str(folder / "audit"), *options], check=True)
    return time.perf_counter() - started


def report(folder: Path, seconds: float) -> str:
    """What the audit's folder and the truth say, as Markdown."""
    summary = read_summary(folder / "audit")
    truth = np.load(folder / "truth.npz")
    found = pq.read_table(folder / "audit" / "findings.parquet", columns=["caption_id", "mismatch_probability"])
    row = np.array([int(name.removeprefix("caption-")) for name in found["caption_id"].to_pylist()])
    confidence = torch.from_numpy(1 - found["mismatch_probability"].to_numpy())
    measured = detection_metrics(confidence, torch.from_numpy(truth["is_clean"][row]))
    lines = {
        "pairs": f"{summary.pairs:,} × {WIDTH} dimensions",
        "hardware": summary.hardware,
        "seconds, with reading and writing": f"{seconds:,.0f}",
        "seconds by the audit's own count": f"{summary.seconds:,.0f}",
        "peak memory, MB": f"{summary.peak_memory_mb:,.0f}",
        "AUROC": f"{measured.auroc:.4f} (by the latent vectors: {truth['ideal_auroc']:.4f})",
        "average precision": f"{measured.average_precision:.4f}",
        "expected calibration error": f"{measured.expected_calibration_error:.4f}",
        "estimated rate": f"{summary.estimated_noise_rate:.4f} (true: {measured.true_noise_rate:.4f})",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in lines.items())])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--pairs-seed", type=int, default=0, help="of the pairs; --seed is the audit's")
    parser.add_argument("--threads", type=int, help="all if not given")
    arguments, options = parser.parse_known_args()
    if not (arguments.folder / "truth.npz").exists():
        make(arguments.folder, arguments.pairs, arguments.pairs_seed)
    elif len(np.load(arguments.folder / "truth.npz")["is_clean"]) != arguments.pairs:
        parser.error(f"{arguments.folder} holds another number of pairs: choose a new folder")
    print(report(arguments.folder, audit(arguments.folder, arguments.threads, options)))


if __name__ == "__main__":
    main()
