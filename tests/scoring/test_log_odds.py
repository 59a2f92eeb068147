import math

import pytest
import torch

from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.scoring.confidence import pair_scores
from truepair.scoring.log_odds import log_odds, log_odds_one_way

CPU = torch.device("cpu")
TEMPERATURE = 0.05


@pytest.fixture
def model(make):
    torch.manual_seed(0)
    return make()


def encoded_alone(model, pairs):
    """Every image and every caption by itself, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        images = [model.image_encoder(pairs.images.take(torch.tensor([i]))).values for i in range(len(pairs.images))]
        captions = [model.text_encoder(pairs.caption_inputs.take(torch.tensor([i]))).values for i in range(len(pairs))]
    return torch.cat(images), torch.cat(captions)


@pytest.mark.parametrize("batch_size", [3, 40])
def test_every_pair_gets_the_similarity_it_has_alone(model, world, batch_size):
    noisy = inject_noise(world, 0.5, seed=0)
    images, captions = encoded_alone(model, noisy)
    scores = pair_scores([model], Loaders(noisy, batch_size, 0, CPU), TEMPERATURE)
    expected = (images[noisy.image_of_caption] * captions).sum(1)
    torch.testing.assert_close(scores.similarity, expected, rtol=1e-5, atol=1e-6)


def test_log_odds_are_against_the_captions_of_other_images_and_other_images(model, world):
    one_caption_each = world.select(torch.arange(0, 40, 2))  # so that every caption, and every image, competes
    images, captions = encoded_alone(model, one_caption_each)
    similarity = (images @ captions.T / TEMPERATURE).double()
    own = similarity.diagonal()
    others = similarity.masked_fill(torch.eye(20, dtype=torch.bool), -torch.inf)
    expected = own - (others.logsumexp(1) + others.logsumexp(0)) / 2 + math.log(19)  # means over 19 negatives
    scores = pair_scores([model], Loaders(one_caption_each, 8, 0, CPU), TEMPERATURE)
    torch.testing.assert_close(scores.log_odds.double(), expected, rtol=1e-4, atol=1e-4)
    # Less that constant, they are the log-odds of the matching probabilities, in the mean of both directions.
    image_to_text, text_to_image = similarity.softmax(1).diagonal(), similarity.softmax(0).diagonal()
    odds = (image_to_text.logit() + text_to_image.logit()) / 2
    torch.testing.assert_close(expected - math.log(19), odds)


def test_scores_depend_on_model_and_pairs_only(model, world, loaders):
    first = pair_scores([model], loaders, TEMPERATURE)
    again = pair_scores([model], Loaders(world, 13, 0, CPU), TEMPERATURE)
    for name in ("similarity", "log_odds", "random_log_odds"):
        assert torch.equal(getattr(first, name), getattr(again, name))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_left_as_it_was(model, loaders, training):
    model.train(training)
    pair_scores([model], loaders, TEMPERATURE)
    assert {module.training for module in model.modules()} == {training}


def test_excluded_negatives_are_as_good_as_none_and_both_directions_count_half():
    generator = torch.Generator().manual_seed(0)
    similarity, to_captions, to_images = (torch.randn(*size, generator=generator) for size in [(4,), (4, 6), (4, 6)])
    excluded = torch.zeros(4, 6, dtype=torch.bool)
    excluded[:, 4:] = True
    none = torch.zeros(4, 4, dtype=torch.bool)
    kept = log_odds_one_way(similarity, to_captions[:, :4], none, 0.3)
    torch.testing.assert_close(log_odds_one_way(similarity, to_captions, excluded, 0.3), kept)
    by_hand = [
        float(s) / 0.3 - math.log(sum(math.exp(float(n) / 0.3) for n in row[:4]) / 4)
        for s, row in zip(similarity, to_captions, strict=True)
    ]
    torch.testing.assert_close(kept, torch.tensor(by_hand))
    both = log_odds(similarity, to_captions, to_images, excluded, excluded, 0.3)
    other = log_odds_one_way(similarity, to_images, excluded, 0.3)
    torch.testing.assert_close(both, (kept + other) / 2)
