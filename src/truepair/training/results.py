"""What a finished run came to, and the file that says so: ``results.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dacite

from truepair.config import NoiseConfig, TrustedConfig
from truepair.data.noise import NoiseLevel
from truepair.errors import CheckpointError
from truepair.evaluation.detection import DetectionMetrics
from truepair.evaluation.recall import RetrievalMetrics
from truepair.files.json import read_json, write_json
from truepair.training.recipe import TYPE_HOOKS


@dataclass(frozen=True)
class PairCounts:
    """Pairs of each split as they were used; `trusted` is None where no pairs were given as trusted."""

    train: int
    dev: int
    test: int
    trusted: int | None


@dataclass(frozen=True)
class BestEpoch:
    """The epoch, counted from 0, whose weights are tested, and its development rSum in [0, 600]."""

    epoch: int
    dev_rsum: float


@dataclass(frozen=True)
class TestProtocol:
    """What the test metrics are of: the split, its size, and the equal parts that its images are searched in."""

    split: str
    images: int
    captions: int
    folds: int


@dataclass(frozen=True)
class RunResults:
    """The numbers of a run and everything that they depend on beside its recipe.

    Attributes:
        corpus: Name of the corpus.
        pairs: Pairs of each split; of training pairs, those that were learned from.
        skipped: Rows of the corpus that were left out.
        notes: What a reader of the numbers must know of how the run went, in sentences.
        method: Name of the method.
        networks: Networks whose similarities are averaged.
        noise: Mismatches put in on purpose.
        realised_noise_rate: Share of the training pairs that truly do not match; None if the truth is not known.
        realised_noise_level: At which level they do not match, as the pairs themselves show it; None if the truth is
            not known, or the run is of a version that did not look.
        trusted: Pairs known to match; None if there were none.
        seed: Seed of the training.
        epochs: Epochs of a whole run.
        best: The epoch that is tested.
        protocol: What `test` is of.
        test: Retrieval on the test pairs.
        detection: How well low confidence finds mismatched training pairs; None if the truth is not known.
        seconds: Wall time of training, evaluation included.
        cpu_seconds: The same in processor time.
        peak_memory_mb: Largest resident memory of the process; None where the system does not tell.
        hardware: What computed, in words.
        truepair: Version.
    """

    corpus: str
    pairs: PairCounts
    skipped: int
    notes: list[str]
    method: str
    networks: int
    noise: NoiseConfig
    realised_noise_rate: float | None
    realised_noise_level: NoiseLevel | None = field(default=None, kw_only=True)
    trusted: TrustedConfig | None
    seed: int
    epochs: int
    best: BestEpoch
    protocol: TestProtocol
    test: RetrievalMetrics
    detection: DetectionMetrics | None
    seconds: float
    cpu_seconds: float
    peak_memory_mb: float | None
    hardware: str
    truepair: str

    def as_dict(self) -> dict[str, Any]:
        """All values by name, as ``results.json`` holds them: the test's rSum included.

        A noise level that is None is left out, as in files of versions that did not look for it.
        """
        values = asdict(self) | {"test": self.test.as_dict()}
        if self.realised_noise_level is None:
            del values["realised_noise_level"]
        return values


def write_results(folder: Path, results: RunResults) -> None:
    """``results.json`` of a run's folder."""
    write_json(folder / "results.json", results.as_dict())


def read_results(folder: Path) -> RunResults | None:
    """What ``results.json`` of a run's folder holds; None if there is no such file.

    Raises:
        CheckpointError: If the file is damaged, or another version of truepair wrote other keys.
    """
    path = folder / "results.json"
    values = read_json(path, {})
    if values is None:
        return None
    if isinstance(values.get("test"), dict):
        values["test"].pop("rsum", None)  # the sum of the others
    try:
        return dacite.from_dict(RunResults, values, dacite.Config(strict=True, type_hooks=TYPE_HOOKS))
    except dacite.DaciteError as error:
        raise CheckpointError(
            f"{path} is damaged (or of another version of truepair: {error}): delete it, and the same command tests "
            "the run again"
        ) from error
