"""DisNCL: disentangled noisy correspondence learning (arXiv 2408.05503, IEEE TIP 2025), reconstructed.

Of each image and caption there are two codes: a shared one, which retrieval compares, and an exclusive one, which takes
what the other modality does not have. A mixture over how well the pairs match by their shared codes says whom to
believe; the others are neither aligned nor taken for each other's partner.

No code was published, and the paper's text was not available: docs/papers.md says what is known and what is inferred.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn.functional import relu

from truepair.config import FEWEST_CODES, DisnclConfig
from truepair.data.batch import Batch
from truepair.data.loader import Loaders
from truepair.encoders.codes import ExclusiveBranch, SharedCodes, SharedEncoder
from truepair.errors import CheckpointError, ConfigError, TrainingError
from truepair.layers import Code, unit_length
from truepair.losses.contrastive import info_nce
from truepair.losses.information import (
    DensityRatioCritic,
    critic_loss,
    derangement,
    divergence_from_prior,
    nonlinear_correlation,
    reconstruction_error,
    symmetric_divergence,
)
from truepair.losses.soft_targets import soft_targets
from truepair.methods.protocol import MakeModel, StepLog
from truepair.model import MODALITIES, MatchingModel
from truepair.optimisation import Optimiser
from truepair.scoring.confidence import confidence_against_random_pairs, pair_scores
from truepair.scoring.mixtures import fit_gaussian_mixture

_BELIEVED = 0.5
"""Belief above which the codes of a pair are aligned."""
_WEAKEST_SIGNAL = 1e-2
"""A code whose means vary over the batch by less than this share of its own variance tells nothing apart."""
_MOMENTS_OF_CRITICS = (0.5, 0.999)
"""Of their Adam, as in DisenIB's released code."""


class Disncl:
    """One network, or two that filter for each other, with the critics of their codes.

    Attributes:
        belief: ``[networks, pairs]``, w of each training pair as each network judges it; 1 in the warm-up.
        degenerate_fits: Mixtures so far that did not show two kinds of pairs.
    """

    stage = 0

    def __init__(self, config: DisnclConfig, make_model: MakeModel, pairs: int, fabric: Fabric) -> None:
        """Start with fresh networks.

        Args:
            config: The method's options.
            make_model: Returns a fresh network with codes (``ModelConfig.codes``).
            pairs: Number of training pairs.
            fabric: Device and precision.

        Raises:
            ConfigError: If the networks have not the codes that the options need.
        """
        self.config = config
        self.epochs = config.epochs
        self.belief = torch.ones(config.networks, pairs, device=fabric.device)
        self.degenerate_fits = 0
        self._is_judged = False
        self._networks = [_Network(make_model(), config, fabric) for _ in range(config.networks)]

    @property
    def models(self) -> Sequence[MatchingModel]:
        """See `Method.models`: networks that compare the means of shared codes."""
        return [network.evaluated for network in self._networks]

    @property
    def notes(self) -> Sequence[str]:
        """See `Method.notes`: a variant that is not the paper's, and what went wrong on the way."""
        notes = []
        if self.config.exclusive_branch and self.config.preset == "cov":
            notes.append("preset cov (a penalty on correlations instead of an adversary) is a variant of truepair's")
        if self.degenerate_fits:
            notes.append(f"mixtures that did not show two kinds of pairs: {self.degenerate_fits}")
        for number, network in enumerate(self._networks, 1):
            notes += [f"network {number}: {collapse}" for collapse in network.collapses.values()]
        return notes

    def train_epoch(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        """See `Method.train_epoch`: pairs are judged, then each network passes over all of them once."""
        if self.config.filtering and epoch >= self.config.warmup_epochs:
            self._judge(loaders)
        steps = loaders.batches_per_epoch()
        for number, network in enumerate(self._networks):
            belief = self.belief[number - 1]  # of the other network, if there are two
            for step, batch in enumerate(loaders.train(epoch * len(self._networks) + number)):
                yield network.step(batch, belief[batch.pair], epoch + step / steps)

    def _judge(self, loaders: Loaders) -> None:
        """Each network's belief in each pair follows the posterior of a mixture over log-odds in evaluation mode."""
        for number, model in enumerate(self.models):
            mixture = fit_gaussian_mixture(scores := pair_scores([model], loaders, self.config.temperature).log_odds)
            self.degenerate_fits += mixture.degenerate
            found = mixture.posterior(scores).to(self.belief)
            kept = self.config.filter_momentum if self._is_judged else 0.0
            self.belief[number] = kept * self.belief[number] + (1 - kept) * found
        self._is_judged = True

    def confidence(self, loaders: Loaders) -> Float[Tensor, " pairs"]:
        """See `Method.confidence`: each pair against competitors by its shared codes, compared with random pairs."""
        return confidence_against_random_pairs(self.models, loaders, self.config.temperature)

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {
            "networks": [network.state_dict() for network in self._networks],
            "belief": self.belief,
            "is_judged": self._is_judged,
            "degenerate_fits": self.degenerate_fits,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        if state["belief"].shape != self.belief.shape:
            known, pairs = state["belief"].shape[1], self.belief.shape[1]
            raise CheckpointError(f"it has a belief in {known:,} pairs, but there are {pairs:,}")
        for network, saved in zip(self._networks, state["networks"], strict=True):
            network.load_state_dict(saved)
        self.belief = state["belief"].to(self.belief)
        self._is_judged, self.degenerate_fits = state["is_judged"], state["degenerate_fits"]


class ItemCodes(NamedTuple):
    """Both codes of one modality's items in a batch.

    Attributes:
        shared: The backbone's features and the shared code.
        exclusive: The exclusive code; None without that branch.
        sample: ``[items, size]``, one draw of it, reparameterised.
    """

    shared: SharedCodes
    exclusive: Code | None = None
    sample: Tensor | None = None


def matching_term(
    similarity: Float[Tensor, "pairs pairs"],
    image: SharedCodes,
    text: SharedCodes,
    belief: Float[Tensor, " pairs"],
    config: DisnclConfig,
) -> Float[Tensor, ""]:
    """L_match: InfoNCE with soft targets, the mean of both directions; its negative bounds I(S_v; S_t) from below."""
    if not config.soft_targets:
        return info_nce(similarity, config.temperature, weights=belief) / 2
    targets = soft_targets(
        similarity,
        _cosines(image.code),
        _cosines(text.code),
        belief,
        temperature=config.target_temperature,
        neighbours=config.neighbour_weight,
        smoothing=config.smoothing,
    )
    return info_nce(similarity, config.temperature, targets=targets) / 2


def alignment_term(image: Code, text: Code, belief: Float[Tensor, " pairs"]) -> Float[Tensor, ""]:
    """Ĩ_MEI(S): what shared codes hold of one modality only, a coordinate, of the pairs that are believed."""
    weight = torch.where(belief > _BELIEVED, belief, 0.0)
    return (weight * symmetric_divergence(image, text)).mean() / image.event_shape[0]


def exclusive_terms(
    codes: ItemCodes,
    branch: ExclusiveBranch,
    critic: DensityRatioCritic | None,
    config: DisnclConfig,
) -> dict[str, Float[Tensor, ""]]:
    """The parts of L_X of one modality, without weights: no pairing is used, so mismatched pairs do no harm.

    Args:
        codes: With the exclusive code.
        branch: Its decoder is used.
        critic: Estimates what both codes have in common; None leaves that and the correlations out. The estimate is
            there to be read even where its weight is 0; correlations are not.
        config: Says whether gradients reach the shared code (``coupled``).
    """
    assert codes.exclusive is not None
    assert codes.sample is not None
    shared = codes.shared.sample if config.coupled else codes.shared.sample.detach()
    terms = {
        "reconstruction": reconstruction_error(branch.decoded(shared, codes.sample), codes.shared.features).mean(),
        "prior": divergence_from_prior(codes.exclusive).mean() / codes.exclusive.event_shape[0],
    }
    if critic is not None:
        terms["adversary"] = relu(critic(shared, codes.sample).mean())  # relu: below 0 a critic merely lags behind
        if config.correlation:
            terms["correlation"] = nonlinear_correlation(shared, codes.sample, config.correlation_features)
    return terms


def signal(code: Code) -> Float[Tensor, ""]:
    """Variance of a code's means over the batch by its own, the mean over coordinates; 0 tells nothing apart."""
    ratio: Tensor = code.mean.var(0, correction=0) / code.variance.mean(0)
    return ratio.mean()


def cause_of_collapse(code: Code, terms: Mapping[str, Float[Tensor, ""]]) -> str:
    """Which weighted term of the loss lowers the code's `signal` most when its gradient in the code is followed."""
    parts = (code.base_dist.loc, code.base_dist.scale)
    rising = torch.autograd.grad(signal(code), parts, retain_graph=True)
    push = {}
    for name, term in terms.items():
        if term.requires_grad:
            slopes = torch.autograd.grad(term, parts, retain_graph=True, allow_unused=True)
            both = zip(slopes, rising, strict=True)
            push[name] = -sum(float((slope * up).sum()) for slope, up in both if slope is not None)
    return min(push, key=lambda name: push[name])


def _cosines(code: Code) -> Float[Tensor, "items items"]:
    """Of the means, each with each, without gradient."""
    directions = unit_length(code.mean.detach())
    return directions @ directions.T


class _Network:
    """A network with codes, its critics, and the optimisers of both."""

    def __init__(self, model: MatchingModel, config: DisnclConfig, fabric: Fabric) -> None:
        if not isinstance(model.image_encoder, SharedEncoder) or (model.exclusive is None) == config.exclusive_branch:
            raise ConfigError(
                "DisNCL needs encoders with shared codes, and exclusive ones for its exclusive branch: set model.codes"
            )
        self.config = config
        self.collapses: dict[str, str] = {}
        self._fabric = fabric
        self._model = model
        self._optimiser = Optimiser(model, config.optimisation, config.epochs, fabric)
        self._critics: dict[str, DensityRatioCritic] = {}
        if config.exclusive_branch:
            branches = [self._branch(modality) for modality in MODALITIES]
            shared = model.image_encoder.head.size
            self._critics = {
                modality: DensityRatioCritic(shared, branch.head.size).to(fabric.device)
                for modality, branch in zip(MODALITIES, branches, strict=True)
            }
            parameters = [weight for critic in self._critics.values() for weight in critic.parameters()]
            self._critic_adam = torch.optim.Adam(parameters, config.critic_learning_rate, _MOMENTS_OF_CRITICS)

    @property
    def evaluated(self) -> MatchingModel:
        return cast(MatchingModel, self._optimiser.evaluated)

    def _branch(self, modality: str) -> ExclusiveBranch:
        assert self._model.exclusive is not None
        return cast(ExclusiveBranch, self._model.exclusive[modality])

    def step(self, batch: Batch, belief: Float[Tensor, " pairs"], epoch: float) -> dict[str, float]:
        """The critics on detached codes, then the network."""
        self._model.train()
        with self._fabric.autocast():
            codes = {
                modality: self._codes(modality, items)
                for modality, items in zip(MODALITIES, (batch.images, batch.captions), strict=True)
            }
            image, text = (codes[modality].shared for modality in MODALITIES)
            similarity = self._model.scores.matrix(image.encoding, text.encoding)
        log: dict[str, float] = {}
        is_comparable = len(batch) >= FEWEST_CODES
        has_critics = epoch >= self.config.critics_from and is_comparable
        if self._critics and has_critics:
            log |= {"critic_loss": self._critic_steps(codes, epoch)}
        terms = {"matching": matching_term(similarity, image, text, belief, self.config)}
        if epoch >= self.config.warmup_epochs:
            terms["alignment"] = alignment_term(image.code, text.code, belief)
        for modality, critic in self._critics.items():
            of_modality = exclusive_terms(
                codes[modality], self._branch(modality), critic if has_critics else None, self.config
            )
            terms |= {name: terms.get(name, 0) + term for name, term in of_modality.items()}
        weights = self._weights(epoch)
        weighted = {name: weights[name] * term for name, term in terms.items() if weights[name]}
        if is_comparable:  # a last batch may be two captions of one image, whose codes rightly do not vary
            log |= self._signals(codes, weighted, epoch)
        loss = torch.stack([*weighted.values()]).sum()
        log |= {name: term.item() for name, term in terms.items()}
        return log | {"belief": belief.mean().item()} | self._optimiser.step(loss, epoch)

    def _codes(self, modality: str, items: Any) -> ItemCodes:
        encoder = cast(SharedEncoder, getattr(self._model, f"{modality}_encoder"))
        shared = encoder.codes(items)
        if not self.config.exclusive_branch:
            return ItemCodes(shared)
        features = shared.features.detach() if self.config.x_input_detach else shared.features
        exclusive = self._branch(modality)(features)
        return ItemCodes(shared, exclusive, exclusive.rsample())

    def _weights(self, epoch: float) -> dict[str, float]:
        """Of the loss's terms, by their names."""
        config = self.config
        of_shared = config.disentangling_weight * config.balance
        of_exclusive = config.disentangling_weight * (1 - config.balance)
        since = epoch - config.warmup_epochs
        rise = float(since >= 0) if not config.adversary_epochs else min(max(since / config.adversary_epochs, 0.0), 1.0)
        return {
            "matching": config.matching_weight + of_shared * config.count_nce_twice,
            "alignment": of_shared * config.alignment_weight,
            "reconstruction": of_exclusive * config.reconstruction_weight,
            "prior": of_exclusive * config.prior_weight,
            "adversary": of_exclusive * config.adversary * rise,
            "correlation": of_exclusive * config.correlation * rise,
        }

    def _critic_steps(self, codes: Mapping[str, ItemCodes], epoch: float) -> float:
        """Some steps of both critics, each on fresh draws of the same codes; the loss of the last."""
        loss = math.nan
        for critic in self._critics.values():
            critic.requires_grad_(True)
        for _ in range(self.config.critic_steps if self.config.adversary else 1):  # without an adversary to be read
            losses = {}
            for modality, critic in self._critics.items():
                of_items = codes[modality]
                assert of_items.exclusive is not None
                shared, exclusive = of_items.shared.code.sample(), of_items.exclusive.sample()
                other = exclusive[derangement(len(exclusive), exclusive.device)]
                losses[modality] = critic_loss(critic(shared, exclusive), critic(shared, other))
            total = torch.stack([*losses.values()]).sum()
            self._critic_adam.zero_grad()
            total.backward()
            loss = total.item()
            if not math.isfinite(loss):
                raise self._critic_diverged(losses, epoch)
            self._critic_adam.step()
        for critic in self._critics.values():
            critic.requires_grad_(False)
        return loss

    def _critic_diverged(self, losses: Mapping[str, Tensor], epoch: float) -> TrainingError:
        which = " and ".join(name for name, loss in losses.items() if not math.isfinite(loss.item()))
        config = self.config
        return TrainingError(
            f"the critic of the {which} codes diverged at epoch {epoch:.2f} (its loss is not a finite number): lower "
            f"method.critic_learning_rate ({config.critic_learning_rate:g}) or method.optimisation.learning_rate "
            f"({self._optimiser.learning_rate(epoch):g} now); the last checkpoint is intact"
        )

    def _signals(
        self, codes: Mapping[str, ItemCodes], weighted: Mapping[str, Tensor], epoch: float
    ) -> dict[str, float]:
        """How much each kind of code tells apart; one that collapsed is reported with the term that caused it."""
        found: dict[str, float] = {}
        for modality, of_items in codes.items():
            for kind, code in (("shared", of_items.shared.code), ("exclusive", of_items.exclusive)):
                if code is None:
                    continue
                value = signal(code).item()
                found[f"{kind}_signal_{modality}"] = value
                is_due = epoch >= self.config.warmup_epochs and f"{kind} {modality}" not in self.collapses
                if is_due and value < _WEAKEST_SIGNAL:
                    self._report_collapse(kind, modality, value, cause_of_collapse(code, weighted), epoch)
        return found

    def _report_collapse(self, kind: str, modality: str, value: float, cause: str, epoch: float) -> None:
        """Shared codes without signal end the run; without exclusive ones, retrieval goes on.

        Raises:
            TrainingError: If it is a shared code.
        """
        option = {"matching": "temperature"}.get(cause, f"{cause}_weight")
        value_of = getattr(self.config, option)
        value_of = getattr(self.config, cause) if value_of is None else value_of
        change = "raise" if cause == "matching" else "lower"
        text = (
            f"the {kind} codes of the {modality} side collapsed at epoch {epoch:.2f}: their means vary by "
            f"{value:.2g} of their own variance, and the {cause} term drives them there; {change} method.{option} "
            f"({value_of:g})"
        )
        if kind == "shared":
            raise TrainingError(f"{text}; the last checkpoint is intact")
        self.collapses[f"{kind} {modality}"] = text
        warnings.warn(text, stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        state = {"main": self._optimiser.state_dict(), "collapses": self.collapses}
        if self._critics:
            critics = {modality: critic.state_dict() for modality, critic in self._critics.items()}
            state |= {"critics": critics, "critic_adam": self._critic_adam.state_dict()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._optimiser.load_state_dict(state["main"])
        self.collapses = dict(state["collapses"])
        for modality, critic in self._critics.items():
            critic.load_state_dict(state["critics"][modality])
        if self._critics:
            self._critic_adam.load_state_dict(state["critic_adam"])
