"""``--to sentence-transformers``: a folder that ``SentenceTransformer(folder)`` loads, without code of its own."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import nn

from truepair.errors import ConfigError, TruepairError, said_by
from truepair.exporting.heads import dense_head
from truepair.exporting.model import Exportable, Part, Side
from truepair.exporting.network_folders import ONLY_CAPTIONS
from truepair.exporting.networks import exported_sides, pooling_of, save_networks
from truepair.exporting.samples import Samples, largest_difference
from truepair.exporting.written import Written
from truepair.pretrained.captions import CaptionReader
from truepair.pretrained.hub import quiet
from truepair.pretrained.pictures import HubReader

_LOAD = """\
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer("path/to/this/folder")
    captions = model.encode(["two dogs in the snow"])"""
_LOAD_PICTURES = """
    from PIL import Image, ImageOps

    photo = ImageOps.exif_transpose(Image.open("photo.jpg"))  # upright, as the run saw it
    pictures = model.encode([photo.convert("RGB")])
    model.similarity(pictures, captions)"""
_UNLIKE = (
    "only captions can be encoded: pictures are made ready in a way that sentence-transformers does not have; --to hf "
    "has both sides"
)


def write_sentences(model: Exportable, samples: Samples, folder: Path) -> Written:
    """Write the folder by sentence-transformers, load it again, and compare with the run.

    Args:
        model: What to export, without low-rank updates beside its weights.
        samples: What to compare by.
        folder: Where to.

    Raises:
        ConfigError: If the library is missing, the run has several networks, or the folder gives other vectors.
    """
    library = _imported("sentence_transformers")
    if model.text.heads > 1:
        raise ConfigError(
            f"the run in {model.folder} has {model.text.heads} networks, whose cosines are averaged, which "
            "sentence-transformers has no module for: export with --to onnx or --to hf"
        )
    sides = _sides(model)
    with _refusals(), quiet(importlib.import_module("transformers.utils.logging")):
        _save(library, model, folder, sides)
        vectors = _vectors(library, folder, samples, sides)
    what = "the folder for sentence-transformers"
    differences = {name: largest_difference(vectors[name], samples.vectors(name), f"{what} ({name})") for name in sides}
    if "image" in sides:
        return Written(sides, differences, _LOAD + _LOAD_PICTURES)
    return Written(sides, differences, _LOAD, (_UNLIKE if "image" in exported_sides(model) else ONLY_CAPTIONS,))


@contextmanager
def _refusals() -> Iterator[None]:
    """The library raises what its parts raise."""
    try:
        yield
    except Exception as error:
        if isinstance(error, TruepairError | MemoryError) or getattr(error, "errno", None) is not None:
            raise  # a full disk, for instance
        raise ConfigError(
            f"sentence-transformers cannot load the network ({said_by(error)[:200]}): export with --to hf"
        ) from error


def _save(library: Any, model: Exportable, folder: Path, sides: Sequence[str]) -> None:
    """Networks first as transformers saves them, which the library reads, then all modules by the library."""
    with TemporaryDirectory(dir=folder.parent) as made:
        folders = save_networks(model, Path(made), sides)
        routes = _routes(model, Path(made), {name: folders[name][0] for name in sides})
        modules = [_modules().Router(routes, default_route="text")] if "image" in sides else routes["text"]
        network = library.SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="cosine")
        network.save(str(folder), create_model_card=False)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"--to sentence-transformers needs its version 6 ({error}): pip install 'sentence-transformers>=6'"
        ) from error


def _modules() -> Any:
    return _imported("sentence_transformers.sentence_transformer.modules")


def _sides(model: Exportable) -> tuple[str, ...]:
    """Those that modules of the library can encode: no roots, and pictures as the processor makes them."""
    if "image" not in exported_sides(model):
        return ("text",)
    is_plain = HubReader(model.image.name).patch is None
    has_roots = any(dense_head(head).scaling == "root" for head in model.image.networks[0].heads)
    return ("image", "text") if is_plain and not has_roots else ("text",)


def _routes(model: Exportable, made: Path, folders: dict[str, str]) -> dict[str, list[nn.Module]]:
    """The modules of each side; both begin with the same one where their network is one."""
    methods = {
        name: {"method": f"get_{name}_features", "method_output_name": "pooler_output"}
        for name, side in (("image", model.image), ("text", model.text))
        if name in folders and pooling_of(side.networks[0].tower) == "network"
    }
    first: dict[str, Any] = {}
    for place in {*folders.values()}:
        its = {name: method for name, method in methods.items() if folders[name] == place}
        first[place] = _transformer(made / place, its, model.text if folders["text"] == place else None)
    return {name: [first[place], *_behind(model.side(name).networks[0])] for name, place in folders.items()}


def _transformer(folder: Path, methods: dict[str, Any], text: Side | None) -> Any:
    """The network of a folder, with the limits of its captions if it reads some."""
    given: dict[str, Any] = {"modality_config": methods, "module_output_name": "sentence_embedding"} if methods else {}
    reader = None if text is None else CaptionReader(text.name)
    if reader is not None and reader.sees_padding:
        most = reader.maximum_tokens
        padded = {"padding": "max_length", "max_length": most, "truncation": True, "return_attention_mask": False}
        given["processing_kwargs"] = {"text": padded}
    module = _modules().Transformer(str(folder), model_kwargs={"use_safetensors": True}, **given)
    if reader is not None:
        module.max_seq_length = reader.maximum_tokens
    return module


def _behind(part: Part) -> Sequence[nn.Module]:
    """What follows the network: its pooling, the head, and the division by the length."""
    modules, pooling = _modules(), pooling_of(part.tower)
    pooled = [] if pooling == "network" else [modules.Pooling(part.tower.width, pooling)]
    layers = [
        modules.Dense(
            layer.weight.shape[1],
            len(layer.weight),
            activation_function=nn.ReLU() if layer.is_relu else nn.Identity(),
            init_weight=layer.weight.detach().clone(),
            init_bias=layer.bias.detach().clone(),
        )
        for layer in dense_head(part.heads[0]).layers
    ]
    return [*pooled, modules.Normalize(), *layers, modules.Normalize()]


def _vectors(
    library: Any, folder: Path, samples: Samples, sides: Sequence[str]
) -> dict[str, Float32[np.ndarray, "items dim"]]:
    """What the folder makes of the samples, loaded again."""
    network = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False)
    items: dict[str, list[Any]] = {"image": list(samples.pictures), "text": list(samples.captions)}
    return {name: np.asarray(network.encode(items[name], show_progress_bar=False), dtype=np.float32) for name in sides}
