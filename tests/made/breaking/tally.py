"""What drivers find, counted by kind and command."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Fault = Literal[
    "traceback",
    "wrong exit code",
    "source changed",
    "mix accepted",
    "half-written file",
    "unequal end",
    "leftover",
    "hang",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)


@dataclass(frozen=True)
class Finding:
    """Something that must not be.

    Attributes:
        kind: The driver, such as "kills".
        command: The command.
        fault: What sort of fault it is.
        case: The case, as ``--only`` takes it: the moment of a kill, a limit, the number of an input.
        detail: What was seen.
    """

    kind: str
    command: str
    fault: Fault
    case: str
    detail: str

    @property
    def reproduction(self) -> str:
        """The command that shows it again."""
        words = f"--kinds {self.kind} --commands '{self.command}' --only '{self.case}'"
        return f"python benchmarks/faults.py --out again {words}"


@dataclass
class Tally:
    """Tries and findings of all drivers.

    Attributes:
        tell: Is told lines of progress.
        tries: By kind and command.
        notes: By kind and command, what happened and is no fault, counted.
        findings: What must not be.
    """

    tell: Callable[[str], None] = print
    tries: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def tried(self, kind: str, command: str, note: str = "") -> None:
        """Count a try, and what became of it."""
        self.tries[kind, command] += 1
        if note:
            self.notes.setdefault((kind, command), Counter())[note] += 1

    def found(self, kind: str, command: str, fault: Fault, case: str, detail: str) -> None:
        """Note a fault."""
        finding = Finding(kind, command, fault, case, " ".join(detail.split())[:500])
        self.findings.append(finding)
        self.tell(f"FOUND {kind}, {command}, {case}: {fault}: {finding.detail}")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            {"kind": kind, "command": command, "tries": tries, "notes": dict(self.notes.get((kind, command), {}))}
            | dict(zip(FAULTS, self._counts(kind, command), strict=True))
            for (kind, command), tries in self.tries.items()
        ]
        findings = [asdict(finding) | {"reproduction": finding.reproduction} for finding in self.findings]
        return {"rows": rows, "findings": findings}

    def table(self) -> str:
        """A Markdown table of the counts, and a list of one finding of each sort a command."""
        head = ["kind", "command", "tries", *(f"{fault}s" for fault in FAULTS), "what became of them"]
        rows = [
            [kind, command, tries, *self._counts(kind, command), self._notes(kind, command)]
            for (kind, command), tries in self.tries.items()
        ]
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]]
        return "\n".join([*lines, "", *_listed(self.findings)])

    def _counts(self, kind: str, command: str) -> Sequence[int]:
        counts = Counter(found.fault for found in self.findings if (found.kind, found.command) == (kind, command))
        return [counts[fault] for fault in FAULTS]

    def _notes(self, kind: str, command: str) -> str:
        return ", ".join(f"{count} {note}" for note, count in self.notes.get((kind, command), Counter()).most_common())


def _listed(findings: Iterable[Finding]) -> list[str]:
    """One line of the first finding of every kind, command and fault."""
    first: dict[tuple[str, str, str], Finding] = {}
    for found in findings:
        first.setdefault((found.kind, found.command, found.fault), found)
    return [f"- {f.kind}, {f.command}: {f.fault}: {f.detail}\n  `{f.reproduction}`" for f in first.values()]
