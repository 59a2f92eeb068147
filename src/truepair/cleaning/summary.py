"""What ``summary.json`` of an audit's folder says, as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import dacite

from truepair.cleaning.generation import finish_switch
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.files.json import read_json, write_json
from truepair.files.names import AUDIT

IN_MEMORY = "pairs in memory"
"""What the corpus of an audit of pairs in memory is called."""


@dataclass(frozen=True)
class ScoredBy:
    """What scored the pairs.

    Attributes:
        how: By models trained for it that saw neither image nor caption, by the features as they are, or by a run.
        saw_the_pairs: Whether it was trained on the pairs that it scored.
        candidates: Negatives and reference pairs of a pair.
        run: The run's folder.
        method: What trained the models.
        folds: Parts of cross-fitting.
        learned: Pairs that a fold's models learned from.
        repetitions: Models of a fold.
        epochs: Epochs of each.
        untrained: Whether embeddings of a shared space, compared as they are, counted too.
        of_all: Whether a model that learned all pairs, as far as these say, judged together with them.
    """

    how: Literal["cross-fitting", "zero-shot", "run"]
    saw_the_pairs: bool
    candidates: int
    run: str | None = None
    method: str | None = None
    folds: int | None = None
    learned: int | None = None
    repetitions: int | None = None
    epochs: int | None = None
    untrained: bool = False
    of_all: bool = False


@dataclass(frozen=True)
class Finds:
    """Shares of mismatches made on purpose that would be suspects, in [0, 1]; None where none could be made.

    By the networks of the folds alone (see `truepair.audit.sensitivity`).

    Attributes:
        random: Of captions with random images.
        alike: Of captions with the image of the most similar caption.
    """

    random: float | None
    alike: float | None


@dataclass(frozen=True)
class Together:
    """What joint inference over the captions of one image found.

    Attributes:
        images: Groups of captions.
        moved_together: Of two captions that do not match their image, how often they belong together, in [0, 1].
    """

    images: int
    moved_together: float


@dataclass(frozen=True)
class Files:
    """What lies in the folder.

    Attributes:
        findings: One row a pair.
        issues: One row an issue of a picture or caption.
        skipped: What was left out, and why; None if nothing was.
        report: The page.
    """

    findings: str
    issues: str
    skipped: str | None
    report: str


@dataclass(frozen=True)
class AuditSummary:
    """An audit in numbers. Rates and probabilities are in [0, 1]; None stands for what is not known.

    Attributes:
        corpus: What the corpus is called.
        pairs: Pairs that were audited.
        images: Images that they have.
        estimated_mismatches: Sum of the mismatch probabilities; None if nothing consistent was learned.
        estimated_noise_rate: Their mean.
        noise_rate_interval: From all ways to estimate it, and 95 % of resamples.
        evidence_weights: By feature of a pair, what a standard deviation of it adds to the log-odds.
        warnings: Why not to rely on the probabilities, in sentences.
        separation: Share of comparisons in which a pair's log-odds exceed a random pair's.
        scored_by: What scored the pairs.
        finds: What the audit would find.
        captions_together: What captions of one image said about each other.
        threshold: Mismatch probability from which on a pair is a suspect.
        suspects: How many pairs are.
        may_re_pair: How many suspects have a suggestion that may be taken.
        skipped: What was left out on reading, by reason.
        source: How the source is opened again (see `sources.opening.description_of`); None where there is none.
        features: ``images`` and ``captions``: feature files beside a table.
        can_copy: Whether a copy of the source can be made: not where pairs were mismatched on purpose.
        truth: How well the audit did, where mismatches were put in on purpose.
        images_checked: Images whose pictures were checked for issues; None if none were.
        issues: How many there are of each kind.
        files: What lies in the folder.
        data: How the corpus was read.
        noise: Mismatches put in.
        audit: The audit's options.
        seconds: How long it took.
        peak_memory_mb: Peak memory; None where it is not known.
        hardware: What computed.
        truepair: The version.
        generation: The name of this audit, which its other files have, too (see `generation.generation_of`); None in
            audits of earlier versions.
    """

    corpus: str
    pairs: int
    images: int
    estimated_mismatches: float | None
    estimated_noise_rate: float | None
    noise_rate_interval: list[float] | None
    evidence_weights: dict[str, float] | None
    warnings: list[str]
    separation: float
    scored_by: ScoredBy
    finds: Finds | None
    captions_together: Together | None
    threshold: float
    suspects: int
    may_re_pair: int
    skipped: dict[str, int]
    source: dict[str, Any] | None
    features: dict[str, str]
    can_copy: bool
    truth: dict[str, Any] | None
    images_checked: int | None
    issues: dict[str, int]
    files: Files
    data: dict[str, Any]
    noise: dict[str, Any]
    audit: dict[str, Any]
    seconds: float
    peak_memory_mb: float | None
    hardware: str
    truepair: str
    generation: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def write(self, folder: Path) -> None:
        """``summary.json``, replaced atomically."""
        write_json(folder / AUDIT, self.as_dict())


def read_summary(folder: Path) -> AuditSummary:
    """What ``summary.json`` of an audit's folder says; a newer audit that waits to take its place does so first.

    Raises:
        ConfigError: If the folder holds no audit, or it has to be written to and cannot.
        DataError: If the file is damaged, or of another version.
    """
    finish_switch(folder)
    path = folder / AUDIT
    try:
        content: Mapping[str, Any] | None = read_json(path)
    except CheckpointError as error:
        raise DataError(f"{path} cannot be read ({error.__cause__ or error}): audit again") from error
    if content is None:
        raise ConfigError(f"{folder} holds no audit ({AUDIT}): make one with 'truepair audit … --out {folder}'")
    try:
        return dacite.from_dict(AuditSummary, content, dacite.Config(strict=True, check_types=True, cast=[float]))
    except (dacite.DaciteError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not what this version of truepair writes ({error}): audit again") from error
