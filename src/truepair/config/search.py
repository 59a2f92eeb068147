"""The options of an index for search; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from truepair.errors import ConfigError


@dataclass(frozen=True)
class IndexConfig:
    """How an index is made."""

    pairs: Literal["all", "train", "dev", "test"] = "all"
    """Which pairs of a run to index: all, or those of one split."""
    approximate: Literal["none", "ivf", "hnsw"] = "none"
    """"none" compares a query with every vector. "ivf" and "hnsw" look at some of them, by faiss (pip install
    'truepair[search]'), which pays from about a million vectors on."""
    recall: float = 0.95
    """Share of the exact ten best hits that an approximate index must find; in (0, 1)."""
    calibration: int = 2_000
    """Queries of each direction that probabilities are learned from; 200 for a run with SAF or SGR at most."""
    references: int = 1_024
    """Reference pairs, of different images, that the log-odds of a hit are against."""
    temperature: float = 0.07
    """Temperature τ of the log-odds; that of training."""
    seed: int = 0
    """Seed of reference pairs and of calibration queries."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to encode; "auto" takes a GPU if there is one. Search itself runs on the CPU."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name, smallest in (("calibration", 0), ("references", 4), ("seed", 0)):
            if getattr(self, name) < smallest:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least {smallest}")
        if not 0 < self.recall < 1:
            raise ConfigError(f"recall is {self.recall}, but it is a share in (0, 1)")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}, but it must be above 0")
