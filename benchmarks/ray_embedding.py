"""Embed the same pictures by Ray on one local node of one core, on two, and on two of which one is killed half-way.

    python benchmarks/ray_embedding.py photographs.csv --pictures 1200 --shards 12

`photographs.csv` has the columns file and caption. Pictures and captions are copied into tar shards first. The time
without start-up begins when the first worker has loaded its encoders. CPU seconds are those of the workers; on a
machine that does other things they say more than the time that passes. All results must have the bytes that one machine
writes without Ray, or the script exits with 1.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default, less than what the same work has without Ray

import ray
from ray.cluster_utils import Cluster

from truepair.config.embedding import EmbedConfig
from truepair.embedding.run import embed

STORE = {"object_store_memory": 100 * 2**20}
DESCRIPTION = "embeddings.json"


def write_shards(table: Path, folder: Path, pictures: int, shards: int) -> None:
    """The first pictures of a table, with all of their captions, in equally many a tar."""
    captions: dict[str, list[str]] = {}
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["file"], []).append(row["caption"])
    names = list(captions)[:pictures]
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(shard, len(names), shards):
                picture = (table.parent / names[number]).read_bytes()
                for ending, data in (
                    ("jpg", picture),
                    ("json", json.dumps({"caption": captions[names[number]]}).encode()),
                ):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


class Watch(threading.Thread):
    """When workers began to encode, and the CPU seconds that each had used."""

    def __init__(self, out: Path, half_way: int, then: Callable[[], None] | None) -> None:
        super().__init__(daemon=True)
        self.out, self.half_way, self.then = out, half_way, then
        self.began: float | None = None
        self.cpu: dict[int, float] = {}
        self.cpu_at_first: dict[int, float] = {}
        self.done = False

    def run(self) -> None:
        while not self.done:
            self.cpu |= worker_seconds()
            if self.began is None and (self.out / "parts" / "plan.json").exists():
                self.began, self.cpu_at_first = time.perf_counter(), dict(self.cpu)
            if self.then and len(list(self.out.glob("parts/?????"))) >= self.half_way:
                self.then()
                self.then = None
            time.sleep(0.1)


def worker_seconds() -> dict[int, float]:
    """CPU seconds of Ray's workers of this script, by process; /proc is read, so on Linux only."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::_Worker"):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                found[int(process.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue  # it has ended
    return found


def on_nodes(
    count: int, source: Path, out: Path, config: EmbedConfig, *, shards: int, kill: bool = False
) -> dict[str, float]:
    """Embed on so many nodes of one core each; with `kill`, half-way on one less."""
    started = time.perf_counter()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **STORE})
    nodes = [cluster.add_node(num_cpus=1, **STORE) for _ in range(count - 1)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    watch = Watch(out, shards // 2, (lambda: cluster.remove_node(nodes[0], allow_graceful=False)) if kill else None)
    watch.start()
    try:
        summary = embed(str(source), out, config)
        ended = time.perf_counter()
    finally:
        watch.done = True
        watch.join()
        ray.shutdown()
        cluster.shutdown()
    assert watch.began is not None
    encoding = [seconds - watch.cpu_at_first.get(process, 0.0) for process, seconds in watch.cpu.items()]
    return {
        "images": summary["images"],
        "seconds": round(ended - started, 1),
        "seconds_without_start": round(ended - watch.began, 1),
        "cpu_seconds": round(sum(watch.cpu.values()), 1),
        "cpu_seconds_without_start": round(sum(encoding), 1),
        "cpu_seconds_of_the_busiest_without_start": round(max(encoding), 1),
    }


def bytes_of(out: Path) -> dict[str, bytes]:
    """The files of a store; of its description what does not depend on where and how fast it was made."""
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.name != DESCRIPTION}
    described = json.loads((out / DESCRIPTION).read_text(encoding="utf-8"))
    for name in ("seconds", "images_per_second", "hardware"):
        del described[name]
    return files | {DESCRIPTION: json.dumps(described).encode()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--pictures", type=int, default=1200)
    parser.add_argument("--shards", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tars").mkdir()
        write_shards(options.table, folder / "tars", options.pictures, options.shards)
        config = EmbedConfig(engine="ray", device="cpu")
        runs = {"one node": (1, False), "two nodes": (2, False), "two nodes, one killed": (2, True)}
        measured = {}
        for run, (count, kill) in runs.items():
            measured[run] = on_nodes(count, folder / "tars", folder / run, config, shards=options.shards, kill=kill)
            print(run, json.dumps(measured[run]), flush=True)
        for which in ("seconds", "seconds_without_start", "cpu_seconds_of_the_busiest_without_start"):
            print(f"{which}: {measured['one node'][which] / measured['two nodes'][which]:.2f} times as fast")
        embed(str(folder / "tars"), folder / "alone", EmbedConfig(device="cpu", workers=1))
        equal = {run: bytes_of(folder / run) == bytes_of(folder / "alone") for run in runs}
        print("same bytes as without Ray:", equal)
    return 0 if all(equal.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
