"""All images or captions of a split through a model, in evaluation mode."""

from __future__ import annotations

import torch
from torch import Tensor

from truepair.data.batch import Padded, joined
from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Inputs, Pairs
from truepair.model import MatchingModel


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
    model.eval()
    weights = next(model.parameters(), None)
    device = torch.device("cpu") if weights is None else weights.device
    return joined([encoder(inputs.take(rows).to(device)) for rows in order.split(batch_size)])
