"""The default method, truepair's own: an averaged network, the teacher, estimates the confidence in pairs.

It puts together what each of the papers has that holds up at every noise rate, and what none of them has:

- CRCL's active complementary loss, which learns from a pair as far as its confidence says (`losses.complementary`);
- confidence as the posterior of a mixture (MSCN, DisNCL), refitted after every epoch to the teacher's scores: averaged
  weights (Mean Teacher, Tarvainen & Valpola, NeurIPS 2017) know fewer mismatched pairs by heart than the last ones;
- neighbour agreement (LEMoN, ICML 2025), which against random pairs gives the noise rate (`scoring.confidence`);
- for pairs of low confidence, soft targets over the batch (DisNCL): the teacher's, without their own partner.

There is one stage, and nothing to set for a noise rate. docs/papers.md says where each value is from, and
benchmarks/RESULTS.md what each part gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.config import TeacherConfig
from truepair.data.batch import Batch
from truepair.data.loader import Loaders
from truepair.errors import CheckpointError
from truepair.losses.complementary import active_complementary_loss
from truepair.losses.contrastive import info_nce
from truepair.losses.soft_targets import targets_among_others
from truepair.methods.protocol import MakeModel, StepLog
from truepair.model import MatchingModel
from truepair.optimisation import Optimiser
from truepair.scoring.confidence import estimated_confidence

if TYPE_CHECKING:  # slow to load: a method is handed one
    import lightning_fabric


class Teacher:
    """One network, its average, and the confidence in each pair.

    Attributes:
        pair_confidence: ``[pairs]``, in [0, 1]: that each training pair matches, by the last estimate.
    """

    stage = 0

    def __init__(
        self, config: TeacherConfig, make_model: MakeModel, pairs: int, fabric: lightning_fabric.Fabric
    ) -> None:
        self.config = config
        self.epochs = config.epochs
        self.notes: Sequence[str] = ()
        self.pair_confidence = torch.ones(pairs, device=fabric.device)
        self._fabric = fabric
        self._optimiser = Optimiser(make_model(), config.optimisation, config.epochs, fabric)

    @property
    def models(self) -> Sequence[MatchingModel]:
        """See `Method.models`: one, the teacher."""
        return [self._optimiser.evaluated]

    def train_epoch(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        """See `Method.train_epoch`: an epoch, and after it, from the end of the warm-up on, a new estimate."""
        network, steps = self._optimiser.model, loaders.batches_per_epoch()
        network.train()
        for step, batch in enumerate(loaders.train(epoch)):
            confidence = self.pair_confidence[batch.pair]
            loss = self._loss(network(batch), confidence, self._taught(batch, confidence))
            yield self._optimiser.step(loss, epoch + step / steps) | {"confidence": confidence.mean().item()}
        if self.config.warmup_epochs <= epoch + 1 < self.epochs:
            found = estimated_confidence(self.models, loaders.pairs, self.config.temperature, loaders.seed)
            self.pair_confidence = found.confidence.to(self._fabric.device)

    def _taught(self, batch: Batch, confidence: Float[Tensor, " pairs"]) -> Float[Tensor, "pairs pairs"] | None:
        """The teacher's similarities of a batch; None where they would teach nothing."""
        if not self.config.target_weight or bool((confidence == 1).all()):
            return None
        (teacher,) = self.models
        with torch.no_grad(), self._fabric.autocast():
            similarity: Tensor = teacher.eval()(batch)
        return similarity

    def _loss(
        self,
        similarity: Float[Tensor, "pairs pairs"],
        confidence: Float[Tensor, " pairs"],
        taught: Float[Tensor, "pairs pairs"] | None,
    ) -> Float[Tensor, ""]:
        r"""The loss of a batch.

        .. math::
            \ell_\text{ACL}(S, w) + \frac{\mu}{B} \sum_i (1 - w_i) \sum_{j \ne i} \left(
            - Q^{\Rightarrow}_{ij} \log p^{\Rightarrow}_{ij} - Q^{\Leftarrow}_{ij} \log p^{\Leftarrow}_{ij} \right)

        with confidence w and targets Q, the teacher's probabilities of all but the pair's own partner.
        """
        config = self.config
        loss = active_complementary_loss(
            similarity, confidence, temperature=config.temperature, negative_weight=config.negative_weight
        )
        if taught is None:
            return loss
        doubt = config.target_weight * (1 - confidence.detach())
        targets = targets_among_others(taught, config.temperature)
        return loss + info_nce(similarity, config.temperature, weights=doubt, targets=targets)

    def confidence(self, loaders: Loaders) -> Float[Tensor, " pairs"]:
        """See `Method.confidence`: a new estimate by the present teacher; `notes` then hold its warnings."""
        found = estimated_confidence(self.models, loaders.pairs, self.config.temperature, loaders.seed)
        self.notes = found.warnings
        return found.confidence

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"confidence": self.pair_confidence, **self._optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        if state["confidence"].shape != self.pair_confidence.shape:
            known, pairs = len(state["confidence"]), len(self.pair_confidence)
            raise CheckpointError(f"it has the confidence in {known:,} pairs, but there are {pairs:,}")
        self.pair_confidence = state["confidence"].to(self._fabric.device)
        self._optimiser.load_state_dict(state)
