"""What can be read from a code: factors that are known, predicted by a simple model that sees the code alone.

R² is the share of a factor's variance that the prediction explains: 1 for a factor that the code holds in a form that
the probe can read, 0 for one it does not hold, and below 0 where the probe predicts worse than the mean would.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from truepair.errors import DataError

_PENALTIES = 10.0 ** np.arange(-2, 6)
"""Of the ridge probe, for standardised codes."""
_FEWEST_TO_LEARN, _FEWEST_TO_TEST = 20, 2


def ridge_r2(
    codes: Float[Tensor, "items width"],
    targets: Float[Tensor, "items targets"],
    test_codes: Float[Tensor, "test_items width"],
    test_targets: Float[Tensor, "test_items targets"],
) -> float:
    """How well a linear map of the code gives the targets: R² on test items, the mean over targets.

    Ridge regression on codes standardised by the training items. Each target has its own penalty, of 10⁻² … 10⁵, by
    leave-one-out error on the training items, so that a code wider than there are items is no harm.

    Args:
        codes: Of the training items.
        targets: Factors of the training items.
        test_codes: Of other items.
        test_targets: Factors of those.

    Returns:
        At most 1; may be negative, though hardly more than by chance.

    Raises:
        DataError: If there are fewer than 20 training or 2 test items, a value is NaN or infinite, codes and targets
            differ in number, or a target does not vary over the test items.

    Example:
        The sum of two coordinates is linear in them, their product is not.

        >>> import torch
        >>> codes = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> total = codes.sum(1, keepdim=True)
        >>> round(ridge_r2(codes[:100], total[:100], codes[100:], total[100:]), 3)
        1.0
        >>> product = codes.prod(1, keepdim=True)
        >>> ridge_r2(codes[:100], product[:100], codes[100:], product[100:]) < 0.1
        True
    """
    from sklearn.linear_model import RidgeCV

    return _r2(RidgeCV(_PENALTIES, alpha_per_target=True), codes, targets, test_codes, test_targets)


def mlp_r2(
    codes: Float[Tensor, "items width"],
    targets: Float[Tensor, "items targets"],
    test_codes: Float[Tensor, "test_items width"],
    test_targets: Float[Tensor, "test_items targets"],
    *,
    seed: int,
) -> float:
    """How well a small network reads the targets from the code: R² on test items, the mean over targets.

    One hidden layer of 256 ReLUs, for all targets together; Adam, at most 200 epochs, and a tenth of the training items
    decides when to stop. Finds what `ridge_r2` finds (less exactly) and also what the code holds in a nonlinear form.

    Args:
        codes: Of the training items.
        targets: Factors of the training items.
        test_codes: Of other items.
        test_targets: Factors of those.
        seed: Of the network, its batches and the tenth. The global generators stay as they are.

    Returns:
        At most 1; may be negative: a network that fits the training items' noise predicts worse than their mean.

    Raises:
        DataError: As in `ridge_r2`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    network = MLPRegressor(hidden_layer_sizes=(256,), early_stopping=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs ran out; the best of them is kept
        return _r2(network, codes, targets, test_codes, test_targets)


def _r2(probe: Any, codes: Tensor, targets: Tensor, test_codes: Tensor, test_targets: Tensor) -> float:
    from sklearn.metrics import r2_score
    from sklearn.preprocessing import StandardScaler

    learned, learned_factors = _checked(codes, targets, "training", _FEWEST_TO_LEARN)
    tested, tested_factors = _checked(test_codes, test_targets, "test", _FEWEST_TO_TEST)
    still = int((tested_factors == tested_factors[0]).all(0).sum())
    if still:
        raise DataError(
            f"{still:,} of {tested_factors.shape[1]:,} targets have one value in all {len(tested):,} test items, so "
            "that there is no variance to explain; leave them out, or test on more items"
        )
    of_codes, of_targets = StandardScaler().fit(learned), StandardScaler().fit(learned_factors)
    one_target = learned_factors.shape[1] == 1
    wanted = of_targets.transform(learned_factors)
    probe.fit(of_codes.transform(learned), wanted.ravel() if one_target else wanted)
    predicted = probe.predict(of_codes.transform(tested)).reshape(tested_factors.shape)
    return float(r2_score(of_targets.transform(tested_factors), predicted))


def _checked(codes: Tensor, targets: Tensor, part: str, fewest: int) -> tuple[np.ndarray, np.ndarray]:
    if len(codes) != len(targets) or len(codes) < fewest:
        raise DataError(
            f"there are {len(codes):,} {part} codes and {len(targets):,} {part} targets; "
            f"a probe needs as many of the one as of the other, and at least {fewest}"
        )
    bad = (~(codes.isfinite().all(1).cpu() & targets.isfinite().all(1).cpu())).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"codes or targets are NaN or infinite in {len(bad):,} of {len(codes):,} {part} items "
            f"(first: item {int(bad[0])}); check the model that made them"
        )
    return codes.detach().cpu().double().numpy(), targets.detach().cpu().double().numpy()
