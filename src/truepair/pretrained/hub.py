"""Networks and tokenizers as transformers stores them, from a folder or by their name on the hub."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from truepair.errors import ConfigError, TruepairError, said_by
from truepair.files.json import parsed_json

_COUNT_BEHIND_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "altclip_text_model")
"""``model_type`` of networks whose positions are counted from the padding token's id on."""
_READ_MODULES = ("Transformer", "Pooling", "Normalize")
"""What a sentence encoder may be made of, as its ``modules.json`` names it."""
_MAY_BE_MISSING = "pooler."
"""What the names of weights begin with that no vector here depends on, and that many networks are stored without."""
_USUAL_POOLING = "1_Pooling"
_MOST_TOKENS = 4096
"""Of a caption, where nothing says how many a network reads."""


def model_type(name: str) -> str:
    """What kind of network it is, as its ``config.json`` says: "clip", "siglip", "bert" and so on.

    Raises:
        ConfigError: If transformers is not installed, or there is no such network.
    """
    kind: str = _load("AutoConfig", name).model_type
    return kind


def has_both_sides(name: str) -> bool:
    """Whether the network makes vectors of pictures and of captions that can be compared, as CLIP and SigLIP do.

    It does if its class has ``get_image_features`` and ``get_text_features``. Raises as `model_type`.
    """
    config = _load("AutoConfig", name)
    from transformers import MODEL_MAPPING

    known = MODEL_MAPPING.get(type(config), ())
    classes = known if isinstance(known, tuple | list) else (known,)
    return any(hasattr(each, "get_image_features") and hasattr(each, "get_text_features") for each in classes)


def load_network(name: str) -> Any:
    """The network in float32, on the CPU, in evaluation mode. Raises as `model_type`.

    Raises:
        ConfigError: Also if its weights are pickled, and not as safetensors, or if some are missing.
    """
    folder = Path(_place(name))
    pickled = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))]
    if pickled and not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"encoder {name!r} has its weights as {pickled[0]} only, which may run anything when it is loaded: save "
            "them as safetensors (save_pretrained of transformers does)"
        )
    network, found = _load("AutoModel", name, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    missing = sorted(key for key in found["missing_keys"] if not key.startswith(_MAY_BE_MISSING))
    if missing:  # transformers makes them up at random
        raise ConfigError(
            f"encoder {name!r} lacks {len(missing):,} of its weights, such as {missing[0]}: is the file whole, and of "
            f"a {model_type(name)} as transformers names the parts?"
        )
    return network.eval().requires_grad_(False)


def load_tokenizer(name: str) -> Any:
    """The tokenizer that lies beside the network. Raises as `model_type`.

    Raises:
        ConfigError: Also if it has no token to pad with.
    """
    tokenizer = _load("AutoTokenizer", name)
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            f"the tokenizer of {name!r} has no padding token, so that captions of different length cannot be batched: "
            'name one in its tokenizer_config.json ("pad_token"), or choose another encoder'
        )
    return tokenizer


def longest_text(name: str, tokenizer: Any) -> int:
    """Tokens of a caption that the network reads, as its tokenizer, its positions and its sentence file say."""
    config = _load("AutoConfig", name)
    text = getattr(config, "text_config", config)
    stored = _stored(name, "sentence_bert_config.json", dict)
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and text.model_type in _COUNT_BEHIND_PADDING:
        positions -= text.pad_token_id + 1
    said = (
        positions,
        getattr(tokenizer, "model_max_length", None),
        None if stored is None else stored.get("max_seq_length"),
    )
    return min(limit for limit in (*said, _MOST_TOKENS) if isinstance(limit, int) and limit > 0)  # -1: any number


def load_image_processor(name: str) -> Any:
    """What makes a network's input of a picture, with Pillow alone. Raises as `model_type`."""
    return _load("AutoImageProcessor", name, backend="pil")


def sentence_pooling(name: str) -> str:
    """How a sentence encoder makes one vector of its tokens: "mean" or "cls", as its pooling file says; "mean" without.

    Raises:
        ConfigError: If it is another way.
    """
    modules = _stored(name, "modules.json", list) or []
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules if isinstance(module, dict)]
    others = [kind for kind in kinds if kind not in _READ_MODULES]
    if others:
        raise ConfigError(
            f"text encoder {name!r} has {' and '.join(dict.fromkeys(others))} behind its network, as its modules.json "
            f"says, which is not read here: embed with --text-encoder st:{name}, which is, and train on the store"
        )
    _refuse_prompt(name)
    file = _pooling_file(name, modules)
    stored = None if file is None else _stored(name, file, dict)
    if stored is None:
        return "mean"
    if "pooling_mode" in stored:
        modes = [stored["pooling_mode"]]
    else:
        of_modes = {key: is_on for key, is_on in stored.items() if key.startswith("pooling_mode_")}
        modes = [key.removeprefix("pooling_mode_") for key, is_on in of_modes.items() if is_on is True]
    ways = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in ways:
        raise ConfigError(
            f"text encoder {name!r} pools its tokens by {' and '.join(map(str, modes)) or 'nothing'}; only mean and "
            "cls are known here: choose another encoder"
        )
    return ways[modes[0]]


def _refuse_prompt(name: str) -> None:
    """Refuse a sentence encoder that puts words before every caption."""
    stored = _stored(name, "config_sentence_transformers.json", dict) or {}
    prompts = stored.get("prompts")
    prompt = prompts.get(stored.get("default_prompt_name")) if isinstance(prompts, dict) else None
    if prompt:
        raise ConfigError(
            f"text encoder {name!r} puts {prompt!r} before every caption, as its config_sentence_transformers.json "
            f"says, which is not done here: embed with --text-encoder st:{name}, which does, and train on the store"
        )


def _pooling_file(name: str, modules: Sequence[Any]) -> str | None:
    """Where ``modules.json`` says that the pooling is described, or else where it usually is; None without pooling.

    Raises:
        ConfigError: If there is no such file.
    """
    if not modules:
        return f"{_USUAL_POOLING}/config.json"
    paths = [
        str(each.get("path", _USUAL_POOLING))
        for each in modules
        if str(each.get("type")).rpartition(".")[2] == "Pooling"
    ]
    if not paths:
        return None
    file = f"{paths[0]}/config.json"
    if Path(file).is_absolute() or ".." in Path(file).parts or _stored(name, file, dict) is None:
        raise ConfigError(
            f"text encoder {name!r} has no {file}, which its modules.json names: is the network complete?"
        )
    return file


def _stored(name: str, file: str, kind: type) -> Any:
    """A JSON object or list that lies beside the network; None if it is not there.

    Raises:
        ConfigError: If it is something else.
    """
    from transformers.utils.hub import cached_file

    place = _place(name)
    found = cached_file(
        place,
        file,
        local_files_only=Path(place).is_dir(),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        return None
    stored = parsed_json(Path(found).read_bytes(), str(found))
    if not isinstance(stored, kind):
        raise ConfigError(f"{found} is no JSON {'object' if kind is dict else 'list'}: is the network complete?")
    return stored


def _load(loader: str, name: str, **options: Any) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"encoder {name!r} needs transformers, which is not installed: pip install 'truepair[hf]'"
        ) from error
    place = _place(name)
    is_folder = Path(place).is_dir()
    what = (
        "the folder holds no network that transformers can read, with its weights as safetensors"
        if is_folder
        else "it is neither a folder here, nor the name of a network on the hub that can be had now and has safetensors"
    )
    try:
        with quiet(transformers.utils.logging):
            return getattr(transformers, loader).from_pretrained(
                place, local_files_only=is_folder, trust_remote_code=False, **options
            )
    except MemoryError:
        raise
    except Exception as error:  # files of anybody lead transformers to raise nearly anything
        raise ConfigError(f"encoder {name!r} cannot be loaded: {what} ({said_by(error)[:300]})") from error


@contextlib.contextmanager
def refusing(what: str, name: str) -> Iterator[None]:
    """Try a network that was loaded, whose parts may not be of one network.

    Args:
        what: "image" or "text".
        name: Of the encoder.

    Raises:
        ConfigError: For whatever its code raises.
    """
    try:
        yield
    except (TruepairError, MemoryError):
        raise
    except Exception as error:
        raise ConfigError(
            f"{what} encoder {name!r} was loaded, but cannot be used ({said_by(error)[:300]}): are its weights, its "
            "configuration, and what makes its inputs, of one network?"
        ) from error


def check_reads_text(name: str) -> None:
    """Refuse a network that has no words. Raises as `model_type`.

    Raises:
        ConfigError: If it is one.
    """
    config = _load("AutoConfig", name)
    if not hasattr(getattr(config, "text_config", config), "vocab_size"):
        raise ConfigError(
            f"text encoder {name!r} is of type {config.model_type!r}, which reads no text: name a sentence encoder, or "
            "a network with both sides"
        )


def network_folder(name: str) -> Path | None:
    """The folder that a network is named by, from the root on; None for a name on the hub."""
    path = Path(name).expanduser()
    return path.resolve() if path.is_dir() else None


def _place(name: str) -> str:
    """Where transformers looks for a network: in a folder, or on the hub if the name can only be one there.

    Raises:
        ConfigError: If it is written as a path, of which there is no folder.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    is_path = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    if is_path or ("/" in name and path.parent.is_dir()) or re.match("[A-Za-z]:", name):
        raise ConfigError(f"encoder {name!r} is a path, but there is no such folder: is it spelled right?")
    return name


@contextlib.contextmanager
def quiet(logging: Any) -> Iterator[None]:
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
