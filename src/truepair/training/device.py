"""Where a run computes: on one device, or in several processes with a device each."""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from truepair import processes
from truepair.config import TrainingConfig
from truepair.encoders.finetuning import TowerEncoder
from truepair.errors import ConfigError, DataError, TrainingError, said_by
from truepair.in_parts import share_batch_norms

if TYPE_CHECKING:  # slow to load
    import lightning_fabric


def make_fabric(device: str, precision: Literal["32-true", "bf16-mixed"] = "32-true") -> lightning_fabric.Fabric:
    """One device and its arithmetic.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        precision: That of the forward pass in training.

    Raises:
        ConfigError: If this machine has no such device.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    try:  # a task of SLURM may compute by itself: its number and its neighbours do not matter here
        return Fabric(accelerator=device, devices=1, precision=precision, plugins=LightningEnvironment())
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is not available here ({error}): use 'auto' or 'cpu'") from error


@contextmanager
def training_fabric(training: TrainingConfig) -> Iterator[lightning_fabric.Fabric]:
    """The devices that a recipe trains on; of several, this process has one, until the block ends.

    Raises:
        ConfigError: If this machine has no such device, or torchrun or SLURM started other processes than the recipe
            has devices.
        TrainingError: If the other processes do not answer.
    """
    devices, nodes = _devices_and_nodes(training)
    if training.batch_size < devices * nodes:
        raise ConfigError(
            f"training.batch_size is {training.batch_size}, but {devices * nodes} devices share a batch: raise it, or "
            "use fewer devices"
        )
    if devices * nodes == 1:
        yield make_fabric(training.device, training.precision)
        return
    try:
        yield _joined_fabric(training, devices, nodes)
    finally:
        processes.leave()


def _devices_and_nodes(training: TrainingConfig) -> tuple[int, int]:
    """Devices on a node and nodes: what torchrun started processes for, or else what the recipe says.

    Raises:
        ConfigError: If they differ, or nothing has started the processes.
    """
    asked = training.devices, training.nodes
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        started = here, int(os.environ["WORLD_SIZE"]) // here
        if asked not in ((1, 1), started):
            raise ConfigError(
                f"training.devices is {asked[0]} and training.nodes {asked[1]}, but torchrun started {started[0]} "
                f"processes on each of {started[1]} nodes: give it the same numbers, or leave these options out"
            )
        return started
    if asked != (1, 1) and "SLURM_PROCID" not in os.environ:
        nodes = "--standalone" if training.nodes == 1 else f"--nnodes {training.nodes} --rdzv-endpoint HOST:PORT"
        raise ConfigError(
            f"training.devices is {asked[0]} and training.nodes {asked[1]}, but one process was started: start one a "
            f"device, with 'torchrun {nodes} --nproc-per-node {asked[0]} -m truepair train …', or with srun"
        )
    return asked


def _joined_fabric(training: TrainingConfig, devices: int, nodes: int) -> lightning_fabric.Fabric:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    class Alike(DDPStrategy):
        """Networks start alike; `Optimiser` averages gradients, which methods also find outside a network's call."""

        def setup_module(self, module: torch.nn.Module) -> torch.nn.Module:  # type: ignore[override]
            share_batch_norms(module)
            _refuse_other_networks(module)
            processes.copy_from_first([*module.parameters(), *module.buffers()])
            return module

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it says that processes join
    try:
        fabric = Fabric(
            accelerator=training.device,
            devices=devices,
            num_nodes=nodes,
            strategy=Alike(timeout=processes.PATIENCE),
            precision=training.precision,
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(
            f"training.devices is {devices} and training.nodes {nodes}, which cannot be had with training.device "
            f"{training.device!r} ({said_by(error)[:300]})"
        ) from error
    try:
        with _stopped_by_signals():
            fabric.launch()
            processes.join()
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"this process cannot join the others of {nodes} × {devices} ({said_by(error)[:300]}): start as many on "
            "every node, and let the nodes reach each other"
        ) from error
    return fabric


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process at once: what waits for other processes does not hear Python's handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_other_networks(module: torch.nn.Module) -> None:
    """Refuse pretrained networks whose weights, where they are not trained, are others than those of process 0.

    Raises:
        DataError: If there are, on all processes alike.
    """
    encoders = {name: part for name, part in module.named_modules() if isinstance(part, TowerEncoder)}
    numbers = {name: int(encoder.number) for name, encoder in encoders.items() if encoder.tuning.how != "full"}
    other = processes.different({name: str(number).encode() for name, number in numbers.items()})
    if other:
        raise DataError(
            f"process {min(other.values())} has a pretrained network with other weights than process 0 (this is "
            f"process {processes.rank()}): give all nodes the same folder, or the same files from the hub"
        )


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB; None on Windows, where Python's library does not tell."""
    if sys.platform == "win32":
        return None
    try:
        import resource
    except ImportError:  # other systems that are not Unix
        return None
    scale = 1e6 if platform.system() == "Darwin" else 1e3  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 1)


def hardware(device: torch.device) -> str:
    """What computed, in words."""
    count = f"{processes.count()} processes: " if processes.count() > 1 else ""
    if device.type == "cuda":
        return count + torch.cuda.get_device_name(device)
    return f"{count}{platform.machine()} CPU, {torch.get_num_threads()} threads"
