"""The default method, truepair's own: an averaged network, the teacher, judges the pairs that a network learns from.

It puts together what each of the papers has that holds up at every noise rate, and what none of them has:

- CRCL's active complementary loss, which learns from a pair as far as it is believed (`losses.complementary`);
- belief as a posterior of mixtures (MSCN, DisNCL), refitted after every epoch to what the teacher says: averaged
  weights (Mean Teacher, Tarvainen & Valpola, NeurIPS 2017) know fewer mismatched pairs by heart than the last ones;
- neighbour agreement (LEMoN, ICML 2025), which gives the noise rate against random pairs (`scoring.confidence`);
- for pairs that are not believed, soft targets over the batch (DisNCL): the teacher's, without their own partner.

There is one stage, and nothing to set for a noise rate. docs/papers.md says where each value is from, and
benchmarks/RESULTS.md what each part gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
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


class Teacher:
    """One network, its average, and a belief in each pair.

    Attributes:
        belief: ``[pairs]``, in [0, 1]: how far each training pair is believed to match.
    """

    stage = 0

    def __init__(self, config: TeacherConfig, make_model: MakeModel, pairs: int, fabric: Fabric) -> None:
        self.config = config
        self.epochs = config.epochs
        self.notes: Sequence[str] = ()
        self.belief = torch.ones(pairs, device=fabric.device)
        self._fabric = fabric
        self._optimiser = Optimiser(make_model(), config.optimisation, config.epochs, fabric)

    @property
    def models(self) -> Sequence[MatchingModel]:
        """See `Method.models`: one, the teacher."""
        return [cast(MatchingModel, self._optimiser.evaluated)]

    def train_epoch(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        """See `Method.train_epoch`: a pass, and after it, from the end of the warm-up on, a new judgement."""
        network, steps = self._optimiser.model, loaders.batches_per_epoch()
        network.train()
        for step, batch in enumerate(loaders.train(epoch)):
            belief = self.belief[batch.pair]
            loss = self._loss(network(batch), belief, self._taught(batch, belief))
            yield self._optimiser.step(loss, epoch + step / steps) | {"belief": belief.mean().item()}
        if self.config.warmup_epochs <= epoch + 1 < self.epochs:
            found = estimated_confidence(self.models, loaders.pairs, self.config.temperature, loaders.seed)
            self.belief = found.confidence.to(self._fabric.device)

    def _taught(self, batch: Batch, belief: Float[Tensor, " pairs"]) -> Float[Tensor, "pairs pairs"] | None:
        """The teacher's similarities of a batch; None where they would teach nothing."""
        if not self.config.target_weight or bool((belief == 1).all()):
            return None
        (teacher,) = self.models
        with torch.no_grad(), self._fabric.autocast():
            similarity: Tensor = teacher.eval()(batch)
        return similarity

    def _loss(
        self,
        similarity: Float[Tensor, "pairs pairs"],
        belief: Float[Tensor, " pairs"],
        taught: Float[Tensor, "pairs pairs"] | None,
    ) -> Float[Tensor, ""]:
        r"""The loss of a batch.

        .. math::
            \ell_\text{ACL}(S, w) + \frac{\mu}{B} \sum_i (1 - w_i) \sum_{j \ne i} \left(
            - Q^{\Rightarrow}_{ij} \log p^{\Rightarrow}_{ij} - Q^{\Leftarrow}_{ij} \log p^{\Leftarrow}_{ij} \right)

        with belief w and targets Q, the teacher's probabilities of all but the pair's own partner.
        """
        config = self.config
        loss = active_complementary_loss(
            similarity, belief, temperature=config.temperature, negative_weight=config.negative_weight
        )
        if taught is None:
            return loss
        doubt = config.target_weight * (1 - belief.detach())
        targets = targets_among_others(taught, config.temperature)
        return loss + info_nce(similarity, config.temperature, weights=doubt, targets=targets)

    def confidence(self, loaders: Loaders) -> Float[Tensor, " pairs"]:
        """See `Method.confidence`: a new judgement of the present teacher; `notes` then hold its warnings."""
        found = estimated_confidence(self.models, loaders.pairs, self.config.temperature, loaders.seed)
        self.notes = found.warnings
        return found.confidence

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"belief": self.belief, **self._optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        if state["belief"].shape != self.belief.shape:
            known, pairs = len(state["belief"]), len(self.belief)
            raise CheckpointError(f"it has a belief in {known:,} pairs, but there are {pairs:,}")
        self.belief = state["belief"].to(self._fabric.device)
        self._optimiser.load_state_dict(state)
