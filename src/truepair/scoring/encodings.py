"""Images and captions through models in evaluation mode, and the similarities of what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from truepair import processes
from truepair.data.batch import Padded, joined
from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Inputs, Pairs, Subset
from truepair.in_parts import gathered
from truepair.model import MatchingModel
from truepair.similarity.local import LocalSimilarity

_PAIRS_AT_A_TIME = 1024
"""Pairs encoded and scored in one go."""


@contextmanager
def evaluating(models: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Models in evaluation mode, as long as the block runs; afterwards each module has the mode that it had before."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


@torch.inference_mode()
def encode_images(model: MatchingModel, inputs: Inputs, batch_size: int = 256) -> Padded:
    """Encodings of all images, in order, on the model's device. Puts the model in evaluation mode."""
    return _encode(model, model.image_encoder, inputs, torch.arange(len(inputs)), batch_size)


@torch.inference_mode()
def encode_captions(model: MatchingModel, pairs: Pairs, batch_size: int = 256) -> Padded:
    """Encodings of all captions, in order, on the model's device. Puts the model in evaluation mode.

    Captions of about the same length are encoded together, so that little of a batch is padding.
    """
    by_length = torch.tensor([len(caption) for caption in pairs.captions]).argsort(stable=True)
    encoded = _encode(model, model.text_encoder, inputs_of_captions(pairs), by_length, batch_size)
    return encoded.rows(by_length.argsort().to(encoded.values.device))


def _encode(model: MatchingModel, encoder: torch.nn.Module, inputs: Inputs, order: Tensor, batch_size: int) -> Padded:
    """In the order asked for. Of several processes, each encodes every so many-th item, and all get all."""
    model.eval()
    weights = next(model.parameters(), None)
    device = torch.device("cpu") if weights is None else weights.device
    count = processes.count() if len(order) >= processes.count() else 1
    parts = [order[first::count] for first in range(count)]
    own = joined([encoder(inputs.take(rows).to(device)) for rows in parts[processes.rank() % count].split(batch_size)])
    if count == 1:
        return own
    places = torch.cat([torch.arange(first, len(order), count) for first in range(count)])
    return gathered(own, [len(part) for part in parts]).rows(places.argsort().to(device))


def item_vectors(encodings: Padded) -> Float[Tensor, "items _"]:
    """One vector an item, on the CPU: of SAF and SGR, that of the whole, which stands before its parts."""
    values = encodings.values if encodings.lengths is None else encodings.values[:, 0]
    return values.float().cpu()


@dataclass(frozen=True)
class Encodings:
    """Some images and captions as several models encode them; similarities are means over the models.

    Attributes:
        models: The models, which should be in evaluation mode (`evaluating`).
        images: Of each model, the encoded images.
        captions: Of each model, the encoded captions.
    """

    models: Sequence[MatchingModel]
    images: Sequence[Padded]
    captions: Sequence[Padded]

    @classmethod
    def of(
        cls, models: Sequence[MatchingModel], pairs: Pairs, images: Int[Tensor, " images"], captions: Int[Tensor, " c"]
    ) -> Encodings:
        """Encodings of the chosen rows of `pairs`, numbered anew from 0."""
        chosen = pairs.select(captions)
        return cls(
            models,
            [encode_images(model, Subset(pairs.images, images)) for model in models],
            [encode_captions(model, chosen) for model in models],
        )

    @torch.inference_mode()
    def matrix(self, images: Int[Tensor, " i"], captions: Int[Tensor, " c"]) -> Float[Tensor, "i c"]:
        """Similarity of every chosen image (rows) with every chosen caption (columns), on the CPU."""
        return self._mean(lambda model, i, c: model.scores.matrix(i.rows(images), c.rows(captions)))

    @torch.inference_mode()
    def paired(self, images: Int[Tensor, " p"], captions: Int[Tensor, " p"]) -> Float[Tensor, " p"]:
        """Similarity of image k with caption k, on the CPU."""
        return self._mean(lambda model, i, c: model.scores.paired(i.rows(images), c.rows(captions)))

    def _mean(self, similarity: Callable[[MatchingModel, Padded, Padded], Tensor]) -> Tensor:
        each = [
            similarity(*of_one).float().cpu() for of_one in zip(self.models, self.images, self.captions, strict=True)
        ]
        return each[0] if len(each) == 1 else torch.stack(each).mean(0)


def similarity_between(
    images: Encodings, rows: Int[Tensor, " i"], captions: Encodings, columns: Int[Tensor, " c"]
) -> Float[Tensor, "i c"]:
    """Similarity of images of one set of encodings with captions of another."""
    return Encodings(images.models, images.images, captions.captions).matrix(rows, columns)


def similarity_of_pairs(models: Sequence[MatchingModel], pairs: Pairs) -> Float[Tensor, " pairs"]:
    """Similarity of each image with its own caption, in evaluation mode, without negatives.

    Memory grows with the encodings of 1,024 pairs, never with their number. The models' modes are left as they were.
    """
    similarity = torch.empty(len(pairs))
    with evaluating(models):
        # Captions of one image stand together, so that hardly an image is encoded twice.
        for block in pairs.image_of_caption.argsort(stable=True).split(_PAIRS_AT_A_TIME):
            images, image = pairs.image_of_caption[block].unique(return_inverse=True)
            similarity[block] = Encodings.of(models, pairs, images, block).paired(image, torch.arange(len(block)))
    return similarity


def are_local(models: Sequence[MatchingModel]) -> bool:
    """Whether a model compares regions with words (SAF, SGR): a score costs thousands of times as much as a cosine."""
    return any(isinstance(model.similarity, LocalSimilarity) for model in models)
