"""CRCL: active complementary learning with self-refining correspondence (Qin et al., NeurIPS 2023).

Every pair carries a soft correspondence in [0, 1]. The loss pulls a pair together as far as its correspondence says and
otherwise pushes it from its negatives in a bounded way; the correspondence follows, with momentum, the probability
that the network gives to the pair. A run has several stages: each starts a fresh network and keeps the correspondences.

What the paper says, what the released code does and what is done here stands, constant by constant, in docs/papers.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair.config import CrclConfig
from truepair.data.loader import Loaders
from truepair.losses.complementary import active_complementary_loss, mean_matching_probability
from truepair.methods.protocol import MakeModel, StepLog
from truepair.model import MatchingModel
from truepair.optimisation import Optimiser
from truepair.scoring.confidence import confidence_against_random_pairs

if TYPE_CHECKING:  # slow to load: a method is handed one
    import lightning_fabric


class Crcl:
    """One network and one correspondence per pair.

    Attributes:
        correspondence: ``[pairs]``, m in the paper's released code: the soft correspondence of each training pair.
        stage: Which stage the run is in, from 0.
    """

    def __init__(
        self,
        config: CrclConfig,
        make_model: MakeModel,
        pairs: int,
        fabric: lightning_fabric.Fabric,
        correspondence: Float[Tensor, " pairs"] | None = None,
    ) -> None:
        """Start with a fresh network.

        Args:
            config: The method's options.
            make_model: Returns a fresh network, at the start of every stage.
            pairs: Number of training pairs.
            fabric: Device and precision.
            correspondence: What to start from; 1 for every pair if None. With ``refine=False`` it never changes:
                the true correspondences make the matched oracle.
        """
        self.config = config
        self.epochs = config.epochs
        self.notes: Sequence[str] = ()
        self._make_model = make_model
        self._fabric = fabric
        start = torch.ones(pairs) if correspondence is None else correspondence.float().clone()
        self.correspondence = start.to(fabric.device)
        self._start_stage(0)

    def _start_stage(self, stage: int) -> None:
        """A network, an optimiser and a schedule that know nothing of the stage before."""
        self.stage = stage
        epochs = self.config.stages[stage] + self.config.frozen_epochs
        self._optimiser = Optimiser(self._make_model(), self.config.optimisation, epochs, self._fabric)

    @property
    def models(self) -> Sequence[MatchingModel]:
        """See `Method.models`: one, that of the present stage."""
        return [self._optimiser.evaluated]

    @property
    def pair_state(self) -> Mapping[str, Float[Tensor, " pairs"]]:
        """See `Method.pair_state`: the soft correspondences."""
        return {"correspondence": self.correspondence}

    def train_epoch(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        """See `Method.train_epoch`."""
        stage, stage_epoch = self.config.position(epoch)
        if stage != self.stage:
            self._start_stage(stage)
        network, steps = self._optimiser.model, loaders.batches_per_epoch()
        network.train()
        for batch in loaders.train(epoch):
            similarity = network(batch)  # [pairs, pairs]
            probability = mean_matching_probability(similarity, self.config.temperature)  # [pairs], the diagonal's
            correspondence = self._refine(batch.pair, probability, stage_epoch)
            loss = active_complementary_loss(
                similarity,
                correspondence,
                temperature=self.config.temperature,
                negative_weight=self.config.negative_weight,
            )
            log = self._optimiser.step(loss, stage_epoch + batch.number / steps)
            yield log | {"correspondence": correspondence.mean().item()}

    def _refine(
        self, pair: Int[Tensor, " batch"], probability: Float[Tensor, " batch"], stage_epoch: int
    ) -> Float[Tensor, " batch"]:
        """Self-refining correspondence correction: the correspondences to learn from now, and the ones to remember.

        Frozen epochs use what is remembered; later ones ``α·m + (1-α)·p̄``; then values below ε become 0. What was
        used is remembered, except in the last frozen epoch of the first stage: there p̄ itself replaces the initial
        trust, before any threshold.
        """
        remembered = self.correspondence[pair]
        if not self.config.refine:
            return remembered
        used = remembered
        if stage_epoch >= self.config.frozen_epochs:
            used = self.config.momentum * remembered + (1 - self.config.momentum) * probability
        used = torch.where(used < self.config.threshold, 0.0, used)
        is_first_estimate = self.stage == 0 and stage_epoch == self.config.frozen_epochs - 1
        self.correspondence[pair] = probability if is_first_estimate else used
        return used

    def confidence(self, loaders: Loaders) -> Float[Tensor, " pairs"]:
        """See `Method.confidence`: log-odds of each pair against negatives, compared with random pairs.

        The soft correspondences themselves are made in training mode, against the few negatives of one batch and
        with a threshold: right inside the loss, and a poor detector (docs/papers.md).
        """
        found = confidence_against_random_pairs(self.models, loaders, self.config.temperature)
        self.notes = found.warnings
        return found.confidence

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"stage": self.stage, "correspondence": self.correspondence, **self._optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self._start_stage(state["stage"])
        self.correspondence = state["correspondence"].to(self._fabric.device)
        self._optimiser.load_state_dict(state)
