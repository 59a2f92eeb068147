"""MSCN: meta similarity correction network (Han et al., CVPR 2023, https://arxiv.org/abs/2304.06275).

The network below makes similarity vectors; a small head makes similarities of them. The head learns what a right
similarity looks like from a few pairs that are known to match, and others known not to: it is judged by what the
network would be after one step of learning from it. The network learns from the pairs that a Beta mixture calls clean.
There are two such networks, and each is trained on the pairs that the other one calls clean.

What the paper says, what the released code does and what is done here stands, constant by constant, in docs/papers.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn as nn
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from truepair.config import MscnConfig
from truepair.data.batch import Batch, Padded
from truepair.data.labelled import LabelledDraw, LabelledPairs
from truepair.data.loader import Loaders
from truepair.data.pairs import Pairs
from truepair.data.splitting import one_of_each_image
from truepair.encoders.recurrent import twice_differentiable
from truepair.errors import ConfigError
from truepair.in_parts import Encode, encoded
from truepair.losses.triplet import self_adaptive_margin, triplet_loss
from truepair.methods.bilevel import AdamState, Weights, adam_step, meta_gradient, sgd_step
from truepair.methods.protocol import MakeModel, StepLog
from truepair.model import MatchingModel
from truepair.optimisation import Optimiser
from truepair.scoring.encodings import similarity_of_pairs
from truepair.scoring.mixtures import Beta, Mixture, fit_beta, fit_beta_mixture
from truepair.similarity.head import HeadNetwork, log_odds, scored
from truepair.similarity.protocol import VectorSimilarity

if TYPE_CHECKING:  # slow to load: a method is handed one
    import lightning_fabric

_MIXTURE_STEPS, _MIXTURE_TOLERANCE = 10, 1e-2
"""Of the expectation-maximisation (released code)."""
_SMALLEST_SHARE = 0.1
"""Share of the pairs that are kept where hardly any is called clean."""


class Mscn:
    """Two networks, each with a head, that choose the pairs to learn from for one another.

    Attributes:
        fallback: The pairs that are taken for trusted ones because none were given; None if there were, or in the
            warm-up.
        degenerate_fits: Mixtures so far that did not show two kinds of pairs.
        small_sets: Purified sets so far that were smaller than a batch, and were filled up.
    """

    stage = 0

    def __init__(self, config: MscnConfig, make_model: MakeModel, pairs: int, fabric: lightning_fabric.Fabric) -> None:
        """Start with fresh networks.

        Args:
            config: The method's options.
            make_model: Returns a fresh network whose similarity has a head, ``ModelConfig(head="network")``.
            pairs: Number of training pairs.
            fabric: Device and precision.

        Raises:
            ConfigError: If the networks' similarity has no head.
        """
        self.config = config
        self.epochs = config.epochs
        self.fallback: Int[Tensor, " trusted"] | None = None
        self.degenerate_fits = self.small_sets = 0
        self._pairs = pairs
        self._is_confidence_degenerate = False
        self._posterior: dict[int, Float[Tensor, " pairs"]] = {}  # of each network, as it last judged
        self._judged_at: dict[int, int] = {}  # and the epoch of that
        self._similarity: Float[Tensor, " pairs"] | None = None  # by which the first network last judged
        self._mixture: StepLog = {}  # of these similarities, until it is logged
        self._networks = [_Network(make_model(), config, fabric) for _ in range(config.networks)]

    @property
    def models(self) -> Sequence[MatchingModel]:
        """See `Method.models`: the networks with their heads."""
        return [network.evaluated for network in self._networks]

    @property
    def notes(self) -> Sequence[str]:
        """See `Method.notes`: which pairs were trusted, and what went wrong on the way."""
        notes = []
        if self.fallback is not None:
            notes.append(
                f"no trusted pairs were given: the {len(self.fallback):,} most similar training pairs after the "
                "warm-up, which are not verified, took their place"
            )
        if self.degenerate_fits:
            notes.append(f"mixtures that did not show two kinds of pairs: {self.degenerate_fits}")
        if self.small_sets:
            filled = f"filled up to {_SMALLEST_SHARE:.0%} of the pairs or a batch"
            notes.append(f"purified sets that were smaller than a batch, and were {filled}: {self.small_sets}")
        if self._is_confidence_degenerate:
            notes.append("the mixture that confidence is read from did not show two kinds of pairs: do not rely on it")
        return notes

    @property
    def pair_state(self) -> Mapping[str, Float[Tensor, " pairs"]]:
        """See `Method.pair_state`: what pairs were last chosen by.

        The posterior, the mean of both networks', and the similarity by the first network that it came from.
        """
        if not self._posterior or self._similarity is None:
            return {}
        return {"posterior": torch.stack([*self._posterior.values()]).mean(0), "similarity": self._similarity}

    def train_epoch(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        """See `Method.train_epoch`: each network once, over all pairs at first, later over those called clean."""
        # Warm-up: every pair, network and head together.
        if epoch < self.config.warmup_epochs:
            if epoch == 0 and loaders.trusted is None:
                warnings.warn(_NO_TRUSTED_PAIRS, stacklevel=2)
            elif epoch == 0:
                self._labelled(loaders)  # refused before a long warm-up, not after
            for number, network in enumerate(self._networks):
                order = self._key(epoch, number)
                for batch in loaders.train(order, batch_size=self.config.warmup_batch_size):
                    yield network.warm_up(batch)
            return

        # The first epoch after it starts with fresh optimisers.
        labelled_pairs = self._labelled(loaders)
        for network in self._networks:
            network.end_warm_up(labelled_pairs.draw(self._key(epoch, 0)))

        # Purify and train: A chooses for B, then B, just trained, for A.
        for number in reversed(range(len(self._networks))):
            draw = labelled_pairs.draw(self._key(epoch, number))
            chosen = self._purified(number - 1, epoch, loaders, draw)
            yield from self._train(self._networks[number], epoch, number, loaders, chosen, draw)

    def _train(
        self,
        network: _Network,
        epoch: int,
        number: int,
        loaders: Loaders,
        chosen: Int[Tensor, " chosen"],
        draw: LabelledDraw,
    ) -> Iterator[StepLog]:
        """One pass over the chosen pairs."""
        steps = loaders.batches_per_epoch(len(chosen))
        labelled: Iterator[tuple[Batch, Tensor]] | None = None
        kept = {"kept": len(chosen) / len(loaders.pairs)}
        for batch in loaders.train(self._key(epoch, number), chosen):
            schedule = epoch - self.config.warmup_epochs + batch.number / steps
            of_head: dict[str, float] = {**self._mixture}
            self._mixture = {}
            if labelled is None:
                labelled = draw.endless(self.config.meta_batch_size, -(-batch.number // self.config.meta_interval))
            if self.config.meta_step and batch.number % self.config.meta_interval == 0:
                of_head |= network.meta_step(batch, *next(labelled), schedule)
            yield kept | of_head | network.step(batch, schedule)

    def _purified(self, judge: int, epoch: int, loaders: Loaders, draw: LabelledDraw) -> Int[Tensor, " chosen"]:
        """The pairs that the network of this number calls clean; it judges once an epoch."""
        everything = torch.arange(len(loaders.pairs))
        if not self.config.purify:
            return everything
        judge %= len(self._networks)
        is_new = self._judged_at.get(judge) != epoch
        if is_new:
            found = clean_posterior(self.models[judge], loaders.pairs, draw)
            self._posterior[judge] = found.posterior
            self._judged_at[judge] = epoch
            self.degenerate_fits += found.is_degenerate
            if judge == 0:
                self._similarity, self._mixture = found.similarity, _scalars(found.mixture)
        posterior = self._posterior[judge]
        chosen = (posterior > self.config.purify_above).nonzero().flatten()
        if len(chosen) >= min(loaders.batch_size, len(everything)):
            return chosen
        self.small_sets += is_new
        count = max(round(_SMALLEST_SHARE * len(everything)), loaders.batch_size)
        return posterior.argsort(descending=True, stable=True)[:count].sort().values

    def confidence(self, loaders: Loaders) -> Float[Tensor, " pairs"]:
        """See `Method.confidence`: the purification once more, by the present networks, and the mean."""
        draw = self._labelled(loaders).draw(self._key(self.epochs, 0))
        found = [clean_posterior(model, loaders.pairs, draw) for model in self.models]
        self._is_confidence_degenerate = any(judgement.is_degenerate for judgement in found)
        return torch.stack([judgement.posterior for judgement in found]).mean(0)

    def _labelled(self, loaders: Loaders) -> LabelledPairs:
        trusted = loaders.trusted
        if trusted is None:
            is_learned = len(loaders.pairs) == self._pairs  # an oracle's confidence is asked for all pairs
            if self.fallback is None and is_learned:
                self.fallback = self._most_similar(loaders.pairs)
            fallback = self.fallback if is_learned else None
            trusted = loaders.pairs.select(self._most_similar(loaders.pairs) if fallback is None else fallback)
        return LabelledPairs(trusted, loaders.pairs, loaders.seed, loaders.device)

    def _most_similar(self, pairs: Pairs) -> Int[Tensor, " trusted"]:
        """Of the images with the most similar caption, that caption: so many as trusted pairs would be."""
        count = max(2, round(self.config.fallback_share * len(pairs)))
        similarity = similarity_of_pairs(self.models, pairs)
        of_images = one_of_each_image(pairs.image_of_caption, similarity.argsort(descending=True, stable=True))
        best = similarity[of_images].argsort(descending=True, stable=True)[:count]
        return of_images[best].sort().values

    def _key(self, epoch: int, number: int) -> int:
        """Of the random draws of one network's epoch."""
        return epoch * len(self._networks) + number

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {
            "networks": [network.state_dict() for network in self._networks],
            "fallback": self.fallback,
            "posterior": [self._posterior[number] for number in sorted(self._posterior)],
            "judged_at": [self._judged_at[number] for number in sorted(self._posterior)],
            "similarity": self._similarity,
            "degenerate_fits": self.degenerate_fits,
            "small_sets": self.small_sets,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        for network, saved in zip(self._networks, state["networks"], strict=True):
            network.load_state_dict(saved)
        self.fallback = state["fallback"]
        self._posterior = dict(enumerate(state["posterior"]))
        self._judged_at = dict(enumerate(state["judged_at"]))
        self._similarity = state["similarity"]
        self.degenerate_fits, self.small_sets = state["degenerate_fits"], state["small_sets"]


_NO_TRUSTED_PAIRS = (
    "MSCN learns from pairs that are known to match, and none were given: after the warm-up, the most similar training "
    "pairs will take their place, which are not verified. Name some with trusted.source, or expect less"
)


class Judgement(NamedTuple):
    """What a network says of pairs.

    Attributes:
        posterior: ``[pairs]``, the probability that each matches.
        similarity: ``[pairs]``, in [0, 1], in evaluation mode.
        mixture: Of the similarities.
        is_degenerate: Whether they do not show two kinds of pairs.
    """

    posterior: Float[Tensor, " pairs"]
    similarity: Float[Tensor, " pairs"]
    mixture: Mixture[Beta]
    is_degenerate: bool


def clean_posterior(model: MatchingModel, pairs: Pairs, draw: LabelledDraw) -> Judgement:
    """The probability that each pair matches, by a mixture of two Betas over similarities in evaluation mode.

    Expectation-maximisation starts from the Betas of the labelled pairs, matched and mismatched.

    The mixture counts as degenerate, too, if the similarities of the trusted pairs are all the same; `fit_beta_mixture`
    says what holds otherwise.
    """
    of_pairs, matched, mismatched = (
        similarity_of_pairs([model], some) for some in (pairs, draw.matched, draw.mismatched)
    )
    initial = fit_beta(mismatched), fit_beta(matched)
    mixture = fit_beta_mixture(of_pairs, initial=initial, max_iterations=_MIXTURE_STEPS, tolerance=_MIXTURE_TOLERANCE)
    is_degenerate = mixture.degenerate or bool((matched == matched[0]).all())
    return Judgement(mixture.posterior(of_pairs), of_pairs, mixture, is_degenerate)


def _scalars(mixture: Mixture[Beta]) -> StepLog:
    """A mixture as the log holds it; figures draw it."""
    kinds = {"mismatched": mixture.mismatched, "clean": mixture.clean}
    parameters = {f"mixture_{kind}_{name}": getattr(beta, name) for kind, beta in kinds.items() for name in "ab"}
    return {"mixture_noise_rate": mixture.noise_rate, **parameters}


class _Network:
    """A main network with its head, and the optimisers of both."""

    def __init__(self, model: MatchingModel, config: MscnConfig, fabric: lightning_fabric.Fabric) -> None:
        similarity = model.similarity
        if not (isinstance(similarity, VectorSimilarity) and isinstance(similarity.head, HeadNetwork)):
            raise ConfigError("MSCN needs similarities with a head: set model.head to 'network'")
        self.config = config
        self._fabric = fabric
        self._model = model
        self._head: HeadNetwork = similarity.head
        self._vectors = _Vectors(model)
        of_head = {id(parameter) for parameter in self._head.parameters()}
        self._names = [
            name
            for name, weight in self._vectors.named_parameters()
            if id(weight) not in of_head and weight.requires_grad
        ]
        self._is_warm = False
        self._start()

    @property
    def evaluated(self) -> MatchingModel:
        return self._main_optimiser.evaluated

    def _start(self) -> None:
        """Optimisers that know nothing: in the warm-up, and without meta steps, the head learns like the rest."""
        options, epochs = self.config.optimisation, max(1, self.config.purified_epochs)
        of_head = replace(options, weight_average=0.0)
        if self._is_warm and self.config.meta_step:
            of_head = replace(of_head, learning_rate=self.config.meta_learning_rate, gradient_clip=math.inf)
        weights = list(self._weights().values())
        self._main_optimiser = Optimiser(self._model, options, epochs, self._fabric, weights, self._vectors)
        self._head_optimiser = Optimiser(self._head, of_head, epochs, self._fabric)

    def _weights(self) -> dict[str, nn.Parameter]:
        parameters = dict(self._vectors.named_parameters())
        return {name: parameters[name] for name in self._names}

    def warm_up(self, batch: Batch) -> dict[str, float]:
        """Network and head together, by the hinge over all negatives."""
        similarity = self._similarity(batch, dict(self._head.named_parameters()))
        loss = len(batch) * triplet_loss(similarity, self.config.margin, negatives=self.config.warmup_negatives)
        return self._joint_step(loss, 0.0)

    def end_warm_up(self, draw: LabelledDraw) -> None:
        """A calibrated head, where that is wanted, and new optimisers; once."""
        if self._is_warm:
            return
        if self.config.calibrate:
            self._calibrate(draw)
        self._is_warm = True
        self._start()

    def _calibrate(self, draw: LabelledDraw) -> None:
        """Make similarities of labelled pairs the probability that they match, in the order in which they are."""
        from sklearn.linear_model import LogisticRegression

        of_pairs = [similarity_of_pairs([self._model], pairs) for pairs in (draw.matched, draw.mismatched)]
        scores = torch.cat(of_pairs).logit(eps=1e-6)[:, None].numpy()  # [2 · count, 1], log-odds
        # Platt's targets, (n + 1) / (n + 2) and 1 / (n + 2), as weights of both labels: finite where nothing overlaps.
        count, is_matched = len(draw.matched), np.repeat([1, 0], len(draw.matched))
        weights = np.where(is_matched, count + 1, 1) / (count + 2)
        fitted = LogisticRegression(C=np.inf).fit(
            np.concatenate([scores, scores]),
            np.repeat([1, 0], 2 * count),
            sample_weight=np.concatenate([weights, 1 - weights]),
        )
        scale, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        if scale > 0:  # a network that tells nothing apart is left as it is
            last = cast(nn.Linear, self._head[-1])
            with torch.no_grad():
                last.weight.mul_(scale)
                last.bias.mul_(scale).add_(offset)

    def meta_step(
        self, batch: Batch, labelled: Batch, labels: Float[Tensor, " pairs"], epoch: float
    ) -> dict[str, float]:
        """The head, by what a virtual step of the network would make of the labelled pairs; in full precision.

        The network, its running statistics and its optimiser stay as they are.
        """
        # The virtual step, as the network's own optimiser stands.
        self._model.train()
        rate = self._main_optimiser.learning_rates(epoch)
        step = partial(sgd_step, learning_rate=rate)
        if self.config.virtual_step == "adam":
            state = {name: AdamState(*moments) for name, moments in self._main_optimiser.moments().items()}
            step = partial(
                adam_step, learning_rate=rate, state=state, weight_decay=self.config.optimisation.weight_decay
            )

        # The head's gradient through that step.
        with ExitStack() as stack:
            if self.config.mixed_derivative == "backward":
                stack.enter_context(twice_differentiable(self._model))
            found = meta_gradient(
                self._weights(),
                dict(self._head.named_parameters()),
                vectors=self._replayed(batch, paired=False),
                loss=lambda head, vectors: self._loss(scored(self._with(head), vectors)),
                meta_vectors=self._replayed(labelled, paired=True),
                meta_loss=lambda head, vectors: binary_cross_entropy_with_logits(
                    log_odds(self._with(head), vectors), labels
                ),
                step=step,
                mixed_derivative=self.config.mixed_derivative,
            )

        # A step of the head; the network's is still to come.
        for name, parameter in self._head.named_parameters():
            parameter.grad = found.of_head[name]
        log = self._head_optimiser.follow(found.meta_loss, epoch)
        return {"meta_loss": log["loss"], "meta_gradient_norm": log["gradient_norm"]}

    def step(self, batch: Batch, epoch: float) -> dict[str, float]:
        """The network, by the hinge with the hardest negatives and margins that follow the similarity."""
        head = dict(self._head.named_parameters())
        if not self.config.meta_step:
            return self._joint_step(self._loss(self._similarity(batch, head)), epoch)
        frozen = {name: parameter.detach() for name, parameter in head.items()}
        return self._main_optimiser.step(self._loss(self._similarity(batch, frozen)), epoch)

    def _joint_step(self, loss: Float[Tensor, ""], epoch: float) -> dict[str, float]:
        self._model.zero_grad()
        self._fabric.backward(loss)
        self._head_optimiser.follow(loss, epoch)
        return self._main_optimiser.follow(loss, epoch)

    def _similarity(self, batch: Batch, head: Weights) -> Float[Tensor, "pairs pairs"]:
        """Every image of the batch with every caption, in training mode."""
        self._model.train()
        vectors = self._main_optimiser.model(batch, paired=False)  # [images, captions, size]
        return scored(self._with(head), vectors)

    def _loss(self, similarity: Float[Tensor, "pairs pairs"]) -> Float[Tensor, ""]:
        margin = self_adaptive_margin(similarity.diagonal(), self.config.margin)
        config = self.config
        loss = triplet_loss(similarity, margin, negatives=config.negatives, margin_of=config.margin_of)
        return len(similarity) * loss

    def _with(self, head: Weights) -> Any:
        """The head with other parameters, as a function of vectors."""
        return lambda vectors: functional_call(self._head, dict(head), (vectors,))

    def _replayed(self, batch: Batch, *, paired: bool) -> Any:
        """Vectors of `batch` as a function of the network's weights, with the same random numbers at every call."""
        seed = int(torch.randint(2**62, ()))

        def vectors(weights: Weights) -> Tensor:
            devices = [batch.pair.device] if batch.pair.device.type == "cuda" else []
            buffers = {name: buffer.clone() for name, buffer in self._vectors.named_buffers()}
            with torch.random.fork_rng(devices):
                torch.manual_seed(seed)
                made: Tensor = functional_call(self._vectors, {**weights, **buffers}, (batch,), {"paired": paired})
            return made

        return vectors

    def state_dict(self) -> dict[str, Any]:
        return {
            "is_warm": self._is_warm,
            "main": self._main_optimiser.state_dict(),
            "head": self._head_optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["is_warm"]:
            self._is_warm = True
            self._start()
        self._main_optimiser.load_state_dict(state["main"])
        self._head_optimiser.load_state_dict(state["head"])


class _Vectors(nn.Module):
    """What a matching model does before its head."""

    def __init__(self, model: MatchingModel) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder
        self.text_encoder = model.text_encoder
        self.similarity = model.similarity

    def forward(self, batch: Batch, *, paired: bool) -> Float[Tensor, "*pairs size"]:
        """Of image k and caption k, or of every image with every caption."""
        similarity = cast(VectorSimilarity, self.similarity)
        vectors = similarity.paired_vectors if paired else similarity.vectors
        encoders: tuple[Encode, ...] = (self.image_encoder, self.text_encoder)
        if batch.encode_at_once:
            encoders = (_with_these_weights(self.image_encoder), _with_these_weights(self.text_encoder))
        sides = zip(encoders, (batch.images, batch.captions), strict=True)
        return vectors(*(encoded(encode, items, batch) for encode, items in sides))


def _with_these_weights(encoder: nn.Module) -> Encode:
    """An encoder as it is now: in a virtual step, it has other weights again when encodings are made a second time."""
    weights = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    return lambda items: cast(Padded, functional_call(encoder, weights, (items,)))
