"""Word vectors from the company that words keep in the captions themselves: nothing to download, no pair to trust."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from truepair.data.pairs import Inputs

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_CAPTIONS_AT_A_TIME = 16_384
_POWER_ITERATIONS = 7
"""Of the randomised decomposition; more change nothing that matters."""
_LEAST_VALUE = 1e-6
"""Singular values below this share of the largest are none."""
_SPREAD = 0.3 / 3**0.5
"""Standard deviation of the vectors' values: three times that of U(-0.1, 0.1), which random word vectors start from, so
that they are not soon forgotten."""


def co_occurrence_vectors(captions: Inputs, words: int, size: int) -> Float[Tensor, "words size"]:
    r"""Vectors in which words are alike that stand in like captions.

    The truncated singular value decomposition :math:`U_d \Sigma_d^{1/2}` of the positive pointwise mutual information

    .. math::
        \max \Big( 0, \log \frac{n_{ab} \, n}{n_a \, n_b} \Big)

    where n_ab counts the captions that hold both words, n_a its sum over b and n that over a (Levy & Goldberg, NIPS
    2014, https://papers.nips.cc/paper/5477, with a whole caption as the window). It reads captions, never pairs, so
    that mismatched pairs do it no harm.

    Args:
        captions: Tokens of the training captions; 0 is padding.
        words: Size of the vocabulary.
        size: Width of the vectors. Where the words have fewer dimensions, the others are 0.

    Returns:
        ``[words, size]``, with a standard deviation of 0.17; words that keep no company have 0. The same
        captions give the same vectors.
    """
    from sklearn.utils.extmath import randomized_svd

    information = _positive_mutual_information(captions, words)
    vectors = np.zeros((words, size), dtype=np.float32)
    rank = min(size, words - 1)
    if information.nnz and rank:
        left, values, _ = randomized_svd(information, n_components=rank, n_iter=_POWER_ITERATIONS, random_state=0)
        values[values < _LEAST_VALUE * values.max()] = 0  # what is left there is rounding
        vectors[:, :rank] = left * np.sqrt(values)
        vectors[information.getnnz(1) == 0] = 0
        vectors *= _SPREAD / vectors.std()
    return torch.from_numpy(vectors)


def _positive_mutual_information(captions: Inputs, words: int) -> csr_matrix:
    """``[words, words]``, sparse; memory grows with the couples of words that meet, not with the captions."""
    from scipy.sparse import csr_matrix

    together = csr_matrix((words, words))
    for block in torch.arange(len(captions)).split(_CAPTIONS_AT_A_TIME):
        tokens = captions.take(block).values.numpy()
        caption, place = np.nonzero(tokens)
        shape = (len(block), words)
        holds = csr_matrix((np.ones(len(caption), dtype=np.float64), (caption, tokens[caption, place])), shape=shape)
        holds.data[:] = 1  # repeated words count once a caption
        together = together + holds.T @ holds
    together.setdiag(0)
    together.eliminate_zeros()
    met = together.tocoo()
    often = np.asarray(together.sum(1)).ravel()
    information = np.log(met.data * met.data.sum() / (often[met.row] * often[met.col]))
    kept = information > 0
    return csr_matrix((information[kept], (met.row[kept], met.col[kept])), shape=(words, words))
