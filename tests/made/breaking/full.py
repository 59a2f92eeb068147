"""No room: files that may not grow beyond a size (EFBIG), and a small file system of its own (ENOSPC)."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from breaking.children import in_child
from breaking.jobs import Job
from breaking.peace import LIMIT, Peace, Try, peace_of
from breaking.tally import Tally
from breaking.world import World

KIND = "full"


def fill(world: World, every: Mapping[str, Job], count: int, seed: int, tally: Tally, only: str | None = None) -> None:
    """Run every one of some jobs where there is no room, `count` times, or in one case, ``file:4096``, ``disk:65536``.

    Half of the cases have a small file system where that can be mounted; else all have a limit for each file.
    """
    can_mount = _can_mount(world)
    if not can_mount:
        tally.tell("full: no file system can be mounted here, so only the sizes of single files are limited")
    for job in every.values():
        peace = peace_of(world, job)
        for case in [only] if only else _cases(world, job, peace, count, seed, can_mount):
            one = Try(world, job, peace, tally, KIND, case)
            how, _, size = case.partition(":")
            note = _with_small_files(one, int(size)) if how == "file" else _on_small_disk(one, int(size))
            tally.tried(KIND, job.name, note)
        tally.tell(f"full, {job.name}: {tally.tries[KIND, job.name]} cases")


def _cases(world: World, job: Job, peace: Peace, count: int, seed: int, can_mount: bool) -> list[str]:
    """Limits between nothing and what the job needs."""
    random = np.random.default_rng(seed)
    of_files = count - count // 2 if can_mount else count
    sizes: Sequence[int] = sorted(
        {max(size - 1, 0) for size in peace.sizes} | {0, *(size // 2 for size in peace.sizes)}
    )
    files = random.choice(sizes, size=min(of_files, len(sizes)), replace=False)
    there = 0 if job.before is None else _size(world, job.before)
    disks = np.linspace(there + 4096, there + 2 * sum(peace.sizes), count // 2 if can_mount else 0)
    return [*(f"file:{size}" for size in sorted(files)), *(f"disk:{int(size)}" for size in disks)]


def _with_small_files(one: Try, size: int) -> str:
    one.world.start(one.job.before)
    return _fill_once(one, partial(_limited, one.job, size), lambda: None)


def _on_small_disk(one: Try, size: int) -> str:
    with _small_disk(one.world, one.job, size) as enlarge:
        return _fill_once(one, one.job.run, enlarge)


def _fill_once(one: Try, run: object, make_room: object) -> str:
    """Run where there is no room, look at what is left, make room, and run again; what to note."""
    source = one.world.source_hashes()
    ended = in_child(run, LIMIT)  # type: ignore[arg-type]
    if ended.code < 0:
        one.found("wrong exit code", f"ended by signal {-ended.code}")
    one.look_at_end_of(ended, "without room")
    one.look()
    make_room()  # type: ignore[operator]
    one.look_for_decisions(ended.said)
    one.run_again()
    if one.world.source_hashes() != source:
        one.found("source changed", one.case)
    return "ended well" if ended.code == 0 else "refused"


def _limited(job: Job, size: int) -> int:
    """Python ignores the signal that comes with it, so that writing fails with EFBIG."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return job.run()


@contextmanager
def _small_disk(world: World, job: Job, size: int) -> Iterator[object]:
    """A small file system where commands write; yields what enlarges it."""
    world.start(None)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(world.now))
    try:
        if job.before is not None:
            shutil.copytree(world.snapshot(job.before), world.now, dirs_exist_ok=True)
        yield partial(_mount, "-o", "remount,size=1g", str(world.now))
    finally:
        subprocess.run(["umount", "--lazy", str(world.now)], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def _can_mount(world: World) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    world.start(None)
    try:
        _mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(world.now))
    except subprocess.CalledProcessError:
        return False
    subprocess.run(["umount", str(world.now)], check=True)
    return True


def _size(world: World, snapshot: str) -> int:
    """Bytes that a snapshot takes on a file system of pages."""
    sizes = [path.stat().st_size for path in world.snapshot(snapshot).rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)
