"""What a method is: it owns its whole optimisation step and its state per pair; the trainer owns everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from truepair.data.loader import Loaders
from truepair.model import MatchingModel

MakeModel = Callable[[], MatchingModel]
"""Returns a fresh model; random weights come from torch's global generator, whose state is part of a checkpoint."""

StepLog = Mapping[str, float]
"""Scalars of one optimisation step, by name."""


@runtime_checkable
class Method(Protocol):
    """One way to train a matching model on pairs of which some do not match.

    A method is built from its config, `MakeModel`, the number of pairs and a Fabric. Of several processes, each trains
    one alike: networks called with a batch give what the whole batch gives (`in_parts.encoded`), and `Optimiser`
    averages gradients. All else must be the same on every process.
    """

    @property
    def models(self) -> Sequence[MatchingModel]:
        """What evaluation, audit and search use: one network, or several whose similarities are averaged."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the results must know of how the run went, in sentences."""
        ...

    @property
    def epochs(self) -> int:
        """Epochs of a whole run."""
        ...

    @property
    def stage(self) -> int:
        """How many times the network has been started afresh; the best checkpoint is one of the current stage."""
        ...

    @property
    def pair_state(self) -> Mapping[str, Float[Tensor, " pairs"]]:
        """What the method remembers of each training pair, by name, in [0, 1]; empty if it remembers nothing yet."""
        ...

    def train_epoch(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        """One epoch in the order of the paper's algorithm, yielding after every optimisation step."""
        ...

    def confidence(self, loaders: Loaders) -> Float[Tensor, " pairs"]:
        """Confidence, in [0, 1], that each training pair matches, by the present state; draws no random number."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers and state per pair: nested dicts and lists of tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        ...
