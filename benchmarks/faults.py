"""Try to break truepair: kills, full disks, little memory, two commands at once, damaged files, equal inputs.

    python benchmarks/faults.py --out faults
    python benchmarks/faults.py --out faults --kinds kills full --commands audit "audit again" fix --kills 50
    python benchmarks/faults.py --out again --kinds kills --commands "audit again" --only event:5

Every command runs on a small made corpus, in a child of one process. What is counted, by kind and command: tracebacks;
exit codes that say the wrong thing; changes of what is only read; mixes of two results that a reader accepts; files
that are half-written under their final names; ends of an interrupted and repeated command that differ from an end in
peace; temporary files left over; hangs. Prints a line now and then, a table at the end, and one fault of each sort with
the command that shows it again (a meeting of two commands is timed, and may need several attempts). ``faults.json`` in
the folder has all faults, and ``inputs/`` the damaged files. Exits with 1 if there is any.
"""

# ruff: noqa: E402 - the environment comes before what reads it, and the drivers lie with the tests
from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}  # before any import
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests" / "made")]

from breaking import children, equal, full, fuzzing, kills, memory, pairs, seeds
from breaking.jobs import Job, jobs, make_snapshot
from breaking.tally import Tally
from breaking.world import World, make_world

KINDS = ("kills", "full", "memory", "pairs", "fuzz", "equal")
SAMPLE = {
    "kills": (("embed shares", "audit again", "train", "noise", "review", "fix again"), 12),
    "full": (("train", "noise", "fix"), 6),
    "memory": (("fix",), 2),
    "pairs": (("train + train", "fix + fix"), 2),
    "fuzz": ((), 76),
    "equal": (("train", "fix"), 1),
}
"""What ``--sample`` does of each kind: which commands, how many cases."""


def main() -> int:
    arguments = parsed()
    if arguments.out.exists() and any(arguments.out.iterdir()):
        sys.exit(f"{arguments.out} is not empty: choose a new folder")
    started = time.perf_counter()
    children.prepare()
    world = make_world(arguments.out)
    tally = Tally(partial(print, flush=True))
    for kind in arguments.kinds:
        commands, count = arguments.commands, getattr(arguments, kind, 1)
        if arguments.sample:
            commands, count = SAMPLE[kind]
        try:
            drive(kind, world, Cases(commands, count, arguments.seed, arguments.only), tally)
        except Exception as error:  # what the others found is kept
            tally.found(kind, "the driver", "traceback", "none", f"{type(error).__name__}: {error}")
    shutil.rmtree(world.root / "now", ignore_errors=True)
    found = tally.as_dict() | {"seconds": round(time.perf_counter() - started, 1), "seed": arguments.seed}
    (arguments.out / "faults.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"\n{tally.table()}\n\n{len(tally.findings):,} faults in {found['seconds']:,} s")
    return int(bool(tally.findings))


@dataclass(frozen=True)
class Cases:
    """What a driver is asked for: commands (all if there are none), cases in all, a seed, and the only case to try."""

    commands: Sequence[str]
    count: int
    seed: int
    only: str | None


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder: what is made, and faults.json")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what to do (default: all)")
    parser.add_argument("--commands", nargs="+", default=[], help="the commands or seeds to break (default: all)")
    parser.add_argument("--kills", type=int, default=200, help="kills in all (default: 200)")
    parser.add_argument("--full", type=int, default=100, help="full disks in all (default: 100)")
    parser.add_argument("--memory", type=int, default=50, help="limits of memory in all (default: 50)")
    parser.add_argument("--pairs", type=int, default=50, help="meetings of two commands in all (default: 50)")
    parser.add_argument("--inputs", dest="fuzz", type=int, default=1000, help="damaged inputs in all (default: 1000)")
    parser.add_argument("--sample", action="store_true", help="a few cases of each kind, as the tests run them")
    parser.add_argument("--seed", type=int, default=0, help="seed of moments, delays and damage (default: 0)")
    parser.add_argument("--only", help="a single case, as the list of faults names it")
    return parser.parse_args()


def drive(kind: str, world: World, cases: Cases, tally: Tally) -> None:
    """Run the driver of a kind."""
    if kind == "fuzz":
        fuzz(world, cases, tally)
        return
    if kind == "pairs":
        pairs.meet(world, cases.commands, cases.count, cases.seed, tally, cases.only)
        return
    every = {name: job for name, job in jobs(world).items() if not cases.commands or name in cases.commands}
    each = max(1, cases.count // max(len(every), 1))
    if kind == "equal":
        equal.repeat(world, every, tally)
    elif kind == "memory":
        memory.starve(world, every, each, tally, cases.only)
    else:
        drivers = {"kills": kills.kill, "full": full.fill}
        drivers[kind](world, every, each, cases.seed, tally, cases.only)


def fuzz(world: World, cases: Cases, tally: Tally) -> None:
    every: dict[str, Job] = jobs(world)
    for name in seeds.needed_snapshots():
        make_snapshot(world, every, name)
    made = children.value_of(partial(seeds.make_seeds, world, every))
    chosen = [seed for seed in made if not cases.commands or seed.name in cases.commands]
    if chosen:
        fuzzing.fuzz(chosen, cases.count, cases.seed, world.root, tally, cases.only)


if __name__ == "__main__":
    sys.exit(main())
