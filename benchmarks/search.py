"""Search: exact search in a million vectors against the product alone, and probabilities on photographs.

``python benchmarks/search.py million [--vectors 1000000] [--faiss]`` makes clustered vectors in a temporary folder and
times a query and a batch of 64, exactly and, with ``--faiss``, approximately, beside the product alone; memory is the
largest resident memory of the process that searches.

``python benchmarks/search.py photographs INDEX`` takes an index of 'truepair index' and says how many nonsense queries
are told from captions: shuffled words, words drawn from all captions, and sentences of other domains.

``python benchmarks/search.py page INDEX [--requests 10000]`` serves the page and sends it searches, parts of rankings
and pictures, 200 at a time; every one must be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import torch

from truepair.config.search import IndexConfig
from truepair.embedding.store import RowWriter
from truepair.files.npy import npy_header
from truepair.layers import unit_length
from truepair.scoring.best import Best
from truepair.search.approximate import ApproximateFile, ApproximateSide
from truepair.search.calibration import LOOKED_AT, answer_features, mean_of_best
from truepair.search.exact import nearest
from truepair.search.index import open_index
from truepair.search.layout import mapped_vectors
from truepair.training.device import peak_memory_mb

WIDTH = 512
CENTRES = 20_000
REPEATS = 40
OTHER_DOMAINS = (
    "The quarterly earnings exceeded analyst expectations by four percent.",
    "Integrate by parts and substitute the boundary condition.",
    "The court dismissed the appeal for lack of standing.",
    "Set the environment variable before compiling the kernel module.",
    "Mitochondria produce most of the chemical energy of the cell.",
    "The treaty was signed after eleven rounds of negotiation.",
    "Interest rates are expected to remain unchanged until spring.",
    "A monad is a monoid in the category of endofunctors.",
    "Please find attached the invoice for the services of last month.",
    "The patient was prescribed antibiotics for ten days.",
    "Our refund policy does not cover opened software.",
    "Gradient descent converges if the step size is small enough.",
    "The senate voted to postpone the tax reform.",
    "Kant distinguishes analytic from synthetic judgements.",
    "The enzyme catalyses the hydrolysis of the ester bond.",
    "asdf qwer zxcv poiu lkjh",
    "Terms and conditions apply to all subscription plans.",
    "The database migration failed because of a foreign key constraint.",
    "Inflation eroded the purchasing power of wages in the seventies.",
    "Sonata form consists of exposition, development and recapitulation.",
)


def write_clustered(path: Path, rows: int, seed: int) -> None:
    """Unit vectors around centres, half precision."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CENTRES, WIDTH, generator=generator)
    generator.manual_seed(seed)
    with RowWriter(path) as file:
        for some in torch.arange(rows).split(50_000):
            around = centres[torch.randint(CENTRES, (len(some),), generator=generator)]
            file.append(unit_length(around + torch.randn(len(some), WIDTH, generator=generator)).half().numpy())


def timed(run: Callable[[], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds, after one run that does not count."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return float(np.quantile(times, 0.5)), float(np.quantile(times, 0.95))


def measured(folder: Path, what: str) -> dict[str, float]:
    """One way of searching, in a process of its own."""
    vectors = mapped_vectors(folder / "images.npy", npy_header(folder / "images.npy").shape[0], WIDTH)
    queries = mapped_vectors(folder / "captions.npy", 1000, WIDTH).float()
    number = iter(range(10**6))

    def one() -> torch.Tensor:
        return queries[next(number) % 1000][None]

    ways: dict[str, Callable[[], object]] = {
        "floor": lambda: torch.mv(vectors, one()[0].half()),
        "float32 blocks": lambda: float_blocks(one(), vectors),
        "exact": lambda: nearest(one(), [vectors], 10),
        "floor 64": lambda: [block.float() @ queries[:64].T for block in vectors.split(4096)],
        "exact 64": lambda: nearest(queries[:64], [vectors], 10),
    }
    if what == "faiss":
        side = opened_approximate(folder, vectors)
        ways["faiss"] = lambda: side.nearest(one(), 10, None)
    p50, p95 = timed(ways[what], 5 if "64" in what else REPEATS)
    return {"p50_ms": p50, "p95_ms": p95, "memory_mb": peak_memory_mb() or float("nan")}


def float_blocks(query: torch.Tensor, vectors: torch.Tensor) -> Best:
    """What converting every block on every query costs."""
    best = Best.unfilled(1, 10)
    for start in range(0, len(vectors), 4096):
        block = vectors[start : start + 4096]
        best.put(torch.tensor([0]), query @ block.float().T, torch.arange(start, start + len(block)))
    return best


def opened_approximate(folder: Path, vectors: torch.Tensor) -> ApproximateSide:
    """The approximate index that `build` made."""
    from types import SimpleNamespace

    made = json.loads((folder / "approximate.json").read_text())
    segment = SimpleNamespace(name="", approximate={"images": made})
    rows = SimpleNamespace(side="images", starts=[0, len(vectors)], vectors=[vectors])
    return ApproximateSide(folder, [segment], rows)


def build(folder: Path, rows: int, kind: str) -> None:
    """An approximate index of the vectors, in a process of its own."""
    started = time.perf_counter()
    vectors = mapped_vectors(folder / "images.npy", rows, WIDTH)
    queries = mapped_vectors(folder / "captions.npy", 1000, WIDTH)[:200].float()
    config = replace(IndexConfig(), approximate=kind)
    made = ApproximateFile(folder / "images.faiss", config).build(vectors, queries)
    (folder / "approximate.json").write_text(json.dumps(made))
    print(f"{kind}: {made}, built in {time.perf_counter() - started:.0f} s, {peak_memory_mb():,.0f} MB")


def million(rows: int, approximate: str | None) -> None:
    """The table, a process a row."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_clustered(folder / "images.npy", rows, 1)
        write_clustered(folder / "captions.npy", 1000, 2)
        ways = ["floor", "float32 blocks", "exact", "floor 64", "exact 64"]
        if approximate:
            subprocess.run([sys.executable, __file__, "build", temporary, str(rows), approximate], check=True)
            ways.append("faiss")
        print(f"{rows:,} × {WIDTH}, {torch.get_num_threads()} threads; a row a process")
        for what in ways:
            said = subprocess.run(
                [sys.executable, __file__, "one", temporary, what], check=True, capture_output=True, text=True
            )
            found = json.loads(said.stdout)
            times = f"p50 {found['p50_ms']:8.1f} ms  p95 {found['p95_ms']:8.1f} ms"
            print(f"{what:16} {times}  {found['memory_mb']:7,.0f} MB")


def photographs(folder: str) -> None:
    """Nonsense queries against captions."""
    from sklearn.metrics import roc_auc_score  # its memory is none of search's

    index = open_index(folder)
    calibration = index.calibration("images")
    assert calibration is not None
    texts = index.captions.table["caption"].to_pylist()
    drawn = random.Random(0)
    picked = [texts[row] for row in drawn.sample(range(len(texts)), 300)]
    words = [word for text in drawn.sample(texts, min(2000, len(texts))) for word in text.split()]
    kinds = {
        "captions of the corpus": picked,
        "shuffled words": [" ".join(drawn.sample(text.split(), len(text.split()))) for text in picked],
        "words of all captions": [" ".join(drawn.choices(words, k=10)) for _ in picked],
        "other domains": list(OTHER_DOMAINS),
    }
    scores = {}
    for kind, asked in kinds.items():
        queries = index.queries(asked)
        features = index.features(queries, "images", index.hits(queries, "images", LOOKED_AT, None))
        table = index.search(asked, k=1)
        scores[kind] = mean_of_best(features[:, :, 0]).numpy()
        fits = np.mean(table["fits"].to_pylist())
        answer = calibration.answer(answer_features(features)).mean()
        told = np.concatenate([scores["captions of the corpus"], scores[kind]])
        is_caption = np.arange(len(told)) < len(picked)
        auroc = roc_auc_score(is_caption, told)
        print(f"{kind:24} said to fit {fits:6.1%}  mean answer {float(answer):.2f}  AUROC {auroc:.3f}  ({len(asked)})")
    for side, name in (("images", "text → image"), ("captions", "image → text")):
        found = index.calibration(side)
        if found is not None:
            print(name, json.dumps({k: v for k, v in vars(found.measured).items() if k != "reliability"}))
            print(
                *(
                    f"{probability:.2f}→{share:.2f} ({count:,})"
                    for probability, share, count in found.measured.reliability
                )
            )


def page(folder: str, requests: int) -> None:
    """Requests to the page of an index, 200 at a time."""
    words = random.Random(0)
    index = open_index(folder)
    texts = index.captions.table["caption"].slice(0, 5000).to_pylist()
    asked = [words.sample(texts, 1)[0] for _ in range(200)]
    command = [sys.executable, "-m", "truepair", "search", folder, "--page", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = httpx.URL(server.stdout.readline().removeprefix("search: ").strip())
        try:
            times, codes = asyncio.run(_sent(address, requests, asked, len(index), has_pictures=index.has_pictures))
            memory = Path(f"/proc/{server.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        finally:
            server.terminate()
    for kind, taken in times.items():
        p50, p95 = np.quantile(taken, [0.5, 0.95])
        print(f"{kind:12} {len(taken):6,}  p50 {p50:7.0f} ms  p95 {p95:7.0f} ms  longest {max(taken):7.0f} ms")
    print(f"answers {dict(codes)}, largest memory of the server {int(memory) / 1000:,.0f} MB")


async def _sent(
    address: httpx.URL, requests: int, asked: list[str], images: int, *, has_pictures: bool
) -> tuple[dict[str, list[float]], Counter[int]]:
    """Milliseconds of each kind of request, and how many answers had which status."""
    times: dict[str, list[float]] = defaultdict(list)
    codes, free, chance = Counter[int](), asyncio.Semaphore(200), random.Random(1)
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=str(address.join("/")), timeout=600, limits=limits) as client:
        await client.get("/search", params=dict(address.params))

        async def one() -> None:
            offset = chance.choice((0, 0, 48, 480))
            kind = chance.choice(("search", "every row", "picture") if has_pictures else ("search", "every row"))
            async with free:
                started = time.perf_counter()
                if kind == "picture":
                    answer = await client.get(f"/found/{chance.randrange(images)}")
                elif kind == "search":
                    answer = await client.post("/api/search", json={"text": chance.choice(asked), "offset": offset})
                else:
                    answer = await client.post("/api/search", json={"offset": chance.randrange(images)})
                times[kind].append(1000 * (time.perf_counter() - started))
                codes[answer.status_code] += 1

        started = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(requests)))
        taken = time.perf_counter() - started
        print(f"{requests:,} requests in {taken:.1f} s: {requests / taken:,.0f} a second")
    return times, codes


def main() -> None:
    """Run what is asked for."""
    if sys.argv[1] == "one":
        print(json.dumps(measured(Path(sys.argv[2]), sys.argv[3])))
        return
    if sys.argv[1] == "build":
        build(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("million", "photographs", "page"))
    parser.add_argument("index", nargs="?")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--approximate", choices=("ivf", "hnsw"))
    parser.add_argument("--requests", type=int, default=10_000)
    asked = parser.parse_args()
    if asked.what == "million":
        million(asked.vectors, asked.approximate)
    elif asked.what == "page":
        page(asked.index, asked.requests)
    else:
        photographs(asked.index)


if __name__ == "__main__":
    main()
