"""A first answer while the rest is still being embedded: the pairs of the first part, by their embeddings alone."""

from __future__ import annotations

from pathlib import Path

from truepair.audit.judging import judged
from truepair.audit.shared_space import no_shared_space
from truepair.config.audit import AuditConfig
from truepair.config.embedding import EmbedConfig
from truepair.data.embeddings import part_pairs
from truepair.data.pairs import Pairs
from truepair.errors import TruepairError
from truepair.pages.html import shortened

_FEWEST = 100
"""Pairs of a part below which a preview says too little."""
_SHOWN = 3
_LONGEST_CAPTION = 80


def preview(part: Path, config: AuditConfig, encoders: EmbedConfig) -> str | None:
    """What a part of a feature store lets expect, in a sentence or two; None where nothing can be said yet.

    Nothing is trained, so it takes seconds, and finds less than the audit of all pairs.

    Args:
        part: The folder of a finished part.
        config: Of the audit.
        encoders: What made the embeddings.
    """
    names = encoders.image_encoder, encoders.text_encoder
    if encoders.text_encoder == "none":
        return None
    try:
        return _preview(part_pairs(part), names, config)
    except TruepairError:  # of a part without pictures, for instance: the audit of all pairs will say what is wrong
        return None


def _preview(pairs: Pairs, names: tuple[str, str], config: AuditConfig) -> str | None:
    if len(pairs) < _FEWEST or no_shared_space(pairs, names) is not None:
        return None
    judgement = judged(pairs, None, names, AuditConfig(zero_shot=True, seed=config.seed, device=config.device))
    if judgement.prior is None:
        return None
    worst = judgement.match.argsort()[:_SHOWN].tolist()
    shown = [f"{pairs.caption_ids[row]} ({shortened(pairs.captions[row], _LONGEST_CAPTION)!r})" for row in worst]
    wrong = 1 - float(judgement.match.mean())
    return (
        f"preview of the first {len(pairs):,} pairs, by their embeddings alone: about {wrong:.0%} do not seem to "
        f"match; the most suspicious are {'; '.join(shown)}"
    )
