"""The ladder: what noise costs each system, and what the truth would buy.

    python benchmarks/accuracy.py FOLDER --out runs/ladder                    # train what is missing, print the tables
    python benchmarks/accuracy.py FOLDER --out runs/ladder --table            # print the tables of what there is
    python benchmarks/accuracy.py FOLDER --out runs/ladder --collect benchmarks/results/ladder.json
    python benchmarks/accuracy.py FOLDER --out runs/ladder --backbones pooled --systems teacher --rates 0.4

FOLDER holds precomputed region features in SCAN's layout. Every system of a table has the same backbone, the same
regularisation and as many data passes; the best epoch by development rSum counts. Each run is a process of its own, on
one thread; a run that is there is not trained again.

Backbones: "pooled" has the mean of an image's regions and of a caption's word vectors; "pooled_sentences" has sentence
vectors (all-MiniLM-L6-v2) beside the words, made here; "vse" is VSE∞ over regions and words, with projections that have
no batch normalisation, "vse_batch_norm" the published one; "saf" and "sgr" compare regions and words, and "sgraf" is
their mean. Those that read regions cost many times as much, so they have fewer images (`IMAGES`). --collect writes the
numbers of all runs that there are into one JSON file, from which `tables.py` makes the tables of README.md and
RESULTS.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runs import Options, average, numbers_in, train

PASSES = 16
REGULARISED: Options = {
    "model.input_dropout": 0.4,
    "model.word_vectors": "captions",
    "model.word_vector_dropout": 0.0,
    "model.projection": "plain",
    "model.feature_scaling": "root",
    "method.optimisation.learning_rate": 1.5e-3,
    "method.optimisation.schedule": "cosine",
    "method.optimisation.weight_average": 0.99,
    "training.batch_size": 256,
}
"""What every system is given; chosen on development pairs, for plain training on the true pairs only."""
POOLED: Options = REGULARISED | {"model.words": "mean", "model.embedding": 256, "data.text": "words"}
VSE: Options = REGULARISED | {"model.embedding": 256, "data.text": "words", "training.batch_size": 128}
ATTENDED: Options = {
    **{name: value for name, value in VSE.items() if name not in ("model.projection", "model.feature_scaling")},
    "model.embedding": 128,
    "model.similarity_size": 64,
    "training.batch_size": 32,
}
"""SAF and SGR, at a width that two cores can train; their options have no projection and no scaling of features."""
BACKBONES: Mapping[str, Options] = {
    "pooled": POOLED,
    "pooled_sentences": POOLED | {"data.text": "both"},
    "vse": VSE,
    "vse_batch_norm": VSE | {"model.projection": "batch_norm", "model.feature_scaling": "none"},
    "saf": ATTENDED | {"model.similarity": "saf"},
    "sgr": ATTENDED | {"model.similarity": "sgr"},
}
SOME, FEW = {"train": 1500, "dev": 500, "test": 1000}, {"train": 1000, "dev": 200, "test": 500}
IMAGES: Mapping[str, Mapping[str, int]] = {"vse": SOME, "vse_batch_norm": SOME, "saf": FEW, "sgr": FEW}
"""The images, the first of each part, that a backbone over regions has; the others have all of them."""
WARMER: Options = {"method.temperature": 0.07}
"""Instead of 0.05, for all losses by matching probabilities: better on development pairs for each of them."""
INFO_NCE: Options = WARMER | {"method.name": "baseline", "method.loss": "info_nce"}
# As released, MSCN learns little or collapses in so few passes: RESULTS.md says what each choice changes.
MSCN: Options = {
    "method.name": "mscn",
    "model.similarity_size": 32,
    "trusted.source": "development",
    "method.meta_interval": 4,
    "method.warmup_negatives": "smooth",
    "method.negatives": "smooth",
    "method.calibrate": True,
    "method.purify_above": 0.9,
    "method.meta_learning_rate": 1e-4,
}
DISNCL: Options = {
    "method.name": "disncl",
    "method.out_of_sample": True,
    "method.reconstruction_weight": 1.0,
    "method.critic_steps": 2,
}
TEACHER: Options = {"method.name": "teacher"}
SYSTEMS: Mapping[str, Options] = {
    "teacher": TEACHER,
    "CRCL": WARMER | {"method.name": "crcl"},
    "MSCN": MSCN,
    "DisNCL": DISNCL,
    "plain InfoNCE": INFO_NCE,
    "plain oracle": INFO_NCE | {"training.oracle": "clean_pairs"},
}
"""The rows of the main tables."""
SECOND = "teacher, another start"
"""The default method over the same mismatches with other random numbers."""
MEANS: Mapping[str, tuple[str, ...]] = {"teacher, mean of two runs": ("teacher", SECOND)}
"""Systems that are the mean similarity and the mean confidence of others, as MSCN is of its two networks."""
MEAN_BACKBONES: Mapping[str, tuple[str, ...]] = {"sgraf": ("saf", "sgr")}
"""Backbones that are the same of others."""
ABLATIONS: Mapping[str, Options] = {
    SECOND: TEACHER,
    "teacher, no out-of-sample stage": TEACHER | {"method.fold_epochs": 0, "method.judge_every": 1},
    "teacher, no soft targets": TEACHER | {"method.target_weight": 0.0},
    "teacher, first estimate kept": TEACHER | {"method.judge_every": 0},
    "teacher, no complementary loss": TEACHER | {"method.negative_weight": 0.0},
    "teacher, last weights": TEACHER | {"method.optimisation.weight_average": 0.001},
    "teacher, four folds": TEACHER | {"method.folds": 4},
    "teacher, random word vectors": TEACHER | {"model.word_vectors": "random"},
    "teacher, no input dropout": TEACHER | {"model.input_dropout": 0.0},
    "teacher, no word dropping": TEACHER | {"model.word_dropping": 0.0},
    "teacher, batch normalisation": TEACHER | {"model.projection": "batch_norm"},
    "teacher, features as they are": TEACHER | {"model.feature_scaling": "none"},
    "teacher, noisy development pairs": TEACHER | {"noise.development": True},
    "teacher, hard noise": TEACHER | {"noise.partners": "similar"},
    "DisNCL, no exclusive codes": DISNCL | {"method.exclusive_branch": False},
    "DisNCL, no out-of-sample filter": DISNCL | {"method.out_of_sample": False},
    "DisNCL, shared codes of 64": DISNCL | {"model.shared_size": 64},
    "CRCL, hard noise": WARMER | {"method.name": "crcl", "noise.partners": "similar"},
}
SAME_WITHOUT_NOISE = {"plain oracle": "plain InfoNCE"}
RATES = (0.4, 0.8, 0.2, 0.6, 0.0)
LEVELS = ("caption", "image")


@dataclass(frozen=True)
class Run:
    """One cell of the ladder, with one seed."""

    backbone: str
    level: str
    system: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, in that of its backbone and level."""
        return f"{re.sub(r'[^a-z0-9.]+', '_', self.system.lower()).strip('_')}_{100 * self.rate:.0f}_{self.seed}"

    @property
    def members(self) -> Sequence[Run]:
        """The runs that are trained for it: itself, or those that it is the mean of."""
        systems = MEANS.get(self.system, (self.system,))
        backbones = MEAN_BACKBONES.get(self.backbone, (self.backbone,))
        return [replace(self, system=system, backbone=backbone) for system in systems for backbone in backbones]

    @property
    def options(self) -> Options:
        """All options of a run that is trained but where the data are."""
        noise = {"noise.rate": self.rate, "noise.level": self.level, "noise.seed": self.seed}
        system = {**SYSTEMS, **ABLATIONS}[self.system]
        seed = self.seed + (100 if self.system == SECOND else 0)
        options = BACKBONES[self.backbone] | schedule(self.system) | noise | system | {"training.seed": seed}
        if self.system.startswith("MSCN"):
            sizes = dict.fromkeys(
                ("method.warmup_batch_size", "method.meta_batch_size"), options["training.batch_size"]
            )
            options = {**options, **sizes}
        return options


def schedule(system: str) -> Options:
    """`PASSES` over the data: CRCL in two stages, the networks of the folds among the default method's."""
    if system.startswith("MSCN"):
        return {"method.warmup_epochs": PASSES // 6, "method.purified_epochs": PASSES - PASSES // 6}
    if system.startswith("DisNCL"):
        return {"method.warmup_epochs": 3 * PASSES // 8, "method.main_epochs": PASSES - 3 * PASSES // 8}
    if system.startswith("CRCL"):
        return {"method.stages": (1, PASSES - 5)}
    if system.startswith("teacher"):
        return {"method.epochs": PASSES if "no out-of-sample" in system else PASSES - 5}
    if system == "plain InfoNCE":  # where there is noise, it only falls after its best epoch
        return {"method.epochs": PASSES, "training.patience": PASSES // 2}
    return {"method.epochs": PASSES}


def wanted(backbones: Sequence[str], levels: Sequence[str], systems: Sequence[str]) -> Iterable[Run]:
    """Every run, one seed after the other; what the rest is measured against comes first."""
    return [
        Run(backbone, level, system, rate, seed)
        for seed in range(3)
        for backbone in backbones
        for level in levels
        for rate in RATES
        for system in systems
        if rate or (system not in SAME_WITHOUT_NOISE and level == "caption")
    ]


def options_of(run: Run, data: Mapping[str, Path]) -> Options:
    """All options of a run, over the corpus that its backbone reads."""
    where = {"data.path": str(data[run.backbone]), "data.captions_per_image": 5, "training.device": "cpu"}
    return {**where, **run.options}


def folder_of(out: Path, run: Run) -> Path:
    return out / f"{run.backbone}_{run.level}" / run.name


def pooled(data: Path, out: Path) -> Path:
    """The corpus with one vector an image, the mean of its regions; kept beside the runs."""
    import numpy as np

    folder = out / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    for path in data.iterdir():
        copy = folder / path.name
        if not copy.exists() and path.name.endswith("_ims.npy"):
            np.save(copy, np.load(path).astype(np.float32).mean(1))
        elif path.name.endswith(("_caps.txt", "_ids.txt")) and not copy.exists():
            copy.write_bytes(path.read_bytes())
    return folder


def reduced(data: Path, out: Path, images: Mapping[str, int]) -> Path:
    """The corpus with the first images of each part and their captions; kept beside the runs."""
    import numpy as np

    folder = out / ("corpus_" + "_".join(str(count) for count in images.values()))
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    for part, count in images.items():
        np.save(folder / f"{part}_ims.npy", np.load(data / f"{part}_ims.npy", mmap_mode="r")[:count])
        for name, lines in ((f"{part}_ids.txt", count), (f"{part}_caps.txt", 5 * count)):
            kept = (data / name).read_text(encoding="utf-8").splitlines()[:lines]
            (folder / name).write_text("\n".join(kept) + "\n", encoding="utf-8")
    return folder


def corpora(data: Path, out: Path, backbones: Iterable[str]) -> dict[str, Path]:
    """The corpus that each of these backbones reads."""
    found = {}
    for backbone in itertools.chain.from_iterable(MEAN_BACKBONES.get(name, (name,)) for name in backbones):
        found[backbone] = reduced(data, out, IMAGES[backbone]) if backbone in IMAGES else pooled(data, out)
        if backbone == "pooled_sentences":
            with_sentences(found[backbone])
    return found


def with_sentences(folder: Path) -> None:
    """Vectors of all captions of a corpus by all-MiniLM-L6-v2, beside them: ``{split}_caps.npy``."""
    import numpy as np
    import torch

    from truepair.embedding.choosing import load_text_encoder
    from truepair.embedding.text_encoders import encode_by_length
    from truepair.pretrained.captions import MINILM

    for path in folder.glob("*_caps.txt"):
        vectors = path.with_suffix(".npy")
        if not vectors.exists():
            encoder = load_text_encoder(MINILM, torch.device("cpu"))
            captions = path.read_text(encoding="utf-8").splitlines()
            np.save(vectors, encode_by_length(encoder, captions, 128).features.astype(np.float16))


def numbers_of(run: Run, folder: Path) -> dict[str, Any] | None:
    """What the tables need of a run; None if it has not finished."""
    found = numbers_in(folder)
    return None if found is None else {**asdict(run), **found}


def collected(out: Path) -> list[dict[str, Any]]:
    """The numbers of all runs that there are."""
    systems = [*SYSTEMS, *ABLATIONS, *MEANS]
    found = (numbers_of(run, folder_of(out, run)) for run in wanted([*BACKBONES, *MEAN_BACKBONES], LEVELS, systems))
    return [numbers for numbers in found if numbers is not None]


def make(run: Run, data: Mapping[str, Path], out: Path) -> None:
    """Train what is not there for a run, and average it where it is several."""
    for member in run.members:
        train(options_of(member, data), folder_of(out, member))
    if len(run.members) > 1:
        average([folder_of(out, member) for member in run.members], folder_of(out, run))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"), help="the folder of all runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--backbones", nargs="*", choices=[*BACKBONES, *MEAN_BACKBONES], default=["pooled"])
    parser.add_argument("--levels", nargs="*", choices=LEVELS, default=LEVELS)
    parser.add_argument("--systems", nargs="*", choices=[*SYSTEMS, *MEANS, *ABLATIONS], default=[*SYSTEMS, *MEANS])
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    parser.add_argument("--table", action="store_true", help="train nothing, print the tables")
    parser.add_argument("--collect", type=Path, help="train nothing, write the numbers of all runs into this file")
    arguments = parser.parse_args()
    if arguments.collect:
        arguments.collect.write_text("[\n" + ",\n".join(map(json.dumps, collected(arguments.out))) + "\n]\n")
        return
    if not arguments.table:
        data = corpora(arguments.data, arguments.out, arguments.backbones)
        runs = [
            run
            for run in wanted(arguments.backbones, arguments.levels, arguments.systems)
            if run.rate in arguments.rates and run.seed in arguments.seeds
        ]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda run: make(run, data, arguments.out), runs))
    from tables import ladder_tables

    print(ladder_tables(collected(arguments.out)))


if __name__ == "__main__":
    main()
