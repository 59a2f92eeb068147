"""Networks and tokenizers as transformers stores them, from a folder or by their name on the hub."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from truepair.errors import ConfigError


def model_type(name: str) -> str:
    """What kind of network it is, as its ``config.json`` says: "clip", "siglip", "bert" and so on.

    Raises:
        ConfigError: If transformers is not installed, or there is no such network.
    """
    kind: str = _load("AutoConfig", name).model_type
    return kind


def load_network(name: str, device: torch.device) -> Any:
    """The network in float32, in evaluation mode. Raises as `model_type`."""
    return _load("AutoModel", name, dtype=torch.float32).eval().requires_grad_(False).to(device)


def load_tokenizer(name: str) -> Any:
    """The tokenizer that lies beside the network. Raises as `model_type`."""
    return _load("AutoTokenizer", name)


def load_image_processor(name: str) -> Any:
    """What makes a network's input of a picture, with Pillow alone. Raises as `model_type`."""
    return _load("AutoImageProcessor", name, backend="pil")


def sentence_pooling(name: str) -> str:
    """How a sentence encoder makes one vector of its tokens: "mean" or "cls", as its pooling file says; "mean" without.

    Raises:
        ConfigError: If it is another way.
    """
    from transformers.utils.hub import cached_file

    found = cached_file(
        name,
        "1_Pooling/config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        return "mean"
    stored = json.loads(Path(found).read_text(encoding="utf-8"))
    if "pooling_mode" in stored:
        modes = [stored["pooling_mode"]]
    else:
        modes = [key.removeprefix("pooling_mode_") for key, is_on in stored.items() if is_on is True]
    ways = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in ways:
        raise ConfigError(
            f"text encoder {name!r} pools its tokens by {' and '.join(map(str, modes)) or 'nothing'}; only mean and "
            "cls are known here: choose another encoder"
        )
    return ways[modes[0]]


def _load(loader: str, name: str, **options: Any) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"encoder {name!r} needs transformers, which is not installed: pip install 'truepair[hf]'"
        ) from error
    try:
        with _quiet(transformers.utils.logging):
            return getattr(transformers, loader).from_pretrained(name, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"encoder {name!r} cannot be loaded: it is neither the folder of a network that transformers can read, nor "
            f"the name of one on the hub that can be had now ({' '.join(str(error).split())[:300]})"
        ) from error


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No progress bars and no lists of weights that the other tower would need."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
