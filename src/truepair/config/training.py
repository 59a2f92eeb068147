"""How training runs, whatever the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from truepair.errors import ConfigError


@dataclass(frozen=True)
class TrainingConfig:
    """How training runs."""

    batch_size: int = 128
    """Pairs in a training batch, of all devices together (CRCL's released code: 128)."""
    seed: int = 0
    """Seed of initial weights, order of the pairs, dropout and augmentation."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; "auto" takes a GPU if there is one."""
    devices: int = 1
    """Devices on each node, with a process each that torchrun or SLURM has started; torchrun says the number by itself.
    They share each batch, and train as one device does."""
    nodes: int = 1
    """Machines with these devices, which see the same files under the same paths; torchrun says the number by itself.
    """
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the forward pass in training (Lightning Fabric's names)."""
    encode_at_once: int = 0
    """Images, or captions, of a batch to encode at once, so that a large batch fits a small device; 0 is all. Each is
    encoded twice: for the loss, and for its gradient. Needs model.projection "plain"."""
    workers: int = 0
    """Processes that read ahead; 0 reads in the training process."""
    oracle: Literal["none", "clean_pairs", "true_correspondence"] = "none"
    """Reference runs that know which training pairs match, where noise was injected: train on the matching pairs only,
    or give CRCL the true correspondences and keep them."""
    patience: int = 0
    """Stop when development rSum has not improved for this many epochs, of those after a method's warm-up, its folds or
    its earlier stages; 0 never stops early."""
    checkpoint_steps: int = 0
    """Number of optimisation steps after which a run is also saved, so that one that is killed goes on within an
    epoch; 0 saves after each epoch only."""
    tensorboard: bool = False
    """Also write TensorBoard files (needs truepair[tensorboard])."""

    def __post_init__(self) -> None:
        """Refuse a batch in which nothing can be compared, and counts and seeds below 0."""
        if self.batch_size < 2:
            raise ConfigError(
                f"training.batch_size is {self.batch_size}, but a pair is learned against the others: use at least 2"
            )
        for name in ("devices", "nodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}, but it must be at least 1")
        for name in ("seed", "workers", "patience", "encode_at_once", "checkpoint_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"training.{name} is {getattr(self, name)}, but it must be at least 0")
