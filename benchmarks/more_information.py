"""Two more estimates of the mutual information of codes, to compare `truepair.evaluation.information` with.

========================== ============================== ==========================================================
Estimate                   Of                             Error
========================== ============================== ==========================================================
`gaussian_information`     codes narrower than items      none if Gaussian; of other codes, it sees what is linear
`ksg_information`          at most 10 coordinates in all  too low where codes are wide or nearly determine each other
========================== ============================== ==========================================================
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from truepair.errors import ConfigError, DataError
from truepair.evaluation.information import standardised

_ROUNDING = 1e-6
"""What varies less than this, as a share of the widest direction, is float32 rounding."""
_SMALLEST_RESIDUE = 1e-12
"""Least share of a direction's variance that the other code leaves open, so that the logarithm stays finite."""
_WIDEST_FOR_NEIGHBOURS = 10


def gaussian_information(one: Float[Tensor, "items one"], other: Float[Tensor, "items other"]) -> float:
    r"""Information between jointly Gaussian codes, from their canonical correlations ρ.

    .. math:: -\tfrac12 \sum_k \log(1 - \rho_k^2)

    Correlations in a sample are too large by chance: independent codes would seem to hold about ``one · other / (2 ·
    items)`` nats. For Gaussian codes the excess is known, from the expected log-determinant of a Wishart matrix, and is
    taken off, so that the estimate is right in the mean. Nothing is shrunk. A code counts with its rank, which may be
    below its width, and a direction that the other code determines gives 13.8 nats in place of infinity.

    Args:
        one: A code; scale and rotation do not matter.
        other: Another code of the same items.

    Returns:
        Nats, at least 0. Of codes that are not Gaussian it sees what is linear: nothing of a parabola.

    Raises:
        DataError: If a code is NaN or infinite, the counts differ, or there are not more items than the two ranks
            together.
    """
    of_one, of_other = (_directions(code) for code in standardised(one, other))
    items, first, second = len(of_one), of_one.shape[1], of_other.shape[1]
    if items <= first + second:
        raise DataError(
            f"{items:,} items are too few for codes with {first:,} and {second:,} independent directions: more than "
            f"{first + second:,} are needed; add items, project the codes, or use critic_information"
        )
    correlations = torch.linalg.svdvals(of_one.T @ of_other)
    open_share = (1 - correlations.square()).clamp(min=_SMALLEST_RESIDUE)
    excess = (_wishart(items, first) + _wishart(items, second) - _wishart(items, first + second)) / 2
    seen: float = -open_share.log().sum().item() / 2
    return max(0.0, seen - excess)


def ksg_information(one: Float[Tensor, "items one"], other: Float[Tensor, "items other"], neighbours: int = 3) -> float:
    r"""Information between narrow codes of any joint density, from distances to nearest neighbours.

    .. math:: \psi(k) + \psi(N) - \langle \psi(n_s + 1) + \psi(n_x + 1) \rangle

    ψ is the digamma function, N the number of items, and n_s and n_x count the items nearer than the k-th neighbour
    in one code alone; distances are the largest over coordinates, after each is standardised. Estimator 1 of Kraskov,
    Stögbauer and Grassberger, Phys. Rev. E 69, 066138, 2004, Eq. 8. (scikit-learn's `mutual_info_regression` is the
    same for codes of one coordinate.)

    Args:
        one: A code.
        other: Another code of the same items; at most 10 coordinates together, since in wider spaces all neighbours
            are far and the estimate falls towards 0.
        neighbours: k: few for little bias, many for little variance.

    Returns:
        Nats, at least 0. Independent codes give about 0; a strong dependence is underestimated, the more the wider the
        codes.

    Raises:
        DataError: If a code is NaN or infinite, the counts differ, the codes are too wide, there are not more items
            than `neighbours`, or so many items coincide that a neighbour is at distance 0.
        ConfigError: If `neighbours` is below 1.
    """
    from sklearn.neighbors import KDTree

    if neighbours < 1:
        raise ConfigError(f"neighbours is {neighbours}, but an estimate from neighbours needs at least 1")
    codes = [code.numpy() for code in standardised(one, other)]
    joint = np.concatenate(codes, 1)
    items, width = joint.shape
    if width > _WIDEST_FOR_NEIGHBOURS or items <= neighbours:
        raise DataError(
            f"{items:,} items with {width:,} coordinates in both codes: nearest neighbours need more than {neighbours} "
            f"items and tell something in at most {_WIDEST_FOR_NEIGHBOURS} coordinates; "
            "use critic_information or gaussian_information"
        )
    distance = KDTree(joint, metric="chebyshev").query(joint, k=neighbours + 1)[0][:, -1]
    if not distance.all():
        raise DataError(
            f"{int((distance == 0).sum()):,} of {items:,} items coincide with {neighbours} or more others in both "
            "codes; estimates from neighbours need values that do not repeat: keep one item of each kind"
        )
    radius = np.nextafter(distance, 0)  # the k-th neighbour itself is not nearer
    nearer = [KDTree(code, metric="chebyshev").query_radius(code, radius, count_only=True) for code in codes]
    counts = torch.from_numpy(np.stack(nearer)).double()  # each with the item itself: n_s + 1 and n_x + 1
    psi = torch.tensor([neighbours, items], dtype=torch.float64).digamma().sum() - counts.digamma().mean(1).sum()
    return max(0.0, psi.item())


def _directions(code: Tensor) -> Tensor:
    """An orthonormal basis ``[items, rank]`` of what the coordinates of a centred code span."""
    left, spread, _ = torch.linalg.svd(code, full_matrices=False)
    basis: Tensor = left[:, spread > _ROUNDING * spread.amax()]
    return basis


def _wishart(items: int, width: int) -> float:
    """Expected log-determinant of the scatter of so many standard normal items, less ``width · log 2``."""
    halves = torch.arange(items - width, items, dtype=torch.float64) / 2
    return float(halves.digamma().sum())
