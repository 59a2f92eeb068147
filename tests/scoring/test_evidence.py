import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from truepair.config import ModelConfig
from truepair.model import InputShape, make_model
from truepair.scoring import evidence as module
from truepair.scoring.evidence import evidence_for, neighbour_evidence


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def by_hand(image, caption, of_image, of_caption, excluded, k):
    """Of one model and one pair."""
    allowed = [w for w in range(len(of_image)) if not excluded[w]]
    result = 0.0
    for own, likes, other, answers in ((image, of_image, caption, of_caption), (caption, of_caption, image, of_image)):
        nearest = sorted(allowed, key=lambda w: -float(likes[w] @ own))[:k]
        if nearest:
            result += sum(float(answers[w] @ other) for w in nearest) / len(nearest)
    return result


@pytest.mark.parametrize("k", [1, 3, 50])
def test_neighbours_speak_as_written_out(k):
    images, captions = [unit(6, 4), unit(6, 5, seed=1)], [unit(6, 4, seed=2), unit(6, 5, seed=3)]
    witnesses = ([unit(8, 4, seed=4), unit(8, 5, seed=5)], [unit(8, 4, seed=6), unit(8, 5, seed=7)])
    excluded = torch.rand(6, 8, generator=torch.Generator().manual_seed(8)) < 0.3
    excluded[5] = True  # nobody is left to ask
    expected = [
        sum(by_hand(images[m][p], captions[m][p], witnesses[0][m], witnesses[1][m], excluded[p], k) for m in range(2))
        / 2
        for p in range(6)
    ]
    assert expected[5] == 0
    torch.testing.assert_close(
        sum(neighbour_evidence(images, captions, witnesses, excluded, k)), torch.tensor(expected)
    )


def several_captions_an_image(trained):
    """Sixty of the pairs, every third with the image of the one before, and witnesses among them."""
    models, pairs = trained
    image = torch.tensor([i - (i % 3 == 2) for i in range(60)])
    few = replace(pairs.select(torch.arange(60)), image_of_caption=image, true_image_of_caption=None)
    witness = torch.tensor([2, 6, 11, 15, 18, 21, 24, 30, 35, 42, 45, 50, 54, 57])
    assert len(image[witness].unique()) == len(witness)  # of images that have one or two captions
    return models, few, witness, torch.tensor([0, 3, 9, 21, 33, 57])


def evidence_by_hand(models, pairs, image, caption, witness, excluded_images, tau, k, asked_too=()):
    """Of one caption with one image: what speaks for the couple itself, and the neighbours."""
    allowed = [w for w in witness if int(pairs.image_of_caption[w]) not in excluded_images or w in asked_too]
    with torch.no_grad():
        encoded = [
            (
                model.eval().image_encoder(pairs.images.take(torch.arange(len(pairs.images)))).values,
                model.text_encoder(pairs.caption_inputs.take(torch.arange(len(pairs)))).values,
            )
            for model in models
        ]

    def similarity(i, c):
        return sum(float(images[i] @ captions[c]) for images, captions in encoded) / len(encoded)

    rows, columns = ([int(pairs.image_of_caption[w]) for w in allowed], allowed)
    own = similarity(image, caption)
    for rivals in ([(image, c) for c in columns], [(i, caption) for i in rows]):
        own -= tau / 2 * math.log(sum(math.exp(similarity(*rival) / tau) for rival in rivals) / len(rivals))
    neighbours = sum(
        by_hand(images[image], captions[caption], images[rows], captions[columns], [False] * len(rows), k)
        for images, captions in encoded
    )
    return own, neighbours / len(encoded)


@pytest.mark.parametrize("at_a_time", [7, 1024])
def test_evidence_is_that_written_out_pair_by_pair(trained, monkeypatch, at_a_time):
    monkeypatch.setattr(module, "_PAIRS_AT_A_TIME", at_a_time)
    models, pairs, witness, strangers = several_captions_an_image(trained)
    evidence = evidence_for(models, pairs, torch.arange(60), witness, strangers, 0.2, np.random.default_rng(3))
    image_of = pairs.image_of_caption.tolist()
    found = [
        evidence_by_hand(models, pairs, image_of[p], p, witness.tolist(), {image_of[p]}, 0.2, 10) for p in range(60)
    ]
    own, neighbours = (torch.tensor(each) for each in zip(*found, strict=True))
    torch.testing.assert_close(evidence.own, own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(evidence.neighbours, neighbours, rtol=1e-4, atol=1e-5)

    generator, found = np.random.default_rng(3), []
    for block in pairs.image_of_caption.argsort(stable=True).split(at_a_time):
        for p, drawn in zip(block.tolist(), generator.integers(6, size=len(block)).tolist(), strict=True):
            place = drawn if int(strangers[drawn]) != image_of[p] else (drawn + 1) % 6
            image = int(strangers[place])
            assert image != image_of[p]
            found.append(evidence_by_hand(models, pairs, image, p, witness.tolist(), {image, image_of[p]}, 0.2, 10))
    own, neighbours = (torch.tensor(each) for each in zip(*found, strict=True))
    torch.testing.assert_close(evidence.random_own, own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(evidence.random_neighbours, neighbours, rtol=1e-4, atol=1e-5)


def test_no_caption_of_its_own_image_speaks_for_a_pair(trained):
    models, pairs, witness, strangers = several_captions_an_image(trained)
    with_own = evidence_for(models, pairs, torch.arange(60), witness, strangers, 0.2, np.random.default_rng(0))
    kept = [w for w in witness.tolist() if w != 11]  # of image 10, as is pair 10
    without = evidence_for(
        models, pairs, torch.arange(60), torch.tensor(kept), strangers, 0.2, np.random.default_rng(0)
    )
    of_image = pairs.image_of_caption == 10
    assert of_image.nonzero().flatten().tolist() == [10, 11]
    for name in ("own", "neighbours"):
        one, other = getattr(with_own, name), getattr(without, name)
        torch.testing.assert_close(one[of_image], other[of_image])
        assert not torch.isclose(one[~of_image], other[~of_image]).all()
    # Asked all the same, they would have spoken for it.
    arguments = (models, pairs, 10, 10, witness.tolist(), {10}, 0.2, 10)
    asked, not_asked = evidence_by_hand(*arguments, asked_too=(11,)), evidence_by_hand(*arguments)
    assert abs(asked[0] - not_asked[0]) > 0.01
    assert abs(asked[1] - not_asked[1]) > 0.01


@pytest.mark.parametrize("similarity", ["saf", "sgr"])
def test_regions_and_words_are_judged_too(world, vocabulary, similarity):
    torch.manual_seed(0)
    config = ModelConfig(similarity, embedding=8, word_size=6, similarity_size=5)
    model = make_model(config, InputShape.of(world, vocabulary))
    witness, strangers = torch.arange(0, 40, 2), torch.arange(20)
    evidence = evidence_for([model], world, torch.arange(40), witness, strangers, 0.05, np.random.default_rng(0))
    for scores in (evidence.own, evidence.neighbours, evidence.random_own, evidence.random_neighbours):
        assert scores.shape == (40,)
        assert scores.isfinite().all()
        assert scores.std() > 0
    assert max(evidence.neighbours.abs().max(), evidence.random_neighbours.abs().max()) <= 2
