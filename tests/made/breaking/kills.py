"""Kill a command at a moment, look at what it left, run it again, and compare the end with one in peace."""

from collections.abc import Mapping, Sequence
from functools import partial

from breaking.children import in_child
from breaking.jobs import Job
from breaking.moments import Moment, await_moment, chosen
from breaking.peace import LIMIT, Try, peace_of
from breaking.tally import Tally
from breaking.world import World

KIND = "kills"


def kill(world: World, every: Mapping[str, Job], count: int, seed: int, tally: Tally, only: str | None = None) -> None:
    """Kill every one of some jobs at `count` moments, spread over it; or at one moment, ``event:12``."""
    for job in every.values():
        peace = peace_of(world, job)
        for name in peace.leftovers:
            tally.found(KIND, job.name, "leftover", "none", f"without any kill: {name}")
        moments: Sequence[Moment] = chosen(len(peace.events), peace.sizes, peace.seconds, count, seed)
        if only is not None:
            moments = [Moment.parsed(only)]
        for moment in moments:
            note = _kill(Try(world, job, peace, tally, KIND, str(moment)), moment)
            tally.tried(KIND, job.name, note)
        tally.tell(f"kills, {job.name}: {len(peace.events)} file events in {peace.seconds:.2f} s, {len(moments)} kills")


def until(world: World, job: Job, moment: Moment) -> int:
    """Run a job in this process, which is killed at a moment."""
    await_moment(moment, world.now)
    return job.run()


def _kill(one: Try, moment: Moment) -> str:
    """One kill and what follows; what to note."""
    world, job = one.world, one.job
    source = world.source_hashes()
    world.start(job.before)
    killed = in_child(partial(until, world, job, moment), LIMIT)
    if one.look_at_end_of(killed, "before the kill"):
        one.look()
        one.look_for_decisions(killed.said)
        one.run_again()
    if world.source_hashes() != source:
        one.found("source changed", str(moment))
    return {0: "ended first", 1: "said why it cannot go on"}.get(killed.code, "killed")
