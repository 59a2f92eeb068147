"""Whether all processes of a run, perhaps on several machines, see the same options, pairs, words and features."""

from __future__ import annotations

import hashlib
import socket

import torch

from truepair import __version__, processes
from truepair.config import Recipe
from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Inputs
from truepair.data.text import Vocabulary
from truepair.data.trusted import TrustedSplits
from truepair.errors import DataError
from truepair.training.folder import learning_options

_ROWS_LOOKED_AT = 64
"""Rows of features that are compared, spread over all of them: reading all would take as long as an epoch."""


def refuse_other_data(recipe: Recipe, prepared: TrustedSplits, vocabulary: Vocabulary | None) -> None:
    """Refuse to train together with a process that would learn something else.

    Raises:
        DataError: If there is one; on all processes alike.
    """
    if processes.count() == 1:
        return
    processes.wait_for_all()
    splits = prepared.splits
    values: dict[str, bytes | memoryview] = {
        "another version or other options": repr((__version__, torch.__version__, learning_options(recipe))).encode(),
        "other training pairs": splits.train.digest(),
        "other development pairs": splits.dev.digest(),
        "other trusted pairs": b"" if prepared.trusted is None else prepared.trusted.digest(),
        "other words": b"" if vocabulary is None else vocabulary.to_json().encode(),
        "other features of images": _of_inputs(splits.train.images),
        "other captions": _of_inputs(inputs_of_captions(splits.train)),
    }
    different = processes.different(values)
    if different:
        number = min(different.values())
        what = ", ".join(name for name, process in different.items() if process == number)
        raise DataError(
            f"process {number} of {processes.count()} has {what} than process 0 (this is process {processes.rank()}, "
            f"on {socket.gethostname()}): all nodes must see the same files under the same paths"
        )


def _of_inputs(inputs: Inputs) -> bytes:
    rows = torch.linspace(0, len(inputs) - 1, min(_ROWS_LOOKED_AT, len(inputs))).long()
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in inputs.take(rows).tensors())).digest()
