"""SAF and SGR as one writes them first: a loop over captions, each at its true length, against all images.

The rival of ``benchmarks/speed.py`` and the reference of the tests of ``truepair.similarity``. It follows the formulas
of Diao et al., "Similarity Reasoning and Filtration for Image-Text Matching", AAAI 2021, https://arxiv.org/abs/2101.01368,
with the constants of the systems that build on it, and shares no code with the package. Dropout is off. With nothing
padded there is nothing to mask, except regions that an image does not have.

`weights` are a module's parameters and buffers by name; what each function reads is said there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

Kind = Literal["saf", "sgr"]
Weights = Mapping[str, Tensor]

SMALL = 1e-8  # added to every norm, as the released systems do
SLOPE = 0.1  # of LeakyReLU, for negative products of word and region
SHARPNESS = 9.0  # inverse temperature of the attention over regions


def loop_similarity(
    image_regions: Float[Tensor, "images regions dim"],
    image_global: Float[Tensor, "images dim"],
    caption_words: Sequence[Float[Tensor, "words dim"]],
    caption_global: Float[Tensor, "captions dim"],
    weights: Weights,
    kind: Kind,
    graph_steps: int = 3,
    region_lengths: Int[Tensor, " images"] | None = None,
    training: bool = False,
) -> Float[Tensor, "images captions"]:
    """Similarity of every image and caption, in (0, 1): sigmoid of a linear map of the pair's vector.

    Reads ``head.{weight,bias}`` and what `loop_vectors` reads; the other arguments are those of `loop_vectors`.
    """
    vectors = loop_vectors(
        image_regions,
        image_global,
        caption_words,
        caption_global,
        weights,
        kind,
        graph_steps,
        region_lengths,
        training,
    )
    return torch.sigmoid(linear(vectors, weights, "head")).squeeze(-1)


def loop_vectors(
    image_regions: Float[Tensor, "images regions dim"],
    image_global: Float[Tensor, "images dim"],
    caption_words: Sequence[Float[Tensor, "words dim"]],
    caption_global: Float[Tensor, "captions dim"],
    weights: Weights,
    kind: Kind,
    graph_steps: int = 3,
    region_lengths: Int[Tensor, " images"] | None = None,
    training: bool = False,
) -> Float[Tensor, "images captions similarity"]:
    """Similarity vector of every image and caption, before the head.

    Args:
        image_regions: Of unit length.
        image_global: One vector of unit length for an image.
        caption_words: A tensor for each caption, as long as the caption; words of unit length.
        caption_global: One vector of unit length for a caption.
        weights: ``{local_map,global_map}.{weight,bias}`` and those of `filtered` (saf) or `reasoned` (sgr).
        kind: Which of the two systems.
        graph_steps: Steps of graph reasoning; not read by saf.
        region_lengths: Only the first so many regions of an image exist, at least one; all of them if None.
        training: Whether the batch norm of saf uses the statistics of the batch and updates the running ones.
    """
    vectors = []
    for words, caption in zip(caption_words, caption_global, strict=True):
        attended = attended_regions(image_regions, words, region_lengths)  # [images, words, dim]
        local = unit(linear((attended - words) ** 2, weights, "local_map"))  # [images, words, similarity]
        whole = unit(linear((image_global - caption) ** 2, weights, "global_map"))  # [images, similarity]
        nodes = torch.cat([whole.unsqueeze(1), local], dim=1)  # [images, 1 + words, similarity]
        vectors.append(reasoned(nodes, weights, graph_steps) if kind == "sgr" else filtered(nodes, weights, training))
    return torch.stack(vectors, dim=1)


def attended_regions(
    image_regions: Float[Tensor, "images regions dim"],
    words: Float[Tensor, "words dim"],
    region_lengths: Int[Tensor, " images"] | None = None,
) -> Float[Tensor, "images words dim"]:
    """What each word of one caption looks at in each image, of unit length."""
    scores = unit(F.leaky_relu(image_regions @ words.T, SLOPE))  # [images, regions, words], unit length over words
    if region_lengths is not None:
        positions = torch.arange(image_regions.shape[1], device=image_regions.device)
        missing = positions >= region_lengths.unsqueeze(1)  # [images, regions]
        scores = scores.masked_fill(missing.unsqueeze(2), -torch.inf)
    attention = torch.softmax(SHARPNESS * scores, dim=1)  # over regions
    return unit(attention.transpose(1, 2) @ image_regions)


def reasoned(
    nodes: Float[Tensor, "images nodes similarity"], weights: Weights, graph_steps: int
) -> Float[Tensor, "images similarity"]:
    """SGR: node 0 after `graph_steps` rounds of attention among the nodes of a pair.

    Reads ``reasoning.steps.{k}.{query,key,graph}.{weight,bias}`` of each step k.
    """
    for step in range(graph_steps):
        name = f"reasoning.steps.{step}"
        queries, keys = linear(nodes, weights, f"{name}.query"), linear(nodes, weights, f"{name}.key")
        edges = torch.softmax(queries @ keys.transpose(1, 2), dim=-1)  # [images, nodes, nodes], rows sum to 1
        nodes = torch.relu(linear(edges @ nodes, weights, f"{name}.graph"))
    return nodes[:, 0]


def filtered(
    nodes: Float[Tensor, "images nodes similarity"], weights: Weights, training: bool
) -> Float[Tensor, "images similarity"]:
    """SAF: sum of the nodes of a pair, each as far as its gate is open, of unit length.

    Reads ``reasoning.gate.{weight,bias}`` and ``reasoning.norm.{weight,bias,running_mean,running_var}``. In training
    the gates are normalised over all images and nodes of this one caption.
    """
    gates = linear(nodes, weights, "reasoning.gate").transpose(1, 2)  # [images, 1, nodes]
    opened = torch.sigmoid(batch_norm(gates, weights, "reasoning.norm", training))
    shares = opened / (opened.abs().sum(dim=-1, keepdim=True) + SMALL)
    return unit((shares @ nodes).squeeze(1))


def loop_global_image(
    image_regions: Float[Tensor, "images regions dim"], weights: Weights, training: bool = False
) -> Float[Tensor, "images dim"]:
    """Enhanced global vector of each image: its regions, weighed by their agreement with their mean, of unit length.

    Reads ``{local,global_,score}.{weight,bias}`` and the batch norms
    ``{local_norm,global_norm}.{weight,bias,running_mean,running_var}``.
    The local one has a channel for each *position* of a region, so all images have the same number of regions.
    """
    local = torch.tanh(batch_norm(linear(image_regions, weights, "local"), weights, "local_norm", training))
    mean = linear(image_regions.mean(dim=1), weights, "global_")
    whole = torch.tanh(batch_norm(mean, weights, "global_norm", training))  # [images, dim]
    scores = linear(local * whole.unsqueeze(1), weights, "score")  # [images, regions, 1]
    return unit((torch.softmax(scores, dim=1) * image_regions).sum(dim=1))


def loop_global_text(
    caption_words: Sequence[Float[Tensor, "words dim"]], weights: Weights
) -> Float[Tensor, "captions dim"]:
    """Enhanced global vector of each caption: its words, weighed by their agreement with their mean, of unit length.

    Reads ``{local,global_,score}.{weight,bias}``; text has no batch norm.
    """
    vectors = []
    for words in caption_words:
        local = torch.tanh(linear(words, weights, "local"))
        whole = torch.tanh(linear(words.mean(dim=0), weights, "global_"))
        scores = linear(local * whole, weights, "score")  # [words, 1]
        vectors.append(unit((torch.softmax(scores, dim=0) * words).sum(dim=0)))
    return torch.stack(vectors)


def unit(vectors: Float[Tensor, "*any dim"]) -> Float[Tensor, "*any dim"]:
    """The vectors of the last axis divided by their Euclidean norm; zero stays zero."""
    norms: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / (norms + SMALL)


def linear(inputs: Tensor, weights: Weights, name: str) -> Tensor:
    return F.linear(inputs, weights[f"{name}.weight"], weights[f"{name}.bias"])


def batch_norm(inputs: Tensor, weights: Weights, name: str, training: bool) -> Tensor:
    """Batch norm with channels on axis 1; in training the given running statistics move by a tenth, in place."""
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return F.batch_norm(inputs, mean, variance, scale, shift, training=training, momentum=0.1)
