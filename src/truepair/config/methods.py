"""One class a method; a field's docstring says which paper, code or measurement its default comes from.

Each class answers the same four things, so that nothing outside `truepair.methods` asks which method it is:
`default_model` (the backbone of a recipe that names none), `network` (the backbone as the method needs it), `check`
(refuses training options that do not suit the method) and `rehearsed` (the shortest run through every part of it).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from truepair.config.model import ModelConfig, OptimisationConfig
from truepair.config.training import TrainingConfig
from truepair.errors import ConfigError

FEWEST_CODES = 8
"""Pairs of a batch below which DisNCL compares no codes over the batch: correlations would be chance."""

_MANY_PAIRS = 5_000
"""Pairs of which half are enough for the default method's networks of the folds to learn from, in five epochs."""


def _refuse_true_correspondence(training: TrainingConfig) -> None:
    if training.oracle == "true_correspondence":
        raise ConfigError(
            'training.oracle = "true_correspondence" keeps given correspondences: it needs method.name = "crcl" and '
            "method.refine = false"
        )


@dataclass(frozen=True)
class BaselineConfig:
    """Plain training on all pairs alike."""

    default_model: ClassVar[ModelConfig] = ModelConfig()
    """The backbone of a recipe that names none."""
    warmup_epochs: ClassVar[int] = 0
    """There is no warm-up."""

    name: Literal["baseline"] = "baseline"
    """Which method this is."""
    loss: Literal["info_nce", "triplet_sum", "triplet_hardest"] = "info_nce"
    """Symmetric InfoNCE, or the hinge over all negatives (SCAN) or the hardest one (VSE++)."""
    epochs: int = 30
    """Epochs."""
    temperature: float = 0.05
    """τ of InfoNCE."""
    margin: float = 0.2
    """Margin of the hinge (VSE++, SCAN)."""
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    """Optimiser and schedule."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name in ("epochs", "temperature", "margin"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it must be above 0")

    def network(self, model: ModelConfig) -> ModelConfig:
        """The backbone as it is."""
        return model

    def epochs_before_a_stop(self, pairs: int) -> int:
        """None: there is one stage."""
        return 0

    def check(self, training: TrainingConfig) -> None:
        """Refuse given correspondences."""
        _refuse_true_correspondence(training)

    def rehearsed(self) -> BaselineConfig:
        """One epoch."""
        return replace(self, epochs=1)


@dataclass(frozen=True)
class CrclConfig:
    """CRCL (Qin et al., NeurIPS 2023). Defaults are those of the released code for Flickr30K."""

    default_model: ClassVar[ModelConfig] = ModelConfig()
    """The backbone of a recipe that names none."""
    warmup_epochs: ClassVar[int] = 0
    """There is no warm-up."""

    name: Literal["crcl"] = "crcl"
    """Which method this is."""
    stages: tuple[int, ...] = (5, 5, 5, 30)
    """Refining epochs of each stage (released train.sh); method.frozen_epochs come before them in every stage."""
    frozen_epochs: int = 2
    """E_f: epochs at the start of a stage in which correspondences stay as they are (released: warm_epoch)."""
    temperature: float = 0.05
    """τ of the matching probabilities (released default)."""
    negative_weight: float = 5.0
    """λ, the weight of the complementary loss (released code, written there as a number)."""
    momentum: float = 0.8
    """α: how much of a correspondence is kept at an update (released default)."""
    threshold: float = 0.1
    """ε: correspondences below it become 0 (released code, written there as a number)."""
    refine: bool = True
    """Self-refining correspondence correction; without it, correspondences stay as they start (the loss alone)."""
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    """Optimiser and schedule, started afresh in every stage."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        if not self.stages or min(self.stages) < 0 or self.frozen_epochs < 0:
            raise ConfigError(
                f"method.stages is {self.stages} and method.frozen_epochs {self.frozen_epochs}, but there must be at "
                "least one stage, and no count may be negative"
            )
        if self.frozen_epochs + min(self.stages) < 1:
            raise ConfigError(f"a stage of method.stages {self.stages} has no epoch: raise it or method.frozen_epochs")
        if not self.temperature > 0 or not self.negative_weight >= 0:
            raise ConfigError(
                f"method.temperature is {self.temperature} (must be above 0) and method.negative_weight is "
                f"{self.negative_weight} (must be at least 0)"
            )
        for name in ("momentum", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it must be in [0, 1]")

    @property
    def epochs(self) -> int:
        """Epochs of a whole run."""
        return sum(self.stages) + self.frozen_epochs * len(self.stages)

    def position(self, epoch: int) -> tuple[int, int]:
        """Stage, and epoch within it, of a run's `epoch`; all counted from 0.

        Raises:
            IndexError: If the run is shorter.
        """
        for stage, refining in enumerate(self.stages):
            if epoch < refining + self.frozen_epochs:
                return stage, epoch
            epoch -= refining + self.frozen_epochs
        raise IndexError("the run has no such epoch")

    def network(self, model: ModelConfig) -> ModelConfig:
        """The backbone as it is."""
        return model

    def epochs_before_a_stop(self, pairs: int) -> int:
        """Those of all stages but the last."""
        return sum(self.stages[:-1]) + self.frozen_epochs * (len(self.stages) - 1)

    def check(self, training: TrainingConfig) -> None:
        """Refuse given correspondences that would be refined."""
        if self.refine:
            _refuse_true_correspondence(training)

    def rehearsed(self) -> CrclConfig:
        """One stage of one refining epoch."""
        return replace(self, stages=(1,), frozen_epochs=0)


@dataclass(frozen=True)
class MscnConfig:
    """MSCN (Han et al., CVPR 2023).

    Defaults are those of the released code, which also has batches of 64 and drops no regions or words: the recipes set
    `training` and `model` to that.
    """

    default_model: ClassVar[ModelConfig] = ModelConfig()
    """The backbone of a recipe that names none."""

    name: Literal["mscn"] = "mscn"
    """Which method this is."""
    warmup_epochs: int = 5
    """Warm-up epochs: each network learns from all pairs, none is filtered out."""
    purified_epochs: int = 50
    """Epochs after the warm-up: each network learns from the pairs that the other network calls clean."""
    networks: Literal[2, 1] = 2
    """Two networks that choose each other's pairs and are averaged, or one that chooses its own (an ablation)."""
    margin: float = 0.2
    """γ, the margin of the hinge; after the warm-up, the margin of a pair with similarity 1."""
    margin_of: Literal["anchor", "caption"] = "anchor"
    """Whose similarity sets the margin: the anchor's (the formula), or, by a slip of broadcasting in the released code,
    the caption's in both directions."""
    warmup_negatives: Literal["mean", "smooth"] = "mean"
    """Negatives of the warm-up's hinge: the mean over all (released), or a smooth maximum (`losses.triplet`)."""
    negatives: Literal["hardest", "mean", "smooth"] = "hardest"
    """Negatives of the hinge after the warm-up: the hardest of each anchor (released), the mean over all, or a smooth
    maximum. Hardest negatives make a network collapse that has learned too little in the warm-up."""
    calibrate: bool = False
    """At the end of the warm-up, scale the head so that its similarities are the probability that a labelled pair
    matches (Platt scaling, which keeps their order). A hinge leaves the size of similarities open, but the margin and
    the mixture depend on it; the released code leaves it to many small meta steps."""
    warmup_batch_size: int = 128
    """Pairs in a batch of the warm-up (released); after the warm-up, training.batch_size (released: 64)."""
    meta_batch_size: int = 64
    """Labelled pairs, trusted and mismatched ones, in a meta batch."""
    meta_step: bool = True
    """Learn the head from trusted pairs; without, the head learns from the training pairs like the rest of the network
    (an ablation)."""
    meta_interval: int = 1
    """Steps of the main network to one of the head."""
    meta_learning_rate: float = 1.7e-5
    """Learning rate of the head; in the warm-up, method.optimisation.learning_rate."""
    virtual_step: Literal["sgd", "adam"] = "sgd"
    """The virtual step that the head learns from: plain SGD (released), or the Adam step that the network will take."""
    mixed_derivative: Literal["finite_difference", "backward"] = "finite_difference"
    """How the virtual step is differentiated: by a difference of similarity vectors, which needs no second derivative
    of the backbone and a fraction of the memory, or twice back through everything (released)."""
    purify: bool = True
    """Train on the pairs that a Beta mixture calls clean; without, on all (an ablation)."""
    purify_above: float = 0.5
    """Confidence above which a pair is learned from (released: 0.5). Where training has pulled mismatched pairs
    together, the mixture is too hopeful, and a higher value leaves more of them out."""
    fallback_share: float = 0.02
    """Without trusted pairs: the share of training pairs, the most similar after the warm-up, that take their place,
    unverified."""
    optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(learning_rate=2e-4, weight_decay=0.0, decay_epochs=30)
    )
    """Optimiser and schedule of the main networks, started afresh after the warm-up."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name in ("margin", "meta_interval", "meta_learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it must be above 0")
        for name in ("warmup_batch_size", "meta_batch_size"):
            if getattr(self, name) < 2:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it is at least 2")
        if min(self.warmup_epochs, self.purified_epochs) < 0 or not self.epochs:
            raise ConfigError(
                f"method.warmup_epochs is {self.warmup_epochs} and method.purified_epochs {self.purified_epochs}, but "
                "neither may be negative, nor both 0"
            )
        for name in ("fallback_share", "purify_above"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it is a share in (0, 1)")

    @property
    def epochs(self) -> int:
        """Epochs of each network in a whole run."""
        return self.warmup_epochs + self.purified_epochs

    def network(self, model: ModelConfig) -> ModelConfig:
        """The backbone with a network as the head of its similarity; refuses activations that are computed again.

        They would be those of the weights themselves, where the meta step asks for those of other weights.
        """
        if model.gradient_checkpointing and self.meta_step:
            raise ConfigError(
                "model.gradient_checkpointing is on, but MSCN's meta step asks for gradients at other weights than the "
                "network's: turn it off, or method.meta_step"
            )
        return replace(model, head="network")

    def epochs_before_a_stop(self, pairs: int) -> int:
        """Those of the warm-up."""
        return self.warmup_epochs

    def check(self, training: TrainingConfig) -> None:
        """Refuse given correspondences."""
        _refuse_true_correspondence(training)

    def rehearsed(self) -> MscnConfig:
        """One epoch of each kind."""
        return replace(self, warmup_epochs=1, purified_epochs=1)


@dataclass(frozen=True)
class DisnclConfig:
    """DisNCL (arXiv 2408.05503, IEEE TIP 2025), reconstructed: no code was published (docs/papers.md).

    Weights of divergences are for the mean over the coordinates of a code, so that they do not depend on its width.
    """

    default_model: ClassVar[ModelConfig] = ModelConfig()
    """The backbone of a recipe that names none."""

    name: Literal["disncl"] = "disncl"
    """Which method this is."""
    preset: Literal["paper_like", "cov", "none"] = "paper_like"
    """What keeps shared information out of exclusive codes: an adversary, as the paper is described; a penalty on the
    correlations of the two codes ("cov", a variant of ours); or nothing, a control."""
    warmup_epochs: int = 5
    """Warm-up epochs: every confidence is 1; the alignment and disentangling losses are off."""
    main_epochs: int = 30
    """Epochs after the warm-up."""
    networks: Literal[1, 2] = 1
    """One network that filters for itself, or two that filter for each other and are averaged (the published class)."""
    temperature: float = 0.05
    """τ of the matching probabilities."""
    balance: float = 0.5
    """γ: weight of the alignment loss of shared codes; the exclusive-code losses have 1 - γ."""
    alignment_weight: float = 1.6
    """β, weight of the symmetric divergence of the two shared codes (0.1 of the sum over 16 coordinates)."""
    alignment_epochs: int = 8
    """Epochs after the warm-up over which the weight of the alignment loss rises from 0. In the warm-up deviations
    shrink, by which the divergence is divided: at once, it would drown all else."""
    exclusive_branch: bool = True
    """Exclusive codes and their losses; without, the shared codes alone (an ablation)."""
    x_input_detach: bool = False
    """Stop the gradients of the exclusive-code losses before the backbone: a control, in which these losses can change
    no retrieval number."""
    coupled: bool = False
    """Let the exclusive-code losses update the shared codes. With method.balance below ½ the best shared code is then
    an empty one."""
    reconstruction_weight: float = 10.0
    """η_rec, weight of reconstructing the features from both codes."""
    prior_weight: float = 0.32
    """η_kl, weight of the divergence of exclusive codes from N(0, I) (0.02 of the sum over 16 coordinates)."""
    adversary_weight: float | None = None
    """η_adv, weight of the critics' estimate of the information that both codes share; by default the preset's (5 for
    paper_like, else 0)."""
    correlation_weight: float | None = None
    """η_cov, weight of the squared correlations of both codes; by default the preset's (80 for cov, else 0)."""
    correlation_features: int = 16
    """Random waves of each coordinate of the exclusive codes whose correlations are penalised beside its own; 0 leaves
    the penalty linear."""
    adversary_epochs: int = 3
    """Epochs after the warm-up over which the weights of adversary and correlation rise from 0."""
    critic_steps: int = 5
    """n_est, steps of a critic before each step of the network."""
    critic_learning_rate: float = 1e-4
    """Learning rate of the critics' Adam."""
    critics_from: int = 2
    """Epoch, counted from 0, from which critics learn."""
    soft_targets: bool = True
    """Many-to-many targets; without, each pair is its own target (an ablation). Either way its loss is weighted by its
    confidence."""
    target_temperature: float = 0.05
    """τ_t of soft targets."""
    neighbour_weight: float = 0.5
    """κ: weight in soft targets of items that are similar within their modality."""
    smoothing: float = 0.1
    """ρ: share of the soft target that even a pair with confidence 1 leaves to the rest of the batch."""
    filtering: bool = True
    """Estimate the confidence in each pair by a mixture over its score; without, every confidence is 1 (an
    ablation)."""
    filter_momentum: float = 0.7
    """Share of a pair's confidence that is kept at each new estimate."""
    out_of_sample: bool = False
    """Let two networks learn half of the images each in the warm-up and judge the other half; their mean then learns
    all pairs, and its judgements are combined with theirs, as in the default method (a variant of ours)."""
    optimisation: OptimisationConfig = field(default_factory=lambda: OptimisationConfig(decay_epochs=20))
    """Optimiser and schedule; the learning rate falls in the middle of the epochs after the warm-up."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        if min(self.warmup_epochs, self.main_epochs) < 0 or not self.epochs:
            raise ConfigError(
                f"method.warmup_epochs is {self.warmup_epochs} and method.main_epochs {self.main_epochs}, but neither "
                "may be negative, nor both 0"
            )
        if self.out_of_sample and not (self.filtering and self.warmup_epochs):
            raise ConfigError(
                "method.out_of_sample has networks judge in the warm-up what they did not learn, but there is "
                + ("no warm-up: set method.warmup_epochs" if self.filtering else "no filtering: set method.filtering")
            )
        for name in ("temperature", "target_temperature", "critic_learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it must be above 0")
        for name in ("balance", "smoothing", "filter_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it must be in [0, 1]")
        for name in (
            "alignment_weight",
            "reconstruction_weight",
            "prior_weight",
            "adversary_weight",
            "correlation_weight",
            "correlation_features",
            "adversary_epochs",
            "alignment_epochs",
            "critic_steps",
            "critics_from",
            "neighbour_weight",
        ):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"method.{name} is {value}, but it must be at least 0")

    @property
    def epochs(self) -> int:
        """Epochs of each network in a whole run."""
        return self.warmup_epochs + self.main_epochs

    @property
    def halves(self) -> int:
        """Networks of the warm-up that learn other images than they judge."""
        return 2 if self.out_of_sample else 0

    @property
    def adversary(self) -> float:
        """η_adv."""
        return {"paper_like": 5.0}.get(self.preset, 0.0) if self.adversary_weight is None else self.adversary_weight

    @property
    def correlation(self) -> float:
        """η_cov."""
        return {"cov": 80.0}.get(self.preset, 0.0) if self.correlation_weight is None else self.correlation_weight

    def network(self, model: ModelConfig) -> ModelConfig:
        """The backbone with codes."""
        return replace(model, codes="shared_and_exclusive" if self.exclusive_branch else "shared")

    def epochs_before_a_stop(self, pairs: int) -> int:
        """Those of the warm-up."""
        return self.warmup_epochs

    def check(self, training: TrainingConfig) -> None:
        """Refuse batches too small to compare codes over, and given correspondences."""
        penalties = {"adversary": self.adversary, "correlation": self.correlation}
        used = [name for name, weight in penalties.items() if weight]
        if self.exclusive_branch and used and training.batch_size < FEWEST_CODES:
            raise ConfigError(
                f"training.batch_size is {training.batch_size}, but the {used[0]} term of DisNCL compares the codes of "
                f"a batch with one another: use at least {FEWEST_CODES}, or method.exclusive_branch = false"
            )
        _refuse_true_correspondence(training)

    def rehearsed(self) -> DisnclConfig:
        """One epoch of each kind."""
        return replace(self, warmup_epochs=1, main_epochs=1)


@dataclass(frozen=True)
class TeacherConfig:
    """The default method: networks judge pairs that they did not learn, and one network learns all pairs by that."""

    default_model: ClassVar[ModelConfig] = ModelConfig(
        input_dropout=0.4, word_vectors="captions", projection="plain", feature_scaling="auto"
    )
    """The backbone of a recipe that names none; the papers' methods have what their papers had."""

    name: Literal["teacher"] = "teacher"
    """Which method this is."""
    fold_epochs: int | None = None
    """Epochs of the networks that judge the pairs which they did not learn, each of all folds but one; 0 is without
    them: the network then judges the pairs that it learns. 5 by default, 12 where there are fewer than 5,000 pairs."""
    folds: int | None = None
    """Parts that the images are cut into for these networks. 2 by default, which cost as much as one network of all
    pairs; 4 where there are fewer than 5,000 pairs."""
    epochs: int = 11
    """Epochs of the network of all pairs."""
    start: Literal["folds", "fresh"] | None = None
    """What the network of all pairs begins with: the mean of the networks of the folds, or random weights. The mean by
    default, but random weights where a GRU reads captions and cosines compare them (VSE∞)."""
    warmup_epochs: int = 2
    """Warm-up epochs of the networks that judge first, in which every confidence is 1."""
    judge_every: int = 3
    """Epochs of the network of all pairs between two estimates of the confidence in them; 0 keeps the first."""
    temperature: float = 0.07
    """τ of the matching probabilities and of the soft targets."""
    negative_weight: float = 5.0
    """λ, the weight of the complementary loss (CRCL)."""
    target_weight: float = 1.0
    """Weight of the soft targets, from which the network of all pairs learns a pair as far as its confidence is below
    1; 0 is without."""
    optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(learning_rate=1e-3, schedule="cosine", weight_average=0.99)
    )
    """Optimiser and schedule. The averaged weights score the pairs, are tested and saved."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name in ("epochs", "temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it must be above 0")
        if self.fold_epochs is not None and 0 < self.fold_epochs < self.warmup_epochs:
            raise ConfigError(
                f"method.fold_epochs is {self.fold_epochs} and method.warmup_epochs {self.warmup_epochs}, but the "
                "networks of the folds judge after the warm-up: use at least as many, or 0 for no folds"
            )
        if self.start == "folds" and self.fold_epochs == 0:
            raise ConfigError(
                "method.start is 'folds', but method.fold_epochs is 0, so that there are no networks to begin with: "
                "leave one of them out"
            )
        if self.folds is not None and self.folds < 2:
            raise ConfigError(f"method.folds is {self.folds}, but each network leaves one fold out: use at least 2")
        for name in ("fold_epochs", "judge_every", "negative_weight", "target_weight"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it must be at least 0")
        if not self.optimisation.weight_average:
            raise ConfigError(
                "method.optimisation.weight_average is 0, but the teacher is the average of the network's weights: set "
                "it to a decay such as 0.99"
            )
        if self.warmup_epochs < 1:
            raise ConfigError(
                f"method.warmup_epochs is {self.warmup_epochs}, but a network that has seen nothing cannot judge: use "
                "at least 1"
            )

    def judges_after(self, epoch: int) -> bool:
        """Whether an epoch of the network of all pairs, counted from 0, ends with a new estimate of the confidence."""
        done = epoch + 1
        is_warm = self.fold_epochs != 0 or done >= self.warmup_epochs
        return is_warm and done < self.epochs and self.judge_every > 0 and done % self.judge_every == 0

    def starts_from_folds(self, is_recurrent: bool, is_local: bool) -> bool:
        """Whether the network of all pairs begins with the mean of those of the folds.

        Args:
            is_recurrent: Whether a GRU reads captions.
            is_local: Whether regions are compared with words (SAF, SGR), not one vector with one.
        """
        return is_local or not is_recurrent if self.start is None else self.start == "folds"

    def folds_of(self, pairs: int) -> int:
        """Parts that so many pairs are cut into."""
        return self.folds or (2 if pairs >= _MANY_PAIRS else 4)

    def fold_epochs_of(self, pairs: int) -> int:
        """Epochs of the networks of the folds of so many pairs."""
        if self.fold_epochs is not None:
            return self.fold_epochs
        return max(5 if pairs >= _MANY_PAIRS else 12, self.warmup_epochs)  # they judge once they are warm

    def network(self, model: ModelConfig) -> ModelConfig:
        """The backbone as it is."""
        return model

    def epochs_before_a_stop(self, pairs: int) -> int:
        """Those of the networks of the folds."""
        return self.fold_epochs_of(pairs)

    def check(self, training: TrainingConfig) -> None:
        """Refuse given correspondences."""
        _refuse_true_correspondence(training)

    def rehearsed(self) -> TeacherConfig:
        """One epoch of each kind."""
        return replace(self, fold_epochs=0 if self.fold_epochs == 0 else 1, warmup_epochs=1, epochs=2)


MethodConfig = BaselineConfig | CrclConfig | DisnclConfig | MscnConfig | TeacherConfig
"""One class a method; `name` tells them apart in recipes."""
