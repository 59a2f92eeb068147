"""Equal inputs give equal results: twice the same, on two threads, and with the rows in another order."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from breaking.children import in_child, value_of
from breaking.jobs import Job, audit_words, truepair
from breaking.peace import LIMIT, peace_of
from breaking.tally import Tally
from breaking.world import World

KIND = "equal"
NEAR = 1e-5
"""How far probabilities may differ between one thread and two."""
CORRELATION = 0.999
"""Of the log-odds of mismatch with those of an audit of the same rows in another order, at least."""


def repeat(world: World, every: Mapping[str, Job], tally: Tally) -> None:
    """Run every one of some jobs twice, and the audit in its other ways."""
    for job in every.values():
        once, twice = peace_of(world, job), peace_of(world, job)
        unlike = sorted(
            name for name in once.end.keys() | twice.end.keys() if once.end.get(name) != twice.end.get(name)
        )
        if unlike:
            tally.found(KIND, job.name, "unequal end", "twice", ", ".join(unlike))
        tally.tried(KIND, job.name, "run twice")
    if "audit" in every:
        _on_two_threads(world, tally)
        for seed in range(2):
            _in_other_order(world, seed, tally)


def _on_two_threads(world: World, tally: Tally) -> None:
    one, two = (_audited(world, world.table, threads) for threads in (1, 2))
    difference = max(abs(one[pair] - two[pair]) for pair in one)
    if difference > NEAR:
        tally.found(KIND, "audit", "unequal end", "threads", f"probabilities differ by {difference:.2g} on two threads")
    tally.tried(KIND, "audit", "two threads")


def _in_other_order(world: World, seed: int, tally: Tally) -> None:
    """The same rows, shuffled."""
    lines = world.table.read_text(encoding="utf-8").splitlines(keepends=True)
    order = np.random.default_rng(seed).permutation(len(lines))
    shuffled = world.root / "shuffled" / world.table.name
    shuffled.parent.mkdir(exist_ok=True)
    shuffled.write_text("".join(lines[row] for row in order), encoding="utf-8")
    usual, other = _audited(world, world.table), _audited(world, shuffled, root=world.source)
    pairs = sorted(usual)
    values = np.array([[found[pair] for pair in pairs] for found in (usual, other)])
    correlation = float(np.corrcoef(values)[0, 1])
    suspects = [{pair for pair in pairs if found[pair] >= 0.5} for found in (usual, other)]
    changed = suspects[0] ^ suspects[1]
    if correlation < CORRELATION or changed:
        detail = f"correlation {correlation:.4f}, {len(changed)} of {len(suspects[0])} suspects differ"
        tally.found(KIND, "audit", "unequal end", "order", detail)
    tally.tried(KIND, "audit", "rows in another order")


def _audited(world: World, table: Path, threads: int = 1, root: Path | None = None) -> dict[str, float]:
    """Mismatch probabilities of an audit by caption."""
    world.start(None)
    ended = in_child(partial(_audit, world, table, threads, root), LIMIT)
    if ended.code:
        raise RuntimeError(f"the audit failed where nothing disturbed it:\n{ended.said}")
    return dict(value_of(partial(_probabilities, world.now / "audit")))


def _audit(world: World, table: Path, threads: int, root: Path | None) -> int:
    import torch

    torch.set_num_threads(threads)
    return truepair(*audit_words(table, world.now / "audit"), *(() if root is None else ("--image-root", root)))


def _probabilities(audit: Path) -> dict[str, float]:
    from truepair.cleaning.audit_folder import open_audit

    findings = open_audit(audit).findings
    return dict(zip(findings["caption_id"].to_pylist(), findings["mismatch_probability"].to_pylist(), strict=True))
