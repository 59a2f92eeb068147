"""Tokens → one vector a word."""

from __future__ import annotations

import torch.nn as nn

from truepair.data.batch import Padded
from truepair.encoders.dropping import WordDropping
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
        self.vectors = nn.Embedding(vocabulary_size, word_size, padding_idx=0)
        nn.init.uniform_(self.vectors.weight, -0.1, 0.1)
        self.dropout = nn.Dropout(word_dropout)
        self.gru = BidirectionalGru(word_size, embedding)

    def forward(self, items: Padded) -> Padded:
        """One vector a word; zeros past a caption's length."""
        items = self.dropping(items)
        states: Padded = self.gru(Padded(self.dropout(self.vectors(items.values)), items.lengths))
        return states
