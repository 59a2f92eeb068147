"""Tokens → one vector a word, or one a caption."""

from __future__ import annotations

import torch.nn as nn

from truepair.data.batch import Padded
from truepair.encoders.dropping import WordDropping
from truepair.encoders.projection import VectorEncoder
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
        self.dropping = WordDropping(dropping, vocabulary_size, mask)
        self.vectors = _word_vectors(vocabulary_size, word_size)
        self.dropout = nn.Dropout(word_dropout)
        self.gru = BidirectionalGru(word_size, embedding)

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
    """

    def __init__(
        self,
        vocabulary_size: int,
        mask: int,
        embedding: int,
        word_size: int = 300,
        dropout: float = 0.0,
        dropping: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropping = WordDropping(dropping, vocabulary_size, mask)
        self.vectors = _word_vectors(vocabulary_size, word_size)
        self.projection = VectorEncoder(word_size, embedding, dropout)

    def forward(self, items: Padded) -> Padded:
        """One unit vector a caption."""
        return self.encoding(self.features(items))

    def features(self, items: Padded) -> Padded:
        """Token ids → vectors ``[captions, embedding]`` of any length."""
        items = self.dropping(items)
        assert items.lengths is not None  # captions have words
        vectors = self.vectors(items.values).masked_fill(~items.mask[..., None], 0)
        mean = vectors.sum(1) / items.lengths[:, None]
        return self.projection.features(Padded(mean))

    def encoding(self, features: Padded) -> Padded:
        """Vectors of any length → of length 1."""
        return self.projection.encoding(features)


def _word_vectors(vocabulary_size: int, size: int) -> nn.Embedding:
    vectors = nn.Embedding(vocabulary_size, size, padding_idx=0)
    nn.init.uniform_(vectors.weight, -0.1, 0.1)
    return vectors
