"""One optimisation step: backward, clip, step, and the averaged weights beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from truepair import processes
from truepair.config import OptimisationConfig
from truepair.encoders.finetuning import learning_rate_factors
from truepair.errors import TrainingError

if TYPE_CHECKING:  # slow to load
    import lightning_fabric

Network = TypeVar("Network", bound=nn.Module)


def learning_rate(config: OptimisationConfig, epoch: float, epochs: int) -> float:
    """The learning rate after `epoch` (a fraction counts) of `epochs` epochs.

    >>> learning_rate(OptimisationConfig(learning_rate=1.0), 15.0, 30)
    0.1
    >>> learning_rate(OptimisationConfig(learning_rate=1.0, schedule="cosine"), 10.0, 30)
    0.75
    """
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return config.learning_rate * config.decay_factor ** int(epoch // config.decay_epochs)


def decay_after(steps: float, decay: float) -> float:
    """How much of the averaged weights a step keeps, after this many steps: ``min(decay, (1 + n) / (10 + n))``.

    The average reaches back over a tenth of the steps so far, at most over ``1 / (1 - decay)``: it never drags random
    weights along, and short runs need no decay of their own.

    >>> decay_after(0.0, 0.99), decay_after(80.0, 0.99), decay_after(10_000.0, 0.99)
    (0.1, 0.9, 0.99)
    """
    return min(decay, (1 + steps) / (10 + steps))


def _average(decay: float, averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
    """One step of the moving average, in place; what `AveragedModel` asks for."""
    with torch.no_grad():
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay_after(float(steps), decay))


def mean_weights(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The mean of the weights and buffers of networks of one kind; counters are those of the first.

    It is of use where all began with the same weights (McMahan et al., AISTATS 2017).
    """
    states = [network.state_dict() for network in networks]
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if first.is_floating_point() else first
        for name, first in states[0].items()
    }


def _groups(parameters: Sequence[nn.Parameter], factors: Mapping[nn.Parameter, float]) -> list[dict[str, Any]]:
    """Parameters by what their learning rate is multiplied with; one plain group where nothing is."""
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_factor.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    if [*by_factor] == [1.0]:
        return [{"params": by_factor[1.0]}]
    return [{"params": some, "factor": factor} for factor, some in by_factor.items()]


class Optimiser(Generic[Network]):
    """AdamW over one network, or some of its parameters.

    Attributes:
        model: What Fabric wraps: call this one in training, for its device and precision.
        evaluated: The network to evaluate and save: the averaged one where weights are averaged.
    """

    def __init__(
        self,
        network: Network,
        config: OptimisationConfig,
        epochs: int,
        fabric: lightning_fabric.Fabric,
        parameters: Iterable[nn.Parameter] | None = None,
        forward: nn.Module | None = None,
    ) -> None:
        """Set up `network` for training.

        Args:
            network: What to train, average and save.
            config: Learning rate, decay, clip, schedule, averaging.
            epochs: Length of the schedule.
            fabric: Device and precision.
            parameters: Which of the network's parameters to train; all if None.
            forward: What training calls instead of the network, where a method needs more than similarities (vectors,
                codes): a module over the network's own parts. The network itself if None.
        """
        parameters = network.parameters() if parameters is None else parameters
        groups = _groups([weight for weight in parameters if weight.requires_grad], learning_rate_factors(network))
        adam = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
        self.model, self._adam = fabric.setup(network if forward is None else forward, adam)
        self._network = network
        self._config = config
        self._epochs = epochs
        self._fabric = fabric
        self._average: AveragedModel | None = None
        if config.weight_average:
            self._average = AveragedModel(network, multi_avg_fn=partial(_average, config.weight_average))
            self._average.requires_grad_(False)

    @property
    def evaluated(self) -> Network:
        """See the class."""
        return self._network if self._average is None else cast(Network, self._average.module)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights, those of a network of the same kind, before the first step."""
        self._network.load_state_dict(weights)
        self.evaluated.load_state_dict(weights)

    def learning_rate(self, epoch: float) -> float:
        """The learning rate after `epoch` epochs; fractions count."""
        return learning_rate(self._config, epoch, self._epochs)

    def learning_rates(self, epoch: float) -> dict[str, float]:
        """That of each parameter of the network, by its name: towers learn slower than the rest."""
        rate, factors = self.learning_rate(epoch), learning_rate_factors(self._network)
        return {name: rate * factors.get(weight, 1.0) for name, weight in self._network.named_parameters()}

    def step(self, loss: Float[Tensor, ""], epoch: float) -> dict[str, float]:
        """Follow the gradient of `loss` once.

        Args:
            loss: A scalar that depends on the network.
            epoch: How far the schedule is, in epochs; fractions count.

        Returns:
            Loss, gradient norm before clipping, and learning rate.

        Raises:
            TrainingError: If the loss or a gradient is not finite; the weights are left as they were.
        """
        self._adam.zero_grad()
        self._fabric.backward(loss)
        return self.follow(loss, epoch)

    def follow(self, loss: Float[Tensor, ""], epoch: float) -> dict[str, float]:
        """`step` for gradients that the parameters hold already: of several processes, the mean of theirs."""
        processes.mean_gradients([weight for group in self._adam.param_groups for weight in group["params"]])
        rate = self.learning_rate(epoch)
        for group in self._adam.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        norm: Any = self._fabric.clip_gradients(
            self.model, self._adam, max_norm=self._config.gradient_clip, error_if_nonfinite=False
        )
        log = {"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": rate}  # waits for the device
        if not math.isfinite(log["loss"] + log["gradient_norm"]):
            raise TrainingError(
                f"loss {log['loss']:g} and gradient norm {log['gradient_norm']:g} at epoch {epoch:.2f}: training "
                f"diverged. Lower learning_rate ({rate:g}), raise temperature, or use precision 32-true; the last "
                "checkpoint is intact"
            )
        self._adam.step()
        if self._average is not None:
            self._average.update_parameters(self._network)
        return log

    def moments(self) -> dict[str, tuple[Tensor, Tensor, float]]:
        """Running means of each parameter's gradient and of its square, and steps taken; nothing before the first."""
        state = self._adam.state
        return {
            name: (state[parameter]["exp_avg"], state[parameter]["exp_avg_sq"], float(state[parameter]["step"]))
            for name, parameter in self._network.named_parameters()
            if parameter in state
        }

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser state and averaged weights."""
        state = {"network": self._network.state_dict(), "adam": self._adam.state_dict()}
        if self._average is not None:
            state["average"] = self._average.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._network.load_state_dict(state["network"])
        self._adam.load_state_dict(state["adam"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
