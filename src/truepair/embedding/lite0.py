"""EfficientNet-Lite0 (Tan & Le, ICML 2019; https://github.com/tensorflow/tpu, models/official/efficientnet/lite)."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from truepair.embedding.image_encoders import ImageEncoderDescription, check_grid, regions_of
from truepair.errors import TruepairError
from truepair.files.cache import cache_folder
from truepair.files.locking import alone_with
from truepair.files.replacing import replacing
from truepair.pretrained.lite0 import NAME, SIDE, WIDTH, middle_of, published_network
from truepair.pretrained.pictures import Lite0Reader

_POSITIONS = 7
_LONGEST_EXPORT = 300.0
"""Seconds to wait for another process that is exporting the network."""

Maps: TypeAlias = Callable[[Float32[np.ndarray, "images 3 224 224"]], Tensor]
"""Pictures → the last feature map, ``[images, 1280, 7, 7]``, on the CPU."""


class EfficientNetLite0:
    """The mean of the last feature map, or the map as regions; an `ImageEncoder`.

    Values are ReLU6's, in [0, 6], as the network gives them.
    """

    def __init__(self, maps: Maps, grid: int | None, runtime: str) -> None:
        """Put the maps to use.

        Args:
            maps: See `torch_maps` and `onnx_maps`.
            grid: Regions along a side, at most 7; None for one vector a picture.
            runtime: What computes the maps, in words.

        Raises:
            ConfigError: If the grid is too fine.
        """
        check_grid(grid, _POSITIONS, NAME)
        self._maps = maps
        self._grid = grid
        self.description = ImageEncoderDescription(
            name=NAME,
            size=WIDTH,
            grid=grid,
            side=SIDE,
            preprocessing=Lite0Reader.preprocessing,
            runtime=runtime,
            shared_space=False,
        )

    def preprocess(self, picture: Image.Image) -> Float32[np.ndarray, "3 side side"]:
        """See `ImageEncoder.preprocess`."""
        return middle_of(picture)

    def encode(self, batch: Iterable[np.ndarray]) -> Float32[np.ndarray, "images *regions dim"]:
        """See `ImageEncoder.encode`."""
        maps = self._maps(np.stack([*batch]))
        features = maps.mean((2, 3)) if self._grid is None else regions_of(maps, self._grid)
        return features.contiguous().numpy()


def load_lite0(grid: int | None, device: torch.device) -> EfficientNetLite0:
    """The encoder with its published weights, on ONNX Runtime where that is installed and the device is the CPU.

    Args:
        grid: See `EfficientNetLite0`.
        device: Where to compute.

    Raises:
        ConfigError: If the network's packages are not installed, or the grid is too fine.
    """
    check_grid(grid, _POSITIONS, NAME)  # before the export, which takes seconds
    if device.type == "cpu" and all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript")):
        return EfficientNetLite0(onnx_maps(cache_folder() / "networks"), grid, "ONNX Runtime")
    return EfficientNetLite0(torch_maps(device), grid, "PyTorch")


def classifier() -> nn.Linear:
    """The network's last layer: from the mean of the last feature map, ``[1280]``, to ImageNet's 1,000 classes.

    Raises:
        ConfigError: If the network's packages are not installed.
    """
    layer: nn.Linear = published_network()._fc
    return layer


def torch_maps(device: torch.device) -> Maps:
    """The network in PyTorch, batch norms folded."""
    network = _folded(published_network()).to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def maps(batch: Float32[np.ndarray, "images 3 224 224"]) -> Tensor:
        pictures = torch.from_numpy(batch).to(device, memory_format=torch.channels_last)
        extracted: Tensor = network.extract_features(pictures)
        return extracted.cpu()

    return maps


def onnx_maps(folder: Path) -> Maps:
    """The network in ONNX Runtime; as `torch_maps` to 1e-4, and faster.

    Args:
        folder: Where the exported network is kept, which takes seconds to make; made if needed. Where it cannot be
            written to, the network is exported for this process alone.
    """
    try:
        session = _kept_session(folder)
    except (OSError, TruepairError):
        with tempfile.TemporaryDirectory(prefix="truepair-") as temporary:
            session = _kept_session(Path(temporary))

    def maps(batch: Float32[np.ndarray, "images 3 224 224"]) -> Tensor:
        return torch.from_numpy(session.run(None, {"pictures": batch})[0])

    return maps


def _kept_session(folder: Path) -> Any:
    """The network of a folder, which is exported into it unless it is there and whole."""
    path = folder / f"{NAME}-torch-{torch.__version__}.onnx"
    session = _session_if_whole(path)
    if session is not None:
        return session
    folder.mkdir(parents=True, exist_ok=True)
    with alone_with(path, patience=_LONGEST_EXPORT):
        session = _session_if_whole(path)  # of a process that was at it meanwhile
        if session is None:
            _export(_folded(published_network()), path)
            session = _session(path)
    return session


def _session_if_whole(path: Path) -> Any | None:
    """None where there is no file, or a damaged one, of which ONNX Runtime raises nearly anything."""
    if path.exists():
        with suppress(Exception):
            return _session(path)
    return None


def _session(path: Path) -> Any:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other threads decode and need the cores
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _onnxruntime() -> Any:
    """ONNX Runtime without its telemetry, which since 1.29 sends events unless this is set before it is loaded."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # on Windows the variable is not read
    return onnxruntime


class _FeatureMap(nn.Module):
    """The network without its classifier, in the form that the exporter asks for."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        maps: Tensor = self.network.extract_features(pictures)
        return maps


def _export(network: nn.Module, path: Path) -> None:
    """An ONNX file for any number of pictures, which appears whole or not at all."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    try:
        exporter.setLevel(logging.ERROR)  # it warns that torchvision, which nothing here needs, is not installed
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter uses interfaces of PyTorch that PyTorch warns of
            torch.onnx.export(
                _FeatureMap(network).eval(),
                (torch.zeros(2, 3, SIDE, SIDE),),
                temporary,
                input_names=["pictures"],
                output_names=["maps"],
                dynamic_shapes=({0: torch.export.Dim("images")},),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    finally:
        exporter.setLevel(level)


def _folded(network: Any) -> Any:
    """The same function with each batch norm folded into the convolution before it: a quarter faster in PyTorch."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
    for owner, convolution, norm in pairs:
        setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    return network
