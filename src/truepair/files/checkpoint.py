"""Checkpoints: one safetensors file, replaced atomically; nothing pickled is written or read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from truepair.errors import CheckpointError, DataError, said_by
from truepair.files.json import parsed_json
from truepair.files.replacing import replacing

FORMAT = "truepair/1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.

    The file appears whole or not at all: an older one at `path` stays until the new one is safely on disk. The same
    state gives the same bytes.

    Args:
        path: Where to; tensors go into its body, the rest as JSON into its header.
        state: What to write.

    Raises:
        CheckpointError: If the disk is full or not writable; `path` is as it was.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_take_tensors(state, "", tensors))
    try:
        # Written here, not by safetensors, which may leave a hidden file of its own behind when the process is killed.
        with replacing(path) as temporary, temporary.open("wb") as file:
            for piece in _in_fixed_order(save(tensors, metadata={"format": FORMAT, "structure": structure})):
                file.write(piece)
    except OSError as error:
        raise CheckpointError(
            f"could not save {path}: {said_by(error)}. What was saved before is intact: make room or choose another "
            "folder, then run the same command to resume"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU.

    Raises:
        CheckpointError: If the file is damaged or not a checkpoint of truepair.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is a safetensors file but not a checkpoint of this version of truepair "
                    f"(format {metadata.get('format')!r}, expected {FORMAT!r})"
                )
            state: dict[str, Any] = _put_tensors(parsed_json(metadata["structure"], "its structure"), file.get_tensor)
            return state
    except (OSError, SafetensorError, KeyError, DataError) as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {said_by(error)}. It is missing or damaged: delete it to start this "
            "run again, or restore it from a copy"
        ) from error


def _in_fixed_order(saved: bytes) -> tuple[bytes, memoryview]:
    """Header and body of a safetensors file, the header's metadata in order: safetensors draws one for each file."""
    end = 8 + int.from_bytes(saved[:8], "little")
    header = parsed_json(saved[8:end], "the header of a checkpoint")
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    written = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)  # the body stays aligned
    return len(written).to_bytes(8, "little") + written, memoryview(saved)[end:]


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`, its tensors moved to `tensors` under the path that leads to them."""
    if isinstance(value, Tensor):
        while name in tensors:  # the keys 1 and "1" lead to the same path, as do "a/b" and "a", then "b"
            name += "'"
        # A copy, because safetensors refuses tensors that share memory (views of one GRU buffer on a GPU do).
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        # Pairs, not an object: keys of an optimiser's state are integers.
        return {"dict": [[key, _take_tensors(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_take_tensors(item, f"{name}/{place}", tensors) for place, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} (at {name})")


def _put_tensors(value: Any, get: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return get(value["tensor"])
    if "dict" in value:
        return {key: _put_tensors(item, get) for key, item in value["dict"]}
    if "list" in value:
        return [_put_tensors(item, get) for item in value["list"]]
    return tuple(_put_tensors(item, get) for item in value["tuple"])
