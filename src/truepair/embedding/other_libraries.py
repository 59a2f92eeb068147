"""Encoders of other libraries: sentence-transformers (``st:NAME``) and open_clip (``open_clip:MODEL/PRETRAINED``)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch.nn.functional import normalize

from truepair.config.embedding import OPEN_CLIP, ST
from truepair.embedding.image_encoders import ImageEncoderDescription
from truepair.embedding.text_encoders import EncodedCaptions, TextEncoderDescription
from truepair.errors import ConfigError, said_by

_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


class SentenceTransformersEncoder:
    """Captions by a network of sentence-transformers, of length 1; a `TextEncoder`."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Load it.

        Args:
            name: "st:" and a folder or a name on the hub.
            device: Where to compute.

        Raises:
            ConfigError: If the library is not installed, or the network cannot be loaded from safetensors.
        """
        place = name.removeprefix(ST)
        library = _imported("sentence_transformers", name, "st")
        try:
            self._network = library.SentenceTransformer(
                place,
                device=str(device),
                trust_remote_code=False,
                local_files_only=Path(place).expanduser().is_dir(),
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # the library raises what its parts raise
            raise _not_loaded(name, error) from error
        self.description = TextEncoderDescription(
            name=name,
            size=self.encode(["a"]).features.shape[1],
            maximum_tokens=int(self._network.max_seq_length or 0),
            pooling="that of sentence-transformers, length 1",
        )

    def encode(self, captions: Sequence[str]) -> EncodedCaptions:
        """See `TextEncoder.encode`."""
        vectors = self._network.encode(
            list(captions), batch_size=len(captions), normalize_embeddings=True, show_progress_bar=False
        )
        cut = 0
        if self._network.max_seq_length and (tokenizer := getattr(self._network, "tokenizer", None)):
            lengths = tokenizer(list(captions), truncation=False, verbose=False)["input_ids"]
            cut = sum(len(ids) > self._network.max_seq_length for ids in lengths)
        return EncodedCaptions(np.asarray(vectors, dtype=np.float32), cut)


class OpenClipImageEncoder:
    """Pictures by a network of open_clip, of length 1; an `ImageEncoder`."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Load it; see `_open_clip_network`."""
        _, self._network, self._transform = _open_clip_network(name, device)
        self._device = device
        blank = self.preprocess(Image.new("RGB", (64, 64)))
        self.description = ImageEncoderDescription(
            name=name,
            size=self.encode(blank[None]).shape[1],
            grid=None,
            side=blank.shape[1],
            preprocessing="that of open_clip",
            runtime="PyTorch",
            shared_space=True,
        )

    def preprocess(self, picture: Image.Image) -> Float32[np.ndarray, "3 side side"]:
        """See `ImageEncoder.preprocess`."""
        return np.ascontiguousarray(self._transform(picture).numpy(), dtype=np.float32)

    @torch.inference_mode()
    def encode(self, batch: Iterable[np.ndarray]) -> Float32[np.ndarray, "images dim"]:
        """See `ImageEncoder.encode`."""
        vectors = self._network.encode_image(torch.from_numpy(np.stack([*batch])).to(self._device))
        features: np.ndarray = normalize(vectors, dim=-1).float().cpu().numpy()
        return features


class OpenClipTextEncoder:
    """Captions by a network of open_clip, of length 1; a `TextEncoder`."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Load it; see `_open_clip_network`."""
        library, self._network, _ = _open_clip_network(name, device)
        self._tokenizer = library.get_tokenizer(_model_and_weights(name)[0])
        self._device = device
        self.description = TextEncoderDescription(
            name=name,
            size=self.encode(["a"]).features.shape[1],
            maximum_tokens=int(self._tokenizer.context_length),
            pooling="the network's own, length 1",
        )

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> EncodedCaptions:
        """See `TextEncoder.encode`; captions that were cut are those whose last place is taken."""
        tokens = self._tokenizer(list(captions)).to(self._device)
        vectors = normalize(self._network.encode_text(tokens), dim=-1).float().cpu().numpy()
        return EncodedCaptions(vectors, int((tokens[:, -1] != 0).sum()))


def _open_clip_network(name: str, device: torch.device) -> tuple[Any, Any, Any]:
    """The library, a network of it, and what makes pixels of a picture.

    Raises:
        ConfigError: If the library is not installed, or the network cannot be loaded.
    """
    model, weights = _model_and_weights(name)
    library = _imported("open_clip", name, "open_clip")
    try:
        network, _, transform = library.create_model_and_transforms(model, pretrained=weights, device=device)
    except Exception as error:  # the library raises what its parts raise
        raise _not_loaded(name, error) from error
    return library, network.eval().requires_grad_(False), transform


def _model_and_weights(name: str) -> tuple[str, str]:
    """What stands before and behind the first slash.

    >>> _model_and_weights("open_clip:ViT-B-32/laion2b_s34b_b79k")
    ('ViT-B-32', 'laion2b_s34b_b79k')
    """
    model, _, weights = name.removeprefix(OPEN_CLIP).partition("/")
    if not model or not weights:
        raise ConfigError(
            f"encoder {name!r} is not open_clip:MODEL/PRETRAINED, as in open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    if weights.endswith(_ENDINGS[1:]):
        raise ConfigError(
            f"encoder {name!r} has its weights in a pickled file, which may run anything when it is loaded: give them "
            "as .safetensors"
        )
    return model, weights


def _imported(module: str, name: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"encoder {name!r} needs {module} ({error}): pip install 'truepair[{extra}]'") from error


def _not_loaded(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"encoder {name!r} cannot be loaded with its weights as safetensors ({said_by(error)[:300]})")
