"""Counts of ranks on disk, so that an evaluation that was interrupted goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from truepair import __version__
from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Inputs, Pairs
from truepair.errors import CheckpointError
from truepair.evaluation.recall import RankCounts
from truepair.files.checkpoint import load_checkpoint, save_checkpoint
from truepair.files.locking import alone_with
from truepair.model import MatchingModel
from truepair.similarity.blocks import Block

_ROWS_AT_A_TIME = 1024


class SavedCounts:
    """One file in a folder, named by what was counted, so that a folder can hold those of several evaluations.

    A checkpoint file with ``fingerprint`` (see `fingerprint`), ``blocks`` (how many are counted), and the tensors
    ``own``, ``wrong_captions`` and ``wrong_images`` of `RankCounts`: 8 bytes an image and 12 a caption.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = folder / f"ranks_{fingerprint[:16]}.safetensors"
        self.fingerprint = fingerprint

    def load(self, image_of_caption: Int[Tensor, " captions"], images: int) -> tuple[RankCounts, int] | None:
        """The counts and how many blocks they hold; None if nothing was saved.

        Raises:
            CheckpointError: If the file is damaged, or holds the counts of other models, other pairs or other blocks.
        """
        if not self.path.exists():
            return None
        saved = load_checkpoint(self.path)
        if saved.get("fingerprint") != self.fingerprint:
            raise CheckpointError(
                f"{self.path} holds counts of other models, pairs or blocks (fingerprint {saved.get('fingerprint')}, "
                f"expected {self.fingerprint}): move it elsewhere, or choose another folder for the state"
            )
        counts = RankCounts(image_of_caption, saved["own"], images)
        counts.wrong_captions.copy_(saved["wrong_captions"])
        counts.wrong_images.copy_(saved["wrong_images"])
        return counts, saved["blocks"]

    def save(self, counts: RankCounts, blocks: int) -> None:
        """Replace the file, atomically; the folder is made if missing.

        Raises:
            CheckpointError: If it cannot be written.
            ConfigError: If another process is writing it.
        """
        tensors = {name: getattr(counts, name) for name in ("own", "wrong_captions", "wrong_images")}
        with alone_with(self.path):
            save_checkpoint(self.path, {"fingerprint": self.fingerprint, "blocks": blocks, **tensors})


def fingerprint(models: Sequence[MatchingModel], pairs: Pairs, blocks: Sequence[Block], batch_size: int) -> str:
    """A hash of everything that scores and their order depend on; of the code, its version only.

    Args:
        models: Their weights.
        pairs: Inputs of both encoders, and which caption belongs to which image.
        blocks: The work and its order.
        batch_size: Items encoded at once.

    Returns:
        64 hexadecimal digits; the same on any machine.
    """
    rows = [(block.images.start, block.images.stop, block.group) for block in blocks]
    digest = hashlib.sha256(repr((__version__, batch_size, len(models), rows)).encode())
    for name, tensor in _everything(models, pairs, blocks):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _everything(models: Sequence[MatchingModel], pairs: Pairs, blocks: Sequence[Block]) -> Iterator[tuple[str, Tensor]]:
    for model in models:
        yield from model.state_dict().items()
    yield "image_of_caption", pairs.image_of_caption
    # Which captions a block has follows from their lengths, which their inputs need not tell.
    yield from {block.group: ("columns", block.captions) for block in blocks}.values()
    yield from _inputs("images", pairs.images)
    yield from _inputs("captions", inputs_of_captions(pairs))


def _inputs(name: str, inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    for rows in torch.arange(len(inputs)).split(_ROWS_AT_A_TIME):
        for part in inputs.take(rows).tensors():
            yield name, part
