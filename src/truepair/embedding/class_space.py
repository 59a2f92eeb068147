"""A space that EfficientNet-Lite0 and MiniLM share without any training: ImageNet's 1,000 classes.

The network's own last layer says which classes an image shows; MiniLM, of a caption and of the name and definition of
each class, says which classes the caption is about. Their cosine, both sides centred over the corpus, tells a matching
pair of photograph and caption from a random one in 92 % of comparisons (1,000 images of Flickr8K with 5 captions each);
90.5 % where captions are compared with the mean vector of the classes seen, as in ConSE (Norouzi et al., ICLR 2014).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import torch
from torch import nn

from truepair.embedding.lite0 import classifier
from truepair.embedding.text_encoders import encode_by_length
from truepair.embedding.towers import TowerTextEncoder
from truepair.encoders.shared_space import ClassesOfCaptions, ClassesOfImages
from truepair.pretrained.captions import MINILM
from truepair.pretrained.lite0 import NAME

ENCODERS = (NAME, MINILM)
"""The encoders of images and of captions whose embeddings it takes."""
_NAMES = "imagenet_classes.tsv"
"""Synset, first lemma and definition (WordNet 3.0) of each class, in the order of the network's outputs."""
_BATCH = 128


@cache
def class_space() -> tuple[nn.Module, nn.Module]:
    """Embeddings of `ENCODERS` → probabilities of the classes: the module of images, and that of captions.

    They are made once a process, in some seconds: nothing of them is ever trained.

    Raises:
        ConfigError: If the packages of the encoders are not installed.
    """
    encoded = encode_by_length(TowerTextEncoder(MINILM, torch.device("cpu")), class_sentences(), _BATCH)
    layer = classifier()
    return ClassesOfImages(layer.weight, layer.bias), ClassesOfCaptions(torch.from_numpy(encoded.features).float())


def class_sentences() -> list[str]:
    """A caption for each class.

    >>> class_sentences()[1]
    'a photo of a goldfish, small golden or orange-red freshwater fishes of Eurasia used as pond or aquarium fishes'
    """
    table = files("truepair.embedding").joinpath(_NAMES).read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in table]
    return [f"a photo of a {name}, {definition}" for _, name, definition in rows]
