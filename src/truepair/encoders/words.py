"""Tokens → one vector a word, or one a caption."""

from __future__ import annotations

import torch
import torch.nn as nn

from truepair.data.batch import Padded
from truepair.encoders.codes import mean_of_positions
from truepair.encoders.dropping import WordDropping
from truepair.encoders.projection import Projection, VectorEncoder
from truepair.encoders.recurrent import BidirectionalGru


class WordEncoder(nn.Module):
    """Token ids ``[captions, words]`` → ``[captions, words, embedding]``: word vectors and a bidirectional GRU.

    The mean of the two directions stands for a word. Word vectors start from ``U(-0.1, 0.1)`` and the GRU from
    PyTorch's own initialisation, as in the released code of SGRAF and CRCL.

    Args:
        vocabulary_size: Number of token ids; id 0 is padding.
        mask: Id of ``<mask>``, which `dropping` puts in place of words.
        embedding: Width of the joint space and of each GRU direction.
        word_size: Width of word vectors; 300 in every published system.
        word_dropout: Dropout on word vectors: 0 for VSE∞, 0.4 for SAF and SGR.
        dropping: Probability that a word is altered, in training mode (`WordDropping`).
    """

    def __init__(
        self,
        vocabulary_size: int,
        mask: int,
        embedding: int,
        word_size: int = 300,
        word_dropout: float = 0.0,
        dropping: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_width = word_size
        self.dropping = WordDropping(dropping, vocabulary_size, mask)
        self.vectors = _word_vectors(vocabulary_size, word_size)
        self.dropout = nn.Dropout(word_dropout)
        self.gru = BidirectionalGru(word_size, embedding)

    @torch.no_grad()
    def inputs(self, items: Padded) -> Padded:
        """The mean word vector of each caption, as it is now."""
        return mean_of_positions(self.vectors(items.values), items)

    def forward(self, items: Padded) -> Padded:
        """One vector a word; zeros past a caption's length."""
        items = self.dropping(items)
        states: Padded = self.gru(Padded(self.dropout(self.vectors(items.values)), items.lengths))
        return states


class MeanWordEncoder(nn.Module):
    """Token ids ``[captions, words]`` → unit vectors ``[captions, embedding]``: the mean word vector, projected.

    A bag of words: no order, no recurrence. Word vectors start as in `WordEncoder`; ``<start>`` and ``<end>`` count as
    words.

    Args:
        vocabulary_size: Number of token ids; id 0 is padding.
        mask: Id of ``<mask>``, which `dropping` puts in place of words.
        embedding: Width of the joint space.
        word_size: Width of word vectors.
        dropout: Dropout on the mean word vector.
        dropping: Probability that a word is altered, in training mode (`WordDropping`).
        kind: ``model.projection``.
    """

    def __init__(
        self,
        vocabulary_size: int,
        mask: int,
        embedding: int,
        word_size: int = 300,
        dropout: float = 0.0,
        dropping: float = 0.0,
        kind: Projection = "batch_norm",
    ) -> None:
        super().__init__()
        self.input_width = word_size
        self.dropping = WordDropping(dropping, vocabulary_size, mask)
        self.vectors = _word_vectors(vocabulary_size, word_size)
        self.projection = VectorEncoder(word_size, embedding, dropout, kind)

    @torch.no_grad()
    def inputs(self, items: Padded) -> Padded:
        """The mean word vector of each caption, as it is now."""
        return mean_of_positions(self.vectors(items.values), items)

    def forward(self, items: Padded) -> Padded:
        """One unit vector a caption."""
        return self.encoding(self.features(items))

    def features(self, items: Padded) -> Padded:
        """Token ids → vectors ``[captions, embedding]`` of any length."""
        items = self.dropping(items)
        assert items.lengths is not None  # captions have words
        share = items.mask / items.lengths[:, None]  # [captions, words], of each word in the mean
        mean = (share[:, None].to(self.vectors.weight) @ self.vectors(items.values)).squeeze(1)  # [captions, word_size]
        return self.projection.features(Padded(mean))

    def encoding(self, features: Padded) -> Padded:
        """Vectors of any length → of length 1."""
        return self.projection.encoding(features)


class WordsBesideVector(nn.Module):
    """Captions that are read in two ways: words by an encoder, and a frozen vector by a projection, summed.

    The sum stands before the last step of the word encoder, which makes unit vectors.

    Args:
        words: An encoder of token ids with ``features`` and ``encoding``: `MeanWordEncoder`, or a pooled `WordEncoder`.
        vector: What reads the frozen vector, `Padded.vectors`.
    """

    def __init__(self, words: nn.Module, vector: VectorEncoder) -> None:
        super().__init__()
        self.words = words
        self.vector = vector

    @property
    def input_width(self) -> int:
        """See `Backbone.input_width`."""
        return int(self.words.input_width) + self.vector.input_width  # type: ignore[arg-type]

    def inputs(self, items: Padded) -> Padded:
        """What the words are, then the vector."""
        assert items.vectors is not None
        of_words = self.words.inputs(items)  # type: ignore[operator]  # see the class
        return Padded(torch.cat([of_words.values, self.vector.inputs(Padded(items.vectors)).values], 1))

    def forward(self, items: Padded) -> Padded:
        """Token ids with vectors → one unit vector a caption."""
        return self.encoding(self.features(items))

    def features(self, items: Padded) -> Padded:
        """Token ids with vectors → vectors ``[captions, embedding]`` of any length."""
        assert items.vectors is not None  # InputShape says that the captions have them
        of_words = self.words.features(items)  # type: ignore[operator]  # see the class
        return Padded(of_words.values + self.vector.features(Padded(items.vectors)).values)

    def encoding(self, features: Padded) -> Padded:
        """Vectors of any length → of length 1."""
        return self.vector.encoding(features)


def _word_vectors(vocabulary_size: int, size: int) -> nn.Embedding:
    vectors = nn.Embedding(vocabulary_size, size, padding_idx=0)
    nn.init.uniform_(vectors.weight, -0.1, 0.1)
    return vectors
