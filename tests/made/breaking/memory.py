"""Little memory: a limit on the address space, at several heights."""

import resource
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from breaking.children import in_child
from breaking.jobs import Job
from breaking.moments import spread
from breaking.peace import Try, peace_of
from breaking.tally import Tally
from breaking.world import World

KIND = "memory"
_LIMIT = 40.0
_NOT = ("review",)
"""Left out: what stands for a browser here starts threads, and waits for those that could not be started."""
_MEGABYTES = (16, 32, 64, 128, 256, 512)
"""What a command may ask for beyond what its process has at the start."""
_ABORTED = (127, 134, 137)
"""Exit statuses where the system's own libraries end a process that cannot have memory."""
_NOTES = {0: "ended well", 1: "refused"}


def starve(world: World, every: Mapping[str, Job], count: int, tally: Tally, only: str | None = None) -> None:
    """Run every one of some jobs with little memory, `count` times each at most, or with one limit, ``64``."""
    for job in (job for job in every.values() if job.name not in _NOT):
        peace = peace_of(world, job)
        for case in [only] if only else _spread(count):
            one = Try(world, job, peace, tally, KIND, case)
            world.start(job.before)
            ended = in_child(partial(_limited, job, int(case)), _LIMIT)
            was_killed = not ended.hung and (ended.code < 0 or ended.code in _ABORTED)
            if was_killed or one.look_at_end_of(ended, "with little memory"):
                one.look()
                one.run_again()
            tally.tried(
                KIND, job.name, "killed by the system" if was_killed else _NOTES.get(ended.code, "failed or hung")
            )
        tally.tell(f"memory, {job.name}: {tally.tries[KIND, job.name]} cases")


def _spread(count: int) -> list[str]:
    return [str(_MEGABYTES[place - 1]) for place in spread(len(_MEGABYTES), min(count, len(_MEGABYTES)))]


def _limited(job: Job, megabytes: int) -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return job.run()
