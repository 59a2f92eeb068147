"""What a corpus that stays on disk costs, beside one in memory: plain training for one epoch, each in a process.

    python benchmarks/streaming.py --pairs 1000000                        # a made-up feature store of so many pairs
    python benchmarks/streaming.py --photographs FOLDER --shards 20       # photographs, packed into tar shards here
    python benchmarks/streaming.py … --json benchmarks/results/streaming.json

Of the store, features are drawn from 16 latent factors and captions from 2,000 words. Of photographs, a frozen
EfficientNet-Lite0 reads the pixels, so that reading and decoding weigh as much as they can. Printed are the peak of
resident memory, which counts pages of mapped files as far as they were touched, and anonymous memory, which does not.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WORDS, WORDS_A_CAPTION, WIDTH = 2000, 10, 64
ROWS_AT_A_TIME = 100_000

RUN = """
import json, resource, sys, time
from pathlib import Path
from truepair.config import BaselineConfig, DataConfig, ModelConfig, NoiseConfig, Recipe, TrainingConfig
from truepair.data.corpora import load_corpus
from truepair.training.run import run
data, model, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
recipe = Recipe(DataConfig(**data), model=ModelConfig(**model), method=BaselineConfig(epochs=1),
                training=TrainingConfig(batch_size=int(sys.argv[4]), device="cpu"))
begun = time.perf_counter()
corpus = load_corpus(recipe.data, recipe.model)
opened = time.perf_counter() - begun
results = run(recipe, out, corpus)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"opened": opened, "seconds": results.seconds, "rsum": results.test.rsum, "pairs": results.pairs.train,
                  "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                  "anonymous_mb": int(status["RssAnon"].split()[0]) // 1024}))
"""


def write_store(folder: Path, pairs: int) -> None:
    """A feature store as ``truepair embed`` writes it."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    words = np.array([f"word{number}" for number in range(WORDS)])
    mixing = random.standard_normal((2, 16, WIDTH)).astype(np.float32)
    files = [np.lib.format.open_memmap(folder / f"{side}.npy", "w+", np.float16, (pairs, WIDTH)) for side in SIDES]
    images = pq.ParquetWriter(
        folder / "images.parquet", pa.schema([("image_id", pa.string()), ("reference", pa.string())])
    )
    schema = pa.schema([("caption_id", pa.string()), ("caption", pa.string()), ("image", pa.int64())])
    captions = pq.ParquetWriter(folder / "pairs.parquet", schema)
    for start in range(0, pairs, ROWS_AT_A_TIME):
        count = min(ROWS_AT_A_TIME, pairs - start)
        factors = random.standard_normal((count, 16)).astype(np.float32)
        for file, side in zip(files, mixing, strict=True):
            file[start : start + count] = factors @ side + 0.5 * random.standard_normal((count, WIDTH))
        texts = [" ".join(row) for row in words[random.integers(0, WORDS, (count, WORDS_A_CAPTION))]]
        rows = range(start, start + count)
        names = [f"shard-{row // 10_000:05d}/{row:09d}" for row in rows]
        images.write_table(pa.table({"image_id": names, "reference": [f"{name}.tar:0:1" for name in names]}))
        captions.write_table(pa.table({"caption_id": names, "caption": texts, "image": [*rows]}, schema))
    images.close()
    captions.close()
    (folder / "skipped.csv").write_text("where,reason,detail\n")
    described = {"format": 2, "source": {"path": "made up"}, "text_encoder": {"name": "made up"}}
    (folder / "embeddings.json").write_text(json.dumps(described | {"image_encoder": {"name": "made up"}}))


SIDES = ("images", "captions")


def write_shards(folder: Path, photographs: Path, shards: int, most: int) -> None:
    """Photographs of a table with the columns file and caption, with their captions, in tar shards."""
    import csv

    captions: dict[str, list[str]] = {}
    with photographs.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["file"], []).append(row["caption"])
    folder.mkdir(parents=True)
    chosen = [*captions.items()][:most]
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number, (name, texts) in list(enumerate(chosen))[shard::shards]:
                tar.add(photographs.parent / name, f"{number:09d}.jpg")
                metadata = folder / "caption.json"
                metadata.write_text(json.dumps({"caption": texts}))
                tar.add(metadata, f"{number:09d}.json")
    (folder / "caption.json").unlink()


def measured(data: dict[str, object], model: dict[str, object], out: Path, batch: int) -> dict[str, float]:
    """An epoch in a process of its own."""
    process = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(data), json.dumps(model), str(out), str(batch)],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(re.sub(r"\x1b\[[0-9;]*m", "", process.stderr)[-2000:])
    found: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return found


def compared(
    folder: Path, data: dict[str, object], model: dict[str, object], batch: int
) -> dict[str, dict[str, float]]:
    """In memory; on disk, the index being made; and with the index there."""
    streamed = data | {"stream_index": str(folder / "index")}
    found = {}
    for name, options in (("in memory", data), ("on disk, index made", streamed), ("on disk, index there", streamed)):
        found[name] = measured(options, model, folder / f"run-{len(found)}", batch)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    return found


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="*", default=[])
    parser.add_argument("--photographs", type=Path, help="a table with the columns file and caption")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--most", type=int, default=1000, help="photographs")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for pairs in arguments.pairs:
            folder, begun = Path(place) / str(pairs), time.perf_counter()
            write_store(folder / "store", pairs)
            print(f"{pairs:,} pairs, made in {time.perf_counter() - begun:.0f} s", flush=True)
            few = min(0.1, 1000 / pairs)
            data = {"path": str(folder / "store"), "development_share": few, "test_share": few, "text": "features"}
            found[f"{pairs:,} pairs of features"] = compared(
                folder, data, {"embedding": 64, "projection": "plain"}, 1024
            )
        if arguments.photographs is not None:
            folder = Path(place) / "photographs"
            write_shards(folder / "shards", arguments.photographs, arguments.shards, arguments.most)
            data = {"path": str(folder / "shards")}
            model = {"image": "frozen", "text": "frozen", "projection": "plain", "embedding": 64}
            found[f"{arguments.most:,} photographs"] = compared(folder, data, model, 64)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(as_table(found), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def as_table(found: dict[str, dict[str, dict[str, float]]]) -> dict[str, object]:
    """What `tables.py` reads."""
    rows = []
    for corpus, ways in found.items():
        said = [
            f"{way} {each['opened']:.1f} + {each['seconds']:.0f} s, {each['anonymous_mb']:,} MB"
            for way, each in ways.items()
        ]
        rows.append([f"plain training, one epoch, {corpus}: opening + epoch, memory", "; ".join(said)])
    return {
        "title": "[Corpora on disk](../docs/scale.md#a-corpus-that-is-larger-than-memory), beside the same in memory",
        "command": "python benchmarks/streaming.py --pairs 1000000 4000000 --photographs TABLE",
        "machine": "1 thread, five other jobs on two cores; the program itself has 380 MB",
        "columns": ["what", "measured"],
        "rows": rows,
    }


if __name__ == "__main__":
    main()
