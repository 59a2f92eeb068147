"""The commands that are broken: what each starts from, what it runs, and who reads what it leaves."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from breaking.children import in_child
from breaking.outcomes import outcome
from breaking.world import COLUMNS, World

Step = Callable[[], int]
"""A command; its exit code."""
Reader = Callable[[Path], Mapping[str, str] | None]
"""What a reader takes from a folder, as hashes; None if it refuses it, in words."""

_QUICK_AUDIT = (
    *("--folds", "2", "--repetitions", "1", "--method.fold-epochs", "6", "--method.epochs", "6"),
    *("--method.optimisation.learning-rate", "2e-3", "--model.embedding", "64", "--batch-size", "32"),
    *("--cards", "4", "--partners", "10", "--device", "cpu"),
)
QUICK_TRAINING = (
    *("--method.name", "baseline", "--method.epochs", "2", "--batch-size", "32", "--model.embedding", "16"),
    *("--noise.rate", "0.2", "--device", "cpu"),
)
DECIDED = {"k1": "drop", "k2": "keep", "k3": "drop", "k4": "keep"}
"""What a review decides, in this order."""


@dataclass(frozen=True)
class Job:
    """A command to break.

    Attributes:
        name: What tables call it.
        steps: What to run, one after the other; the same again must go on with it.
        before: The snapshot to start from; None for an empty folder.
        out: What it writes, below the world's folder `now`.
        read: The reader of what it writes.
    """

    name: str
    steps: Sequence[Step]
    before: str | None
    out: str
    read: Reader

    def run(self) -> int:
        """The exit code of the first step that fails; 0 if none does."""
        return next((code for code in (step() for step in self.steps) if code), 0)


def truepair(*words: object) -> int:
    """A command in this process: its exit code. What it does not catch is raised, and ends a child with 1."""
    from truepair.cli.main import main

    return main([str(word) for word in words])


def unless_there(made: Path, *words: object) -> int:
    """A command that refuses to make again what is there."""
    return 0 if made.exists() else truepair(*words)


def add_once(index: Path, source: Path, *words: object) -> int:
    """Add to an index, which refuses what it holds already."""
    from truepair.errors import TruepairError
    from truepair.search.layout import read_manifest

    try:
        if len(read_manifest(index).segments) > 1:
            return 0
    except TruepairError:
        return 1
    return truepair("index", "--out", index, "--add", source, *words)


def review(audit: Path) -> int:
    """Decide about a few pairs through the page's application; say each decision when the page has answered it."""
    from fastapi.testclient import TestClient

    from truepair.errors import TruepairError
    from truepair.review.app import make_app

    try:
        app = make_app(audit)
    except TruepairError as error:
        _say(f"truepair: error: {error}")
        return 1
    client = TestClient(app, base_url="http://127.0.0.1:8765", raise_server_exceptions=True)
    client.get("/", params={"token": app.state.token})
    for pair, action in DECIDED.items():
        answer = client.post("/api/decide", json={"caption_id": pair, "action": action, "image_id": None})
        if answer.status_code != 200:
            _say(f"truepair: error: {answer.status_code} {answer.text}")
            return 1
        _say(f"answered {pair} {action}")
    return 0


def embed_words(world: World, out: Path) -> tuple[object, ...]:
    """The command that makes a store of the shards."""
    return ("embed", world.shards, *_encoders(world), "--batch-size", 2, "--workers", 1, "--out", out)


def audit_words(table: Path, out: Path) -> tuple[object, ...]:
    """The command that audits the table."""
    return ("audit", table, "--out", out, *COLUMNS, *_QUICK_AUDIT)


def _encoders(world: World) -> tuple[object, ...]:
    return ("--image-encoder", world.network, "--text-encoder", world.network, "--device", "cpu")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201, as a command says it


def jobs(world: World) -> dict[str, Job]:
    """Every job by name."""
    now = world.now
    embed = partial(truepair, *embed_words(world, now / "store"))
    audit = partial(truepair, *audit_words(world.table, now / "audit"))
    train = partial(truepair, "train", world.table, "--out", now / "run", *COLUMNS, *QUICK_TRAINING)
    fix = partial(truepair, "fix", now / "audit", "--out", now / "fixed")
    evaluate = partial(truepair, "evaluate", now / "run", "--device", "cpu")
    shares = [
        partial(embed, "--shards", "1/2"),
        partial(embed, "--shards", "2/2"),
        partial(embed, "--join", now / "store"),
    ]
    noise = partial(truepair, "noise", world.table, *COLUMNS, "--noise.rate", 0.4, "--out", now / "noise.npy")
    audit_pictures = partial(truepair, "audit", world.shards, "--out", now / "audit", *_encoders(world), "--cards", 4)
    figures = partial(truepair, "figures", now / "run", "--out", now / "figures")
    inspect = partial(truepair, "inspect", now / "run", "--out", now / "inspect")
    index = partial(unless_there, now / "index" / "index.json", "index", now / "store", "--out", now / "index")
    columns = ("--image-col", "picture", "--caption-col", "text")
    add = partial(add_once, now / "index", world.more, *columns)
    every = [
        Job("embed", [embed], None, "store", read_store),
        Job("embed shares", shares, None, "store", read_store),
        Job("audit", [audit], None, "audit", read_audit),
        Job("audit again", [partial(audit, "--threshold", 0.2, "--seed", 1)], "audit", "audit", read_audit),
        Job("audit pictures", [audit_pictures], None, "audit", read_audit),
        Job("train", [train], None, "run", read_run),
        Job("evaluate", [evaluate], "run", "run", read_run),
        Job("noise", [noise], None, "noise.npy", read_files),
        Job("noise again", [partial(noise, "--noise.seed", 1)], "noise", "noise.npy", read_files),
        Job("review", [partial(review, now / "audit")], "audit", "audit", read_audit),
        Job("fix", [fix], "audit", "fixed", read_files),
        Job("fix again", [partial(fix, "--threshold", 0.9)], "fixed", "fixed", read_files),
        Job("figures", [figures], "run", "figures", read_any),
        Job("inspect", [inspect], "run", "inspect", read_any),
        Job("index", [index], "store", "index", read_index),
        Job("index add", [add], "index", "index", read_index),
    ]  # fmt: skip
    return {job.name: job for job in every}


SNAPSHOTS = {"audit": "audit", "run": "train", "fixed": "fix", "noise": "noise", "store": "embed", "index": "index"}
"""By name, the job whose end a snapshot is."""


def make_snapshot(world: World, every: Mapping[str, Job], name: str) -> None:
    """Keep what a job leaves, for others to start from.

    Raises:
        RuntimeError: If the job fails where nothing disturbs it.
    """
    import shutil

    if world.snapshot(name).exists():
        return
    job = every[SNAPSHOTS[name]]
    if job.before is not None:
        make_snapshot(world, every, job.before)
    world.start(job.before)
    ended = in_child(job.run, 300)
    if ended.code:
        raise RuntimeError(f"{job.name} failed where nothing disturbed it:\n{ended.said}")
    shutil.copytree(world.now, world.snapshot(name))


def read_audit(folder: Path) -> Mapping[str, str] | None:
    """Findings, issues, summary and report, as review and fix open them."""
    from truepair.cleaning.audit_folder import open_audit
    from truepair.errors import TruepairError

    try:
        audit = open_audit(folder)
        tables = {"findings": audit.findings.to_pydict(), "issues": audit.issues.to_pydict()}
        report = folder / audit.summary.files.report
        if not report.is_file():
            return None
    except TruepairError:
        return None
    from breaking.outcomes import content_of, without_measurements

    told = tables | {"summary": without_measurements(audit.summary.as_dict()), "report": content_of(report).decode()}
    return {name: _hash(value) for name, value in told.items()}


def read_store(folder: Path) -> Mapping[str, str] | None:
    """A feature store as training and audits read it."""
    from truepair.config import DataConfig
    from truepair.data.corpora import load_corpus
    from truepair.errors import TruepairError

    try:
        load_corpus(DataConfig(str(folder)))
    except TruepairError:
        return None
    return {name: value for name, value in outcome(folder).items() if not name.startswith("parts/")}


def read_run(folder: Path) -> Mapping[str, str] | None:
    """A run, as evaluation reads it; refused, for this purpose, until it has results."""
    from truepair.errors import TruepairError
    from truepair.training.folder import load_run

    try:
        load_run(folder)
    except TruepairError:
        return None
    return outcome(folder) if (folder / "results.json").exists() else None


def read_index(folder: Path) -> Mapping[str, str] | None:
    """An index as a search opens it: what index.json names, and nothing else that lies there."""
    from truepair.errors import TruepairError
    from truepair.search.index import open_index

    try:
        index = open_index(folder)
    except TruepairError:
        return None
    named = {"index.json", *(f"{segment.name}/" for segment in index.manifest.segments)}
    return {name: value for name, value in outcome(folder).items() if name.startswith(tuple(named))}


def read_files(path: Path) -> Mapping[str, str] | None:
    """A copy or an index, of which nothing says whether it is whole: it must be whenever it is there."""
    return outcome(path) if path.exists() else None


def read_any(path: Path) -> Mapping[str, str] | None:
    """A folder of pages, each of which stands for itself: nothing is read of several."""
    return None


def _hash(value: Any) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def saved_decisions(audit: Path) -> dict[str, str]:
    """The decisions in an audit's folder, as ``fix`` reads them."""
    from truepair.cleaning.audit_folder import open_audit
    from truepair.cleaning.decisions_db import decisions_of

    opened = open_audit(audit)
    found = decisions_of(audit / "review.sqlite", opened.digest, opened.findings_file)
    return {pair: decision.action for pair, decision in found.items()}
