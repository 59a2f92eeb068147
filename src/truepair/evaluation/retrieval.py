"""How well models retrieve on a split: encode once, score in blocks, count ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.data.batch import Padded
from truepair.data.pairs import Pairs
from truepair.encoding import encode_captions, encode_images
from truepair.evaluation.recall import RetrievalMetrics, ranks_in_blocks, retrieval_metrics
from truepair.model import MatchingModel
from truepair.similarity.blocks import similarity_blocks


@torch.inference_mode()
def own_similarities(
    model: MatchingModel, images: Padded, captions: Padded, image_of_caption: Tensor, block: int = 4096
) -> Float[Tensor, " captions"]:
    """Similarity of each caption with its own image, from encodings."""
    image_of_caption = image_of_caption.to(captions.values.device)
    parts = [
        model.scores.paired(images.rows(image_of_caption[rows]), captions.rows(rows))
        for rows in torch.arange(len(captions), device=captions.values.device).split(block)
    ]
    return torch.cat(parts)


@torch.inference_mode()
def evaluate(models: Sequence[MatchingModel], pairs: Pairs, batch_size: int = 256) -> RetrievalMetrics:
    """Recall and ranks both ways on a split, every image against every caption.

    Several models are taken as one: their similarity matrices are averaged (METHODS: SGRAF is SAF + SGR), not their
    metrics.

    Args:
        models: One trained model, or several.
        pairs: The split; its `image_of_caption` is taken as the truth.
        batch_size: Items encoded at once.
    """
    blocks: list[Iterator[Tensor]] = []
    own: list[Tensor] = []
    for model in models:
        images, captions = encode_images(model, pairs.images, batch_size), encode_captions(model, pairs, batch_size)
        own.append(own_similarities(model, images, captions, pairs.image_of_caption).float().cpu())
        blocks.append(similarity_blocks(model.scores, images, captions))
    mean_blocks = (torch.stack([part.float().cpu() for part in parts]).mean(0) for parts in zip(*blocks, strict=True))
    return retrieval_metrics(ranks_in_blocks(mean_blocks, pairs.image_of_caption, torch.stack(own).mean(0)))
