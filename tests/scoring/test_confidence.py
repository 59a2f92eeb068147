import pytest
import torch

from truepair.config import BaselineConfig, CrclConfig
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.methods.baseline import Baseline
from truepair.methods.crcl import Crcl
from truepair.scoring.confidence import pair_scores, posterior_against_random_pairs, posterior_of_two_humps

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
    expected = own - (others.logsumexp(1) + others.logsumexp(0)) / 2
    scores = pair_scores([model], Loaders(one_caption_each, 8, 0, CPU), TEMPERATURE)
    torch.testing.assert_close(scores.log_odds.double(), expected, rtol=1e-4, atol=1e-4)
    # And they are the log-odds of the matching probabilities, in the mean of both directions.
    image_to_text, text_to_image = similarity.softmax(1).diagonal(), similarity.softmax(0).diagonal()
    odds = (image_to_text.logit() + text_to_image.logit()) / 2
    torch.testing.assert_close(expected, odds)


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


@pytest.mark.parametrize("posterior", [posterior_against_random_pairs, posterior_of_two_humps])
def test_confidence_is_in_0_1_and_rises_with_the_log_odds(model, loaders, posterior):
    confidence, scores = posterior([model], loaders, TEMPERATURE), pair_scores([model], loaders, TEMPERATURE)
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    assert (confidence[scores.log_odds.argsort()].diff() >= 0).all()


@pytest.mark.parametrize("method", [(Baseline, BaselineConfig()), (Crcl, CrclConfig())], ids=["baseline", "crcl"])
def test_reading_confidence_draws_no_random_number_and_changes_no_state(make, fabric, loaders, method):
    kind, config = method
    torch.manual_seed(0)
    trained = kind(config, make, 40, fabric)
    list(trained.train_epoch(0, loaders))
    state = {name: value.clone() for name, value in trained.models[0].state_dict().items()}
    random = torch.random.get_rng_state()
    first = trained.confidence(loaders)
    assert torch.equal(trained.confidence(loaders), first)
    assert torch.equal(torch.random.get_rng_state(), random)
    torch.testing.assert_close(trained.models[0].state_dict(), state, rtol=0, atol=0)
