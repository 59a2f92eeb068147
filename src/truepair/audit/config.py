"""The options of an audit; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from truepair.config import CrclConfig, MethodConfig, ModelConfig, OptimisationConfig
from truepair.errors import ConfigError


@dataclass(frozen=True)
class AuditConfig:
    """How pairs are scored, and what is done with those that look wrong."""

    split: Literal["all", "train"] = "all"
    """Which pairs of a corpus to audit: all, or those of the training split. Of a run, always the training pairs."""
    threshold: float = 0.5
    """Pairs whose mismatch probability is at least this are suspects, and are left out of the cleaned manifest."""
    re_pair: bool = False
    """Give a suspect's caption the picture of another suspect where the two choose each other; others are left out.
    Look at re_paired.csv: on the demo with 10 % of the captions shuffled, 15 of 35 such pictures were the very one."""
    folds: int = 4
    """Cross-fitting: pairs are cut into this many parts, and each part is scored by models trained on the others."""
    repetitions: int = 2
    """Models trained for each fold; their similarities are averaged. More takes longer and finds more."""
    method: MethodConfig = field(
        default_factory=lambda: CrclConfig(
            stages=(10,), frozen_epochs=2, optimisation=OptimisationConfig(schedule="cosine")
        )
    )
    """How a fold's models are trained (12 epochs of CRCL: measured best on the demo at 10 % and 40 % noise)."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(embedding=512, input_dropout=0.2))
    """The backbone of a fold's models."""
    batch_size: int = 128
    """Pairs in a training batch."""
    candidates: int | None = None
    """Images (and as many captions) that a pair competes with when it is scored; 4,096 if not given, or 128 where a
    run with SAF or SGR scores, which takes thousands of times as long."""
    temperature: float = 0.03
    """τ of the scores; a little sharper than in training, measured best on the demo."""
    seed: int = 0
    """Seed of folds, weights and competitors."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; "auto" takes a GPU if there is one."""
    cards: int = 48
    """Suspects that the report shows as pictures."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name, smallest in (("folds", 2), ("repetitions", 1), ("batch_size", 2), ("candidates", 3), ("cards", 0)):
            if getattr(self, name) is not None and getattr(self, name) < smallest:
                raise ConfigError(f"audit.{name} is {getattr(self, name)}, but it must be at least {smallest}")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"audit.threshold is {self.threshold}, but it is a probability above 0")
        if not self.temperature > 0:
            raise ConfigError(f"audit.temperature is {self.temperature}, but it must be above 0")
