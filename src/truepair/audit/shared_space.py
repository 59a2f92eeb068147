"""A model that needs no training: of embeddings that share a space, or tell of the same named classes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from truepair.data.loader import inputs_of_captions
from truepair.data.pairs import Inputs, Pairs
from truepair.embedding.class_space import ENCODERS, class_space
from truepair.encoders.shared_space import Centred, SharedVectors
from truepair.errors import ConfigError
from truepair.model import MatchingModel
from truepair.similarity.cosine import CosineSimilarity

_MOST_AVERAGED = 16_384
"""Images, and captions, whose mean is that of the corpus."""
_AT_A_TIME = 1024


def shared_space(pairs: Pairs, encoders: tuple[str, str] | None) -> MatchingModel:
    """Cosines of the embeddings as they are, less the mean of the corpus on either side; nothing is learned.

    Embeddings of EfficientNet-Lite0 and MiniLM become probabilities of classes first (`embedding.class_space`).

    The mean is taken off for any number of pairs: of 40 photographs it already helps more than its error costs.

    Args:
        pairs: What to compare.
        encoders: Names of the encoders of images and of captions; None where they are not known.

    Raises:
        ConfigError: If images or captions have no vectors, or vectors of two spaces.
    """
    reason = no_shared_space(pairs, encoders)
    if reason is not None:
        raise ConfigError(f"audit.zero_shot compares embeddings without any training, but {reason}")
    image, caption = class_space() if encoders == ENCODERS else (SharedVectors(), SharedVectors())
    of_images = _mean(image, pairs.images, pairs.image_of_caption.unique())
    of_captions = _mean(caption, inputs_of_captions(pairs), torch.arange(len(pairs)))
    return MatchingModel(Centred(image, of_images), Centred(caption, of_captions), CosineSimilarity()).eval()


def no_shared_space(pairs: Pairs, encoders: tuple[str, str] | None) -> str | None:
    """Why embeddings of images and captions cannot be compared without training; None where they can."""
    image, caption = pairs.images.take(torch.tensor([0])), inputs_of_captions(pairs).take(torch.tensor([0]))
    vectors = caption.values if caption.vectors is None else caption.vectors
    if encoders == ENCODERS and vectors.dim() == 2 and vectors.is_floating_point():
        return None
    if not (image.lengths is None and vectors.dim() == 2 and vectors.is_floating_point()):
        return (
            "these are regions or words: give one vector an image and one a caption, as 'truepair embed' makes by "
            "default, or with CLIP or SigLIP on both sides"
        )
    of_image, of_caption = image.values.shape[1], vectors.shape[1]
    if of_image != of_caption:
        return (
            f"those of images have {of_image} values and those of captions {of_caption}: they are not of one space; "
            "leave it out, and models are trained"
        )
    return None


@torch.inference_mode()
def _mean(encoder: nn.Module, inputs: Inputs, rows: Int[Tensor, " rows"]) -> Float[Tensor, " dim"]:
    """Mean of what the encoder gives for the rows, or for evenly spaced ones of them."""
    some = rows[:: -(-len(rows) // _MOST_AVERAGED)]
    total = torch.stack([encoder(inputs.take(block)).values.double().sum(0) for block in some.split(_AT_A_TIME)])
    return (total.sum(0) / len(some)).float()
