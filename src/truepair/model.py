"""A matching model: an image encoder, a text encoder and a similarity between what they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from truepair.config import ModelConfig
from truepair.data.batch import Batch
from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Pairs
from truepair.data.text import Vocabulary
from truepair.encoders.local import LinearEncoder, LocalEncoder, WholeVector
from truepair.encoders.pooling import GeneralisedPooling, PooledEncoder
from truepair.encoders.projection import VectorEncoder
from truepair.encoders.regions import RegionEncoder
from truepair.encoders.words import WordEncoder
from truepair.errors import ConfigError
from truepair.similarity.cosine import CosineSimilarity
from truepair.similarity.head import HeadNetwork
from truepair.similarity.local import LocalSimilarity
from truepair.similarity.partial_cosine import PartialCosine
from truepair.similarity.protocol import Similarity
from truepair.similarity.saf import AttentionFiltration
from truepair.similarity.sgr import GraphReasoning


@dataclass(frozen=True)
class InputShape:
    """What the encoders of a model must read; measured on the data, saved with the weights."""

    image: Literal["vector", "regions"]
    """One vector an image, or a set of region vectors."""
    image_width: int
    """Width of an image's (or region's) features."""
    caption: Literal["vector", "words"]
    """One vector a caption, or words of a vocabulary."""
    caption_width: int
    """Width of a caption's vector, or size of the vocabulary."""
    mask: int = 0
    """Id of ``<mask>`` in the vocabulary; 0 for caption vectors."""
    regions: int = 1
    """Regions of every image; 1 for vectors."""

    @classmethod
    def of(cls, pairs: Pairs, vocabulary: Vocabulary | None) -> InputShape:
        """The shape of what `pairs` holds, whose tokens, if any, come from `vocabulary`."""
        image = pairs.images.take(torch.tensor([0]))
        kind: Literal["vector", "regions"] = "vector" if image.lengths is None else "regions"
        regions = 1 if image.lengths is None else image.values.shape[1]
        if vocabulary is not None:
            return cls(kind, image.values.shape[-1], "words", len(vocabulary), vocabulary.mask, regions)
        caption = inputs_of_captions(pairs).take(torch.tensor([0]))
        return cls(kind, image.values.shape[-1], "vector", caption.values.shape[-1], regions=regions)


class MatchingModel(nn.Module):
    """Scores images against captions.

    Attributes:
        image_encoder: Inputs of images → encodings.
        text_encoder: Inputs of captions → encodings.
        similarity: Scores encodings.
    """

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module, similarity: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.similarity = similarity

    @property
    def scores(self) -> Similarity:
        """The similarity, by what it can do."""
        return cast(Similarity, self.similarity)

    def forward(self, batch: Batch) -> Float[Tensor, "images captions"]:
        """Similarity of every image (rows) with every caption (columns) of the batch; pairs on the diagonal."""
        return self.scores.matrix(self.image_encoder(batch.images), self.text_encoder(batch.captions))


def make_model(config: ModelConfig, inputs: InputShape) -> MatchingModel:
    """A fresh model with random weights, drawn from torch's global generator."""
    return _pooled_model(config, inputs) if config.similarity == "cosine" else _local_model(config, inputs)


def _pooled_model(config: ModelConfig, inputs: InputShape) -> MatchingModel:
    """Regions and words pooled as in VSE∞ (Chen et al., CVPR 2021), vectors projected, compared by their cosine."""
    image_encoder: nn.Module
    text_encoder: nn.Module
    if inputs.image == "regions":
        regions = RegionEncoder(
            inputs.image_width, config.embedding, config.input_dropout, config.region_dropping, config.batch_norm_rows
        )
        image_encoder = PooledEncoder(regions, GeneralisedPooling())
    else:
        image_encoder = VectorEncoder(inputs.image_width, config.embedding, config.input_dropout)
    if inputs.caption == "words":
        words = WordEncoder(
            inputs.caption_width, inputs.mask, config.embedding, config.word_size, dropping=config.word_dropping
        )
        text_encoder = PooledEncoder(words, GeneralisedPooling())
    else:
        text_encoder = VectorEncoder(inputs.caption_width, config.embedding, config.input_dropout)
    if config.head == "plain":
        return MatchingModel(image_encoder, text_encoder, CosineSimilarity())
    size = min(config.similarity_size, config.embedding)
    if config.embedding % size:
        raise ConfigError(
            f"model.head is 'network', so VSE∞ compares in model.similarity_size ({size}) equal blocks of coordinates, "
            f"but model.embedding is {config.embedding}: make it a multiple"
        )
    return MatchingModel(image_encoder, text_encoder, PartialCosine(size, HeadNetwork(size, config.head_size)))


def _local_model(config: ModelConfig, inputs: InputShape) -> MatchingModel:
    """Regions compared with words by SAF or SGR (Diao et al., AAAI 2021); a vector is a single region or word."""
    width, dropout = config.embedding, config.alignment_dropout
    regions = LinearEncoder(inputs.image_width, width, config.input_dropout, config.region_dropping)
    words: nn.Module
    if inputs.caption == "words":
        words = WordEncoder(inputs.caption_width, inputs.mask, width, config.word_size, dropout, config.word_dropping)
    else:
        words = LinearEncoder(inputs.caption_width, width, config.input_dropout)
    size = config.similarity_size
    reasoning = AttentionFiltration(size) if config.similarity == "saf" else GraphReasoning(size, config.graph_steps)
    head = HeadNetwork(size, config.head_size) if config.head == "network" else None
    return MatchingModel(
        LocalEncoder(regions, WholeVector(width, dropout, places=inputs.regions)),
        LocalEncoder(words, WholeVector(width, dropout)),
        LocalSimilarity(width, size, reasoning, head),
    )
