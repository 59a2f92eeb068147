"""The cleaned manifest of a review: the rule where nobody decided, the hand where somebody did, and which it was."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from truepair.cleaning.audit_folder import AuditFolder
from truepair.cleaning.decisions import Decision
from truepair.cleaning.decisions_db import HandDecision, now
from truepair.cleaning.exporting import export as copy_of_source
from truepair.cleaning.manifest import write_pairs, write_table
from truepair.cleaning.merging import merged
from truepair.cleaning.provenance import Provenance
from truepair.data.embeddings import stored_source
from truepair.data.pairs import Pairs
from truepair.errors import DataError
from truepair.sources.opening import PROVENANCE


def export(
    audit: AuditFolder,
    by_hand: Mapping[str, HandDecision],
    out: Path,
    *,
    threshold: float,
    re_pair: bool | None = None,
) -> dict[str, Any]:
    """Write the cleaned corpus, the lists of what changed, and ``provenance.parquet`` (see `Provenance`).

    A table becomes a table (`audit.repair`). What a feature store was made of becomes the like of it: tar shards, a
    folder, a dataset or a table (`audit.exporting`). All else becomes ``kept.csv``.

    Everything is written to a folder beside `out`, which then takes its place: `out` is never half-written, and an
    earlier review's is replaced as a whole. The corpus and the audit's own files are only read.

    Args:
        audit: The audit.
        by_hand: Decisions by caption id.
        out: The folder to write to.
        threshold: The rule's, in (0, 1].
        re_pair: Whether the rule re-pairs; as in the audit, if not given.

    Returns:
        ``folder``, ``files`` and how many pairs are ``keep``, ``drop`` and ``re-pair``.

    Raises:
        DataError: If `out` holds something else than an earlier review, or the corpus, or the table has changed.
        OSError: If the folder cannot be written, for instance because the disk is full; then nothing has changed.
    """
    check_target(audit, out)
    decisions = merged(
        audit.findings, by_hand, threshold=threshold, re_pair=audit.re_pairs if re_pair is None else re_pair
    )
    by_id = {decision.caption_id: decision for decision in decisions}
    time, model = now(), audit.summary["scored_by"]
    out.parent.mkdir(parents=True, exist_ok=True)
    _check_space(audit, out.parent)
    # Beside the target, so that it can be renamed; its own folder for each export, so that two do not mix.
    beside = Path(tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".part", dir=out.parent))
    try:
        written = beside / "new"
        written.mkdir()
        if audit.source is not None:
            *files, _ = copy_of_source(audit.source, by_id, written, time=time, model=model)
        else:
            files = _copy(audit, decisions, written)
            provenance = Provenance(by_id, time=time, model=model)
            for decision in decisions:
                provenance.add(decision)
            provenance.write(written / PROVENANCE)
        if out.exists():
            out.rename(beside / "old")
        written.rename(out)
    finally:
        if not out.exists() and (beside / "old").exists():
            (beside / "old").rename(out)
        shutil.rmtree(beside, ignore_errors=True)
    counts = Counter(decision.action for decision in decisions)
    names = [*(_name_in(written, file) for file in files), PROVENANCE]
    return {"folder": str(out), "files": names} | {action: counts[action] for action in ("keep", "drop", "re-pair")}


def _copy(audit: AuditFolder, decisions: Sequence[Decision], folder: Path) -> list[Path]:
    """The cleaned manifest of what came from no source of pictures."""
    if audit.table is None:
        return write_pairs(_audited(audit), decisions, folder)
    return write_table(audit.table.data, audit.table.pairs, decisions, audit.table.skipped, folder)


def _name_in(folder: Path, file: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else file.name


def check_target(audit: AuditFolder, out: Path) -> None:
    """Refuse a folder that a review must not replace.

    Raises:
        DataError: If it is no folder, holds something else than an earlier review, or holds what the audit is about.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: choose another folder for the review")
    if out.is_dir() and any(out.iterdir()) and not (out / PROVENANCE).exists():
        raise DataError(f"{out} holds something else than an earlier review: choose another folder, or empty it")
    target = out.resolve()
    for path in [audit.folder, *_inputs(audit)]:
        if path.resolve().is_relative_to(target):
            raise DataError(f"{out} holds {path}, which a review never changes: choose another folder")


def _inputs(audit: AuditFolder) -> list[Path]:
    """What the audited pairs are read from."""
    data = audit.data
    if data is None or data.path == "demo":
        return []
    stored = stored_source(Path(data.path)) or {}
    originals = (stored.get("path"), stored.get("image_root"))
    inputs = [Path(path) for path in originals if path is not None]
    named = (data.path, data.image_root, data.image_features, data.caption_features, data.vocabulary)
    return inputs + [Path(path) for path in named if path is not None]


def _check_space(audit: AuditFolder, folder: Path) -> None:
    """Before any work: the copies are at most as large as their sources (feature files are written through a map)."""
    if audit.table is None:
        return
    data = audit.table.data
    sources = [Path(path) for path in (data.path, data.image_features, data.caption_features) if path is not None]
    needed, free = sum(path.stat().st_size for path in sources), shutil.disk_usage(folder).free
    if free < needed:
        why = f"the cleaned manifest takes up to {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
        raise OSError(ENOSPC, why, str(folder))


def _audited(audit: AuditFolder) -> Pairs:
    """The audited pairs only, in the order of the corpus."""
    names = pa.array(audit.pairs.caption_ids, pa.string())
    is_audited = pc.is_in(names, value_set=audit.findings["caption_id"].combine_chunks())
    return audit.pairs.select(torch.from_numpy(is_audited.to_numpy(zero_copy_only=False).nonzero()[0]))
