"""What an iteration of MSCN costs beside one of plain training on the same backbone, and how fast it purifies.

    python benchmarks/mscn_cost.py                          # all backbones, as Markdown tables
    python benchmarks/mscn_cost.py --only sgr --repeats 3

Batch 64 (meta batch 64), embedding 256, similarity vectors of 256, 36 regions × 1280, captions of 8 to 22 words, random
inputs. Plain is the hinge with the hardest negatives, backward, clip and AdamW, of the model without a head network.
All parts take turns in one process, and medians are printed; peak memory is that of a process of its own, beyond what
it held before the first iteration. "virtual" is the loss of the training batch with its gradient, "meta" the labelled
batch and what leads back to the head, "main" the real step. Environment variables: see `speed.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from speed import print_head, print_row, random_batch, random_lengths, random_pairs, resident_mb

BATCH, EMBEDDING = 64, 256
BACKBONES = ("cosine", "saf", "sgr")
WAYS = ("finite_difference", "backward")
SIDES = ("plain", *WAYS)
PAIRS = 1024
Work = Callable[[], object]


def fabric():
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1)


def model_of(backbone: str, head: str):
    import torch

    from truepair.config import ModelConfig
    from truepair.model import InputShape, make_model

    torch.manual_seed(0)
    config = ModelConfig(backbone, EMBEDDING, region_dropping=0.0, word_dropping=0.0, head=head)
    return make_model(config, InputShape("regions", 1280, "words", 8_000, mask=4, regions=36))


def plain_step(backbone: str) -> Work:
    from truepair.config import OptimisationConfig
    from truepair.losses.triplet import triplet_loss
    from truepair.optimisation import Optimiser

    optimiser = Optimiser(model_of(backbone, "plain"), OptimisationConfig(), 30, fabric())
    optimiser.model.train()
    batch = random_batch(random_lengths(BATCH))
    return lambda: optimiser.step(triplet_loss(optimiser.model(batch)), 0.0)


def parts_of(backbone: str, way: str) -> dict[str, Work]:
    """Virtual alone, virtual and meta together, and main."""
    import torch

    from truepair.config import MscnConfig
    from truepair.methods.mscn import _Network
    from truepair.similarity.head import scored

    network = _Network(model_of(backbone, "network"), MscnConfig(mixed_derivative=way), fabric())
    network._is_warm = True
    network._start()  # as after the warm-up
    network._model.train()
    batch = random_batch(random_lengths(BATCH))
    labelled, labels = replace(batch, captions=batch.captions.rows(torch.arange(BATCH).flip(0))), torch.ones(BATCH)

    def virtual() -> None:
        weights = network._weights()
        vectors = network._replayed(batch, paired=False)(weights)
        torch.autograd.grad(network._loss(scored(network._head, vectors)), list(weights.values()), allow_unused=True)

    return {
        "virtual": virtual,
        "both": lambda: network.meta_step(batch, labelled, labels, 0.0),
        "main": lambda: network.step(batch, 0.0),
    }


def timed(work: Work) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def iteration(backbone: str, repeats: int) -> dict[str, list[float]]:
    """Median wall and CPU seconds of every part."""
    works = {"plain": plain_step(backbone)}
    for way in WAYS:
        works |= {f"{way} {name}": part for name, part in parts_of(backbone, way).items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            taken[name].append(timed(work))
    return {
        name: [statistics.median(column) for column in zip(*times[1:], strict=True)] for name, times in taken.items()
    }


def memory(backbone: str, side: str) -> float:
    """Peak MB of two iterations beyond what was there before; for a process of its own."""
    if side == "plain":
        works = [plain_step(backbone)]
    else:
        parts = parts_of(backbone, side)
        works = [parts["both"], parts["main"]]
    before = resident_mb()
    for work in 2 * works:
        work()
    return resident_mb() - before


def purification(backbone: str, alone: int) -> tuple[float, float]:
    """Pairs a second: all in blocks, and one by one."""
    import torch

    from truepair.data.features import Features
    from truepair.scoring.encodings import similarity_of_pairs

    model = model_of(backbone, "network")
    regions = torch.randn(PAIRS // 4, 36, 1280, generator=torch.Generator().manual_seed(0)).numpy()
    pairs = random_pairs(Features(regions), random_lengths(PAIRS))
    similarity_of_pairs([model], pairs.select(torch.arange(64)))
    in_blocks, _ = timed(partial(similarity_of_pairs, [model], pairs))
    single = [pairs.select(torch.tensor([k])) for k in range(alone)]
    one_by_one, _ = timed(lambda: [similarity_of_pairs([model], pair) for pair in single])
    return PAIRS / in_blocks, alone / one_by_one


def elsewhere(backbone: str, side: str) -> float:
    command = [sys.executable, __file__, "--only", backbone, "--memory", side]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BACKBONES, nargs="*", default=BACKBONES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(json.dumps(memory(arguments.only[0], arguments.memory)))
        return
    head = ["backbone, way to the mixed derivative", "plain s", "virtual", "meta", "main", "MSCN s", "× plain (CPU)"]
    print_head((*head, "peak MB: plain", "MSCN", "×"))
    for backbone in arguments.only:
        found = iteration(backbone, arguments.repeats)
        plain_mb = elsewhere(backbone, "plain")
        for way in WAYS:
            (virtual, _), (both, both_cpu), (step, step_cpu) = (
                found[f"{way} {p}"] for p in ("virtual", "both", "main")
            )
            plain, plain_cpu = found["plain"]
            mb = elsewhere(backbone, way)
            seconds = (plain, virtual, both - virtual, step, both + step)
            times = (both_cpu + step_cpu) / plain_cpu
            memory_cells = (f"{plain_mb:,.0f}", f"{mb:,.0f}", f"{mb / plain_mb:.1f}")
            print_row((f"{backbone}, {way}", *(f"{value:.3g}" for value in seconds), f"{times:.1f}", *memory_cells))
    print()
    print_head(("purification", "pairs a second, in blocks", "one by one", "×"))
    for backbone in arguments.only:
        blocks, alone = purification(backbone, 40)
        print(f"| {backbone} | {blocks:,.0f} | {alone:,.1f} | {blocks / alone:.0f} |", flush=True)


if __name__ == "__main__":
    main()
