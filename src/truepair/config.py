"""Everything that a run depends on, as frozen dataclasses: the fields of a recipe and the options of the command line.

They stand together, and import nothing heavy, so that ``--help`` answers at once. A field's docstring is its help text
and says where its default comes from; docs/papers.md has the table of paper, released code and here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from truepair.errors import ConfigError

FEWEST_CODES = 8
"""Pairs of a batch below which DisNCL compares no codes over the batch: correlations would be chance."""


@dataclass(frozen=True)
class TableColumns:
    """What a table's columns are called; None means that there is no such column."""

    image: str | None = "image"
    """The picture: a path (absolute, or relative to the image root), or the encoded bytes (Parquet)."""
    caption: str = "caption"
    """The caption."""
    image_id: str | None = None
    """The image's name; rows with the same name are captions of one image."""
    caption_id: str | None = None
    """The caption's name, unique."""
    split: str | None = None
    """Which split a row belongs to: train, dev (or val, validation) or test."""
    image_feature: str | None = None
    """The image's feature vector, a list of numbers (JSONL, Parquet)."""
    caption_feature: str | None = None
    """The caption's feature vector, a list of numbers (JSONL, Parquet)."""


@dataclass(frozen=True)
class DataConfig:
    """Where the pairs are."""

    path: str = "demo"
    """"demo" (the corpus that ships with truepair), a table (.csv, .tsv, .jsonl, .parquet), a folder of precomputed
    region features as SCAN lays them out ({split}_ims.npy, {split}_caps.txt), a folder of embeddings (of truepair
    embed, of clip-retrieval, or images.npy and captions.npy), a folder of Flickr8K as it is distributed, or a Karpathy
    file (.json)."""
    text: Literal["auto", "words", "features"] = "auto"
    """What the text encoder reads: words of the captions or a column of caption features; "auto" takes the features
    where there are any."""
    minimum_word_count: int = 4
    """Words rarer than this in the training captions become <unk> (SCAN and its heirs: 4)."""
    vocabulary: str | None = None
    """A vocabulary JSON (ours, or the field's with word2idx) to use instead of one made from the training captions."""
    captions_per_image: int | None = None
    """Folders of region features: captions of an image, where the row counts leave it open (5 in Flickr30K and
    MS-COCO). Karpathy files: keep the first so many captions of each image."""
    test_split: str = "test"
    """Folders of region features: what file names call the split that is reported on ("testall" for all 5,000 test
    images of MS-COCO)."""
    test_folds: int = 1
    """The test images are searched in so many equal parts and the results averaged (MS-COCO 1K: 5)."""
    development: Literal["all", "first_1000_images"] = "all"
    """Which development pairs choose the checkpoint: all of them, or those of the first 1,000 images only (all, with a
    note, if there are fewer), as in the released code of DECL and CRCL."""
    maximum_unknown_share: float = 0.1
    """A given vocabulary is refused if a larger share of the training words is not in it."""
    columns: TableColumns = field(default_factory=TableColumns)
    """Tables: what the columns are called."""
    image_root: str | None = None
    """Tables, Flickr8K, Karpathy files: where relative picture paths start; the corpus's folder if not given."""
    image_features: str | None = None
    """Tables, Flickr8K, Karpathy files: a .npy file with one row a distinct image, in the order in which they first
    appear."""
    caption_features: str | None = None
    """Tables, Flickr8K, Karpathy files: a .npy file with one row a caption."""
    development_share: float = 0.1
    """Without given splits: share of the images held out for choosing a checkpoint."""
    test_share: float = 0.1
    """Without given splits: share of the images held out for the report."""
    split_seed: int = 0
    """Without given splits: seed of the random split."""

    def __post_init__(self) -> None:
        """Refuse impossible counts and shares."""
        if self.test_folds < 1:
            raise ConfigError(f"data.test_folds is {self.test_folds}, but it is at least 1")
        if not 0 <= self.maximum_unknown_share <= 1:
            raise ConfigError(
                f"data.maximum_unknown_share is {self.maximum_unknown_share}, but it is a share in [0, 1]"
            )


@dataclass(frozen=True)
class NoiseConfig:
    """Mismatches put into the training split on purpose, to measure what they do."""

    rate: float = 0.0
    """Share of training captions (or images) that get a wrong partner, exactly; in [0, 1)."""
    level: Literal["caption", "image"] = "caption"
    """Captions are shuffled one by one (NCR's protocol), or all captions of an image go wrong together (DECL's)."""
    partners: Literal["random", "similar"] = "random"
    """Captions exchange images at random, or two and two that are alike in their words (hard noise; caption level)."""
    seed: int = 0
    """Seed of the shuffle."""
    development: bool = False
    """Shuffle the development pairs too, at the same rate: nobody whose training pairs are noisy has clean ones to
    choose a checkpoint by. The papers' development pairs are clean."""
    index: str | None = None
    """A published noise index (.npy) to use instead."""
    index_convention: Literal["per_caption", "per_image"] = "per_caption"
    """What the index holds: the image of each caption (NCR, CRCL, MSCN) or a permutation of images (DECL)."""

    def __post_init__(self) -> None:
        """Refuse two sources of noise, an impossible rate and a seed that cannot be one."""
        if not 0 <= self.rate < 1:
            raise ConfigError(f"noise.rate is {self.rate}, but it is a share in [0, 1)")
        if self.partners == "similar" and (self.level == "image" or self.index is not None):
            raise ConfigError(
                f"noise.partners is 'similar', which compares single captions, but noise.level is {self.level!r} and "
                f"noise.index {self.index!r}: use level 'caption' and no index"
            )
        if self.seed < 0:
            raise ConfigError(f"noise.seed is {self.seed}, but it must be at least 0")
        if self.development and self.index is not None:
            raise ConfigError(
                f"noise.development shuffles at noise.rate, but noise.index is {self.index}, of training pairs only"
            )
        if self.index is not None and self.rate:
            raise ConfigError(f"noise.rate is {self.rate} and noise.index is {self.index}: choose one of them")


@dataclass(frozen=True)
class TrustedConfig:
    """A few pairs that are known to match: MSCN learns from them; other methods leave them alone."""

    source: Literal["none", "development", "training", "split", "file"] = "none"
    """Where they are from. "development": random images of the development split with their captions, which then do not
    choose the checkpoint. "training": random training images with one caption each; these images leave the training
    split with all their captions, before any noise is injected. "split": another split of a folder of region features.
    "file": a table whose column caption_id names training pairs that somebody has checked."""
    share: float = 0.02
    """"development" and "training": how many, as a share of the training pairs (MSCN: 0.02)."""
    split: str = "meta"
    """"split": what file names call it ({split}_ims.npy, {split}_caps.txt)."""
    path: str | None = None
    """"file": the table (.csv, .tsv, .jsonl, .parquet)."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        """Refuse an impossible share, and a table without a source that reads it."""
        if not 0 < self.share < 1:
            raise ConfigError(f"trusted.share is {self.share}, but it is a share in (0, 1)")
        if self.seed < 0:
            raise ConfigError(f"trusted.seed is {self.seed}, but it must be at least 0")
        if (self.source == "file") != (self.path is not None):
            raise ConfigError(
                f"trusted.source is {self.source!r} and trusted.path {self.path!r}: a table is named if, and only if, "
                "the source is 'file'"
            )


@dataclass(frozen=True)
class ModelConfig:
    """The backbone: its similarity, its widths, its regularisation. Defaults are those of CRCL's released code."""

    similarity: Literal["cosine", "saf", "sgr"] = "cosine"
    """How an image and a caption are compared: the cosine of pooled vectors (VSE∞), or regions with words, by attention
    filtration (SAF) or graph reasoning (SGR). SGRAF is the mean of a SAF and an SGR run."""
    embedding: int = 1024
    """Width of the joint space (and of a GRU direction)."""
    word_size: int = 300
    """Width of word vectors."""
    words: Literal["gru", "mean"] = "gru"
    """How words become a caption: by a GRU that reads them in their order (every published system), or as the mean of
    their vectors, which costs a tenth and knows no order. SAF and SGR need the GRU's words."""
    similarity_size: int = 256
    """Width of the vectors that say how a region and a word (SAF and SGR) or image and caption relate."""
    graph_steps: int = 3
    """SGR: rounds of graph reasoning."""
    word_vectors: Literal["random", "captions"] = "random"
    """What word vectors start from: U(-0.1, 0.1) (every published system), or the company that words keep in the
    training captions, which no mismatched pair can spoil (`encoders.word_vectors`; here)."""
    head: Literal["plain", "network"] = "plain"
    """What makes one number of a similarity vector: a linear map (SAF, SGR; VSE∞ has no vector, but a cosine), or a
    network of one hidden layer. MSCN always has the network; the parts of the cosine are then VSE∞'s vector."""
    head_size: int = 64
    """Width of the hidden layer of ``head = "network"`` (MSCN's released code: 64)."""
    codes: Literal["none", "shared", "shared_and_exclusive"] = "none"
    """Whether encodings are made of stochastic shared codes, with exclusive ones beside them. DisNCL has them."""
    shared_size: int = 0
    """Width of shared codes; 0 is that of the embedding."""
    exclusive_size: int = 0
    """Width of exclusive codes; 0 is a quarter of the embedding."""
    code_hidden: int = 0
    """Width of the hidden layers that make codes, and features of codes; 0 is that of the embedding."""
    alignment_dropout: float = 0.4
    """SAF and SGR: dropout on word vectors and in the attention that makes the global vectors (SGRAF's code: 0.4)."""
    region_dropping: float = 0.2
    """Probability that a region is left out in training (CRCL's augmentation; 0 in the other papers)."""
    word_dropping: float = 0.2
    """Probability that a word is altered in training (CRCL's augmentation; 0 in the other papers)."""
    word_vector_dropout: float = 0.0
    """Cosine similarity: dropout on word vectors, or on their mean; no paper here uses it."""
    input_dropout: float = 0.0
    """Probability that a value of the input features is zeroed in training; no paper here uses it."""
    batch_norm_rows: Literal["padded", "valid"] = "padded"
    """Which rows batch statistics see when regions are dropped: the whole padded batch, as released, or the regions
    that are there."""

    def __post_init__(self) -> None:
        """Refuse impossible sizes and probabilities, and words without an order where words are compared."""
        if self.words == "mean" and self.similarity != "cosine":
            raise ConfigError(
                f"model.words is 'mean', which leaves one vector a caption, but model.similarity {self.similarity!r} "
                "compares words: use 'gru'"
            )
        for name in ("embedding", "word_size", "similarity_size", "graph_steps", "head_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}, but it is at least 1")
        for name in ("alignment_dropout", "region_dropping", "word_dropping", "word_vector_dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}, but it is a probability in [0, 1)")
        if self.code_hidden < 0:
            raise ConfigError(f"model.code_hidden is {self.code_hidden}, but it is at least 1, or 0 for the default")
        for name in ("shared_size", "exclusive_size"):
            if not 0 <= getattr(self, name) <= self.embedding:
                raise ConfigError(
                    f"model.{name} is {getattr(self, name)}, but a code is made of features of model.embedding "
                    f"{self.embedding} and cannot be wider: choose 1 … {self.embedding}, or 0 for the default"
                )

    @property
    def shared(self) -> int:
        """Width of shared codes."""
        return self.shared_size or self.embedding

    @property
    def exclusive(self) -> int:
        """Width of exclusive codes."""
        return self.exclusive_size or max(1, self.embedding // 4)

    @property
    def hidden(self) -> int:
        """Width of the hidden layers of codes."""
        return self.code_hidden or self.embedding


@dataclass(frozen=True)
class OptimisationConfig:
    """AdamW and what goes with it. Defaults are those of CRCL's released code."""

    learning_rate: float = 5e-4
    """Step size at the start."""
    weight_decay: float = 1e-2
    """Decoupled weight decay (torch's default)."""
    gradient_clip: float = 2.0
    """Largest Euclidean norm of all gradients together."""
    schedule: Literal["step", "cosine"] = "step"
    """How the step size falls: by `decay_factor` every `decay_epochs` epochs, or as half a cosine to 0."""
    decay_epochs: int = 15
    """Epochs between two falls of the step schedule, counted from the start of a stage."""
    decay_factor: float = 0.1
    """What a fall of the step schedule multiplies by."""
    weight_average: float = 0.0
    """Decay of an exponential moving average of the weights, evaluated and saved instead of the raw ones; 0 is off. It
    starts lower, so that the average reaches back over a tenth of the steps at most."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name in ("learning_rate", "gradient_clip", "decay_epochs", "decay_factor"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"optimisation.{name} is {getattr(self, name)}, but it must be above 0")
        if not self.weight_decay >= 0:
            raise ConfigError(f"optimisation.weight_decay is {self.weight_decay}, but it must be at least 0")
        if not 0 <= self.weight_average < 1:
            raise ConfigError(f"optimisation.weight_average is {self.weight_average}, but it must be in [0, 1)")


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


@dataclass(frozen=True)
class TrainingConfig:
    """How training runs."""

    batch_size: int = 128
    """Pairs in a batch (CRCL's released code: 128)."""
    seed: int = 0
    """Seed of weights, order, dropout and augmentation."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; "auto" takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic of the forward pass in training (Lightning Fabric's names)."""
    workers: int = 0
    """Processes that read ahead; 0 reads in the training process."""
    oracle: Literal["none", "clean_pairs", "true_correspondence"] = "none"
    """Reference runs that know the truth, where noise was injected: train on the truly matching pairs only, or give
    CRCL the true correspondences and keep them."""
    patience: int = 0
    """Stop once development rSum has not improved for so many epochs; 0 never stops early. One-stage methods only."""
    tensorboard: bool = False
    """Also write TensorBoard files (needs truepair[tensorboard])."""

    def __post_init__(self) -> None:
        """Refuse a batch in which nothing can be compared, and counts and seeds below 0."""
        if self.batch_size < 2:
            raise ConfigError(
                f"training.batch_size is {self.batch_size}, but a pair is learned against the others: use at least 2"
            )
        for name in ("seed", "workers", "patience"):
            if getattr(self, name) < 0:
                raise ConfigError(f"training.{name} is {getattr(self, name)}, but it must be at least 0")


@dataclass(frozen=True)
class Recipe:
    """One run: data, noise, trusted pairs, model, method and training."""

    data: DataConfig = field(default_factory=DataConfig)
    """Where the pairs are."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Mismatches put in on purpose."""
    trusted: TrustedConfig = field(default_factory=TrustedConfig)
    """Pairs known to match."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The backbone."""
    method: MethodConfig = field(default_factory=TeacherConfig)
    """How to train."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Batches, seed, device."""

    @property
    def network(self) -> ModelConfig:
        """The backbone as the method needs it."""
        if isinstance(self.method, MscnConfig):
            return replace(self.model, head="network")
        if isinstance(self.method, DisnclConfig):
            return replace(self.model, codes="shared_and_exclusive" if self.method.exclusive_branch else "shared")
        return self.model

    def __post_init__(self) -> None:
        """Refuse an oracle, an early stop or a noise index that does not suit the rest."""
        if self.training.patience and isinstance(self.method, CrclConfig) and len(self.method.stages) > 1:
            raise ConfigError(
                f"training.patience is {self.training.patience}, but method.stages {self.method.stages} has several "
                "stages, and a stop would lose the later ones: set it to 0 or use one stage"
            )
        if isinstance(self.method, MscnConfig) and 0 < self.training.patience <= self.method.warmup_epochs:
            raise ConfigError(
                f"training.patience is {self.training.patience}, which could stop MSCN in its warm-up of "
                f"{self.method.warmup_epochs} epochs: set it to 0 or above method.warmup_epochs"
            )
        if isinstance(self.method, DisnclConfig) and self.method.exclusive_branch:
            self._refuse_small_batches(self.method)
        if self.noise.index is not None and self.trusted.source in ("training", "file"):
            raise ConfigError(
                f"noise.index numbers all training pairs, but trusted.source = {self.trusted.source!r} takes some out "
                "first: take trusted pairs from development or another split, or set noise.rate instead"
            )
        if self.training.oracle == "true_correspondence" and not (
            isinstance(self.method, CrclConfig) and not self.method.refine
        ):
            raise ConfigError(
                'training.oracle = "true_correspondence" keeps given correspondences: it needs method.name = "crcl" '
                "and method.refine = false"
            )

    def _refuse_small_batches(self, method: DisnclConfig) -> None:
        penalties = {"adversary": method.adversary, "correlation": method.correlation}
        used = [name for name, weight in penalties.items() if weight]
        if used and self.training.batch_size < FEWEST_CODES:
            raise ConfigError(
                f"training.batch_size is {self.training.batch_size}, but the {used[0]} term of DisNCL compares the "
                f"codes of a batch with one another: use at least {FEWEST_CODES}, or method.exclusive_branch = false"
            )
