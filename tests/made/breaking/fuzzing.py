"""Damaged inputs: each is read, left out and counted, or refused in words; nothing else may happen."""

import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from breaking.children import in_child, value_of
from breaking.mutations import Mutation, drawn, mutated
from breaking.seeds import Seed
from breaking.tally import Fault, Tally

KIND = "fuzz"
_PATIENCE = 10
"""Seconds for one input."""
_AT_ONCE = 40
"""Inputs of a child."""
_MEMORY = 3 << 30
"""Bytes that reading one input may ask for, beyond what the process has."""


@dataclass(frozen=True)
class Case:
    """A damaged input.

    Attributes:
        number: Of the input, which its damage follows from.
        file: The damaged file, below the seed's folder.
        mutations: Its damage.
    """

    number: int
    file: str
    mutations: tuple[Mutation, ...]


@dataclass(frozen=True)
class Read:
    """What became of an input.

    Attributes:
        result: "accepted", "refused", "raised", "hung" or "died".
        detail: What was raised, and where.
    """

    result: str
    detail: str = ""

    @property
    def fault(self) -> Fault | None:
        """What sort of fault it is; None if it is none."""
        faults: dict[str, Fault] = {"raised": "traceback", "hung": "hang", "died": "wrong exit code"}
        return faults.get(self.result)


def fuzz(seeds: Sequence[Seed], count: int, seed: int, scratch: Path, tally: Tally, only: str | None = None) -> None:
    """Read damaged copies of each seed's files.

    Args:
        seeds: What is damaged.
        count: Inputs in all, shared out among the seeds.
        seed: Of all damage.
        scratch: A folder for copies; the inputs that show a fault are kept in ``inputs/`` in it.
        tally: Is told what became of each.
        only: The number of the only input to read of each seed.
    """
    each = max(1, count // len(seeds))
    for one in seeds:
        numbers = range(each) if only is None else [int(only)]
        cases = [_case(one, number, seed) for number in numbers]
        results = _read_all(one, cases, scratch)
        _note(one, cases, results, scratch, tally)
        found = sum(read.fault is not None for read in results)
        tally.tell(f"fuzz, {one.name}: {len(cases)} inputs, {found} with a fault")


def _case(one: Seed, number: int, seed: int) -> Case:
    random = np.random.default_rng([seed, number, *one.name.encode()])
    files = _files(one)
    among = files[random.integers(len(files))]
    file = among[random.integers(len(among))]
    suffix = Path(file).suffix
    return Case(number, file, tuple(drawn(suffix, random)))


def _files(one: Seed) -> list[list[str]]:
    """The files of each pattern that has any."""
    found = [sorted(path for path in one.folder.glob(pattern) if path.is_file()) for pattern in one.files]
    return [[path.relative_to(one.folder).as_posix() for path in paths] for paths in found if paths]


def _read_all(one: Seed, cases: Sequence[Case], scratch: Path) -> list[Read]:
    """What became of each case, in children that read many; a case that ends its child is known by its silence."""
    results: list[Read] = []
    while len(results) < len(cases):
        batch = cases[len(results) : len(results) + _AT_ONCE]
        told = scratch / "results.jsonl"
        told.unlink(missing_ok=True)
        ended = in_child(partial(_read_batch, one, batch, scratch / "copy", told), _PATIENCE * (len(batch) + 2))
        lines = told.read_text().splitlines() if told.exists() else []
        results += [Read(**json.loads(line)) for line in lines]
        if len(lines) < len(batch):
            hung = ended.hung or ended.code == -signal.SIGALRM
            detail = f"longer than {_PATIENCE} s" if hung else f"ended with {ended.code}: {ended.error}"
            results.append(Read("hung" if hung else "died", detail))
    return results


def _read_batch(one: Seed, cases: Sequence[Case], copy: Path, told: Path) -> None:
    """What a child does: one line of JSON for each case that it has read."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory()
    with told.open("w") as lines:
        for case in cases:
            shutil.rmtree(copy, ignore_errors=True)
            folder = Path(shutil.copytree(one.folder, copy / "read"))
            content = mutated((folder / case.file).read_bytes(), case.mutations)
            (folder / case.file).write_bytes(content)
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
            read = _read(one, folder)
            signal.setitimer(signal.ITIMER_REAL, 0)
            lines.write(json.dumps(vars(read)) + "\n")
            lines.flush()


def _read(one: Seed, folder: Path) -> Read:
    """Read a damaged copy; whatever it raises is told."""
    from truepair.errors import TruepairError

    try:
        value = one.read(folder)
    except TruepairError:
        return Read("refused")
    except BaseException as error:
        return Read("raised", _shown(error))
    finally:
        sys.stdout.flush()
    return Read("refused") if value == 1 else Read("accepted")


def _shown(error: BaseException) -> str:
    """What was raised and where in truepair; the same for the same fault."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}truepair{os.sep}" in frame.filename]
    at = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else "elsewhere"
    return f"{type(error).__name__} at {at}: {str(error)[:200]}"


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _note(one: Seed, cases: Sequence[Case], results: Sequence[Read], scratch: Path, tally: Tally) -> None:
    """Count what became of the cases; of those with the same fault, one is shrunk and kept."""
    kept: set[str] = set()
    for case, read in zip(cases, results, strict=True):
        tally.tried(KIND, one.name, read.result)
        if read.fault is None:
            continue
        sort = read.detail.partition(": ")[0]
        if sort in kept:
            continue
        kept.add(sort)
        small = _shrunk(one, case, sort, scratch)
        path = (
            scratch / "inputs" / f"{one.name.replace(': ', '-').replace(' ', '-')}-{case.number}-{Path(case.file).name}"
        )
        value_of(partial(_keep, one, small, path))
        damage = ", ".join(f"{mutation.kind} {mutation.seed}" for mutation in small.mutations)
        tally.found(KIND, one.name, read.fault, str(case.number), f"{case.file} ({damage}): {read.detail}")


def _shrunk(one: Seed, case: Case, sort: str, scratch: Path) -> Case:
    """The case with as few changes as show the same fault."""
    mutations = list(case.mutations)
    for mutation in case.mutations:
        fewer = [other for other in mutations if other is not mutation]
        smaller = Case(case.number, case.file, tuple(fewer))
        if fewer and _read_all(one, [smaller], scratch)[0].detail.startswith(sort):
            mutations = fewer
    return Case(case.number, case.file, tuple(mutations))


def _keep(one: Seed, case: Case, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mutated((one.folder / case.file).read_bytes(), case.mutations))
