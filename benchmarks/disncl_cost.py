"""What an iteration of DisNCL costs beside one of plain training on the same backbone.

    python benchmarks/disncl_cost.py                                # VSE∞ at embedding 1024, and frozen vectors
    python benchmarks/disncl_cost.py --only saf sgr --repeats 3

Batch 128 (SAF and SGR: 64, embedding 256), 36 regions × 1280, captions of 8 to 22 words, random inputs; vectors are
1280 and 384 wide. Plain is InfoNCE, backward, clip and AdamW; all take turns in one process, medians are printed.
Environment variables: see `speed.py`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from speed import print_head, print_row, random_batch, random_lengths

BACKBONES = {"vse": 1024, "vectors": 1024, "saf": 256, "sgr": 256}
"""Embedding."""
OPTIONS = {
    "plain": None,
    "shared codes only": {"exclusive_branch": False},
    "paper_like": {"preset": "paper_like"},
    "paper_like, 2 critic steps": {"preset": "paper_like", "critic_steps": 2},
    "cov": {"preset": "cov"},
}
Work = Callable[[], object]


def batch_of(backbone: str):
    import torch

    from truepair.data.batch import Batch, Padded

    if backbone != "vectors":
        return random_batch(random_lengths(128 if backbone == "vse" else 64))
    generator = torch.Generator().manual_seed(0)
    sides = (torch.randn(128, width, generator=generator) for width in (1280, 384))
    return Batch(torch.arange(128), *map(Padded, sides))


def step_of(backbone: str, options: dict | None) -> Work:
    import torch
    from lightning_fabric import Fabric

    from truepair.config import DisnclConfig, ModelConfig, OptimisationConfig
    from truepair.losses.contrastive import info_nce
    from truepair.methods.disncl import _Network
    from truepair.model import InputShape, make_model
    from truepair.optimisation import Optimiser

    torch.manual_seed(0)
    similarity = "cosine" if backbone in ("vse", "vectors") else backbone
    codes = "none" if options is None else "shared" if "exclusive_branch" in options else "shared_and_exclusive"
    config = ModelConfig(similarity, BACKBONES[backbone], region_dropping=0.0, word_dropping=0.0, codes=codes)
    shape = InputShape("regions", 1280, "words", 8_000, mask=4, regions=36)
    model = make_model(config, InputShape("vector", 1280, "vector", 384) if backbone == "vectors" else shape)
    fabric, batch = Fabric(accelerator="cpu", devices=1), batch_of(backbone)
    if options is None:
        optimiser = Optimiser(model, OptimisationConfig(), 30, fabric)
        optimiser.model.train()
        return lambda: optimiser.step(info_nce(optimiser.model(batch), 0.05), 0.0)
    network, confidence = _Network(model, DisnclConfig(**options), fabric), torch.ones(len(batch))
    return lambda: network.step(batch, confidence, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=BACKBONES, default=["vse", "vectors"])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print_head(("backbone", "iteration", "seconds", "CPU s", "CPU × plain"))
    for backbone in arguments.only:
        works = {name: step_of(backbone, options) for name, options in OPTIONS.items()}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        for _ in range(arguments.repeats + 1):
            for name, work in works.items():
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        medians = {name: [statistics.median(side) for side in zip(*t[1:], strict=True)] for name, t in taken.items()}
        for name, (wall, cpu) in medians.items():
            print_row((backbone, name, f"{wall:.3f}", f"{cpu:.3f}", f"{cpu / medians['plain'][1]:.2f}"))


if __name__ == "__main__":
    main()
