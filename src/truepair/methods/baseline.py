"""Plain training, which takes every pair for a match: what the robust methods are measured against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float
from torch import Tensor

from truepair.config import BaselineConfig
from truepair.data.loader import Loaders
from truepair.losses.contrastive import info_nce
from truepair.losses.triplet import triplet_loss
from truepair.methods.protocol import MakeModel, StepLog
from truepair.model import MatchingModel
from truepair.optimisation import Optimiser
from truepair.scoring.confidence import confidence_of_two_components

if TYPE_CHECKING:  # slow to load: a method is handed one
    import lightning_fabric


class Baseline:
    """InfoNCE or a triplet loss, no defence."""

    stage = 0

    def __init__(
        self, config: BaselineConfig, make_model: MakeModel, pairs: int, fabric: lightning_fabric.Fabric
    ) -> None:
        self.config = config
        self.notes: Sequence[str] = ()
        self.epochs = config.epochs
        self._optimiser = Optimiser(make_model(), config.optimisation, config.epochs, fabric)

    @property
    def models(self) -> Sequence[MatchingModel]:
        """See `Method.models`: one."""
        return [self._optimiser.evaluated]

    @property
    def pair_state(self) -> Mapping[str, Float[Tensor, " pairs"]]:
        """See `Method.pair_state`: there is none."""
        return {}

    def train_epoch(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        """See `Method.train_epoch`."""
        network, steps = self._optimiser.model, loaders.batches_per_epoch()
        network.train()
        for batch in loaders.train(epoch):
            yield self._optimiser.step(self._loss(network(batch)), epoch + batch.number / steps)

    def _loss(self, similarity: Float[Tensor, "pairs pairs"]) -> Float[Tensor, ""]:
        if self.config.loss == "info_nce":
            return info_nce(similarity, self.config.temperature)
        negatives: Literal["sum", "hardest"] = "sum" if self.config.loss == "triplet_sum" else "hardest"
        return triplet_loss(similarity, self.config.margin, negatives=negatives)

    def confidence(self, loaders: Loaders) -> Float[Tensor, " pairs"]:
        """See `Method.confidence`: plain training learns mismatched pairs too, so what they look like is not known."""
        found = confidence_of_two_components(self.models, loaders, self.config.temperature)
        self.notes = found.warnings
        return found.confidence

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return self._optimiser.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self._optimiser.load_state_dict(state)
