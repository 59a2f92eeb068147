"""The backbone and its optimiser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from truepair.config.embedding import OPEN_CLIP, ST
from truepair.errors import ConfigError

Tower = Literal["features", "frozen", "full", "lora"]
"""What `ModelConfig.image` and `ModelConfig.text` can be."""


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
    """How words become a caption: by a GRU that reads the words in order (every published system), or as the mean of
    the word vectors, which costs a tenth and ignores the order. SAF and SGR need the GRU."""
    similarity_size: int = 256
    """Width of the vectors that say how a region and a word (SAF and SGR) or image and caption relate."""
    graph_steps: int = 3
    """SGR: rounds of graph reasoning."""
    word_vectors: Literal["random", "captions"] = "random"
    """Initial word vectors: U(-0.1, 0.1) (every published system), or co-occurrences of words in the training captions,
    which mismatched pairs cannot spoil (truepair's own)."""
    head: Literal["plain", "network"] = "plain"
    """The map from a similarity vector to a similarity: linear (SAF, SGR; VSE∞ has no vector, but a cosine), or a
    network of one hidden layer (the parts of the cosine are then VSE∞'s vector). MSCN always has the network."""
    head_size: int = 64
    """Width of the hidden layer of ``head = "network"`` (MSCN's released code: 64)."""
    codes: Literal["none", "shared", "shared_and_exclusive"] = "none"
    """Stochastic codes between the backbone and the similarity: none, shared codes, or shared and exclusive ones.
    method.name = "disncl" sets it by itself."""
    shared_size: int = 0
    """Width of shared codes; 0 is that of the embedding."""
    exclusive_size: int = 0
    """Width of exclusive codes; 0 is a quarter of the embedding."""
    reconstructs: Literal["inputs", "features"] = "inputs"
    """What shared and exclusive codes together are to reconstruct: what the backbone reads (an image's vector or the
    mean of its regions, the mean word vector of a caption), or the features that it makes, which training empties of
    all that does not help matching."""
    alignment_dropout: float = 0.4
    """SAF and SGR: dropout on word vectors and in the attention that makes the global vectors (SGRAF's code: 0.4)."""
    region_dropping: float = 0.2
    """Probability that a region is left out in training (CRCL's augmentation; 0 in the other papers)."""
    word_dropping: float = 0.2
    """Probability that a word is altered in training (CRCL's augmentation; 0 in the other papers)."""
    word_vector_dropout: float = 0.0
    """Cosine similarity: dropout on word vectors, or on the mean of a caption's; no paper here uses it."""
    input_dropout: float = 0.0
    """Probability that a value of the input features is zeroed in training; no paper here uses it."""
    projection: Literal["batch_norm", "plain", "identity"] = "batch_norm"
    """Cosine similarity: the map of features to the joint space. "batch_norm" is that of VSE∞ (every published system):
    a linear map, and beside it a network of half the width with batch normalisation. "plain" (truepair's own) has no
    normalisation, a hidden layer as wide as the joint space and PyTorch's initialisation. "identity" is "plain" with
    weights that change nothing at first: where both sides are of one network (CLIP, SigLIP), training begins with its
    own space."""
    feature_scaling: Literal["none", "length", "root", "auto"] = "none"
    """Cosine similarity: what features become before the network reads them. "none" leaves them as they are (every
    published system). "length" gives each vector a root mean square of ½, or of 0.1 where it stands beside words.
    "root" takes the square root of each value of the image features first, its sign kept (power normalisation:
    Perronnin et al., ECCV 2010). "auto" is "root" where image features are never negative, as activations of a ReLU,
    and "length" otherwise."""
    batch_norm_rows: Literal["padded", "valid"] = "padded"
    """Rows that batch statistics are of when regions are dropped: the whole padded batch, as released, or the regions
    that are kept."""
    image: Tower = "features"
    """What reads images: "features" (those of the data, or patches), or a pretrained network that reads pixels:
    "frozen" (only the projection behind it learns), trained in "full", or by low-rank updates ("lora", needs
    truepair[finetune])."""
    text: Tower = "features"
    """What reads captions: "features" (those of the data, or words), or a pretrained network that reads its own tokens,
    trained as model.image says it."""
    image_encoder: str = "efficientnet-lite0"
    """The network that reads pixels, as embed --image-encoder names it: "efficientnet-lite0", a folder or a name on the
    hub."""
    text_encoder: str = "minilm"
    """The network that reads captions, as embed --text-encoder names it: "minilm", a folder or a name on the hub."""
    tower_learning_rate_factor: float = 0.5
    """Learning rate of the pretrained networks, as a part of that of the projections."""
    layer_decay: float = 0.9
    """What the learning rate of a block of a pretrained network is multiplied with, for the block below it."""
    projection_epochs: int | None = None
    """Epochs at the beginning of a run in which the projections learn alone, over vectors that the pretrained networks
    make once (kept in memory); they cost seconds. Afterwards all learn. Two thirds of the run's epochs if not given."""
    lora_rank: int = 8
    """Rank of the updates of "lora"."""
    lora_targets: tuple[str, ...] = ()
    """What the names of the layers end with that "lora" updates, such as query and value; every linear layer of the
    blocks if not given."""
    gradient_checkpointing: bool = False
    """Compute the activations of the pretrained networks again in the backward pass: less memory, a third more time."""
    smallest_crop: float = 0.6
    """Share of a picture's area that a random crop keeps at least, in training; 1 is without. Nothing is mirrored."""

    def __post_init__(self) -> None:
        """Refuse impossible sizes and probabilities, and words without an order where words are compared."""
        if self.words == "mean" and self.similarity != "cosine":
            raise ConfigError(
                f"model.words is 'mean', which leaves one vector a caption, but model.similarity {self.similarity!r} "
                "compares words: use 'gru'"
            )
        for name in ("embedding", "word_size", "similarity_size", "graph_steps", "head_size", "lora_rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}, but it is at least 1")
        for name in ("alignment_dropout", "region_dropping", "word_dropping", "word_vector_dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}, but it is a probability in [0, 1)")
        for name in ("shared_size", "exclusive_size"):
            if not 0 <= getattr(self, name) <= self.embedding:
                raise ConfigError(
                    f"model.{name} is {getattr(self, name)}, but a code is made of features of model.embedding "
                    f"{self.embedding} and cannot be wider: choose 1 … {self.embedding}, or 0 for the default"
                )

        if self.projection_epochs is not None and self.projection_epochs < 0:
            raise ConfigError(f"model.projection_epochs is {self.projection_epochs}, but it is at least 0")
        for name in ("tower_learning_rate_factor", "layer_decay", "smallest_crop"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}, but it must be in (0, 1]")
        self._check_towers()

    def _check_towers(self) -> None:
        """Refuse pretrained networks where regions or words are compared, and scaling that they cannot learn behind."""
        for side, how in (("image", self.image), ("text", self.text)):
            if how != "features" and self.similarity != "cosine":
                raise ConfigError(
                    f"model.{side} is {how!r}, which gives one vector each, but model.similarity {self.similarity!r} "
                    "compares regions with words: use 'cosine'"
                )
        for side, name in zip(("image", "text"), self.readers, strict=True):
            if name is not None and (name == "none" or name.startswith((ST, OPEN_CLIP))):
                raise ConfigError(
                    f"model.{side}_encoder is {name!r}, which 'truepair embed' takes and training does not: name a "
                    f"folder or a network on the hub, or embed with --{side}-encoder {name} and train on the store"
                )
        if self.projection == "identity" and self.feature_scaling == "root":
            raise ConfigError(
                "model.projection is 'identity', but model.feature_scaling 'root' changes the vectors before it: use "
                "'length'"
            )
        if self.image in ("full", "lora") and self.feature_scaling == "root":
            raise ConfigError(
                f"model.feature_scaling is 'root', whose slope at 0 has no end, but model.image {self.image!r} learns "
                "through it: use 'auto' or 'length'"
            )

    @property
    def unread(self) -> frozenset[str]:
        """Options that a backbone of this kind does not read."""
        names = self._unread_of_towers()
        if self.similarity == "cosine":
            names |= {"alignment_dropout", "graph_steps"}
        else:
            names |= {"word_vector_dropout", "projection", "feature_scaling", "batch_norm_rows"}
        if self.similarity == "saf":
            names.add("graph_steps")
        if self.head == "plain":
            names.add("head_size")
            if self.similarity == "cosine":
                names.add("similarity_size")
        if self.projection != "batch_norm":
            names.add("batch_norm_rows")
        if self.codes != "shared_and_exclusive":
            names |= {"exclusive_size", "reconstructs"}
        if self.codes == "none":
            names.add("shared_size")
        return frozenset(names)

    @property
    def readers(self) -> tuple[str | None, str | None]:
        """Names of the pretrained networks that read pixels and tokens; None for a side that reads features."""
        return (
            None if self.image == "features" else self.image_encoder,
            None if self.text == "features" else self.text_encoder,
        )

    def _unread_of_towers(self) -> set[str]:
        names = set()
        ways = (self.image, self.text)
        if self.image == "features":
            names |= {"image_encoder", "smallest_crop"}
        else:
            names |= {"region_dropping", "batch_norm_rows"}
        if self.text == "features":
            names.add("text_encoder")
        else:
            names |= {"words", "word_size", "word_vectors", "word_dropping", "word_vector_dropout"}
        if not {"full", "lora"} & {*ways}:
            names |= {"tower_learning_rate_factor", "layer_decay", "projection_epochs", "gradient_checkpointing"}
        if "lora" not in ways:
            names |= {"lora_rank", "lora_targets"}
        return names

    def compared_by(self, similarity: Literal["cosine", "saf", "sgr"]) -> ModelConfig:
        """This backbone with another similarity; what that one does not read goes back to its default."""
        other = replace(self, similarity=similarity)
        lost = {name: getattr(ModelConfig(), name) for name in other.unread - self.unread}
        return replace(other, **lost)

    @property
    def shared(self) -> int:
        """Width of shared codes."""
        return self.shared_size or self.embedding

    @property
    def exclusive(self) -> int:
        """Width of exclusive codes."""
        return self.exclusive_size or max(1, self.embedding // 4)


@dataclass(frozen=True)
class OptimisationConfig:
    """AdamW and what goes with it. Defaults are those of CRCL's released code."""

    learning_rate: float = 5e-4
    """Initial learning rate."""
    weight_decay: float = 1e-2
    """Decoupled weight decay (torch's default)."""
    gradient_clip: float = 2.0
    """Largest Euclidean norm of all gradients together."""
    schedule: Literal["step", "cosine"] = "step"
    """How the learning rate falls: by decay_factor every decay_epochs epochs, or as half a cosine to 0."""
    decay_epochs: int = 15
    """Step schedule: epochs between two falls of the learning rate, counted from the start of a stage."""
    decay_factor: float = 0.1
    """Step schedule: factor by which the learning rate falls."""
    weight_average: float = 0.0
    """Decay of an exponential moving average of the weights, evaluated and saved instead of the raw ones; 0 is off. In
    the first steps the decay is lower: the average reaches back over a tenth of the steps at most."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name in ("learning_rate", "gradient_clip", "decay_epochs", "decay_factor"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"optimisation.{name} is {getattr(self, name)}, but it must be above 0")
        if not self.weight_decay >= 0:
            raise ConfigError(f"optimisation.weight_decay is {self.weight_decay}, but it must be at least 0")
        if not 0 <= self.weight_average < 1:
            raise ConfigError(f"optimisation.weight_average is {self.weight_average}, but it must be in [0, 1)")
