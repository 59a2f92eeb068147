"""``--to hf``: networks that transformers loads, and the heads behind them with a JSON that says how to apply them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor

from truepair.exporting.heads import Head, dense_head
from truepair.exporting.model import Exportable, Side
from truepair.exporting.networks import exported_sides, pooling_of, save_networks
from truepair.exporting.samples import Samples, largest_difference
from truepair.exporting.written import Written
from truepair.files.json import read_json, write_json
from truepair.pretrained.captions import CaptionReader
from truepair.pretrained.hub import load_image_processor, load_network, load_tokenizer
from truepair.pretrained.pictures import HubReader

WEIGHTS, DESCRIPTION = "heads.safetensors", "heads.json"
ONLY_CAPTIONS = (
    "only captions can be encoded: EfficientNet-Lite0, which reads the pictures, is no network of transformers; the "
    "ONNX export (--to onnx) has both sides"
)
_RULE = (
    "For each network of a side: encode with what lies in its folder (pooling 'network': get_text_features or "
    "get_image_features; 'mean' or 'cls': last_hidden_state, over attention_mask). Divide the vector by its length. If "
    "root: each value becomes sign(x) * sqrt(|x|), and the vector is divided by its length again. Then each layer: "
    "x = weight @ x + bias, and max(x, 0) if relu. Divide by the length. The vectors of all heads of a side, in their "
    "order, stand side by side, divided by the square root of their number. Products of vectors are similarities."
)
_LOAD = f"""\
    import json
    from safetensors.numpy import load_file
    from transformers import AutoModel, AutoTokenizer

    weights, how = load_file("{WEIGHTS}"), json.load(open("{DESCRIPTION}"))
    folder = how["text"]["networks"][0]["folder"]
    network, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

`{DESCRIPTION}` says what is done with captions and pictures, and `rule` in it how the heads in `{WEIGHTS}` are applied.
It takes NumPy and no other library."""


def write_networks(model: Exportable, samples: Samples, folder: Path) -> Written:
    """Write the networks and the heads, load them by transformers, apply the heads by NumPy, and compare with the run.

    Args:
        model: What to export, without low-rank updates beside its weights.
        samples: What to compare by.
        folder: Where to.

    Raises:
        ConfigError: If the folder gives other vectors.
    """
    names = exported_sides(model)
    folders = save_networks(model, folder, names)
    weights: dict[str, Tensor] = {}
    how: dict[str, Any] = {"rule": _RULE}
    for name in names:
        side = model.side(name)
        how[name] = {"networks": _described(name, side, folders[name], weights), **_read_by(name, side)}
    save_file(weights, folder / WEIGHTS)
    write_json(folder / DESCRIPTION, how)
    differences = {
        name: largest_difference(_vectors(folder, name, samples), samples.vectors(name), f"what was saved ({name})")
        for name in names
    }
    return Written(names, differences, _LOAD, () if "image" in names else (ONLY_CAPTIONS,))


def _described(name: str, side: Side, folders: Sequence[str], weights: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The networks of a side with their heads, whose weights are added to `weights`."""
    described, number = [], 0
    for part, folder in zip(side.networks, folders, strict=True):
        heads = []
        for encoder in part.heads:
            heads.append(_described_head(f"{name}.{number}", dense_head(encoder), weights))
            number += 1
        described.append({"folder": folder, "pooling": pooling_of(part.tower), "heads": heads})
    return described


def _described_head(name: str, head: Head, weights: dict[str, Tensor]) -> dict[str, Any]:
    layers = []
    for place, layer in enumerate(head.layers):
        of_layer = {"weight": f"{name}.{place}.weight", "bias": f"{name}.{place}.bias"}
        weights[of_layer["weight"]] = layer.weight.detach().clone(memory_format=torch.contiguous_format)
        weights[of_layer["bias"]] = layer.bias.detach().clone()
        layers.append({**of_layer, "relu": layer.is_relu})
    return {"root": head.scaling == "root", "layers": layers}


def _read_by(name: str, side: Side) -> dict[str, Any]:
    """How items become the input of a side's networks, beyond what lies in their folders."""
    if name == "image":
        reader = HubReader(side.name)
        return {"squeeze_to": None if reader.patch is None else reader.side}
    tokens = CaptionReader(side.name)
    return {
        "padding": "max_length" if tokens.sees_padding else "longest",
        "max_length": tokens.maximum_tokens,
        "attention_mask": not tokens.sees_padding,
    }


def _vectors(folder: Path, name: str, samples: Samples) -> Float32[np.ndarray, "items dim"]:
    """The vectors of a side, by what lies in the folder alone."""
    how, weights = read_json(folder / DESCRIPTION) or {}, load_file(folder / WEIGHTS)
    made: list[np.ndarray] = []
    for network in how[name]["networks"]:
        place = str(folder / network["folder"])
        if name == "image":
            vectors = _of_pictures(place, samples.pictures, how[name]["squeeze_to"])
        else:
            vectors = _of_captions(place, samples.captions, how[name], network["pooling"])
        made += [_headed(_unit(vectors), head, weights) for head in network["heads"]]
    together: np.ndarray = np.concatenate(made, 1) / np.float32(len(made) ** 0.5)
    return together


@torch.inference_mode()
def _of_pictures(folder: str, pictures: Sequence[Image.Image], squeeze_to: int | None) -> np.ndarray:
    if squeeze_to is not None:
        pictures = [picture.resize((squeeze_to, squeeze_to), Image.Resampling.BILINEAR) for picture in pictures]
    given = load_image_processor(folder)(list(pictures), return_tensors="pt")
    return _pooled(load_network(folder).get_image_features(**given))


@torch.inference_mode()
def _of_captions(folder: str, captions: Sequence[str], how: Mapping[str, Any], pooling: str) -> np.ndarray:
    given = load_tokenizer(folder)(
        list(captions), padding=how["padding"], truncation=True, max_length=how["max_length"], return_tensors="pt"
    )
    mask = {"attention_mask": given["attention_mask"]} if how["attention_mask"] else {}
    network = load_network(folder)
    if pooling == "network":
        return _pooled(network.get_text_features(input_ids=given["input_ids"], **mask))
    states = network(input_ids=given["input_ids"], **mask).last_hidden_state
    if pooling == "cls":
        first: np.ndarray = states[:, 0].numpy()
        return first
    is_token = given["attention_mask"][..., None]
    mean: np.ndarray = ((states * is_token).sum(1) / is_token.sum(1)).numpy()
    return mean


def _pooled(output: Any) -> np.ndarray:
    vectors: np.ndarray = (output if isinstance(output, Tensor) else output.pooler_output).numpy()
    return vectors


def _headed(vectors: np.ndarray, head: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> np.ndarray:
    if head["root"]:
        vectors = _unit(np.sign(vectors) * np.sqrt(np.abs(vectors)))
    for layer in head["layers"]:
        vectors = vectors @ weights[layer["weight"]].T + weights[layer["bias"]]
        vectors = np.maximum(vectors, 0) if layer["relu"] else vectors
    return _unit(vectors)


def _unit(vectors: np.ndarray) -> np.ndarray:
    divided: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return divided
