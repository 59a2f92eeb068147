import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from truepair.config import ModelConfig
from truepair.model import InputShape, make_model
from truepair.scoring import pair_features as module
from truepair.scoring.pair_features import neighbour_agreement, pair_features


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
def test_neighbours_agree_as_written_out(k):
    images, captions = [unit(6, 4), unit(6, 5, seed=1)], [unit(6, 4, seed=2), unit(6, 5, seed=3)]
    reference = ([unit(8, 4, seed=4), unit(8, 5, seed=5)], [unit(8, 4, seed=6), unit(8, 5, seed=7)])
    excluded = torch.rand(6, 8, generator=torch.Generator().manual_seed(8)) < 0.3
    excluded[5] = True  # no neighbour is left
    expected = [
        sum(by_hand(images[m][p], captions[m][p], reference[0][m], reference[1][m], excluded[p], k) for m in range(2))
        / 2
        for p in range(6)
    ]
    assert expected[5] == 0
    found = sum(neighbour_agreement(images, captions, reference, excluded, k))
    torch.testing.assert_close(found, torch.tensor(expected))


def several_captions_an_image(trained):
    """Sixty of the pairs, every third with the image of the one before, reference pairs among them, random images."""
    models, pairs = trained
    image = torch.tensor([i - (i % 3 == 2) for i in range(60)])
    few = replace(pairs.select(torch.arange(60)), image_of_caption=image, true_image_of_caption=None)
    reference = torch.tensor([2, 6, 11, 15, 18, 21, 24, 30, 35, 42, 45, 50, 54, 57])
    assert len(image[reference].unique()) == len(reference)  # of images that have one or two captions
    return models, few, reference, torch.tensor([0, 3, 9, 21, 33, 57])


def features_by_hand(models, pairs, image, caption, reference, excluded_images, tau, k, neighbours_too=()):
    """Of one caption with one image: log-odds and neighbour agreement."""
    allowed = [w for w in reference if int(pairs.image_of_caption[w]) not in excluded_images or w in neighbours_too]
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
    for negatives in ([(image, c) for c in columns], [(i, caption) for i in rows]):
        own -= tau / 2 * math.log(sum(math.exp(similarity(*negative) / tau) for negative in negatives) / len(negatives))
    neighbours = sum(
        by_hand(images[image], captions[caption], images[rows], captions[columns], [False] * len(rows), k)
        for images, captions in encoded
    )
    return own, neighbours / len(encoded)


@pytest.mark.parametrize("at_a_time", [7, 1024])
def test_features_are_those_written_out_pair_by_pair(trained, monkeypatch, at_a_time):
    monkeypatch.setattr(module, "_PAIRS_AT_A_TIME", at_a_time)
    models, pairs, reference, random_images = several_captions_an_image(trained)
    features = pair_features(models, pairs, torch.arange(60), reference, random_images, 0.2, np.random.default_rng(3))
    image_of = pairs.image_of_caption.tolist()
    found = [
        features_by_hand(models, pairs, image_of[p], p, reference.tolist(), {image_of[p]}, 0.2, 10) for p in range(60)
    ]
    own, neighbours = (torch.tensor(each) for each in zip(*found, strict=True))
    torch.testing.assert_close(features.log_odds, own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.agreement, neighbours, rtol=1e-4, atol=1e-5)

    generator, found = np.random.default_rng(3), []
    for block in pairs.image_of_caption.argsort(stable=True).split(at_a_time):
        for p, drawn in zip(block.tolist(), generator.integers(6, size=len(block)).tolist(), strict=True):
            place = drawn if int(random_images[drawn]) != image_of[p] else (drawn + 1) % 6
            image = int(random_images[place])
            assert image != image_of[p]
            found.append(features_by_hand(models, pairs, image, p, reference.tolist(), {image, image_of[p]}, 0.2, 10))
    own, neighbours = (torch.tensor(each) for each in zip(*found, strict=True))
    torch.testing.assert_close(features.random_log_odds, own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.random_agreement, neighbours, rtol=1e-4, atol=1e-5)


def test_no_other_pair_of_its_own_image_is_a_neighbour_or_a_negative(trained):
    models, pairs, reference, random_images = several_captions_an_image(trained)
    with_own = pair_features(models, pairs, torch.arange(60), reference, random_images, 0.2, np.random.default_rng(0))
    kept = [w for w in reference.tolist() if w != 11]  # of image 10, as is pair 10
    without = pair_features(
        models, pairs, torch.arange(60), torch.tensor(kept), random_images, 0.2, np.random.default_rng(0)
    )
    of_image = pairs.image_of_caption == 10
    assert of_image.nonzero().flatten().tolist() == [10, 11]
    for name in ("log_odds", "agreement"):
        one, other = getattr(with_own, name), getattr(without, name)
        torch.testing.assert_close(one[of_image], other[of_image])
        assert not torch.isclose(one[~of_image], other[~of_image]).all()
    # As a neighbour and a negative it would have made a difference.
    arguments = (models, pairs, 10, 10, reference.tolist(), {10}, 0.2, 10)
    included, excluded = features_by_hand(*arguments, neighbours_too=(11,)), features_by_hand(*arguments)
    assert abs(included[0] - excluded[0]) > 0.01
    assert abs(included[1] - excluded[1]) > 0.01


@pytest.mark.parametrize("similarity", ["saf", "sgr"])
def test_regions_and_words_have_features_too(world, vocabulary, similarity):
    torch.manual_seed(0)
    config = ModelConfig(similarity, embedding=8, word_size=6, similarity_size=5)
    model = make_model(config, InputShape.of(world, vocabulary))
    reference, random_images = torch.arange(0, 40, 2), torch.arange(20)
    features = pair_features([model], world, torch.arange(40), reference, random_images, 0.05, np.random.default_rng(0))
    for scores in (features.log_odds, features.agreement, features.random_log_odds, features.random_agreement):
        assert scores.shape == (40,)
        assert scores.isfinite().all()
        assert scores.std() > 0
    assert max(features.agreement.abs().max(), features.random_agreement.abs().max()) <= 2


@pytest.mark.parametrize("training", [True, False])
def test_the_modes_of_the_models_are_left_as_they_were(trained, training):
    models, pairs, reference, random_images = several_captions_an_image(trained)
    before = [model.training for model in models]
    for model in models:
        model.train(training)
    pair_features(models, pairs, torch.arange(60), reference, random_images, 0.2, np.random.default_rng(0))
    assert {module.training for model in models for module in model.modules()} == {training}
    for model, mode in zip(models, before, strict=True):
        model.train(mode)
