"""Codes of many dimensions, laid out in two."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
from torch import Tensor

_PERPLEXITY = 30.0
_NOTHING = 1e-6
"""Standard deviation of codes that are all the same but for rounding."""


def plane_map(codes: Float[Tensor, "items size"], seed: int) -> Float[np.ndarray, "items 2"] | None:
    """Where t-SNE (van der Maaten & Hinton, 2008) puts each item; None if there are fewer than 5, or all are the same.

    Only closeness means anything: not axes, not distances between groups. The same on every call: it runs
    on one thread, since sums of several come out in any order.
    """
    values = codes.double().numpy()
    if len(values) < 5 or values.std(0).max() < _NOTHING:
        return None
    perplexity = min(_PERPLEXITY, (len(values) - 1) / 3)
    with threadpool_limits(1):
        placed: np.ndarray = TSNE(
            init="pca" if values.shape[1] > 1 else "random", perplexity=perplexity, random_state=seed, n_jobs=1
        ).fit_transform(values)
    return placed
