"""DisNCL: disentangled noisy correspondence learning (arXiv 2408.05503, IEEE TIP 2025), reconstructed.

Of each image and caption there are two codes: a shared one, which retrieval compares, and an exclusive one, which takes
what the other modality does not have. A mixture over the pairs' log-odds by shared codes gives the
confidence in each; pairs of low confidence are neither aligned nor taken for each other's partner.

No code was published, and the paper's text was not available: docs/papers.md says what is known and what is inferred.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import relu

from truepair import processes
from truepair.config import FEWEST_CODES, DisnclConfig
from truepair.data.batch import Batch, Padded
from truepair.data.loader import Loaders
from truepair.encoders.codes import ExclusiveBranch, SharedCodes, SharedEncoder
from truepair.errors import ConfigError, TrainingError
from truepair.in_parts import encoded
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
from truepair.optimisation import Optimiser, mean_weights
from truepair.scoring.confidence import confidence_against_random_pairs, pair_scores
from truepair.scoring.cross_fitting import FEWEST_IMAGES, Fold, folds_judged_by
from truepair.scoring.mixtures import fit_gaussian_mixture
from truepair.scoring.out_of_sample import Prior, combined, prior_of

if TYPE_CHECKING:  # slow to load: a method is handed one
    import lightning_fabric

_ALIGNED = 0.5
"""Confidence above which the codes of a pair are aligned."""
_WEAKEST_SIGNAL = 1e-2
"""A code whose means vary over the batch by less than this share of its own variance tells nothing apart."""
_MOMENTS_OF_CRITICS = (0.5, 0.999)
"""Of their Adam, as in DisenIB's released code."""


class Disncl:
    """One network, or two that filter for each other, with the critics of their codes.

    Attributes:
        stage: 1 after the warm-up if that was of networks that learned halves of the images, else 0.
        pair_confidence: ``[networks, pairs]``, w of each training pair by each network; 1 in the warm-up.
        degenerate_fits: Mixtures so far that did not show two kinds of pairs.
        prior: What networks say that did not learn the pairs; None without such networks, before the end of the
            warm-up, and where they learned nothing consistent.
    """

    def __init__(
        self, config: DisnclConfig, make_model: MakeModel, pairs: int, fabric: lightning_fabric.Fabric
    ) -> None:
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
        self.stage = 0
        self.pair_confidence = torch.ones(config.networks, pairs, device=fabric.device)
        self.degenerate_fits = 0
        self.prior: Prior | None = None
        self._warnings: Sequence[str] = ()  # about the confidence, once it was asked for
        self._judged_at: int | None = None  # the epoch that last began with a judgement
        self._of_halves, self._networks = (
            [_Network(make_model(), config, fabric) for _ in range(count)] for count in (config.halves, config.networks)
        )
        for other in self._of_halves[1:]:  # networks with one start have a mean that is a network too
            other.start_from(self._of_halves[0].evaluated.state_dict())

    @property
    def models(self) -> Sequence[MatchingModel]:
        """See `Method.models`: networks that compare the means of shared codes."""
        return [network.evaluated for network in self._trained]

    @property
    def _trained(self) -> Sequence[_Network]:
        """The networks that learn at present."""
        return self._networks if self.stage or not self._of_halves else self._of_halves

    @property
    def notes(self) -> Sequence[str]:
        """See `Method.notes`: a variant that is not the paper's, and what went wrong on the way."""
        notes = []
        if self.config.exclusive_branch and self.config.preset == "cov":
            notes.append("preset cov (a penalty on correlations instead of an adversary) is a variant of truepair's")
        if self.config.out_of_sample:
            notes.append("the filter of networks that learned other images (out_of_sample) is a variant of truepair's")
        if self.degenerate_fits:
            notes.append(f"mixtures that did not show two kinds of pairs: {self.degenerate_fits}")
        for number, network in enumerate(self._networks, 1):
            notes += [f"network {number}: {collapse}" for collapse in network.collapses.values()]
        return [*notes, *self._warnings]

    @property
    def pair_state(self) -> Mapping[str, Float[Tensor, " pairs"]]:
        """See `Method.pair_state`: the filter's confidence, the mean of both networks'."""
        return {"confidence": self.pair_confidence.mean(0)}

    def train_epoch(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        """See `Method.train_epoch`: confidence is estimated, then each network learns from all pairs once."""
        if self._of_halves and epoch < self.config.warmup_epochs:
            for number, fold in enumerate(self._folds(loaders)):
                yield from self._train(self._of_halves[number], epoch, number, loaders, fold.learned)
            return
        if self._of_halves and not self.stage:
            self._end_warmup(loaders)
        if self.config.filtering and epoch >= self.config.warmup_epochs and epoch != self._judged_at:
            self._judge(epoch, loaders)
        for number, network in enumerate(self._networks):
            yield from self._train(network, epoch, number, loaders)

    def _train(
        self, network: _Network, epoch: int, number: int, loaders: Loaders, chosen: Int[Tensor, " chosen"] | None = None
    ) -> Iterator[StepLog]:
        """An epoch of one network over the chosen pairs, or all, with the confidence of the other if there are two."""
        confidence = self.pair_confidence[(number - 1) % len(self.pair_confidence)]
        steps = loaders.batches_per_epoch(None if chosen is None else len(chosen))
        for batch in loaders.train(epoch * len(self._trained) + number, chosen):
            yield network.step(batch, confidence[batch.pair], epoch + batch.number / steps)

    def _folds(self, loaders: Loaders) -> list[Fold]:
        """Both halves of the images, each with the network that learns the other."""
        folds = folds_judged_by([network.evaluated for network in self._of_halves], loaders.pairs, loaders.seed)
        if not folds:
            raise ConfigError(
                f"method.out_of_sample has networks learn {len(self._of_halves)} parts of the images, of at least "
                f"{FEWEST_IMAGES} each, but the training pairs have "
                f"{len(loaders.pairs.image_of_caption.unique())} images: set it to false"
            )
        return folds

    def _end_warmup(self, loaders: Loaders) -> None:
        """Each half is judged by the network that learned the other; their mean is what the main epochs begin with."""
        self.prior = prior_of(self._folds(loaders), loaders.pairs, self.config.temperature, loaders.seed)
        mean = mean_weights(self.models)
        for network in self._networks:
            network.start_from(mean)
        self.stage = 1

    def _judge(self, epoch: int, loaders: Loaders) -> None:
        """A new confidence in each pair, by each network in evaluation mode.

        It is the posterior of a mixture over log-odds, which the confidence follows slowly; or, where there is a prior,
        what the network and the prior say together.
        """
        for number, model in enumerate(self.models):
            if self.prior is not None:
                estimate = combined(
                    self.prior, [model], loaders.pairs, self.config.temperature, loaders.seed, epoch, number
                )
                self.pair_confidence[number] = estimate.confidence.to(self.pair_confidence)
                continue
            mixture = fit_gaussian_mixture(scores := pair_scores([model], loaders, self.config.temperature).log_odds)
            self.degenerate_fits += mixture.degenerate
            found = mixture.posterior(scores).to(self.pair_confidence)
            kept = 0.0 if self._judged_at is None else self.config.filter_momentum
            self.pair_confidence[number] = kept * self.pair_confidence[number] + (1 - kept) * found
        self._judged_at = epoch

    def confidence(self, loaders: Loaders) -> Float[Tensor, " pairs"]:
        """See `Method.confidence`: log-odds against negatives by the shared codes, compared with random pairs.

        With the prior of these pairs, what the networks and the prior say together.
        """
        pairs, temperature = loaders.pairs, self.config.temperature
        if self.prior is None or len(self.prior.confidence) != len(pairs):
            found = confidence_against_random_pairs(self.models, loaders, temperature)
        else:
            found = combined(self.prior, self.models, pairs, temperature, loaders.seed, self.epochs)
        self._warnings = found.warnings
        return found.confidence

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {
            "stage": self.stage,
            "networks": [network.state_dict() for network in self._trained],
            "prior": None if self.prior is None else asdict(self.prior),
            "confidence": self.pair_confidence,
            "judged_at": self._judged_at,
            "degenerate_fits": self.degenerate_fits,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.stage = state["stage"]
        self.prior = None if state["prior"] is None else Prior(**state["prior"])
        for network, saved in zip(self._trained, state["networks"], strict=True):
            network.load_state_dict(saved)
        self.pair_confidence = state["confidence"].to(self.pair_confidence)
        self._judged_at, self.degenerate_fits = state["judged_at"], state["degenerate_fits"]


class ItemCodes(NamedTuple):
    """Both codes of one modality's items in a batch.

    Attributes:
        shared: The backbone's features and the shared code.
        exclusive: The exclusive code; None without that branch.
        sample: ``[items, size]``, one draw of it, reparameterised.
        target: ``[items, width]``, what both codes are to reconstruct.
    """

    shared: SharedCodes
    exclusive: Code | None = None
    sample: Tensor | None = None
    target: Tensor | None = None


def matching_term(
    similarity: Float[Tensor, "pairs pairs"],
    image: SharedCodes,
    text: SharedCodes,
    confidence: Float[Tensor, " pairs"],
    config: DisnclConfig,
) -> Float[Tensor, ""]:
    """L_match: InfoNCE with soft targets, the mean of both directions.

    Its negative and log B bound I(S_v; S_t) from below where every pair counts in full, with its own partner as the
    target; training logs that as ``info_nce``. Here each pair counts by its confidence: what the targets of a rejected
    pair say is the network's own guess.
    """
    if not config.soft_targets:
        return info_nce(similarity, config.temperature, weights=confidence) / 2
    targets = soft_targets(
        similarity,
        _cosines(image.code),
        _cosines(text.code),
        confidence,
        temperature=config.target_temperature,
        neighbours=config.neighbour_weight,
        smoothing=config.smoothing,
    )
    return info_nce(similarity, config.temperature, weights=confidence, targets=targets) / 2


def alignment_term(image: Code, text: Code, confidence: Float[Tensor, " pairs"]) -> Float[Tensor, ""]:
    """Ĩ_MEI(S): what shared codes hold of one modality only, a coordinate, of the pairs of high confidence."""
    weight = torch.where(confidence > _ALIGNED, confidence, 0.0)
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
            logged where its weight is 0, too; correlations are computed only where they have a weight.
        config: Says whether gradients reach the shared code (``coupled``).
    """
    assert codes.exclusive is not None
    assert codes.sample is not None
    assert codes.target is not None
    shared = codes.shared.sample if config.coupled else codes.shared.sample.detach()
    terms = {
        "reconstruction": reconstruction_error(branch.decoded(shared, codes.sample), codes.target).mean(),
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


def _rise(since: float, epochs: int) -> float:
    """What a weight is multiplied with, `since` epochs after the warm-up, where it rises from 0 over some epochs."""
    return float(since >= 0) if not epochs else min(max(since / epochs, 0.0), 1.0)


def _cosines(code: Code) -> Float[Tensor, "items items"]:
    """Of the means, each with each, without gradient."""
    directions = unit_length(code.mean.detach())
    return directions @ directions.T


class _Codes(nn.Module):
    """Similarities of a batch with the codes they are made of: what training calls instead of the model.

    Attributes:
        branches: The exclusive head and decoder of each modality; empty without exclusive codes.
    """

    def __init__(self, model: MatchingModel, config: DisnclConfig) -> None:
        super().__init__()
        self.model = model
        encoders = dict(zip(MODALITIES, (model.image_encoder, model.text_encoder), strict=True))
        exclusive = {} if model.exclusive is None else dict(model.exclusive.items())
        self.encoders = {name: part for name, part in encoders.items() if isinstance(part, SharedEncoder)}
        self.branches = {name: part for name, part in exclusive.items() if isinstance(part, ExclusiveBranch)}
        self._detaches = config.x_input_detach
        if len(self.encoders) < len(MODALITIES) or bool(self.branches) != config.exclusive_branch:
            raise ConfigError(
                "DisNCL needs encoders with shared codes, and exclusive ones for its exclusive branch: set model.codes"
            )

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "pairs pairs"], dict[str, ItemCodes]]:
        """Every image with every caption, by their sampled shared codes, and the codes of each modality."""
        items = dict(zip(MODALITIES, (batch.images, batch.captions), strict=True))
        codes = {modality: self.of_items(modality, items[modality], batch) for modality in MODALITIES}
        image, text = (codes[modality].shared.encoding for modality in MODALITIES)
        return self.model.scores.matrix(image, text), codes

    def of_items(self, modality: str, items: Padded, batch: Batch) -> ItemCodes:
        encoder = self.encoders[modality]
        shared = encoder.codes_of(encoded(encoder.features, items, batch))
        if not self.branches:
            return ItemCodes(shared)
        features = shared.features.detach() if self._detaches else shared.features
        branch = self.branches[modality]
        exclusive: Code = branch(features)
        target = encoded(encoder.inputs, items, batch).values if branch.of_inputs else shared.features
        return ItemCodes(shared, exclusive, exclusive.rsample(), target)


class _Network:
    """A network with codes, its critics, and the optimisers of both."""

    def __init__(self, model: MatchingModel, config: DisnclConfig, fabric: lightning_fabric.Fabric) -> None:
        self.config = config
        self.collapses: dict[str, str] = {}
        self._model = model
        self._codes = _Codes(model, config)
        self._optimiser = Optimiser(model, config.optimisation, config.epochs, fabric, forward=self._codes)
        self._critics = {
            modality: DensityRatioCritic(self._codes.encoders[modality].head.size, branch.head.size).to(fabric.device)
            for modality, branch in self._codes.branches.items()
        }
        if self._critics:
            parameters = [weight for critic in self._critics.values() for weight in critic.parameters()]
            self._critic_adam = torch.optim.Adam(parameters, config.critic_learning_rate, _MOMENTS_OF_CRITICS)

    @property
    def evaluated(self) -> MatchingModel:
        return self._optimiser.evaluated

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        self._optimiser.start_from(weights)

    def step(self, batch: Batch, confidence: Float[Tensor, " pairs"], epoch: float) -> dict[str, float]:
        """The critics on detached codes, then the network."""
        # Similarities and codes, by draws of the codes.
        self._model.train()
        similarity, codes = self._optimiser.model(batch)
        image, text = (codes[modality].shared for modality in MODALITIES)

        # The critics learn first, so that their estimate is of these codes.
        log: dict[str, float] = {}
        is_comparable = len(batch) >= FEWEST_CODES
        has_critics = epoch >= self.config.critics_from and is_comparable
        if self._critics and has_critics:
            log |= {"critic_loss": self._critic_steps(codes, epoch)}

        # The terms of the loss, by name: those of the pairs, then those of each modality by itself.
        terms = {"matching": matching_term(similarity, image, text, confidence, self.config)}
        if epoch >= self.config.warmup_epochs:
            terms["alignment"] = alignment_term(image.code, text.code, confidence)
        for modality, critic in self._critics.items():
            of_modality = exclusive_terms(
                codes[modality], self._codes.branches[modality], critic if has_critics else None, self.config
            )
            terms |= {name: terms.get(name, 0) + term for name, term in of_modality.items()}

        # Weigh them, look for codes that collapse, and follow the sum.
        weights = self._weights(epoch)
        weighted = {name: weights[name] * term for name, term in terms.items() if weights[name]}
        if is_comparable:  # a last batch may be two captions of one image, whose codes rightly do not vary
            log |= self._signals(codes, weighted, epoch)
        loss = torch.stack([*weighted.values()]).sum()
        log |= {name: term.item() for name, term in terms.items()}
        log["info_nce"] = info_nce(similarity.detach(), self.config.temperature).item() / 2
        return log | {"confidence": confidence.mean().item()} | self._optimiser.step(loss, epoch)

    def _weights(self, epoch: float) -> dict[str, float]:
        """Of the loss's terms, by their names."""
        config = self.config
        of_exclusive = 1 - config.balance
        since = epoch - config.warmup_epochs
        rise = _rise(since, config.adversary_epochs)
        return {
            "matching": 1.0,
            "alignment": config.balance * config.alignment_weight * _rise(since, config.alignment_epochs),
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
            processes.mean_gradients([weight for critic in self._critics.values() for weight in critic.parameters()])
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
