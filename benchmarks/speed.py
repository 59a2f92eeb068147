"""How long the hot paths take, each against its floor: the same bytes or matrix products with nothing around them.

    python benchmarks/speed.py                                    # everything, as a Markdown table
    python benchmarks/speed.py --only "step" --threads 1          # every benchmark with "step" in its name
    python benchmarks/speed.py --repeats 21 --json speed.json

Benchmark and floor take turns in one process; medians are printed. On a busy machine the clock says little and the CPU
seconds, with ``--threads 1``, still say something. Memory is the peak of a second process that runs no floor.

First touches of fresh memory are slow on some virtual machines. Then let glibc keep what it has, for both columns:
``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456 OMP_WAIT_POLICY=passive``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # each benchmark imports what it needs: the process that starts the others stays small
    from torch import Tensor

    from truepair.data.batch import Batch
    from truepair.data.pairs import Pairs

Work = Callable[[], object]

BATCH, REGIONS, FEATURES, WORD, VOCABULARY = 128, 36, 1280, 300, 8_000


@dataclass(frozen=True)
class Benchmark:
    """What is measured, and what it is measured against.

    Attributes:
        name: The row of the table.
        prepare: A context whose value is (work, floor); nothing in `prepare` itself is timed.
        memory: Whether the peak memory of the work belongs in the table.
        repeats: At most this often, however many are asked for.
    """

    name: str
    prepare: Callable[[], object]
    memory: bool = False
    repeats: int = 1_000


# --- The training step ------------------------------------------------------------------------------------------------


@contextmanager
def training_step(embedding: int, precision: str, dropping: bool) -> Iterator[tuple[Work, Work]]:
    """Forward, CRCL's loss, backward, clip and AdamW on a batch of 128 pairs of 36 regions and 8 to 22 words."""
    import torch
    from lightning_fabric import Fabric

    from truepair.config import ModelConfig, OptimisationConfig
    from truepair.losses.complementary import active_complementary_loss, mean_matching_probability
    from truepair.model import InputShape, make_model
    from truepair.optimisation import Optimiser

    torch.manual_seed(0)
    rate = ModelConfig().region_dropping if dropping else 0.0
    config = ModelConfig(embedding=embedding, word_size=WORD, region_dropping=rate, word_dropping=rate)
    model = make_model(config, InputShape("regions", FEATURES, "words", VOCABULARY, mask=4))
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    optimiser = Optimiser(model, OptimisationConfig(), 30, fabric)
    batch = random_batch()
    optimiser.model.train()

    def step() -> None:
        similarity = optimiser.model(batch)
        correspondence = mean_matching_probability(similarity)
        optimiser.step(active_complementary_loss(similarity, correspondence), epoch=0.0)

    images = model.image_encoder.encoder.dropping(batch.images)  # as a step finds them
    captions = model.text_encoder.encoder.dropping(batch.captions)
    half = precision != "32-true"
    parts = [*projection(images.values.shape[0] * images.values.shape[1], embedding, training=True, half=half)]
    parts += recurrent(captions.lengths, WORD, embedding, training=True, of_input=True)
    for items in (images, captions):
        parts += recurrent(items.lengths.unique(), 32, 32, training=True)
    yield step, lambda: [part() for part in parts]


def random_batch() -> Batch:
    import torch

    from truepair.data.batch import Batch, Padded

    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, 23, (BATCH,), generator=generator)
    words = torch.randint(5, VOCABULARY, (BATCH, int(lengths.max())), generator=generator)
    words[torch.arange(words.shape[1]) >= lengths[:, None]] = 0
    regions = torch.randn(BATCH, REGIONS, FEATURES, generator=generator)
    return Batch(torch.arange(BATCH), Padded(regions, torch.full((BATCH,), REGIONS)), Padded(words, lengths))


# --- The floor of networks: their products and nothing else -----------------------------------------------------------


def projection(rows: int, embedding: int, *, training: bool, half: bool = False) -> Iterator[Work]:
    """The products of VSE∞'s image projection: FC beside Linear → Linear of half the width."""
    yield partial(linear, *operands(rows, FEATURES, embedding, half), training, of_input=False)
    yield partial(linear, *operands(rows, FEATURES, embedding // 2, half), training, of_input=False)
    yield partial(linear, *operands(rows, embedding // 2, embedding, half), training, of_input=training)


def recurrent(lengths: Tensor, inputs: int, hidden: int, *, training: bool, of_input: bool = False) -> Iterator[Work]:
    """The products of a bidirectional GRU: inputs at once, states one time step after the other."""
    import torch

    sizes = (lengths[:, None] > torch.arange(int(lengths.max()))).sum(0).tolist()
    x, w, x_out = operands(sum(sizes), inputs, 3 * hidden)
    h, u, h_out = operands(sum(sizes), hidden, 3 * hidden)

    def direction() -> None:
        linear(x, w, x_out, training, of_input)
        for size in sizes:
            h[:size] @ u.T
        if training:
            for size in sizes:
                h_out[:size] @ u
            h_out.T @ h

    yield direction
    yield direction


def operands(rows: int, inputs: int, outputs: int, half: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and gradient of the output."""
    import torch

    dtype = torch.bfloat16 if half else torch.float32
    return tuple(torch.randn(shape).to(dtype) for shape in ((rows, inputs), (outputs, inputs), (rows, outputs)))


def linear(x: Tensor, w: Tensor, gradient: Tensor, training: bool, of_input: bool) -> None:
    x @ w.T
    if training:
        gradient.T @ x
    if of_input:
        gradient @ w


# --- Evaluation -------------------------------------------------------------------------------------------------------


@contextmanager
def ranking(images: int, captions: int) -> Iterator[tuple[Work, Work]]:
    """Ranks of every image and caption; the floor reads the matrix once."""
    import torch

    from truepair.evaluation.recall import ranks

    matrix = torch.randn(images, captions, generator=torch.Generator().manual_seed(0))
    image_of_caption = torch.arange(images).repeat_interleave(captions // images)
    yield partial(ranks, matrix, image_of_caption), matrix.sum


@contextmanager
def encoding(images: int, captions: int) -> Iterator[tuple[Work, Work]]:
    """Images and captions to vectors, as evaluation does it."""
    import torch

    from truepair.config import ModelConfig
    from truepair.data.features import Features
    from truepair.evaluation.retrieval import encode_captions, encode_images
    from truepair.model import InputShape, make_model

    torch.manual_seed(0)
    embedding, batch_size = 256, 256
    model = make_model(ModelConfig(embedding=embedding), InputShape("regions", FEATURES, "words", VOCABULARY, mask=4))
    lengths = torch.randint(8, 23, (captions,))
    pairs = random_pairs(Features(torch.randn(images, REGIONS, FEATURES).numpy()), lengths)

    def encode() -> None:
        encode_images(model, pairs.images, batch_size)
        encode_captions(model, pairs, batch_size)

    parts: list[Work] = []
    for rows in torch.arange(images).split(batch_size):
        parts += projection(len(rows) * REGIONS, embedding, training=False)
    for batch in lengths.sort().values.split(batch_size):
        parts += recurrent(batch, WORD, embedding, training=False)
    yield encode, lambda: [part() for part in parts]


def random_pairs(images: object, lengths: Tensor) -> Pairs:
    """Captions of random words, as many for each image."""
    import torch

    from truepair.data.pairs import Pairs
    from truepair.data.text import Tokens

    ids = torch.randint(5, VOCABULARY, (int(lengths.sum()),), dtype=torch.int32)
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Pairs(
        images=images,
        captions=["word " * length for length in lengths.tolist()],
        image_of_caption=torch.arange(len(images)).repeat_interleave(len(lengths) // len(images)),
        image_ids=range(len(images)),
        caption_ids=range(len(lengths)),
        caption_inputs=Tokens(ids, ends),
    )


# --- Data -------------------------------------------------------------------------------------------------------------


@contextmanager
def reading(images: int) -> Iterator[tuple[Work, Work]]:
    """One epoch over a feature file larger than memory allows; the floor copies as many bytes within memory."""
    import numpy as np
    import torch

    from truepair.data.features import FeatureFile
    from truepair.data.loader import Loaders

    with TemporaryDirectory() as folder:
        path = Path(folder) / "regions.npy"
        shape = (images, REGIONS, FEATURES)
        with path.open("wb") as file:  # zeros that take no space on the disk
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.truncate(file.tell() + 4 * images * REGIONS * FEATURES)
        pairs = random_pairs(FeatureFile(path), torch.full((images,), 12))
        loaders = Loaders(pairs, BATCH, seed=0, device=torch.device("cpu"))

        def epoch() -> None:
            for _ in loaders.train(0):
                pass

        source, target = np.ones((2, BATCH, *shape[1:]), dtype=np.float32)

        def copy() -> None:
            for _ in range(loaders.batches_per_epoch()):
                np.copyto(target, source)

        yield epoch, copy


BENCHMARKS = [
    *(
        Benchmark(
            f"training step, embedding {embedding:,}, {precision}{', dropping' if dropping else ''}",
            partial(training_step, embedding, precision, dropping),
            memory=True,
        )
        for embedding in (256, 1024)
        for precision in ("32-true", "bf16-mixed")
        for dropping in (False, True)
    ),
    Benchmark("ranks, 1,000 × 5,000", partial(ranking, 1_000, 5_000), memory=True),
    Benchmark("ranks, 5,000 × 25,000", partial(ranking, 5_000, 25_000), memory=True),
    Benchmark("encoding, 1,000 images × 5,000 captions", partial(encoding, 1_000, 5_000), memory=True, repeats=5),
    Benchmark("reading an epoch, 16 GB", partial(reading, 87_000), memory=True, repeats=1),
]


def measure(benchmark: Benchmark, threads: int, repeats: int, memory: bool) -> dict[str, object]:
    """In a process of its own: the times of work and floor, or the peak memory of the work alone."""
    import torch

    torch.set_num_threads(threads)
    with benchmark.prepare() as (work, floor):
        before = resident_mb()
        if memory:
            for _ in range(min(3, benchmark.repeats)):
                work()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # KiB (Linux)
            return {"peak_mb": round(peak), "beyond_inputs_mb": round(peak - before)}
        if benchmark.repeats > 1:
            work(), floor()  # the first is slower: memory, threads
        times = [[timed(work), timed(floor)] for _ in range(min(repeats, benchmark.repeats))]
    seconds, cpu = ([statistics.median(t[side][kind] for t in times) for side in (0, 1)] for kind in (0, 1))
    return {
        "seconds": seconds[0],
        "floor_seconds": seconds[1],
        "cpu_seconds": cpu[0],
        "floor_cpu_seconds": cpu[1],
        "fastest_cpu_ratio": min(t[0][1] for t in times) / min(t[1][1] for t in times),
        "repeats": len(times),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "threads": threads,
    }


def timed(work: Work) -> tuple[float, float]:
    """Seconds by the clock and by the CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def resident_mb() -> float:
    """Resident memory now, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def row(name: str, result: dict) -> str:
    cells = [name]
    cells += [f"{result[key]:.3g}" for key in ("seconds", "floor_seconds")]
    cells += [f"{result['seconds'] / result['floor_seconds']:.2f}"]
    cells += [f"{result[key]:.3g}" for key in ("cpu_seconds", "floor_cpu_seconds")]
    cells += [f"{result['cpu_seconds'] / result['floor_cpu_seconds']:.2f}", f"{result['fastest_cpu_ratio']:.2f}"]
    cells += [f"{result['peak_mb']:,} ({result['beyond_inputs_mb']:,})" if "peak_mb" in result else "–"]
    cells += [str(result["repeats"]), f"{result['load']:.1f}"]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "what",
    "s",
    "floor s",
    "ratio",
    "CPU s",
    "floor CPU s",
    "ratio",
    "ratio of the fastest",
    "peak MB (beyond inputs)",
    "repeats",
    "load",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="benchmarks whose name contains this")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--measure", choices=["time", "memory"], help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    chosen = [benchmark for benchmark in BENCHMARKS if arguments.only in benchmark.name]
    if not chosen:
        parser.error(f"no benchmark has {arguments.only!r} in its name: {[b.name for b in BENCHMARKS]}")
    if arguments.measure:
        (benchmark,) = (b for b in chosen if b.name == arguments.only)
        result = measure(benchmark, arguments.threads, arguments.repeats, arguments.measure == "memory")
        print(json.dumps(result))
        return
    results = {}
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}", flush=True)
    for benchmark in chosen:
        command = [sys.executable, __file__, "--only", benchmark.name, "--threads", str(arguments.threads)]
        command += ["--repeats", str(arguments.repeats), "--measure"]
        result = {}
        for kind in ("time", "memory") if benchmark.memory else ("time",):
            output = subprocess.run([*command, kind], stdout=subprocess.PIPE, check=True, text=True).stdout
            result |= json.loads(output.splitlines()[-1])
        results[benchmark.name] = result
        print(row(benchmark.name, result), flush=True)
    print(f"\ntorch {result['torch']}, {arguments.threads} threads, {os.uname().machine}, {os.cpu_count()} cores")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
