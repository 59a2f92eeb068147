"""Where a run computes."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Literal

import torch

from truepair.errors import ConfigError

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

    try:
        return Fabric(accelerator=device, devices=1, precision=precision)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is not available here ({error}): use 'auto' or 'cpu'") from error


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
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
