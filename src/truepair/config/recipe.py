"""One run: data, noise, trusted pairs, model, method and training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from truepair.config.data import DataConfig, NoiseConfig, TrustedConfig
from truepair.config.methods import CrclConfig, DisnclConfig, MethodConfig, MscnConfig, TeacherConfig
from truepair.config.model import ModelConfig
from truepair.errors import ConfigError

FEWEST_CODES = 8
"""Pairs of a batch below which DisNCL compares no codes over the batch: correlations would be chance."""


@dataclass(frozen=True)
class TrainingConfig:
    """How training runs."""

    batch_size: int = 128
    """Pairs in a batch (CRCL's released code: 128)."""
    seed: int = 0
    """Seed of weights, order, dropout and augmentation."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; "auto" takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the forward pass in training (Lightning Fabric's names)."""
    workers: int = 0
    """Processes that read ahead; 0 reads in the training process."""
    oracle: Literal["none", "clean_pairs", "true_correspondence"] = "none"
    """Reference runs that know the truth, where noise was injected: train on the truly matching pairs only, or give
    CRCL the true correspondences and keep them."""
    patience: int = 0
    """Stop once development rSum has not improved for so many epochs; 0 never stops early. One-stage methods only."""
    tensorboard: bool = False
    """Also write TensorBoard files (needs truepair[tensorboard])."""

    def __post_init__(self) -> None:
        """Refuse a batch in which nothing can be compared, and counts and seeds below 0."""
        if self.batch_size < 2:
            raise ConfigError(
                f"training.batch_size is {self.batch_size}, but a pair is learned against the others: use at least 2"
            )
        for name in ("seed", "workers", "patience"):
            if getattr(self, name) < 0:
                raise ConfigError(f"training.{name} is {getattr(self, name)}, but it must be at least 0")


@dataclass(frozen=True)
class Recipe:
    """One run: data, noise, trusted pairs, model, method and training."""

    data: DataConfig = field(default_factory=DataConfig)
    """Where the pairs are."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Mismatches put in on purpose."""
    trusted: TrustedConfig = field(default_factory=TrustedConfig)
    """Pairs known to match."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The backbone."""
    method: MethodConfig = field(default_factory=TeacherConfig)
    """How to train."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Batches, seed, device."""

    @property
    def network(self) -> ModelConfig:
        """The backbone as the method needs it."""
        if isinstance(self.method, MscnConfig):
            return replace(self.model, head="network")
        if isinstance(self.method, DisnclConfig):
            return replace(self.model, codes="shared_and_exclusive" if self.method.exclusive_branch else "shared")
        return self.model

    def __post_init__(self) -> None:
        """Refuse an oracle, an early stop or a noise index that does not suit the rest."""
        if self.training.patience and isinstance(self.method, CrclConfig) and len(self.method.stages) > 1:
            raise ConfigError(
                f"training.patience is {self.training.patience}, but method.stages {self.method.stages} has several "
                "stages, and a stop would lose the later ones: set it to 0 or use one stage"
            )
        if isinstance(self.method, MscnConfig) and 0 < self.training.patience <= self.method.warmup_epochs:
            raise ConfigError(
                f"training.patience is {self.training.patience}, which could stop MSCN in its warm-up of "
                f"{self.method.warmup_epochs} epochs: set it to 0 or above method.warmup_epochs"
            )
        if isinstance(self.method, DisnclConfig) and self.method.exclusive_branch:
            self._refuse_small_batches(self.method)
        if self.noise.index is not None and self.trusted.source in ("training", "file"):
            raise ConfigError(
                f"noise.index numbers all training pairs, but trusted.source = {self.trusted.source!r} takes some out "
                "first: take trusted pairs from development or another split, or set noise.rate instead"
            )
        if self.training.oracle == "true_correspondence" and not (
            isinstance(self.method, CrclConfig) and not self.method.refine
        ):
            raise ConfigError(
                'training.oracle = "true_correspondence" keeps given correspondences: it needs method.name = "crcl" '
                "and method.refine = false"
            )

    def _refuse_small_batches(self, method: DisnclConfig) -> None:
        penalties = {"adversary": method.adversary, "correlation": method.correlation}
        used = [name for name, weight in penalties.items() if weight]
        if used and self.training.batch_size < FEWEST_CODES:
            raise ConfigError(
                f"training.batch_size is {self.training.batch_size}, but the {used[0]} term of DisNCL compares the "
                f"codes of a batch with one another: use at least {FEWEST_CODES}, or method.exclusive_branch = false"
            )
