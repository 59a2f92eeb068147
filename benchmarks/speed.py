"""How long the hot paths take, each against its floor: the same bytes or matrix products with nothing around them.

    python benchmarks/speed.py                                    # everything, as Markdown tables
    python benchmarks/speed.py --only "step" --threads 1          # every benchmark with "step" in its name
    python benchmarks/speed.py --repeats 21 --json speed.json
    python benchmarks/speed.py --growth                           # SAF and SGR as batch, words and gallery grow

Benchmark, floor and rival take turns in one process; medians are printed. On a busy machine the clock says little and
the CPU seconds, with ``--threads 1``, still say something. Memory is the peak of a process of its own.

GFLOP are those of the floor, so GFLOP/s count only what is needed. The machine's peak is one product of two 4096 × 4096
matrices, in the precision of the row, on the same threads, in the same process.

The rival of SAF and SGR is ``sgraf_loop.py``: the same encoders, weights, loss and optimiser, captions one by one.

Environment variables apply to all sides alike. First touches of fresh memory are slow on some virtual machines; then
let glibc keep what it has: ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456``. Where
others use the cores too, threads burn CPU seconds while they wait for each other, unless ``OMP_WAIT_POLICY=passive``.
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # each benchmark imports what it needs: the process that starts the others stays small
    from torch import Tensor

    from truepair.data.batch import Batch, Padded
    from truepair.data.pairs import Pairs
    from truepair.model import MatchingModel
    from truepair.similarity.local import LocalSimilarity

Work = Callable[[], object]
Kind = Literal["saf", "sgr"]
KINDS: tuple[Kind, ...] = ("saf", "sgr")

BATCH, REGIONS, FEATURES, WORD, VOCABULARY = 128, 36, 1280, 300, 8_000
SHORTEST, LONGEST = 8, 22  # captions, in words
SIMILARITY, ROUNDS = 256, 3  # SAF and SGR: width of similarity vectors; SGR: rounds of reasoning


@dataclass(frozen=True)
class Sides:
    """What is measured, and what it is measured against.

    Attributes:
        work: What the package does.
        floor: The bytes or products that it cannot do without.
        rival: The same result in another way.
        pairs: How many similarities `work` makes, where a time per pair means something.
        pair_words: The sum over these pairs of their captions' words.
        half: Whether products are in bf16.
    """

    work: Work
    floor: Work | None = None
    rival: Work | None = None
    pairs: int = 0
    pair_words: int = 0
    half: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A row of a table.

    Attributes:
        name: What is measured.
        prepare: A context whose value is what takes turns; nothing in `prepare` itself is timed.
        memory: Whose peak memory belongs in the table: of the work, of the rival.
        repeats: At most this often, however many are asked for.
    """

    name: str
    prepare: Callable[[], AbstractContextManager[Sides]]
    memory: tuple[Literal["work", "rival"], ...] = ()
    repeats: int = 1_000


def in_turn(parts: Iterable[Work]) -> Work:
    """All parts, one after the other. They are made at the first call, so that peaks of memory are without them."""
    made: list[Work] = []

    def run() -> None:
        if not made:
            made.extend(parts)
        for part in made:
            part()

    return run


# --- The training step ------------------------------------------------------------------------------------------------


@contextmanager
def training_step(embedding: int, precision: str, dropping: bool) -> Iterator[Sides]:
    """A step on a batch of 128 pairs of 36 regions and 8 to 22 words."""
    import torch

    from truepair.config import ModelConfig
    from truepair.model import InputShape, make_model

    torch.manual_seed(0)
    rate = ModelConfig().region_dropping if dropping else 0.0
    config = ModelConfig(embedding=embedding, word_size=WORD, region_dropping=rate, word_dropping=rate)
    model = make_model(config, InputShape("regions", FEATURES, "words", VOCABULARY, mask=4))
    batch = random_batch(random_lengths(BATCH))
    step = step_of(model, batch, precision)
    images = model.image_encoder.encoder.dropping(batch.images)  # as a step finds them
    captions = model.text_encoder.encoder.dropping(batch.captions)
    half = precision != "32-true"
    rows = images.values.shape[0] * images.values.shape[1]
    parts = chain(
        projection(rows, embedding, training=True, half=half),
        recurrent(captions.lengths, WORD, embedding, training=True, of_input=True),
        *(recurrent(items.lengths.unique(), 32, 32, training=True) for items in (images, captions)),
    )
    yield Sides(step, in_turn(parts), half=half)


@contextmanager
def local_training_step(
    kind: Kind, embedding: int, precision: str, batch_size: int | None = None, words: int | None = None
) -> Iterator[Sides]:
    """The same step with SAF or SGR, nothing dropped; `words` is the length of every caption, 8 to 22 if None."""
    size = batch_size or BATCH
    lengths = random_lengths(size, words)
    batch = random_batch(lengths)
    model = local_model(kind, embedding)
    half = precision != "32-true"
    yield Sides(
        work=step_of(model, batch, precision),
        floor=in_turn(
            chain(
                local_encoders(lengths, embedding, half=half),
                products(gallery_products(kind, [size], lengths, embedding), training=True, half=half),
            )
        ),
        rival=None if half else step_of(looping(model, kind), batch, precision),
        pairs=size**2,
        pair_words=size * int(lengths.sum()),
        half=half,
    )


def step_of(model: MatchingModel, batch: Batch, precision: str) -> Work:
    """Forward, CRCL's loss, backward, clip and AdamW."""
    from lightning_fabric import Fabric

    from truepair.config import OptimisationConfig
    from truepair.losses.complementary import active_complementary_loss, mean_matching_probability
    from truepair.optimisation import Optimiser

    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    optimiser = Optimiser(model, OptimisationConfig(), 30, fabric)
    optimiser.model.train()

    def step() -> dict[str, float]:
        similarity = optimiser.model(batch)
        correspondence = mean_matching_probability(similarity)
        return optimiser.step(active_complementary_loss(similarity, correspondence), epoch=0.0)

    return step


def random_lengths(captions: int, words: int | None = None) -> Tensor:
    import torch

    shortest, longest = (SHORTEST, LONGEST) if words is None else (words, words)
    return torch.randint(shortest, longest + 1, (captions,), generator=torch.Generator().manual_seed(0))


def random_batch(lengths: Tensor) -> Batch:
    import torch

    from truepair.data.batch import Batch, Padded

    size, generator = len(lengths), torch.Generator().manual_seed(0)
    words = torch.randint(5, VOCABULARY, (size, int(lengths.max())), generator=generator)
    words[torch.arange(words.shape[1]) >= lengths[:, None]] = 0
    regions = torch.randn(size, REGIONS, FEATURES, generator=generator)
    return Batch(torch.arange(size), Padded(regions, torch.full((size,), REGIONS)), Padded(words, lengths))


def local_model(kind: Kind, embedding: int) -> MatchingModel:
    """SAF or SGR without CRCL's augmentation."""
    import torch

    from truepair.config import ModelConfig
    from truepair.model import InputShape, make_model

    torch.manual_seed(0)
    config = ModelConfig(
        similarity=kind,
        embedding=embedding,
        word_size=WORD,
        similarity_size=SIMILARITY,
        graph_steps=ROUNDS,
        region_dropping=0.0,
        word_dropping=0.0,
    )
    return make_model(config, InputShape("regions", FEATURES, "words", VOCABULARY, mask=4, regions=REGIONS))


# --- The rival of SAF and SGR: captions one by one --------------------------------------------------------------------


def looping(model: MatchingModel, kind: Kind) -> MatchingModel:
    """A copy of the model whose similarity matrix comes from `sgraf_loop`, with the copy's own weights."""
    rival = deepcopy(model)
    rival.similarity.matrix = partial(loop_matrix, rival.similarity, kind)
    return rival


def loop_matrix(similarity: LocalSimilarity, kind: Kind, images: Padded, captions: Padded) -> Tensor:
    from sgraf_loop import loop_similarity

    return loop_similarity(
        images.values[:, 1:],
        images.values[:, 0],
        [row[1:length] for row, length in zip(captions.values, captions.lengths.tolist(), strict=True)],
        captions.values[:, 0],
        loop_weights(similarity),
        kind,
        graph_steps=ROUNDS,
        training=similarity.training,
    )


def loop_weights(similarity: LocalSimilarity) -> dict[str, Tensor]:
    """The similarity's weights by the names that the loop knows. Its keys have a bias, which ours do without: zero."""
    weights = dict(similarity.named_parameters()) | dict(similarity.named_buffers())
    keys = {name: weight for name, weight in weights.items() if name.endswith("key.weight")}
    return weights | {name.replace("weight", "bias"): key.new_zeros(len(key)) for name, key in keys.items()}


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


# --- The floor of SAF and SGR -----------------------------------------------------------------------------------------

Product = tuple[int, int, int, int]
"""Batch, rows, inner, columns: so many products of ``[rows, inner]`` with ``[inner, columns]``."""


def multiply_adds(kind: Kind, words: int, embedding: int) -> int:
    """Multiply-adds that the similarity of one image and one caption needs; a training step needs three times as many.

    With R regions, L words, n = L + 1 nodes, embedding D and similarity size S::

        both   2·R·L·D (scores, attended regions) + L·D·S (local map) + D·S (global map) + S (head)
        SAF    2·n·S (gates, weighted sum)
        SGR    all rounds but the last: 2·n·S² (query and key as one map, graph map) + 2·n²·S (edges, mixing)
               last round, of which only node 0 is read: 2·S² + 2·n·S

    What depends on the image or the caption alone is shared by all its pairs and not counted.
    """
    return sum(prod(product) for product in pair_products(kind, 1, 1, words, embedding))


def pair_products(kind: Kind, images: int, captions: int, words: int, embedding: int) -> Iterator[Product]:
    """The matrix products behind `multiply_adds`, for all images with all captions, each of `words` words."""
    pairs, nodes, size = images * captions, words + 1, SIMILARITY
    yield 1, images * REGIONS, embedding, captions * words  # scores of regions and words
    yield images, captions * words, REGIONS, embedding  # regions as words attend to them
    yield 1, pairs * words, embedding, size  # local map
    yield 1, pairs, embedding, size  # global map
    if kind == "saf":
        yield 1, pairs * nodes, size, 1  # gates
        yield pairs, 1, nodes, size  # weighted sum
    else:
        for read in [nodes] * (ROUNDS - 1) + [1]:
            yield 1, pairs * read, size, size  # query and key in one
            yield pairs, read, size, nodes  # edges
            yield pairs, read, nodes, size  # nodes mixed along them
            yield 1, pairs * read, size, size  # graph map
    yield 1, pairs, size, 1  # head


def gallery_products(kind: Kind, images: Iterable[int], lengths: Tensor, embedding: int) -> Iterator[Product]:
    """The products of blocks of so many images with all captions: those of one length together."""
    counts = list(zip(*(values.tolist() for values in lengths.unique(return_counts=True)), strict=True))
    for rows in images:
        for words, captions in counts:
            yield from pair_products(kind, rows, captions, words, embedding)


def products(shapes: Iterable[Product], *, training: bool, half: bool = False) -> Iterator[Work]:
    """Each product, in training with its two gradients; all of them read and write the same four buffers."""
    import torch

    shapes = list(shapes)
    largest = max(batch * max(m * k, k * n, m * n) for batch, m, k, n in shapes)
    buffers = torch.randn(4, largest).to(torch.bfloat16 if half else torch.float32)

    def view(buffer: int, batch: int, rows: int, columns: int) -> Tensor:
        shape = (rows, columns) if batch == 1 else (batch, rows, columns)
        return buffers[buffer, : batch * rows * columns].view(shape)

    for batch, m, k, n in shapes:
        multiply = torch.mm if batch == 1 else torch.bmm
        left, right, gradient = view(0, batch, m, k), view(1, batch, k, n), view(2, batch, m, n)
        yield partial(multiply, left, right, out=view(3, batch, m, n))
        if training:
            yield partial(multiply, gradient, right.mT, out=view(3, batch, m, k))
            yield partial(multiply, left.mT, gradient, out=view(3, batch, k, n))


def local_encoders(lengths: Tensor, embedding: int, *, half: bool) -> Iterator[Work]:
    """The products of a training step in the encoders: region map, GRU, and the maps that make the global vectors."""
    regions, words = len(lengths) * REGIONS, int(lengths.sum())
    yield partial(linear, *operands(regions, FEATURES, embedding, half), training=True, of_input=False)
    yield from recurrent(lengths, WORD, embedding, training=True, of_input=True)
    for rows in (regions, words, len(lengths), len(lengths)):  # every part and the mean, of images and of captions
        yield partial(linear, *operands(rows, embedding, embedding, half), training=True, of_input=True)


# --- Evaluation -------------------------------------------------------------------------------------------------------


@contextmanager
def scoring(kind: Kind, embedding: int, images: int, captions: int, every: int = 1) -> Iterator[Sides]:
    """Encodings to similarities, block by block as evaluation does it; the loop compares a caption with all images.

    With `every` above 1, only every second, third, … of the captions, sorted by length, takes part.
    """
    import torch

    from truepair.evaluation.retrieval import _CAPTIONS_IN_BLOCK, _IMAGES_IN_BLOCK
    from truepair.similarity.blocks import similarity_blocks

    similarity = local_model(kind, embedding).eval().similarity
    lengths = random_lengths(captions).sort().values[::every]
    image_encodings = random_encodings(torch.full((images,), REGIONS), embedding)
    caption_encodings = random_encodings(lengths, embedding)
    image_of_caption = torch.zeros(len(lengths), dtype=torch.int64)
    blocks = similarity_blocks(image_of_caption, lengths, [slice(0, images)], _IMAGES_IN_BLOCK, _CAPTIONS_IN_BLOCK)

    @torch.inference_mode()
    def score() -> Tensor:
        matrix = torch.empty(images, len(lengths))
        for block in blocks:
            rows, columns = image_encodings.rows(block.images), caption_encodings.rows(block.captions)
            matrix[block.images, block.captions] = similarity.matrix(rows, columns)
        return matrix

    @torch.inference_mode()
    def loop() -> Tensor:
        return loop_matrix(similarity, kind, image_encodings, caption_encodings)

    rows = [len(part) for part in torch.arange(images).split(_IMAGES_IN_BLOCK)]
    floor = in_turn(products(gallery_products(kind, rows, lengths, embedding), training=False))
    yield Sides(score, floor, loop, pairs=images * len(lengths), pair_words=images * int(lengths.sum()))


def random_encodings(lengths: Tensor, embedding: int) -> Padded:
    """Unit vectors: one of the whole, and one for each position."""
    import torch

    from truepair.data.batch import Padded
    from truepair.layers import unit_length

    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(lengths), 1 + int(lengths.max()), embedding, generator=generator)
    encodings = Padded(unit_length(values), lengths + 1)
    return Padded(encodings.values * encodings.mask[..., None], encodings.lengths)


@contextmanager
def ranking(images: int, captions: int) -> Iterator[Sides]:
    """Ranks of every image and caption; the floor reads the matrix once."""
    import torch

    from truepair.evaluation.recall import ranks

    matrix = torch.randn(images, captions, generator=torch.Generator().manual_seed(0))
    image_of_caption = torch.arange(images).repeat_interleave(captions // images)
    yield Sides(partial(ranks, matrix, image_of_caption), matrix.sum)


@contextmanager
def encoding(images: int, captions: int) -> Iterator[Sides]:
    """Images and captions to vectors, as evaluation does it."""
    import torch

    from truepair.config import ModelConfig
    from truepair.data.features import Features
    from truepair.model import InputShape, make_model
    from truepair.scoring.encodings import encode_captions, encode_images

    torch.manual_seed(0)
    embedding, batch_size = 256, 256
    model = make_model(ModelConfig(embedding=embedding), InputShape("regions", FEATURES, "words", VOCABULARY, mask=4))
    lengths = random_lengths(captions)
    pairs = random_pairs(Features(torch.randn(images, REGIONS, FEATURES).numpy()), lengths)

    def encode() -> None:
        encode_images(model, pairs.images, batch_size)
        encode_captions(model, pairs, batch_size)

    parts = chain(
        *(
            projection(len(rows) * REGIONS, embedding, training=False)
            for rows in torch.arange(images).split(batch_size)
        ),
        *(recurrent(batch, WORD, embedding, training=False) for batch in lengths.sort().values.split(batch_size)),
    )
    yield Sides(encode, in_turn(parts))


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
def reading(images: int) -> Iterator[Sides]:
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

        yield Sides(epoch, copy)


# --- Growth -----------------------------------------------------------------------------------------------------------


@contextmanager
def growing_step(kind: Kind, size: int, words: int | None = None) -> Iterator[Sides]:
    """A training step at embedding 256, alone."""
    with local_training_step(kind, 256, "32-true", size, words) as sides:
        yield replace(sides, floor=None, rival=None)


@contextmanager
def growing_gallery(kind: Kind, items: int) -> Iterator[Sides]:
    """As many images as captions at embedding 256, scored, alone."""
    with scoring(kind, 256, items, items) as sides:
        yield replace(sides, floor=None, rival=None)


# --- Rows -------------------------------------------------------------------------------------------------------------

BENCHMARKS = [
    *(
        Benchmark(
            f"training step, embedding {embedding:,}, {precision}{', dropping' if dropping else ''}",
            partial(training_step, embedding, precision, dropping),
            memory=("work",),
        )
        for embedding in (256, 1024)
        for precision in ("32-true", "bf16-mixed")
        for dropping in (False, True)
    ),
    *(
        Benchmark(
            f"training step, {kind.upper()}, embedding {embedding:,}, {precision}",
            partial(local_training_step, kind, embedding, precision),
            memory=("work", "rival") if precision == "32-true" else ("work",),
            repeats=3,
        )
        for kind in KINDS
        for embedding in (256, 1024)
        for precision in ("32-true", "bf16-mixed")
    ),
    *(
        Benchmark(
            f"scoring 1,000 × 5,000, {kind.upper()}, embedding 256, every 50th caption",
            partial(scoring, kind, 256, 1_000, 5_000, every=50),
            memory=("work", "rival"),
            repeats=3,
        )
        for kind in KINDS
    ),
    Benchmark("ranks, 1,000 × 5,000", partial(ranking, 1_000, 5_000), memory=("work",)),
    Benchmark("ranks, 5,000 × 25,000", partial(ranking, 5_000, 25_000), memory=("work",)),
    Benchmark("encoding, 1,000 images × 5,000 captions", partial(encoding, 1_000, 5_000), memory=("work",), repeats=5),
    Benchmark("reading an epoch, 16 GB", partial(reading, 87_000), memory=("work",), repeats=1),
]

GROWTH = [
    benchmark
    for kind in KINDS
    for benchmark in (
        *(
            Benchmark(
                f"training step, {kind.upper()}, batch {size}",
                partial(growing_step, kind, size),
                memory=("work",),
                repeats=2,
            )
            for size in (32, 64, 128, 256)
        ),
        *(
            Benchmark(
                f"training step, {kind.upper()}, {words} words",
                partial(growing_step, kind, BATCH, words),
                memory=("work",),
                repeats=2,
            )
            for words in (8, 16, 32, 64)
        ),
        *(
            Benchmark(
                f"scoring {items:,} × {items:,}, {kind.upper()}",
                partial(growing_gallery, kind, items),
                memory=("work",),
                repeats=1,
            )
            for items in (250, 500, 1_000)
        ),
    )
]


# --- Measuring --------------------------------------------------------------------------------------------------------


def measure(benchmark: Benchmark, repeats: int) -> dict[str, object]:
    """In a process of its own: the times of all sides, which take turns."""
    import torch

    with benchmark.prepare() as sides:
        result: dict[str, object] = {"pairs": sides.pairs, "pair_words": sides.pair_words}
        if sides.floor is not None:
            result["gflop"] = gflop(sides.floor)
            if result["gflop"]:
                result["peak_gflop_per_second"] = peak_gflop_per_second(sides.half)
        named = {"": sides.work, "floor_": sides.floor, "rival_": sides.rival}
        working = {name: work for name, work in named.items() if work is not None}
        if benchmark.repeats > 1:
            for work in working.values():
                work()  # the first is slower: memory, threads
        times = [{name: timed(work) for name, work in working.items()} for _ in range(min(repeats, benchmark.repeats))]
    for name in working:
        result[f"{name}seconds"] = statistics.median(turn[name][0] for turn in times)
        result[f"{name}cpu_seconds"] = statistics.median(turn[name][1] for turn in times)
        result[f"{name}fastest_cpu_seconds"] = min(turn[name][1] for turn in times)
    return result | {
        "repeats": len(times),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def measure_memory(benchmark: Benchmark, side: str) -> dict[str, object]:
    """In a process of its own: the peak of the work or of the rival."""
    with benchmark.prepare() as sides:
        work, name = (sides.work, "") if side == "work" else (sides.rival, "rival_")
        before = resident_mb()
        for _ in range(min(2, benchmark.repeats)):  # the second step finds gradients and the optimiser's state in place
            work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # KiB (Linux)
    return {f"{name}peak_mb": round(peak), f"{name}beyond_inputs_mb": round(peak - before)}


def timed(work: Work) -> tuple[float, float]:
    """Seconds by the clock and by the CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def resident_mb() -> float:
    """Resident memory now, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def gflop(work: Work) -> float:
    """10⁹ operations in the matrix products of `work`; a multiply-add is two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def peak_gflop_per_second(half: bool) -> float:
    """What this machine reaches in one large product, the fastest of three."""
    import torch

    size = 4096
    left, right, result = torch.randn(3, size, size).to(torch.bfloat16 if half else torch.float32)
    multiply = partial(torch.mm, left, right, out=result)
    multiply()
    return 2 * size**3 / 1e9 / min(timed(multiply)[0] for _ in range(3))


# --- Tables -----------------------------------------------------------------------------------------------------------

FLOOR_HEAD = (
    "what",
    "s",
    "floor s",
    "ratio",
    "CPU s",
    "floor CPU s",
    "ratio",
    "ratio of the fastest",
    "GFLOP",
    "GFLOP/s",
    "share of peak (floor's)",
    "peak MB (beyond inputs)",
    "repeats",
    "load",
)


def floor_row(name: str, result: dict) -> list[str]:
    cells = [name]
    for kind in ("seconds", "cpu_seconds"):
        cells += [f"{result[kind]:.3g}", f"{result[f'floor_{kind}']:.3g}", ratio(result, kind, "floor_")]
    cells += [ratio(result, "fastest_cpu_seconds", "floor_")]
    if result["gflop"]:
        speed, floor_speed = (result["gflop"] / result[key] for key in ("seconds", "floor_seconds"))
        peak = result["peak_gflop_per_second"]
        cells += [f"{result['gflop']:.4g}", f"{speed:.3g}", f"{speed / peak:.2f} ({floor_speed / peak:.2f})"]
    else:
        cells += ["–"] * 3
    return [*cells, memory(result), str(result["repeats"]), f"{result['load']:.1f}"]


RIVAL_HEAD = (
    "what",
    "pairs",
    "µs a pair",
    "loop's",
    "times less",
    "CPU µs a pair",
    "loop's",
    "times less",
    "peak MB (beyond inputs)",
    "loop's",
    "times less (beyond inputs)",
)


def rival_row(name: str, result: dict) -> list[str]:
    cells = [name, f"{result['pairs']:,}"]
    for kind in ("seconds", "cpu_seconds"):
        cells += [f"{1e6 * result[key] / result['pairs']:.4g}" for key in (kind, f"rival_{kind}")]
        cells += [f"{result[f'rival_{kind}'] / result[kind]:.2f}"]
    less, less_beyond = (result[f"rival_{key}"] / result[key] for key in ("peak_mb", "beyond_inputs_mb"))
    return [*cells, memory(result), memory(result, "rival_"), f"{less:.2f} ({less_beyond:.2f})"]


GROWTH_HEAD = (
    "what",
    "pairs",
    "s",
    "CPU s",
    "µs a pair",
    "ns a pair and word",
    "CPU ns a pair and word",
    "peak MB (beyond inputs)",
    "bytes a pair and word",
    "repeats",
    "load",
)


def growth_row(name: str, result: dict) -> list[str]:
    cells = [name, f"{result['pairs']:,}", f"{result['seconds']:.3g}", f"{result['cpu_seconds']:.3g}"]
    cells += [f"{1e6 * result['seconds'] / result['pairs']:.4g}"]
    cells += [f"{1e9 * result[key] / result['pair_words']:.4g}" for key in ("seconds", "cpu_seconds")]
    cells += [memory(result), f"{1e6 * result['beyond_inputs_mb'] / result['pair_words']:.4g}"]
    return [*cells, str(result["repeats"]), f"{result['load']:.1f}"]


def ratio(result: dict, key: str, to: str) -> str:
    return f"{result[key] / result[to + key]:.2f}"


def memory(result: dict, side: str = "") -> str:
    if f"{side}peak_mb" not in result:
        return "–"
    return f"{result[f'{side}peak_mb']:,} ({result[f'{side}beyond_inputs_mb']:,})"


def print_row(cells: Iterable[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def print_head(head: tuple[str, ...]) -> None:
    print_row(head)
    print(f"|{' --- |' * len(head)}", flush=True)


def print_rivals(results: dict[str, dict]) -> None:
    """The table beside the loop, and the count behind the floor."""
    print("\nBeside a loop over captions:\n")
    print_head(RIVAL_HEAD)
    for name, result in results.items():
        if "rival_seconds" in result:
            print_row(rival_row(name, result))
    words = (SHORTEST + LONGEST) // 2
    print(
        f"\nMultiply-adds that a pair of {REGIONS} regions and {words} words needs, similarity {SIMILARITY}:", end=" "
    )
    counts = (
        f"{kind.upper()} {multiply_adds(kind, words, embedding) / 1e6:.2f} M at embedding {embedding:,}"
        for kind in KINDS
        for embedding in (256, 1024)
    )
    print(f"{', '.join(counts)}; a training step three times as many.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="benchmarks whose name contains this")
    parser.add_argument("--growth", action="store_true", help="SAF and SGR as batch, words and gallery grow, instead")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=11, help="at most; the longer ones repeat less (default 11)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there, after every row")
    parser.add_argument("--measure", choices=["time", "work", "rival"], help=argparse.SUPPRESS)  # in its own process
    arguments = parser.parse_args()
    benchmarks = GROWTH if arguments.growth else BENCHMARKS
    chosen = [benchmark for benchmark in benchmarks if arguments.only in benchmark.name]
    if not chosen:
        parser.error(f"no benchmark has {arguments.only!r} in its name: {[b.name for b in benchmarks]}")
    if arguments.measure:
        (benchmark,) = (b for b in chosen if b.name == arguments.only)
        measure_here(benchmark, arguments)
        return
    head, row = (GROWTH_HEAD, growth_row) if arguments.growth else (FLOOR_HEAD, floor_row)
    results = {}
    print_head(head)
    for benchmark in chosen:
        result = results[benchmark.name] = measure_elsewhere(benchmark, arguments)
        print_row(row(benchmark.name, result))
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if any("rival_seconds" in result for result in results.values()):
        print_rivals(results)
    print(f"\ntorch {result['torch']}, {arguments.threads} threads, {os.uname().machine}, {os.cpu_count()} cores")


def measure_here(benchmark: Benchmark, arguments: argparse.Namespace) -> None:
    """Prints what the process that started this one waits for."""
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.measure == "time":
        result = measure(benchmark, arguments.repeats)
    else:
        result = measure_memory(benchmark, arguments.measure)
    print(json.dumps(result))


def measure_elsewhere(benchmark: Benchmark, arguments: argparse.Namespace) -> dict:
    """The times, and the peaks of memory, each from a process of its own."""
    command = [sys.executable, __file__, "--only", benchmark.name, "--threads", str(arguments.threads)]
    command += ["--repeats", str(arguments.repeats), *(["--growth"] if arguments.growth else [])]
    result = {}
    for kind in ("time", *benchmark.memory):
        output = subprocess.run([*command, "--measure", kind], stdout=subprocess.PIPE, check=True, text=True).stdout
        result |= json.loads(output.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
