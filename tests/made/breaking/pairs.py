"""Two commands on one folder at once: one waits or is refused in words, and the end is that of one after the other."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from breaking.children import Child, Ended, in_child, value_of
from breaking.jobs import Job, jobs, make_snapshot, truepair
from breaking.outcomes import Outcome, half_written, leftovers, outcome
from breaking.tally import Tally
from breaking.world import World

KIND = "pairs"
_LIMIT = 300.0


@dataclass(frozen=True)
class Two:
    """Two commands that meet.

    Attributes:
        first: One.
        second: The other.
        before: The snapshot that both start from.
        seconds: How long each takes alone.
        ends: What is left by one alone, or by one after the other, whichever comes first.
    """

    first: Job
    second: Job
    before: str | None
    seconds: tuple[float, float]
    ends: Sequence[Outcome]

    @property
    def name(self) -> str:
        """What tables call them."""
        return f"{self.first.name} + {self.second.name}"


def pairs_of_jobs(world: World) -> list[tuple[Job, Job, str | None]]:
    """What meets, and what is there before."""
    every = jobs(world)
    inside = partial(truepair, *_embed_inside(world))
    embed_inside = Job("embed into it", [inside], None, "audit", every["embed"].read)
    return [
        (every["embed"], every["embed"], None),
        (every["audit"], every["audit"], None),
        (every["audit"], every["audit again"], "audit"),
        (every["audit again"], every["audit again"], "audit"),
        (every["audit pictures"], embed_inside, None),
        (every["audit pictures"], every["audit pictures"], None),
        (every["train"], every["train"], None),
        (every["train"], every["evaluate"], "run"),
        (every["fix"], every["fix"], "audit"),
        (every["fix again"], every["fix"], "fixed"),
        (every["audit again"], every["fix"], "audit"),
        (every["audit again"], every["review"], "audit"),
        (every["review"], every["fix"], "audit"),
        (every["noise"], every["noise"], None),
        (every["figures"], every["figures"], "run"),
    ]


def meet(world: World, names: Sequence[str], count: int, seed: int, tally: Tally, only: str | None = None) -> None:
    """Let pairs of commands meet, `count` times in all, with delays drawn at random; or with one delay.

    Args:
        world: Where.
        names: Commands; pairs in which none of them is are left out. All if empty.
        count: Meetings.
        seed: Of the delays.
        tally: What is told of faults.
        only: A delay in seconds.
    """
    random = np.random.default_rng(seed)
    every = [two for two in pairs_of_jobs(world) if not names or {two[0].name, two[1].name, _name(two)} & set(names)]
    for number, (first, second, before) in enumerate(every):
        two = _alone(world, first, second, before)
        times = count // len(every) + (number < count % len(every))
        delays = [_delay(two, place, random) for place in range(times)]
        for delay in [float(only)] if only else delays:
            tally.tried(KIND, two.name, _meet(world, two, round(delay, 4), tally))
        tally.tell(f"pairs, {two.name}: {tally.tries[KIND, two.name]} meetings")


def _delay(two: Two, place: int, random: np.random.Generator) -> float:
    """By turns: both at once, the second while the first is writing, and any time."""
    first, second = two.seconds
    ranges = ((0.0, 0.05), (max(0.0, first - second), first), (0.0, first))
    return float(random.uniform(*ranges[place % 3]))


def _name(two: tuple[Job, Job, str | None]) -> str:
    return f"{two[0].name} + {two[1].name}"


def _embed_inside(world: World) -> tuple[object, ...]:
    """The embedding that an audit of pictures makes, by itself."""
    networks = ("--image-encoder", world.network, "--text-encoder", world.network, "--device", "cpu")
    return ("embed", world.shards, *networks, "--out", world.now / "audit" / "embeddings")


def _alone(world: World, first: Job, second: Job, before: str | None) -> Two:
    """Both alone, and one after the other in both orders."""
    if before is not None:
        make_snapshot(world, jobs(world), before)
    ends: list[Outcome] = []
    seconds: list[float] = []
    for order in ((first,), (second,), (first, second), (second, first)):
        world.start(before)
        took = [in_child(job.run, _LIMIT).seconds for job in order]
        seconds += took
        ends.append(value_of(partial(outcome, world.now)))
    return Two(first, second, before, (seconds[0], seconds[1]), ends)


def _meet(world: World, two: Two, delay: float, tally: Tally) -> str:
    """One meeting; what to note."""
    found = partial(tally.found, KIND, two.name)
    source = world.source_hashes()
    world.start(two.before)
    first = Child(two.first.run)
    time.sleep(delay)
    second = Child(two.second.run)
    ended = [first.end(_LIMIT), second.end(_LIMIT)]
    case = str(delay)
    for job, one in zip((two.first, two.second), ended, strict=True):
        _look_at_one(one, job, case, found)
    codes = [one.code for one in ended]
    state = value_of(partial(_state, world))
    if 0 not in codes:
        found("wrong exit code", case, f"both failed: {ended[0].error}; {ended[1].error}")
    elif state["end"] not in two.ends:
        found("unequal end", case, f"exit codes {codes}: {_unlike(state['end'], two.ends)}")
    for fault in ("half-written file", "leftover"):
        if state[fault]:
            found(fault, case, ", ".join(state[fault]))
    if world.source_hashes() != source:
        found("source changed", case, "")
    return "both succeeded" if codes == [0, 0] else "one was refused" if 0 in codes else "both failed"


def _look_at_one(ended: Ended, job: Job, case: str, found: object) -> None:
    if ended.hung:
        found("hang", case, f"{job.name} did not end")  # type: ignore[operator]
    elif ended.has_traceback:
        found("traceback", case, f"{job.name}: {ended.error}")  # type: ignore[operator]
    elif ended.code not in (0, 1) or (ended.code == 1 and "error: " not in ended.said):
        found("wrong exit code", case, f"{job.name}: {ended.code}: {ended.error}")  # type: ignore[operator]


def _state(world: World) -> Mapping[str, object]:
    return {
        "end": outcome(world.now),
        "half-written file": half_written(world.now),
        "leftover": leftovers(world.now),
    }


def _unlike(end: Outcome, known: Sequence[Outcome]) -> str:
    """Where an end is unlike the nearest known one."""

    def differences(other: Outcome) -> list[str]:
        return sorted(name for name in end.keys() | other.keys() if end.get(name) != other.get(name))

    return ", ".join(min(map(differences, known), key=len))
