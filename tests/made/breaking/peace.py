"""A command that nothing disturbs, and what must hold of one that was: the same end, no mix, nothing left over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from breaking.children import Ended, in_child, value_of
from breaking.jobs import Job, jobs, make_snapshot, saved_decisions
from breaking.moments import FileEvents
from breaking.outcomes import Outcome, half_written, is_unfinished, leftovers, outcome
from breaking.tally import Fault, Tally
from breaking.world import World

LIMIT = 300.0
"""Seconds after which a command is said to hang."""


@dataclass(frozen=True)
class Peace:
    """A command that nothing disturbed.

    Attributes:
        events: Its changes of files, in order.
        sizes: Sizes of the files that it left.
        seconds: How long it took.
        end: What it left.
        before: What its reader took from the folder before.
        after: What its reader took from it afterwards.
        leftovers: Temporary files that it left all the same.
    """

    events: Sequence[str]
    sizes: Sequence[int]
    seconds: float
    end: Outcome
    before: Mapping[str, str] | None
    after: Mapping[str, str] | None
    leftovers: Sequence[str]


@dataclass(frozen=True)
class Try:
    """A command that is disturbed in one way.

    Attributes:
        world: Where.
        job: The command.
        peace: The same without disturbance.
        tally: What is told of faults.
        kind: The driver.
        case: The disturbance, as ``--only`` takes it.
    """

    world: World
    job: Job
    peace: Peace
    tally: Tally
    kind: str
    case: str

    def found(self, fault: Fault, detail: str) -> None:
        """Note a fault of this try."""
        self.tally.found(self.kind, self.job.name, fault, self.case, detail)

    def look_at_end_of(self, ended: Ended, what: str) -> bool:
        """Note if a command hung, or failed other than by one sentence; True if it ended well or in words."""
        if ended.hung:
            self.found("hang", f"{what} did not end")
        elif ended.has_traceback:
            self.found("traceback", f"{what} ({ended.code}): {ended.error}")
        elif ended.code > 1:
            self.found("wrong exit code", f"{what}: {ended.code}: {ended.error}")
        elif ended.code == 1 and "error: " not in ended.said:
            self.found("wrong exit code", f"{what}: 1 without a reason: {ended.error}")
        else:
            return True
        return False

    def look(self) -> None:
        """After a disturbance: nothing is half-written under a final name, and no reader accepts a mix."""
        state = in_child(partial(state_of, self.world, self.job))
        if state.code:
            self.found("traceback", f"a reader of what was left: {state.error}")
            return
        if state.value["half-written"]:
            self.found("half-written file", ", ".join(state.value["half-written"]))
        read, known = state.value["read"], (self.peace.before, self.peace.after)
        if read is not None and read not in known:
            self.found("mix accepted", _unlike(read, *known))

    def look_for_decisions(self, said: str) -> None:
        """All decisions that a review answered, as it said, are saved."""
        answered = dict(line.split()[1:3] for line in said.splitlines() if line.startswith("answered "))
        if answered:
            saved = value_of(partial(saved_decisions, self.world.now / self.job.out))
            lost = {pair: action for pair, action in answered.items() if saved.get(pair) != action}
            if lost:
                self.found("unequal end", f"decisions that were answered are gone: {lost}")

    def run_again(self) -> None:
        """The same command again: it succeeds, with the same end, and leaves nothing over."""
        again = in_child(self.job.run, LIMIT)
        if self.look_at_end_of(again, "the same command again"):
            if again.code:
                self.found("wrong exit code", f"the same command again: {again.code}: {again.error}")
            else:
                self._look_at_files()

    def _look_at_files(self) -> None:
        state = value_of(partial(state_of, self.world, self.job))
        more = state["end"].keys() - self.peace.end.keys()
        left = more | set(state["leftovers"]) - set(self.peace.leftovers)
        if left:
            self.found("leftover", ", ".join(sorted(left)))
        names = self.peace.end.keys() | state["end"].keys()
        unlike = [name for name in names if self.peace.end.get(name) != state["end"].get(name) and name not in left]
        if unlike:
            self.found("unequal end", ", ".join(sorted(unlike)))


def peace_of(world: World, job: Job) -> Peace:
    """Run a job with nothing in its way, after the snapshot that it starts from was made.

    Raises:
        RuntimeError: If it fails.
    """
    if job.before is not None:
        make_snapshot(world, jobs(world), job.before)
    world.start(job.before)
    before = value_of(partial(state_of, world, job))["read"]
    counted = in_child(partial(_counted, world, job), LIMIT)
    if not isinstance(counted.value, list):
        raise RuntimeError(f"{job.name} failed where nothing disturbed it:\n{counted.said}")
    state = value_of(partial(state_of, world, job))
    return Peace(
        events=counted.value,
        sizes=[path.stat().st_size for path in world.now.rglob("*") if path.is_file()],
        seconds=counted.seconds,
        end=state["end"],
        before=before,
        after=state["read"],
        leftovers=state["leftovers"],
    )


def state_of(world: World, job: Job) -> dict[str, Any]:
    """What is there, seen from a child: files, what is wrong with them, and what a reader takes."""
    found = {"end": outcome(world.now), "half-written": half_written(world.now), "leftovers": leftovers(world.now)}
    read = job.read(world.now / job.out)  # what says of itself that it is no result is no part of a mix
    return found | {"read": read and {name: value for name, value in read.items() if not is_unfinished(name)}}


def _counted(world: World, job: Job) -> list[str] | int:
    """Run a job; its changes of files, or the exit code of a failure."""
    events = FileEvents(world.now)
    events.install()
    return job.run() or events.seen


def _unlike(read: Mapping[str, str], before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> str:
    """Of which run each part of a mix is."""
    said = []
    for name, value in read.items():
        is_old, is_new = (known is not None and known.get(name) == value for known in (before, after))
        if not (is_old and is_new):
            said.append(f"{name} {'old' if is_old else 'new' if is_new else 'of neither'}")
    return ", ".join(said) or "files are missing"
