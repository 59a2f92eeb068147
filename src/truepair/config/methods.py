"""One class a method; a field's docstring says which paper, code or measurement its default comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from truepair.config.model import OptimisationConfig
from truepair.errors import ConfigError


@dataclass(frozen=True)
class BaselineConfig:
    """Plain training on all pairs alike."""

    name: Literal["baseline"] = "baseline"
    """Which method this is."""
    loss: Literal["info_nce", "triplet_sum", "triplet_hardest"] = "info_nce"
    """Symmetric InfoNCE, or the hinge over all negatives (SCAN) or the hardest one (VSE++)."""
    epochs: int = 30
    """Data passes."""
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


@dataclass(frozen=True)
class CrclConfig:
    """CRCL (Qin et al., NeurIPS 2023). Defaults are those of the released code for Flickr30K."""

    name: Literal["crcl"] = "crcl"
    """Which method this is."""
    stages: tuple[int, ...] = (5, 5, 5, 30)
    """Refining epochs of each stage (released train.sh); `frozen_epochs` come before them in every stage."""
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
    """Self-refining correspondence correction; without it, correspondences stay as they start: the loss alone."""
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
        """Data passes of a whole run."""
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


@dataclass(frozen=True)
class MscnConfig:
    """MSCN (Han et al., CVPR 2023).

    Defaults are those of the released code, which also has batches of 64 and drops no regions or words: `training` and
    `model` are told so by the recipes.
    """

    name: Literal["mscn"] = "mscn"
    """Which method this is."""
    warmup_epochs: int = 5
    """Data passes of each network over all pairs, before anything is purified."""
    purified_epochs: int = 50
    """Data passes of each network over what the other one believes."""
    networks: Literal[2, 1] = 2
    """Two networks that choose each other's pairs and are averaged, or one that chooses its own (an ablation)."""
    margin: float = 0.2
    """γ, the margin of the hinge; after the warm-up, at similarity 1."""
    margin_of: Literal["anchor", "caption"] = "anchor"
    """Whose similarity sets the margin: the anchor's (the formula), or, by a slip of broadcasting in the released code,
    the caption's in both directions."""
    warmup_negatives: Literal["mean", "smooth"] = "mean"
    """In the warm-up: the mean over all negatives (released), or a smooth maximum (`losses.triplet`)."""
    negatives: Literal["hardest", "mean", "smooth"] = "hardest"
    """After the warm-up: the hardest negative of each anchor (released), or the mean over all, as in the warm-up. The
    hardest ones make a network collapse that has learned too little before."""
    calibrate: bool = False
    """At the end of the warm-up, scale the head so that its similarities are the probability that a labelled pair
    matches (Platt scaling, which keeps their order). A hinge says nothing about their size, which the margin and the
    mixture depend on; the released code leaves that to many small meta steps."""
    warmup_batch_size: int = 128
    """Pairs in a batch of the warm-up; afterwards `training.batch_size` counts (released: 64)."""
    meta_batch_size: int = 64
    """Labelled pairs, trusted and mismatched ones, in a meta batch."""
    meta_step: bool = True
    """Learn the head from trusted pairs; without, it learns from the training pairs, like the rest (an ablation)."""
    meta_interval: int = 1
    """Iterations of the main network to one of the head."""
    meta_learning_rate: float = 1.7e-5
    """Step size of the head; in the warm-up it is `optimisation.learning_rate`."""
    virtual_step: Literal["sgd", "adam"] = "sgd"
    """The step that the head is judged by: plain SGD (released), or the Adam step that the network will take."""
    mixed_derivative: Literal["finite_difference", "backward"] = "finite_difference"
    """How the virtual step is differentiated: by a difference of similarity vectors, which needs no second derivative
    of the backbone and a fraction of the memory, or twice back through everything (released)."""
    purify: bool = True
    """Train on the pairs that a Beta mixture calls clean; without, on all (an ablation)."""
    purify_above: float = 0.5
    """Probability of being clean above which a pair is learned from (released: 0.5). Where training has pulled
    mismatched pairs together, the mixture is too hopeful, and more learns from fewer of them."""
    fallback_share: float = 0.02
    """Where no trusted pairs are given: the share of training pairs, the most similar after the warm-up, that are taken
    for trusted ones. Nobody verified them."""
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
        """Data passes of each network in a whole run."""
        return self.warmup_epochs + self.purified_epochs


@dataclass(frozen=True)
class DisnclConfig:
    """DisNCL (arXiv 2408.05503, IEEE TIP 2025), reconstructed: no code was published (docs/papers.md).

    Weights of divergences are for the mean over the coordinates of a code, so that they do not depend on its width.
    """

    name: Literal["disncl"] = "disncl"
    """Which method this is."""
    preset: Literal["paper_like", "cov", "none"] = "paper_like"
    """What keeps shared information out of exclusive codes: an adversary, as the paper is described; a penalty on the
    correlations of the two codes ("cov", a variant of ours); or nothing, a control."""
    warmup_epochs: int = 5
    """Data passes in which every pair is believed, nothing is aligned, and nothing kept out of exclusive codes."""
    main_epochs: int = 30
    """Data passes after them."""
    networks: Literal[1, 2] = 1
    """One network that filters for itself, or two that filter for each other and are averaged (the published class)."""
    temperature: float = 0.05
    """τ of the matching probabilities."""
    balance: float = 0.5
    """γ: weight of the shared codes' terms; the exclusive codes' terms have 1 - γ."""
    disentangling_weight: float = 1.0
    """λ_dis, weight of both beside the matching loss."""
    count_nce_twice: bool = False
    """Count InfoNCE among the shared codes' terms too, with γ: it is the matching loss already."""
    matching_weight: float = 1.0
    """Weight of the matching loss; 0 with `count_nce_twice` leaves the disentangling loss alone."""
    alignment_weight: float = 1.6
    """β, of the symmetric divergence of the two shared codes (0.1 of the sum over 16 coordinates)."""
    exclusive_branch: bool = True
    """Exclusive codes at all; without them, the shared codes alone (an ablation)."""
    x_input_detach: bool = False
    """Keep gradients of the exclusive codes' terms from the backbone: a control, in which they can change nothing."""
    coupled: bool = False
    """Let them reach shared codes as well. With `balance` below ½ the best shared code is then an empty one."""
    reconstruction_weight: float = 10.0
    """η_rec, of putting the features together again from both codes."""
    prior_weight: float = 0.32
    """η_kl, of the divergence of exclusive codes from N(0, I) (0.02 of the sum over 16 coordinates)."""
    adversary_weight: float | None = None
    """η_adv, of the critics' estimate of what the codes have in common; the preset's (5, 0, 0) if not given."""
    correlation_weight: float | None = None
    """η_cov, of the codes' squared correlations; the preset's (0, 80, 0) if not given."""
    correlation_features: int = 16
    """Random waves of each coordinate of the exclusive codes that these correlations are of, beside the coordinate; 0
    leaves them linear."""
    adversary_epochs: int = 3
    """Epochs after the warm-up over which both of these weights rise from 0."""
    critic_steps: int = 5
    """n_est, steps of a critic before each step of the network."""
    critic_learning_rate: float = 1e-4
    """Step size of the critics' Adam."""
    critics_from: int = 2
    """Epoch, from 0, from which critics learn."""
    soft_targets: bool = True
    """Many-to-many targets; without, each pair is its own target, weighted by the belief in it (an ablation)."""
    target_temperature: float = 0.05
    """τ_t of soft targets."""
    neighbour_weight: float = 0.5
    """κ: how much items similar within their modality count in soft targets."""
    smoothing: float = 0.1
    """ρ: what even a surely matching pair leaves to others."""
    filtering: bool = True
    """Believe pairs as a mixture over their scores says; without, believe them all (an ablation)."""
    filter_momentum: float = 0.7
    """How much of the belief in a pair is kept when a new epoch judges it."""
    optimisation: OptimisationConfig = field(default_factory=lambda: OptimisationConfig(decay_epochs=20))
    """Optimiser and schedule; the step size falls in the middle of the epochs after the warm-up."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        if min(self.warmup_epochs, self.main_epochs) < 0 or not self.epochs:
            raise ConfigError(
                f"method.warmup_epochs is {self.warmup_epochs} and method.main_epochs {self.main_epochs}, but neither "
                "may be negative, nor both 0"
            )
        for name in ("temperature", "target_temperature", "critic_learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it must be above 0")
        for name in ("balance", "smoothing", "filter_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it must be in [0, 1]")
        for name in (
            "disentangling_weight",
            "matching_weight",
            "alignment_weight",
            "reconstruction_weight",
            "prior_weight",
            "adversary_weight",
            "correlation_weight",
            "correlation_features",
            "adversary_epochs",
            "critic_steps",
            "critics_from",
            "neighbour_weight",
        ):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"method.{name} is {value}, but it must be at least 0")

    @property
    def epochs(self) -> int:
        """Data passes of each network in a whole run."""
        return self.warmup_epochs + self.main_epochs

    @property
    def adversary(self) -> float:
        """η_adv."""
        return {"paper_like": 5.0}.get(self.preset, 0.0) if self.adversary_weight is None else self.adversary_weight

    @property
    def correlation(self) -> float:
        """η_cov."""
        return {"cov": 80.0}.get(self.preset, 0.0) if self.correlation_weight is None else self.correlation_weight


@dataclass(frozen=True)
class TeacherConfig:
    """The default method, truepair's own: averaged weights judge the pairs that the network learns from."""

    name: Literal["teacher"] = "teacher"
    """Which method this is."""
    epochs: int = 16
    """Data passes."""
    warmup_epochs: int = 2
    """Data passes in which every pair is believed."""
    temperature: float = 0.05
    """τ of the matching probabilities and of the soft targets."""
    negative_weight: float = 5.0
    """λ, the weight of the complementary loss (CRCL)."""
    target_weight: float = 1.0
    """How much a pair that is not believed learns from soft targets; 0 is without."""
    optimisation: OptimisationConfig = field(
        default_factory=lambda: OptimisationConfig(weight_average=0.99, decay_epochs=16)
    )
    """Optimiser and schedule; the averaged weights judge, and are tested and saved, and stand in for smaller steps."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name in ("epochs", "temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"method.{name} is {getattr(self, name)}, but it must be above 0")
        for name in ("negative_weight", "target_weight"):
            if not getattr(self, name) >= 0:
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


MethodConfig = BaselineConfig | CrclConfig | DisnclConfig | MscnConfig | TeacherConfig
"""One class a method; `name` tells them apart in recipes."""
