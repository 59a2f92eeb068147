"""A matching model: an image encoder, a text encoder and a similarity between what they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from truepair.config import ModelConfig
from truepair.config.model import Tower
from truepair.data.batch import Batch, Padded
from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Pairs
from truepair.data.text import Vocabulary
from truepair.encoders.codes import Backbone, ExclusiveBranch, GaussianHead, SharedEncoder
from truepair.encoders.finetuning import TowerEncoder, Tuning
from truepair.encoders.local import LinearEncoder, LocalEncoder, WholeVector
from truepair.encoders.pooling import GeneralisedPooling, PooledEncoder
from truepair.encoders.projection import Scaling, VectorEncoder
from truepair.encoders.regions import RegionEncoder
from truepair.encoders.towers import Towers
from truepair.encoders.word_vectors import co_occurrence_vectors
from truepair.encoders.words import MeanWordEncoder, WordEncoder, WordsBesideVector
from truepair.errors import ConfigError
from truepair.in_parts import encoded
from truepair.similarity.cosine import CosineSimilarity
from truepair.similarity.head import HeadNetwork
from truepair.similarity.local import LocalSimilarity
from truepair.similarity.partial_cosine import PartialCosine
from truepair.similarity.protocol import Similarity
from truepair.similarity.saf import AttentionFiltration
from truepair.similarity.sgr import GraphReasoning

MODALITIES = ("image", "text")
"""Names of the two sides in `MatchingModel.exclusive`."""
_SIZE_BESIDE_WORDS = 0.1
"""Root mean square of a caption's vector where it stands beside words: about that of word vectors. At ½ it rules the
sum, and the words teach less (docs/papers.md)."""
_IMAGES_LOOKED_AT = 64
"""Images whose features tell whether they are ever negative."""


CaptionForm = Literal["vector", "words", "words_and_vector", "tokens"]


@dataclass(frozen=True)
class InputShape:
    """What the encoders of a model must read; measured on the data, saved with the weights."""

    image: Literal["vector", "regions", "pixels"]
    """One vector an image, a set of region vectors, or the pixels of its picture."""
    image_width: int
    """Width of an image's (or region's) features; pixels along a side of a picture."""
    caption: CaptionForm
    """One vector a caption, words of a vocabulary, or both; or tokens of a pretrained network."""
    caption_width: int
    """Width of a caption's vector, or size of the vocabulary where there are words; 0 for tokens."""
    mask: int = 0
    """Id of ``<mask>`` in the vocabulary; 0 where there are no words."""
    vector_width: int = 0
    """Width of the vector beside a caption's words; 0 where there is none."""
    regions: int = 1
    """Regions of every image; 1 for vectors."""
    image_is_positive: bool = False
    """Whether image features are never negative, as activations of a ReLU and their means are."""

    @classmethod
    def of(cls, pairs: Pairs, vocabulary: Vocabulary | None) -> InputShape:
        """The shape of what `pairs` holds, whose tokens, if any, come from `vocabulary`."""
        image = pairs.images.take(torch.tensor([0]))
        is_pixels = image.places is not None
        if not is_pixels:
            image = pairs.images.take(torch.arange(min(_IMAGES_LOOKED_AT, len(pairs.images))))
        caption = inputs_of_captions(pairs).take(torch.tensor([0]))
        form = _form_of(caption, vocabulary)
        width = 0 if form == "tokens" else caption.values.shape[-1]
        return cls(
            image="pixels" if is_pixels else "vector" if image.lengths is None else "regions",
            image_width=image.values.shape[-1],
            caption=form,
            caption_width=width if vocabulary is None else len(vocabulary),
            mask=0 if vocabulary is None else vocabulary.mask,
            vector_width=0 if caption.vectors is None else caption.vectors.shape[-1],
            regions=1 if image.lengths is None else image.values.shape[1],
            image_is_positive=not is_pixels and bool((image.values >= 0).all()),
        )

    @property
    def has_words(self) -> bool:
        """Whether captions are read as words of a vocabulary, with a vector beside them or not."""
        return self.caption in ("words", "words_and_vector")


def _form_of(caption: Padded, vocabulary: Vocabulary | None) -> CaptionForm:
    """How captions are read, as one of them shows it; words have a vocabulary, tokens of a network have none here."""
    if vocabulary is not None:
        return "words" if caption.vectors is None else "words_and_vector"
    is_ids = caption.lengths is not None and not caption.values.is_floating_point()
    return "tokens" if is_ids else "vector"


class MatchingModel(nn.Module):
    """Scores images against captions.

    Attributes:
        image_encoder: Inputs of images → encodings.
        text_encoder: Inputs of captions → encodings.
        similarity: Scores encodings.
        exclusive: Of "image" and "text", what DisNCL keeps of them beside the shared codes that are scored; None for
            other models, and where it was dropped: no score depends on it.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        similarity: nn.Module,
        exclusive: nn.ModuleDict | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.similarity = similarity
        self.exclusive = exclusive

    @property
    def scores(self) -> Similarity:
        """The similarity, by what it can do."""
        return cast(Similarity, self.similarity)

    def forward(self, batch: Batch) -> Float[Tensor, "images captions"]:
        """Similarity of every image (rows) with every caption (columns) of the batch; pairs on the diagonal."""
        images = encoded(self.image_encoder, batch.images, batch)
        return self.scores.matrix(images, encoded(self.text_encoder, batch.captions, batch))


def make_model(
    config: ModelConfig,
    inputs: InputShape,
    word_vectors: Float[Tensor, "words size"] | None = None,
    towers: Towers | None = None,
) -> MatchingModel:
    """A fresh model with random weights, drawn from torch's global generator.

    Args:
        config: What it is.
        inputs: What it reads.
        word_vectors: ``[vocabulary, model.word_size]``, what word vectors start from; random if None.
        towers: Where pretrained networks come from: models with the same `towers` share those that are frozen.
    """
    model = _fresh(config, inputs, towers or Towers())
    if word_vectors is not None:
        (vectors,) = (module for module in model.text_encoder.modules() if isinstance(module, nn.Embedding))
        with torch.no_grad():
            vectors.weight.copy_(word_vectors)
    return model


def first_word_vectors(config: ModelConfig, inputs: InputShape, train: Pairs) -> Float[Tensor, "words size"] | None:
    """What word vectors start from: the training captions, if that is asked for and there are words; else None."""
    if config.word_vectors == "random" or not inputs.has_words:
        return None
    return co_occurrence_vectors(inputs_of_captions(train), inputs.caption_width, config.word_size)


def _fresh(config: ModelConfig, inputs: InputShape, towers: Towers) -> MatchingModel:
    if config.codes == "none":
        return _backbone(config, inputs, config.embedding, towers)
    model = _backbone(config, inputs, config.shared, towers)
    backbones = (cast(Backbone, model.image_encoder), cast(Backbone, model.text_encoder))
    model.image_encoder, model.text_encoder = (
        SharedEncoder(
            backbone,
            GaussianHead(config.embedding, config.embedding, config.shared, residual=True),
        )
        for backbone in (model.image_encoder, model.text_encoder)
    )
    if config.codes == "shared_and_exclusive":
        model.exclusive = nn.ModuleDict(
            {
                modality: ExclusiveBranch(
                    config.embedding,
                    config.embedding,
                    config.shared,
                    config.exclusive,
                    backbone.input_width if config.reconstructs == "inputs" else None,
                )
                for modality, backbone in zip(MODALITIES, backbones, strict=True)
            }
        )
    return model


def retrieval_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model without those that no score depends on: DisNCL's exclusive heads and decoders.

    `load_weights` takes them as well as the whole.
    """
    return {name: weight for name, weight in weights.items() if not name.startswith("exclusive.")}


def load_weights(model: MatchingModel, weights: Mapping[str, Tensor]) -> None:
    """Put saved weights into a model; where its exclusive codes were dropped from them, drop the model's.

    Raises:
        RuntimeError: If names or shapes differ.
    """
    if not any(name.startswith("exclusive.") for name in weights):
        model.exclusive = None
    model.load_state_dict(weights)


def _backbone(config: ModelConfig, inputs: InputShape, compared: int, towers: Towers) -> MatchingModel:
    """Encoders of width ``config.embedding``, and a similarity of encodings of width `compared`."""
    if config.similarity == "cosine":
        return _pooled_model(config, inputs, towers)
    return _local_model(config, inputs, compared)


def _pooled_model(config: ModelConfig, inputs: InputShape, towers: Towers) -> MatchingModel:
    """Regions and words pooled as in VSE∞ (Chen et al., CVPR 2021), vectors projected, compared by their cosine."""
    image_encoder: nn.Module
    _refuse_other_inputs(config, inputs)
    if config.image != "features":
        image_encoder = _tower_of_images(config, towers)
    elif inputs.image == "regions":
        regions = RegionEncoder(
            inputs.image_width,
            config.embedding,
            config.input_dropout,
            config.region_dropping,
            config.projection,
            _image_scaling(config, inputs),
            config.batch_norm_rows,
        )
        image_encoder = PooledEncoder(regions, GeneralisedPooling())
    else:
        image_encoder = _vector_encoder(config, inputs.image_width, _image_scaling(config, inputs))
    text_encoder = _caption_encoder(config, inputs, towers)
    if config.head == "plain":
        return MatchingModel(image_encoder, text_encoder, CosineSimilarity())
    size = min(config.similarity_size, config.embedding)
    if config.embedding % size:
        raise ConfigError(
            f"model.head is 'network', so VSE∞ compares in model.similarity_size ({size}) equal blocks of coordinates, "
            f"but model.embedding is {config.embedding}: make it a multiple"
        )
    return MatchingModel(image_encoder, text_encoder, PartialCosine(size, HeadNetwork(size, config.head_size)))


def _caption_encoder(config: ModelConfig, inputs: InputShape, towers: Towers) -> nn.Module:
    """Words pooled, a frozen vector projected, or the sum of both; or a pretrained network and a projection."""
    scaling: Scaling = "none" if config.feature_scaling == "none" else "length"
    if config.text != "features":
        of_text = towers.of_texts(config.text_encoder, is_frozen=config.text == "frozen")
        return TowerEncoder(of_text, _vector_encoder(config, of_text.width, scaling), _tuning(config, config.text))
    if not inputs.has_words:
        return _vector_encoder(config, inputs.caption_width, scaling)
    words = (
        inputs.caption_width,
        inputs.mask,
        config.embedding,
        config.word_size,
        config.word_vector_dropout,
        config.word_dropping,
    )
    encoder: nn.Module
    if config.words == "mean":
        encoder = MeanWordEncoder(*words, config.projection)
    else:
        encoder = PooledEncoder(WordEncoder(*words), GeneralisedPooling())
    if inputs.caption == "words":
        return encoder
    return WordsBesideVector(encoder, _vector_encoder(config, inputs.vector_width, scaling, _SIZE_BESIDE_WORDS))


def _tower_of_images(config: ModelConfig, towers: Towers) -> TowerEncoder:
    """A pretrained network and a projection; what is never negative and not trained is scaled as features are."""
    tower = towers.of_images(config.image_encoder, is_frozen=config.image == "frozen")
    scaling = config.feature_scaling
    if scaling == "auto":
        scaling = "root" if tower.is_positive and config.image == "frozen" else "length"
    head = _vector_encoder(config, tower.width, scaling)
    return TowerEncoder(tower, head, _tuning(config, config.image), config.smallest_crop)


def _tuning(config: ModelConfig, how: Tower) -> Tuning:
    assert how != "features"
    return Tuning(
        how,
        config.tower_learning_rate_factor,
        config.layer_decay,
        config.lora_rank,
        config.lora_targets,
        config.gradient_checkpointing,
    )


def _refuse_other_inputs(config: ModelConfig, inputs: InputShape) -> None:
    """Pixels and tokens are read by pretrained networks, and by nothing else."""
    for side, how, reads, is_raw in (
        ("image", config.image, inputs.image, inputs.image == "pixels"),
        ("text", config.text, inputs.caption, inputs.caption == "tokens"),
    ):
        if (how != "features") != is_raw:
            raise ConfigError(
                f"model.{side} is {how!r}, but the corpus was read as {reads}: read it for this model, "
                "load_corpus(recipe.data, recipe.model)"
            )


def _image_scaling(config: ModelConfig, inputs: InputShape) -> Scaling:
    """What image features become before they are read."""
    if config.feature_scaling != "auto":
        return config.feature_scaling
    return "root" if inputs.image_is_positive else "length"


def _vector_encoder(config: ModelConfig, features: int, scaling: Scaling, size: float = 0.5) -> VectorEncoder:
    return VectorEncoder(features, config.embedding, config.input_dropout, config.projection, scaling, size)


def _local_model(config: ModelConfig, inputs: InputShape, compared: int) -> MatchingModel:
    """Regions compared with words by SAF or SGR (Diao et al., AAAI 2021); a vector is a single region or word.

    A vector beside the words has no part in it.
    """
    width, dropout = config.embedding, config.alignment_dropout
    regions = LinearEncoder(inputs.image_width, width, config.input_dropout, config.region_dropping)
    words: nn.Module
    if inputs.has_words:
        words = WordEncoder(inputs.caption_width, inputs.mask, width, config.word_size, dropout, config.word_dropping)
    else:
        words = LinearEncoder(inputs.caption_width, width, config.input_dropout)
    size = config.similarity_size
    reasoning = AttentionFiltration(size) if config.similarity == "saf" else GraphReasoning(size, config.graph_steps)
    head = HeadNetwork(size, config.head_size) if config.head == "network" else None
    return MatchingModel(
        LocalEncoder(regions, WholeVector(compared, dropout, places=inputs.regions)),
        LocalEncoder(words, WholeVector(compared, dropout)),
        LocalSimilarity(compared, size, reasoning, head),
    )
