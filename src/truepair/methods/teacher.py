"""The default method, truepair's own: models judge pairs that they did not learn, and a network learns by that.

It puts together what each of the papers has that holds up at every noise rate, and what none of them has:

- out-of-sample confidence: the images are cut into folds, a network is trained for a few epochs without each fold, and
  judges the captions of an image together (`scoring.out_of_sample`). What such networks say about images that they
  never saw corrects what a single one has learned by heart;
- a start that has learned already: the networks of the folds begin with the same weights, and the network of all pairs
  with the mean of what became of them (McMahan et al., AISTATS 2017; Wortsman et al., ICML 2022), but on
  VSE∞, where a GRU reads captions and cosines compare them, with fresh weights, which ended better there;
- CRCL's active complementary loss, which learns from a pair as far as its confidence says (`losses.complementary`);
- averaged weights, the teacher (Tarvainen & Valpola, NeurIPS 2017), which know fewer mismatched pairs by heart than the
  last ones, and neighbour agreement (LEMoN, ICML 2025), which gives the noise rate inside a fold
  (`scoring.confidence`).

There is nothing to set for a noise rate, or for its level. docs/papers.md says where each value is from, and
benchmarks/RESULTS.md what each part gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair.config import TeacherConfig
from truepair.data.batch import Batch
from truepair.data.loader import Loaders
from truepair.losses.complementary import active_complementary_loss
from truepair.losses.contrastive import info_nce
from truepair.losses.soft_targets import targets_among_others
from truepair.methods.protocol import MakeModel, StepLog
from truepair.model import MatchingModel
from truepair.optimisation import Optimiser, mean_weights
from truepair.scoring.confidence import ConfidenceEstimate, estimated_confidence
from truepair.scoring.cross_fitting import Fold, folds_judged_by
from truepair.scoring.encodings import are_local
from truepair.scoring.out_of_sample import Prior, combined, prior_of

if TYPE_CHECKING:  # slow to load: a method is handed one
    import lightning_fabric


class Teacher:
    """Networks that each learn all folds but one, then one that learns all pairs; and the confidence in each pair.

    Attributes:
        stage: 0 while the networks of the folds are trained, 1 afterwards; always 0 without them.
        pair_confidence: ``[pairs]``, in [0, 1]: that each training pair matches, as the networks learn by it.
        prior: What the networks of the folds say in the end; None before, and where they learned nothing consistent.
    """

    def __init__(
        self, config: TeacherConfig, make_model: MakeModel, pairs: int, fabric: lightning_fabric.Fabric
    ) -> None:
        self.config = config
        self._fold_epochs = config.fold_epochs_of(pairs)
        self.epochs = self._fold_epochs + config.epochs
        self.stage = 0
        self.notes: Sequence[str] = ()
        self.pair_confidence = torch.ones(pairs, device=fabric.device)
        self.prior: Prior | None = None
        self._fabric = fabric
        folds = config.folds_of(pairs) if self._fold_epochs else 0
        self._of_folds, self._of_all = (
            [Optimiser(make_model(), config.optimisation, epochs, fabric) for _ in range(networks)]
            for networks, epochs in ((folds, self._fold_epochs), (1, config.epochs))
        )
        for other in self._of_folds[1:]:  # networks with one start have a mean that is a network too
            other.start_from(self._of_folds[0].model.state_dict())
        model = self._of_all[0].evaluated
        is_recurrent = any(isinstance(part, torch.nn.RNNBase) for part in model.text_encoder.modules())
        self._starts_from_folds = config.starts_from_folds(is_recurrent, are_local([model]))

    @property
    def models(self) -> Sequence[MatchingModel]:
        """See `Method.models`: the networks of the folds, then the one of all pairs."""
        return [optimiser.evaluated for optimiser in (self._of_folds if self._trains_folds else self._of_all)]

    @property
    def _trains_folds(self) -> bool:
        return self.stage == 0 and self._fold_epochs > 0

    @property
    def pair_state(self) -> Mapping[str, Float[Tensor, " pairs"]]:
        """See `Method.pair_state`: the confidence that the networks learn by."""
        return {"confidence": self.pair_confidence}

    def train_epoch(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        """See `Method.train_epoch`: an epoch of the networks of all folds, or of the network of all pairs."""
        if epoch < self._fold_epochs:
            yield from self._train_folds(epoch, loaders)
            return
        (of_all,) = self._of_all
        epoch -= self._fold_epochs
        if self._trains_folds:
            self.stage = 1
            if self.prior is not None and self._starts_from_folds:
                of_all.start_from(mean_weights([optimiser.evaluated for optimiser in self._of_folds]))
        yield from self._train(of_all, epoch, loaders, None)
        if self.config.judges_after(epoch):
            self.pair_confidence = self._estimate(loaders, epoch).confidence.to(self._fabric.device)

    def _train_folds(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        """An epoch of each fold's network on the other folds, and from the warm-up on a new confidence in all pairs.

        Each network judges its own fold, of which it knows no image, so that no pair is learned by a confidence that
        comes from a network which learned it.
        """
        folds = self.folds(loaders)
        if not folds:
            return
        for optimiser, fold in zip(self._of_folds, folds, strict=True):
            yield from self._train(optimiser, epoch, loaders, fold.learned)
        if epoch + 1 >= self.config.warmup_epochs:
            drawn = (epoch + 1) % self._fold_epochs  # 0 for the prior, the last estimate
            self.prior = prior_of(folds, loaders.pairs, self.config.temperature, loaders.seed, drawn)
            if self.prior is not None:
                self.pair_confidence = self.prior.confidence.to(self._fabric.device)

    def folds(self, loaders: Loaders) -> list[Fold]:
        """The folds of the pairs, with the networks that did not learn them; none if there are too few images."""
        return folds_judged_by([optimiser.evaluated for optimiser in self._of_folds], loaders.pairs, loaders.seed)

    def _train(
        self,
        optimiser: Optimiser[MatchingModel],
        epoch: int,
        loaders: Loaders,
        chosen: Int[Tensor, " chosen"] | None,
    ) -> Iterator[StepLog]:
        """An epoch of one network over the chosen pairs, or all."""
        network, steps = optimiser.model, loaders.batches_per_epoch(None if chosen is None else len(chosen))
        network.train()
        for batch in loaders.train(epoch, chosen):
            confidence = self.pair_confidence[batch.pair]
            loss = self._loss(network(batch), confidence, self._taught(optimiser.evaluated, batch, confidence))
            yield optimiser.step(loss, epoch + batch.number / steps) | {"confidence": confidence.mean().item()}

    def _taught(
        self, teacher: MatchingModel, batch: Batch, confidence: Float[Tensor, " pairs"]
    ) -> Float[Tensor, "pairs pairs"] | None:
        """The averaged network's similarities of a batch; None where they would teach nothing."""
        if not self.config.target_weight or self._trains_folds or bool((confidence == 1).all()):
            return None
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
        """See `Method.confidence`: the prior together with the present network; `notes` then hold its warnings.

        Without a prior of these pairs, the present network's estimate alone.
        """
        found = self._estimate(loaders, self.epochs)
        self.notes = found.warnings
        return found.confidence

    def _estimate(self, loaders: Loaders, drawn: int) -> ConfidenceEstimate:
        """Of all pairs; other reference pairs and random pairs for every value of `drawn`."""
        pairs, temperature, seed = loaders.pairs, self.config.temperature, loaders.seed
        if self.prior is None or len(self.prior.confidence) != len(pairs):
            return estimated_confidence(self.models, pairs, temperature, seed, drawn)
        if self._trains_folds:
            return self.prior.estimate
        return combined(self.prior, self.models, pairs, temperature, seed, drawn)

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        networks = [*(self._of_folds if self._trains_folds else ()), *self._of_all]
        return {
            "stage": self.stage,
            "confidence": self.pair_confidence,
            "prior": None if self.prior is None else asdict(self.prior),
            "networks": [optimiser.state_dict() for optimiser in networks],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.stage = state["stage"]
        self.pair_confidence = state["confidence"].to(self._fabric.device)
        self.prior = None if state["prior"] is None else Prior(**state["prior"])
        networks = [*(self._of_folds if self._trains_folds else ()), *self._of_all]
        for optimiser, saved in zip(networks, state["networks"], strict=True):
            optimiser.load_state_dict(saved)
