"""The ladder: what noise costs each system, and what the truth would buy.

    python benchmarks/accuracy.py FOLDER --out runs/ladder            # train what is missing, then print the tables
    python benchmarks/accuracy.py FOLDER --out runs/ladder --table    # print the tables of what there is
    python benchmarks/accuracy.py FOLDER --out runs/ladder --similarity saf --batch-size 32 --stages 8 --frozen-epochs 4

FOLDER holds precomputed region features in SCAN's layout, or is "demo", the corpus that ships with truepair. Every
system of a table has the same backbone (embedding 128; VSE∞, whose cosine MSCN takes in 32 parts, or SAF or SGR with
similarity vectors of 64), the same options and at most so many data passes; the best epoch by development rSum counts.
Each run is a process of its own, on one thread. --paper takes the options of the papers: step size 5e-4, no input
dropout, CRCL in three stages. --regularised gives every system what the default method has beside its loss: input
dropout 0.4, word vectors from the captions with dropout 0.2, averaged weights, a step size of 5e-4 that does not fall.
--pooled averages an image's regions to one vector and a caption's word vectors too, embedding 256. The folder is then
named by both, as in cosine_pooled_regularised.
--similarity sgraf trains nothing: it averages the SAF and SGR runs that are there.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COMMON = {"model.embedding": "128", "training.device": "cpu"}
VECTORS = {"cosine": "32", "saf": "64", "sgr": "64"}
# Chosen on development pairs, for CRCL with VSE∞ at 80 % and 40 % noise, and given to every system alike.
TUNED = {"model.input-dropout": "0.2", "method.optimisation.learning-rate": "0.001"}
# What the default method has beside its loss and its judgement, given to every system alike.
REGULARISED = {
    "model.input-dropout": "0.4",
    "model.word-vectors": "captions",
    "model.word-vector-dropout": "0.2",
    "method.optimisation.weight-average": "0.99",
    "method.optimisation.learning-rate": "0.0005",
}
POOLED = {"model.words": "mean", "model.embedding": "256"}
# Plain training only falls after its best epoch: it stops when a third of the passes have not improved it.
INFO_NCE = {"method.name": "baseline", "method.loss": "info_nce"}
LOSS_ALONE = {"method.name": "crcl", "method.no-refine": ""}
# As released, MSCN learns little or collapses in so few passes (see RESULTS.md): "as released" keeps to that.
RELEASED_MSCN = {"method.name": "mscn", "trusted.source": "development", "method.meta-interval": "4"}
MSCN = RELEASED_MSCN | {"method.warmup-negatives": "smooth", "method.negatives": "smooth", "method.calibrate": ""}
MSCN |= {"method.purify-above": "0.99", "method.meta-learning-rate": "0.0001"}
DISNCL = {"method.name": "disncl"}
TEACHER = {"method.name": "teacher"}
SYSTEMS = {
    "teacher": TEACHER,
    "teacher, no soft targets": TEACHER | {"method.target-weight": "0"},
    "teacher, random word vectors": TEACHER | {"model.word-vectors": "random"},
    "teacher, no input dropout": TEACHER | {"model.input-dropout": "0"},
    "teacher, last weights": TEACHER | {"method.optimisation.weight-average": "0.001"},
    "teacher, no word dropping": TEACHER | {"model.word-dropping": "0"},
    "teacher, no complementary loss": TEACHER | {"method.negative-weight": "0"},
    "teacher, noise at image level": TEACHER | {"noise.level": "image"},
    "teacher, noisy development pairs": TEACHER | {"noise.development": ""},
    "teacher, hard noise": TEACHER | {"noise.partners": "similar"},
    "CRCL": {"method.name": "crcl"},
    "CRCL, noise at image level": {"method.name": "crcl", "noise.level": "image"},
    "CRCL, hard noise": {"method.name": "crcl", "noise.partners": "similar"},
    "MSCN": MSCN,
    "MSCN, pairs believed to 90 %": MSCN | {"method.purify-above": "0.9"},
    "MSCN, 0.5 % trusted": MSCN | {"trusted.share": "0.005"},
    "MSCN, 5 % trusted": MSCN | {"trusted.share": "0.05"},
    "MSCN, none trusted": MSCN | {"trusted.source": "none"},
    "MSCN, one network": MSCN | {"method.networks": "1"},
    "MSCN, no meta step": MSCN | {"method.no-meta-step": ""},
    "MSCN, no purification": MSCN | {"method.no-purify": ""},
    "MSCN, negatives and head as released": RELEASED_MSCN,
    "DisNCL": DISNCL,
    "DisNCL, cov": DISNCL | {"method.preset": "cov"},
    "DisNCL, no penalty": DISNCL | {"method.preset": "none"},
    "DisNCL, x_input_detach": DISNCL | {"method.x-input-detach": ""},
    "DisNCL, no exclusive codes": DISNCL | {"method.no-exclusive-branch": ""},
    "DisNCL, no soft targets": DISNCL | {"method.no-soft-targets": ""},
    "DisNCL, no filtering": DISNCL | {"method.no-filtering": ""},
    "DisNCL, no alignment": DISNCL | {"method.alignment-weight": "0"},
    "DisNCL, two networks": DISNCL | {"method.networks": "2"},
    "plain oracle": INFO_NCE | {"training.oracle": "clean_pairs"},
    "plain InfoNCE": INFO_NCE,
    "ACL without SCC": LOSS_ALONE,
    "CRCL oracle": LOSS_ALONE | {"training.oracle": "true_correspondence"},
    "hardest triplet": INFO_NCE | {"method.loss": "triplet_hardest"},
}
SAME_WITHOUT_NOISE = {"plain oracle": "plain InfoNCE", "CRCL oracle": "ACL without SCC"}
RATES = (0.4, 0.8, 0.2, 0.6, 0.0)
Run = tuple[str, float, int]


def wanted() -> Iterable[Run]:
    """Every run of the ladder; what the rest is measured against comes first."""
    main = ("teacher", "CRCL", "plain InfoNCE", "plain oracle", "DisNCL", "MSCN")
    runs = [(system, rate, seed) for seed in range(3) for rate in RATES for system in main]
    runs += [(system, 0.4, seed) for system in SYSTEMS for seed in range(3)]
    runs += [(system, rate, seed) for system in SYSTEMS for rate in RATES for seed in range(3)]
    return dict.fromkeys(run for run in runs if run[1] or run[0] not in SAME_WITHOUT_NOISE)


def folder_of(out: Path, run: Run) -> Path:
    system, rate, seed = run
    name = re.sub(r"[^a-z0-9.]+", "_", system.lower()).strip("_")
    return out / f"{name}_{100 * rate:.0f}_{seed}"


def schedule(system: str, passes: int, stages: Sequence[int], frozen: int, options_of_papers: bool) -> dict[str, str]:
    """At most so many data passes: CRCL in the given stages, or two (the papers' options: three); the others in one."""
    if "method.loss" in SYSTEMS[system]:
        options = {"method.epochs": str(passes), "training.patience": str(max(3, passes // 3))}
    elif system.startswith("MSCN"):
        options = {"method.warmup-epochs": str(passes // 6), "method.purified-epochs": str(passes - passes // 6)}
    elif system.startswith("DisNCL"):
        options = {"method.warmup-epochs": str(passes // 4), "method.main-epochs": str(passes - passes // 4)}
    elif system.startswith("teacher"):
        options = {"method.epochs": str(passes)}
    elif not system.startswith("CRCL") or system == "CRCL oracle":
        options = {"method.stages": str(passes - 2)}
    elif stages:
        options = {"method.stages": " ".join(map(str, stages)), "method.frozen-epochs": str(frozen)}
    else:
        options = {"method.stages": f"1 1 {passes - 8}" if options_of_papers else f"1 {passes - 5}"}
    return options if options_of_papers else options | {"method.optimisation.decay-epochs": str(passes * 7 // 12)}


def train(
    data: str,
    out: Path,
    run: Run,
    common: Mapping[str, str],
    schedule: Mapping[str, str],
    tuned: bool,
    regularised: Mapping[str, str],
) -> None:
    system, rate, seed = run
    folder = folder_of(out, run)
    if (folder / "results.json").exists():
        return
    options = {"data.path": data, "data.captions-per-image": "5"} if data != "demo" else {"data.text": "words"}
    options |= {"noise.rate": str(rate), "noise.seed": str(seed), "training.seed": str(seed), **common}
    options |= {**(TUNED if tuned else {}), **regularised, **SYSTEMS[system], **schedule}
    if system.startswith("MSCN"):
        options |= dict.fromkeys(("method.warmup-batch-size", "method.meta-batch-size"), common["training.batch-size"])
    words = [word for name, value in options.items() for word in (f"--{name}", *value.split())]
    limit = "import torch; torch.set_num_threads(1); from truepair.cli.main import main; import sys; sys.exit(main())"
    command = [sys.executable, "-c", limit, "train", *words, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"{folder.name}: {'done' if done.returncode == 0 else done.stderr.strip()}", flush=True)


def pooled(data: Path, out: Path) -> Path:
    """The corpus with one vector an image, the mean of its regions; kept beside the runs."""
    import numpy as np

    folder = out / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    for path in data.iterdir():
        copy = folder / path.name
        if not copy.exists() and path.name.endswith("_ims.npy"):
            np.save(copy, np.load(path).astype(np.float32).mean(1))
        elif not copy.exists():
            copy.write_bytes(path.read_bytes())
    return folder


def average(out: Path, run: Run) -> None:
    """SGRAF: the mean of a SAF and an SGR run, tested as one."""
    from truepair.evaluation.retrieval import evaluate
    from truepair.files.json import read_json, write_json
    from truepair.training.folder import load_runs

    members = [folder_of(out.parent / similarity, run) for similarity in ("saf", "sgr")]
    results = [read_json(member / "results.json") for member in members]
    folder = folder_of(out, run)
    if None in results or (folder / "results.json").exists():
        return
    loaded = load_runs(members)
    test = evaluate([model for member in loaded for model in member.models], loaded[0].splits.test)
    folder.mkdir(parents=True, exist_ok=True)
    together = {"test": test.as_dict(), "detection": None, "best": {"epoch": -1}}
    write_json(folder / "results.json", together | {"cpu_seconds": sum(r["cpu_seconds"] for r in results)})


def results_of(out: Path, system: str, rate: float) -> list[dict]:
    if not rate:
        system = SAME_WITHOUT_NOISE.get(system, system)
    folders = [folder_of(out, (system, rate, seed)) for seed in range(3)]
    return [
        json.loads((folder / "results.json").read_text()) | {"believed": believed(folder)}
        for folder in folders
        if (folder / "results.json").exists()
    ]


def believed(folder: Path) -> tuple[float, float] | None:
    """Precision and recall of the pairs that the run believes, where the truth is known.

    Those are pairs with a confidence above ½, or above what MSCN learns from.
    """
    import pyarrow.parquet as pq

    recipe = json.loads((folder / "run.json").read_text())["recipe"] if (folder / "run.json").exists() else {}
    least = recipe.get("method", {}).get("purify_above", 0.5)

    table = pq.read_table(folder / "pairs.parquet").to_pydict() if (folder / "pairs.parquet").exists() else {}
    if "is_clean" not in table:
        return None
    kept = [
        clean for clean, confidence in zip(table["is_clean"], table["confidence"], strict=True) if confidence > least
    ]
    return sum(kept) / max(1, len(kept)), sum(kept) / max(1, sum(table["is_clean"]))


def spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(out: Path, rate: float, systems: Iterable[str] = tuple(SYSTEMS)) -> str:
    """One Markdown table a noise rate, of the runs that there are; nothing if there are none."""
    recalls = [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    head = (
        "system | seeds | rSum | i2t R@1 | R@5 | R@10 | t2i R@1 | R@5 | R@10 | AUROC | AP | believed pairs: precision "
        "| recall | best epoch | CPU s"
    )
    rows = []
    for system in systems:
        runs = results_of(out, system, rate)
        if not runs:
            continue
        detection = [run["detection"]["auroc"] for run in runs if run["detection"]]
        cells = [system, str(len(runs)), spread([run["test"]["rsum"] for run in runs], 1)]
        cells += [spread([run["test"][name] for run in runs], 1) for name in recalls]
        precise = [run["detection"]["average_precision"] for run in runs if run["detection"]]
        cells += [spread(values, 3) if values else "–" for values in (detection, precise)]
        sides = list(zip(*(run["believed"] for run in runs if run["believed"]), strict=True)) or [(), ()]
        cells += [spread(list(values), 3) if values and rate else "–" for values in sides]
        cells += [", ".join(str(run["best"]["epoch"] + 1 or "–") for run in runs)]
        cells += [spread([run["cpu_seconds"] for run in runs], 0)]
        rows.append(" | ".join(cells))
    rule = " | ".join("---" for _ in head.split(" | "))
    return (
        "\n".join([f"### {100 * rate:.0f} % noise", "", *(f"| {row} |" for row in [head, rule, *rows])]) if rows else ""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"), help="a folder a similarity is made in it")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--similarity", choices=["cosine", "saf", "sgr", "sgraf"], default="cosine")
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    parser.add_argument("--passes", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--stages", nargs="*", type=int, default=(), help="CRCL's, instead of two over --passes")
    parser.add_argument("--frozen-epochs", type=int, default=2, help="CRCL's, with --stages")
    parser.add_argument("--regularised", action="store_true", help="the default method's regularisation for all")
    parser.add_argument("--pooled", action="store_true", help="one vector an image, the mean of a caption's words")
    parser.add_argument("--paper", action="store_true", help="the papers' options instead of the tuned ones")
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    variant = [name for name in ("pooled", "regularised") if getattr(arguments, name)]
    out = arguments.out / "_".join([arguments.similarity, *variant])
    asked = (arguments.systems, arguments.rates, arguments.seeds)
    runs = [run for run in wanted() if all(value in values for value, values in zip(run, asked, strict=True))]
    if arguments.similarity == "sgraf":
        for run in runs:
            average(out, run)
    elif not arguments.table:
        common = COMMON | {"model.similarity": arguments.similarity, "training.batch-size": str(arguments.batch_size)}
        common["model.similarity-size"] = VECTORS[arguments.similarity]
        if arguments.pooled:
            common |= POOLED
            arguments.data = str(pooled(Path(arguments.data), out))
        regularised = REGULARISED if arguments.regularised else {}
        stages = (arguments.passes, arguments.stages, arguments.frozen_epochs, arguments.paper)
        schedules = {system: schedule(system, *stages) for system in arguments.systems}
        if arguments.regularised:  # the average stands in for a falling step size
            for options in schedules.values():
                options["method.optimisation.decay-epochs"] = str(arguments.passes)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(
                pool.map(
                    lambda run: train(
                        arguments.data, out, run, common, schedules[run[0]], not arguments.paper, regularised
                    ),
                    runs,
                )
            )
    print("\n\n".join(filter(None, (table(out, rate) for rate in sorted(RATES)))))


if __name__ == "__main__":
    main()
