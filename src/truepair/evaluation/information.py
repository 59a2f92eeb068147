"""Mutual information of two codes of the same items, estimated two ways; in nats (divide by log 2 for bits).

========================== ============================== ==========================================================
Estimate                   Of                             Error
========================== ============================== ==========================================================
`critic_information`       any codes                      too low: a lower bound, on items that the critic never saw
`info_nce_bound`           a similarity matrix            too low: a lower bound, never above log(items)
========================== ============================== ==========================================================
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from truepair.errors import ConfigError, DataError
from truepair.losses.contrastive import info_nce
from truepair.losses.information import DensityRatioCritic, critic_loss, derangement

_ROUNDING = 1e-6
"""What varies less than this, as a share of the coordinate's size, is float32 rounding."""
_FEWEST_FOR_CRITIC = 50
_VALIDATION = 0.15
"""Share of the items that choose the critic's step."""
_CHECK_EVERY = 20
_PATIENCE = 10
"""Checks without progress after which the critic stops."""
_COMPARISONS_TO_CHOOSE, _COMPARISONS_TO_ESTIMATE = 8_192, 65_536
"""Couples of codes of two items that stand for all of them."""


def info_nce_bound(similarity: Float[Tensor, "items items"], temperature: float) -> float:
    """``log(items) - InfoNCE``, the mean of both directions: a lower bound on the information between two codes.

    van den Oord et al., 2018, https://arxiv.org/abs/1807.03748, Eq. 5. It holds in the mean over batches of independent
    items, for any similarity that was not fitted to these very items.

    Args:
        similarity: Item i of the one code with item i of the other on the diagonal; higher = more similar.
        temperature: τ, above 0.

    Returns:
        Nats, at most log(items), however much information there is; below 0 for a similarity worse than none.

    Raises:
        DataError: If the matrix is empty, or a similarity is NaN or infinite.

    Example:
        A similarity that tells all of 4 items apart shows log 4 = 1.3863.

        >>> round(info_nce_bound(torch.eye(4), temperature=0.05), 4)
        1.3863
    """
    bad = (~similarity.isfinite()).any(1).sum().item()
    if len(similarity) == 0 or bad:
        raise DataError(
            f"similarity has NaN or infinity in {bad:,} of {len(similarity):,} rows; the bound needs at least one row "
            "and finite values: check the model that made the codes"
        )
    return math.log(len(similarity)) - info_nce(similarity.detach(), temperature).item() / 2


def critic_information(
    one: Float[Tensor, "items one"],
    other: Float[Tensor, "items other"],
    *,
    seed: int,
    steps: int = 1000,
    hidden: int = 256,
    batch_size: int = 256,
    held_out: float = 0.3,
) -> float:
    r"""Information between codes of any width and density: what a fresh critic tells of items it never saw.

    .. math:: \mathbb{E}_{p(s,x)} D - \log \mathbb{E}_{p(s)p(x)} e^D \;\le\; I(S; X)

    D learns to tell the codes of one item from those of two (`losses.information.critic_loss`), whose optimum is the
    log density ratio; there, the second term vanishes and the first is the information. But the first alone bounds
    nothing: a critic that overfits, or is merely off by a constant, reports too much or too little. With the second
    term (Donsker and Varadhan's bound) any critic reports too little, in the mean over held-out items.

    One hidden layer; Adam, 5e-3; weights averaged over some 20 steps. The step is chosen by the loss on validation
    items, of neither part, and a critic that tells nothing of them is not used: the estimate is 0. D is kept between
    the least and the largest logit of their own codes. The bound holds for that critic too, and a single odd item,
    whose exponential would be the whole second term, cannot overturn it.

    Args:
        one: A code; scale does not matter.
        other: Another code of the same items.
        seed: Decides the parts, the critic and its batches. The global generators stay as they are.
        steps: Most steps of the critic; it stops after 200 without progress.
        hidden: Width of the critic's layer.
        batch_size: Items a step.
        held_out: Share of the items that the estimate is made on, in [0.1, 0.7]; another 0.15 choose the step.

    Returns:
        Nats, at least 0. Close for thousands of items and few dimensions; the fewer the items and the wider the codes,
        the lower. Compare codes by the same number of items.

    Raises:
        DataError: If a code is NaN or infinite, the counts differ, or there are fewer than 50 items.
        ConfigError: If `held_out` is out of range, or steps, hidden or batch size are too small.
    """
    if not 0.1 <= held_out <= 0.7:
        raise ConfigError(f"held_out is {held_out}, but it is a share of the items, from 0.1 to 0.7")
    if steps < 1 or hidden < 1 or batch_size < 2:
        raise ConfigError(
            f"steps is {steps}, hidden {hidden} and batch_size {batch_size}, but at least 1, 1 and 2 are needed"
        )
    codes = torch.cat([code.float() for code in standardised(one, other)], 1)
    if len(codes) < _FEWEST_FOR_CRITIC:
        raise DataError(
            f"{len(codes):,} items are too few to train, choose and test a critic: at least {_FEWEST_FOR_CRITIC} are "
            "needed, and some hundreds for an estimate worth reading"
        )
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        shuffled = codes[torch.randperm(len(codes))]
        test_items, validation_items = int(held_out * len(codes)), int(_VALIDATION * len(codes))
        sizes = [test_items, validation_items, len(codes) - test_items - validation_items]
        tested, validation, learned = shuffled.split(sizes)
        critic = DensityRatioCritic(one.shape[1], other.shape[1], hidden, layers=0)
        chosen = _fitted(critic, learned, validation, one.shape[1], steps, batch_size)
    if chosen is None:
        return 0.0
    usual, _ = _logits(chosen, validation, one.shape[1], 1)
    joint, mixed = (
        logits.clamp(usual.amin(), usual.amax())
        for logits in _logits(chosen, tested, one.shape[1], _COMPARISONS_TO_ESTIMATE)
    )
    return max(0.0, (joint.mean() - mixed.flatten().logsumexp(0)).item() + math.log(mixed.numel()))


def _fitted(
    critic: DensityRatioCritic, learned: Tensor, validation: Tensor, width: int, steps: int, batch_size: int
) -> AveragedModel | None:
    """The averaged critic of the step with the least validation loss; None if it never beats a constant."""
    averaged = AveragedModel(critic, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    optimiser = torch.optim.Adam(critic.parameters(), lr=5e-3)
    best, least, since = None, 2 * math.log(2), 0
    for step in range(1, steps + 1):
        one, other = learned[torch.randperm(len(learned))[:batch_size]].tensor_split([width], 1)
        loss = critic_loss(critic(one, other), critic(one, other[derangement(len(one))]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        averaged.update_parameters(critic)
        if step % _CHECK_EVERY and step < steps:
            continue
        joint, mixed = _logits(averaged, validation, width, _COMPARISONS_TO_CHOOSE)
        validation_loss = torch.stack([critic_loss(joint, others) for others in mixed]).mean().item()
        since += 1
        if validation_loss < least:
            best, least, since = deepcopy(averaged), validation_loss, 0
        if since == _PATIENCE:
            break
    return best


@torch.no_grad()
def _logits(critic: AveragedModel, codes: Tensor, width: int, comparisons: int) -> tuple[Tensor, Tensor]:
    """Of each item's two codes, ``[items]``, and of about so many couples of codes of two, ``[shifts, items]``."""
    critic.eval()
    one, other = codes.tensor_split([width], 1)
    most = len(codes) - 1
    shifts = torch.linspace(1, most, min(most, 1 + comparisons // len(codes))).round().long().tolist()
    joint: Tensor = critic(one, other)
    return joint, torch.stack([critic(one, other.roll(shift, 0)) for shift in shifts])


def standardised(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 on the CPU, each coordinate with mean 0 and variance 1, or 0 throughout if it does not vary."""
    if len(one) != len(other) or len(one) == 0:
        raise DataError(
            f"there are codes of {len(one):,} and of {len(other):,} items; "
            "information needs two codes of the same items, and at least one item"
        )
    return _of_unit_variance(one), _of_unit_variance(other)


def _of_unit_variance(code: Tensor) -> Tensor:
    bad = (~code.isfinite()).any(1).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"a code is NaN or infinite in {len(bad):,} of {len(code):,} items (first: item {int(bad[0])}); "
            "check the model that made it"
        )
    code = code.detach().cpu().double()
    centred = code - code.mean(0)
    deviation = centred.square().mean(0).sqrt()
    size = code.abs().amax(0)
    return torch.where(deviation > _ROUNDING * size, centred / deviation, torch.zeros_like(centred))
