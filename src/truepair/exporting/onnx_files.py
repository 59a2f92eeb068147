"""``--to onnx``: a graph for pictures and one for captions, with the tokenizer and the rule for pixels beside them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from truepair.data.batch import Padded
from truepair.errors import ConfigError, said_by
from truepair.exporting.model import Exportable, Side
from truepair.exporting.preprocessing import pixels_of, preprocessing_of
from truepair.exporting.samples import Samples, largest_difference
from truepair.exporting.written import Written
from truepair.files.json import write_json
from truepair.pretrained.captions import CaptionReader, text_folder
from truepair.pretrained.hub import load_tokenizer

IMAGE, TEXT, TOKENIZER, PREPROCESSING = ("image.onnx", "text.onnx", "tokenizer.json", "preprocessing.json")
_LOAD = f"""\
    import numpy as np, onnxruntime, tokenizers

    def vectors_of_captions(captions):
        encoded = tokenizers.Tokenizer.from_file("{TOKENIZER}").encode_batch(captions)
        ids, mask = (np.array([getattr(one, name) for one in encoded]) for name in ("ids", "attention_mask"))
        given = {{"input_ids": ids, "attention_mask": mask}}
        return onnxruntime.InferenceSession("{TEXT}").run(None, given)[0]

    def vectors_of_pictures(pixels):  # made as {PREPROCESSING} says: [batch, 3, side, side], float32
        return onnxruntime.InferenceSession("{IMAGE}").run(None, {{"pixels": pixels}})[0]

Vectors have length 1; their products are the similarities. Any number of items, and captions of any length up to that
of the tokenizer, go through together."""


def write_onnx(model: Exportable, samples: Samples, folder: Path) -> Written:
    """Write both sides, run them by ONNX Runtime, and compare with the run.

    Args:
        model: What to export, without low-rank updates beside its weights.
        samples: What to compare by, one at a time and all together.
        folder: Where to.

    Raises:
        ConfigError: If a package is missing, a network cannot be exported, or the files give other vectors.
    """
    _refuse_missing_packages()
    reader = CaptionReader(model.text.name)
    how = preprocessing_of(model.image.name, samples.pictures)
    write_json(folder / PREPROCESSING, how)
    _write_tokenizer(reader, model.text.name, folder / TOKENIZER)
    pixels = torch.zeros(2, 3, how["side"], how["side"])
    _export(_ImageGraph(model.image), {"pixels": pixels}, [{0: "batch"}], folder / IMAGE)
    ids, mask = (torch.from_numpy(array) for array in _tokens(folder / TOKENIZER, samples.captions[:2]))
    shape = {0: "batch"} if reader.sees_padding else {0: "batch", 1: "positions"}
    _export(_TextGraph(model.text), {"input_ids": ids, "attention_mask": mask}, [shape, shape], folder / TEXT)
    return Written(("image", "text"), _differences(folder, how, samples), _LOAD)


@dataclass
class _Masked(Padded):
    """Token ids whose mask is given, wherever the padding is."""

    given: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """See `Padded.mask`."""
        assert self.given is not None
        return self.given


class _ImageGraph(nn.Module):
    """The image side, of plain tensors."""

    def __init__(self, side: Side) -> None:
        super().__init__()
        self.side = side

    def forward(self, pixels: Float[Tensor, "images 3 side side"]) -> Float[Tensor, "images dim"]:
        vectors: Tensor = self.side(Padded(pixels))
        return vectors


class _TextGraph(nn.Module):
    """The text side, of plain tensors."""

    def __init__(self, side: Side) -> None:
        super().__init__()
        self.side = side

    def forward(
        self, input_ids: Int[Tensor, "captions positions"], attention_mask: Int[Tensor, "captions positions"]
    ) -> Float[Tensor, "captions dim"]:
        vectors: Tensor = self.side(_Masked(input_ids, given=attention_mask.bool()))
        return vectors


def _refuse_missing_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--to onnx needs a package ({error}): pip install 'truepair[embed]'") from error


def _write_tokenizer(reader: CaptionReader, name: str, path: Path) -> None:
    """The tokenizer that pads and cuts by itself as `reader` does."""
    import tokenizers

    network = load_tokenizer(text_folder(name))
    if not getattr(network, "is_fast", False):
        raise ConfigError(
            f"the tokenizer of {name!r} is a {type(network).__name__}, which has no {TOKENIZER}: export with --to hf"
        )
    tokenizer = tokenizers.Tokenizer.from_str(network.backend_tokenizer.to_str())
    tokenizer.enable_truncation(reader.maximum_tokens, direction=network.truncation_side)
    tokenizer.enable_padding(
        pad_id=network.pad_token_id,
        pad_token=network.pad_token,
        length=reader.maximum_tokens if reader.sees_padding else None,
    )
    tokenizer.save(str(path))


def _export(graph: nn.Module, inputs: dict[str, Tensor], dynamic: Sequence[dict[int, str]], path: Path) -> None:
    """A file that takes any number of items."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    try:
        exporter.setLevel(logging.ERROR)  # it warns that torchvision, which nothing here needs, is not installed
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter uses interfaces of PyTorch that PyTorch warns of
            torch.onnx.export(
                graph.eval(),
                tuple(inputs.values()),
                path,
                input_names=[*inputs],
                output_names=["vectors"],
                dynamic_shapes=tuple(dynamic),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises what the network's own code raises
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise  # a full disk, for instance
        why = said_by(error).split(". ")[0]  # what follows is for those who write exporters
        raise ConfigError(f"PyTorch cannot make {path.name} of the network ({why}): export with --to hf") from error
    finally:
        exporter.setLevel(level)
    _forget_the_code(path)


def _forget_the_code(path: Path) -> None:
    """Drop what the exporter notes beside each part: lines of code, with their paths on this machine."""
    import onnx

    model = onnx.load(path)
    for part in (model, model.graph, *model.functions):
        _forget(part)
    onnx.save(model, path)


def _forget(part: Any) -> None:
    """Of a model, a graph or a function, and all that is in it."""
    held = ("node", "input", "output", "value_info", "initializer") if hasattr(part, "node") else ()
    for each in (part, *(each for name in held for each in getattr(part, name))):
        for name in ("metadata_props", "doc_string"):
            if any(field.name == name for field in each.DESCRIPTOR.fields):
                each.ClearField(name)
    for attribute in (attribute for node in getattr(part, "node", ()) for attribute in node.attribute):
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            _forget(graph)


def _tokens(tokenizer: Path, captions: Sequence[str]) -> tuple[Int[np.ndarray, "c p"], Int[np.ndarray, "c p"]]:
    """Ids and mask, by the file that was written."""
    import tokenizers

    encoded = tokenizers.Tokenizer.from_file(str(tokenizer)).encode_batch([*captions])
    return np.array([one.ids for one in encoded]), np.array([one.attention_mask for one in encoded])


def _differences(folder: Path, how: dict[str, Any], samples: Samples) -> dict[str, float]:
    """Of each side, the largest difference from the run, of batches of one and of all."""
    image, text = (_session(folder / name) for name in (IMAGE, TEXT))
    pixels = np.stack([pixels_of(how, picture) for picture in samples.pictures])
    images = [image(pixels), np.concatenate([image(one[None]) for one in pixels])]
    each = [text(*_tokens(folder / TOKENIZER, [caption])) for caption in samples.captions]
    texts = [text(*_tokens(folder / TOKENIZER, samples.captions)), np.concatenate(each)]
    return {
        "image": max(largest_difference(found, samples.images, IMAGE) for found in images),
        "text": max(largest_difference(found, samples.texts, TEXT) for found in texts),
    }


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def vectors(*inputs: np.ndarray) -> Float32[np.ndarray, "items dim"]:
        made: np.ndarray = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        return made

    return vectors
