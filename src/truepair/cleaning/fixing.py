"""The cleaned copy of what was audited: decisions, the writer of the source, the account of every row."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from truepair.cleaning.audit_folder import NONE, AuditFolder
from truepair.cleaning.decisions import Decision, IssuesToDrop, decide, issues_to_drop, merged
from truepair.cleaning.decisions_db import HandDecision, now
from truepair.cleaning.provenance import Account, Provenance
from truepair.cleaning.row_edits import row_edits
from truepair.cleaning.summary import IN_MEMORY
from truepair.cleaning.table_copies import copy_features
from truepair.cleaning.writers import WRITERS
from truepair.errors import DataError
from truepair.files.locking import alone_with
from truepair.files.replacing import put_back, replacing_folder
from truepair.sources.datasets import PROVENANCE
from truepair.sources.protocol import Source
from truepair.sources.stores import StorePath, is_address
from truepair.sources.tables import TableSource

_LARGEST_SHARE = 0.5
"""Of the audited pairs, what may be dropped unasked."""


@dataclass(frozen=True)
class FixOptions:
    """How the copy is made.

    Attributes:
        threshold: Pairs whose mismatch probability is at least this are dropped, in (0, 1].
        re_pair: Whether suspects get the image that is suggested, where it is likely to be theirs.
        drop_issues: Kinds of issues whose pairs are dropped too (see `decisions.DROPPABLE`).
        keep_unaudited: Whether rows without a finding stay: unreadable pictures, empty captions.
        drop_most: Whether a copy may be made that has less than half of the audited pairs, or none.
    """

    threshold: float
    re_pair: bool = False
    drop_issues: Collection[str] = ()
    keep_unaudited: bool = False
    drop_most: bool = False


@dataclass(frozen=True)
class Fixed:
    """A copy that was made.

    Attributes:
        folder: Where it is.
        files: What was written, from there; the last is the provenance.
        account: How many pairs became what.
        by_hand: How many of them were decided by hand.
        image_root: Where relative paths of the copy start, as those of the source do (an address, if in a store); None
            if pictures are in the copy.
    """

    folder: Path
    files: Sequence[str]
    account: Account
    by_hand: int
    image_root: Path | str | None = None


def fix(audit: AuditFolder, by_hand: Mapping[str, HandDecision], out: Path, options: FixOptions) -> Fixed:
    """Write the cleaned corpus in its own format, and ``provenance.parquet``: what became of each pair and why.

    What the pairs are from decides the format (`cleaning.writers.WRITERS`); pairs from no source, and pairs that were
    mismatched on purpose, become ``kept.csv``. Everything is written to a folder beside `out`, which then takes its
    place: `out` is never half-written, and an earlier copy is replaced as a whole. The corpus and the audit's own files
    are only read.

    Args:
        audit: The audit.
        by_hand: Decisions by caption id.
        out: The folder to write to.
        options: Threshold and the rest.

    Raises:
        ConfigError: If another process is writing the copy.
        DataError: If `out` holds something else than an earlier copy, or what was audited; if the source has changed
            or cannot be read; or if no pair, or less than half of them, would be left.
        OSError: If the folder cannot be written, for instance because the disk is full; then nothing has changed.
    """
    with alone_with(out):
        put_back(out)
        check_target(audit, out)
        return _fix(audit, by_hand, out, options)


def _fix(audit: AuditFolder, by_hand: Mapping[str, HandDecision], out: Path, options: FixOptions) -> Fixed:
    """As `fix`, where no other process writes the copy."""
    decisions = merged(
        decide(audit.findings, threshold=options.threshold, re_pair=options.re_pair),
        issues_to_drop(audit.issues, options.drop_issues) if options.drop_issues else IssuesToDrop(),
        by_hand,
    )
    _check_images(audit, decisions)
    if not options.drop_most:
        _refuse_large_loss(audit, decisions)
    source = audit.source if audit.summary.can_copy else None
    files, account = write_copy(
        source,
        decisions,
        out,
        features={name: Path(path) for name, path in audit.summary.features.items()},
        keep_unaudited=options.keep_unaudited,
        model={name: value for name, value in audit.summary.as_dict()["scored_by"].items() if value is not None},
    )
    number_by_hand = sum(decision.caption_id in by_hand for decision in decisions)
    return Fixed(out, files, account, number_by_hand, None if source is None else _image_root(source))


def write_copy(
    source: Source | None,
    decisions: Sequence[Decision],
    out: Path,
    *,
    features: Mapping[str, Path] | None = None,
    keep_unaudited: bool = False,
    model: Mapping[str, Any] | None = None,
) -> tuple[list[str], Account]:
    """The copy that decisions make of a source, and its provenance; see `fix`.

    Args:
        source: What the pairs are from; None writes ``kept.csv``.
        decisions: One a pair.
        out: The folder to write to; what is there is replaced.
        features: Feature files beside a table: ``images`` and ``captions``.
        keep_unaudited: Whether pairs without a decision stay.
        model: What scored the pairs, for the provenance.

    Returns:
        The files, from the folder, the last of which is the provenance; and how many pairs became what.
    """
    by_id = {decision.caption_id: decision for decision in decisions}
    provenance = Provenance(by_id, keep_unaudited=keep_unaudited, time=now(), model=model)
    with alone_with(out), _replaced(out) as folder:
        if source is None:
            files = _write_pairs(decisions, provenance, folder)
        else:
            files = WRITERS[source.kind](source, provenance, folder)
        if features and isinstance(source, TableSource):
            files += copy_features(source, row_edits(source, provenance.again()), features, folder)
        provenance.write(folder / PROVENANCE)
        names = [*(file.relative_to(folder).as_posix() for file in files), PROVENANCE]
    return names, provenance.account()


def check_target(audit: AuditFolder, out: Path) -> None:
    """Refuse a folder that a copy must not replace.

    Raises:
        DataError: If it is no folder, holds something else than an earlier copy, or holds what the audit is about, or
            lies in it.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: choose another folder for the copy")
    if out.is_dir() and any(out.iterdir()) and not (out / PROVENANCE).exists():
        raise DataError(f"{out} holds something else than an earlier copy: choose another folder, or empty it")
    target = out.resolve()
    described = audit.summary.source or {}
    originals = [described.get("path"), described.get("image_root"), *audit.summary.features.values()]
    data_path = audit.summary.data.get("path")
    known = [path for path in (*originals, data_path) if path not in (None, "demo", IN_MEMORY)]
    paths = [Path(path) for path in known if not is_address(path)]
    for path in [audit.folder, *paths]:
        if path.resolve().is_relative_to(target):
            raise DataError(f"{out} holds {path}, which is only read: choose another folder for the copy")
    source = Path(str(described.get("path", ""))) if described else None
    if source is not None and source.is_dir() and target.is_relative_to(source.resolve()):
        raise DataError(f"{out} lies in {source}, which is only read: choose a folder outside for the copy")


def _refuse_large_loss(audit: AuditFolder, decisions: Sequence[Decision]) -> None:
    counts = Counter(decision.action for decision in decisions)
    if counts["drop"] <= _LARGEST_SHARE * len(decisions):
        return
    what = "all" if counts["drop"] == len(decisions) else f"{counts['drop']:,} of"
    raise DataError(
        f"{what} {len(decisions):,} audited pairs would be dropped: look at "
        f"{audit.folder / audit.summary.files.report} first, raise the threshold, or use "
        "'truepair fix --drop-most' if that is meant"
    )


def _check_images(audit: AuditFolder, decisions: Sequence[Decision]) -> None:
    """Refuse decisions by hand that give a pair an image that no finding knows."""
    for decision in decisions:
        if decision.former_image_id is not None and audit.number_of_image(decision.image_id) == NONE:
            raise DataError(
                f"{decision.caption_id!r} is to get the image {decision.image_id!r} ({decision.rule}), which "
                f"{audit.findings_file} does not know: undo that decision"
            )


def _image_root(source: Source) -> Path | str | None:
    """Where relative paths of a copied table start; None if the copy has its pictures, or names none by such a path."""
    if not isinstance(source, TableSource) or source.kind == "imagefolder":
        return None
    paths = (source.path_of(picture.rows[0]) for picture in source.pictures())
    is_relative = any(isinstance(path, str) and path and not Path(path).is_absolute() for path in paths)
    root = source.parts[0].root
    if isinstance(root, StorePath):
        return str(root) if is_relative else None
    return root if isinstance(root, Path) and is_relative else None


def _write_pairs(decisions: Sequence[Decision], provenance: Provenance, folder: Path) -> list[Path]:
    """``kept.csv`` (caption_id, image_id, caption), for pairs that have no source to be copied."""
    kept = folder / "kept.csv"
    with kept.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("caption_id", "image_id", "caption"))
        for decision in decisions:
            provenance.add(decision)
            if decision.action != "drop":
                writer.writerow((decision.caption_id, decision.image_id, decision.caption))
    return [kept]


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `out` when the block ends without an error."""
    with replacing_folder(out) as written:
        try:
            yield written
        except pa.ArrowException as error:
            raise DataError(f"the copy {out} was not made ({error}); the source is as it was") from error
