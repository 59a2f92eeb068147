import pytest
import torch

from truepair.config import BaselineConfig, CrclConfig
from truepair.data.loader import Loaders
from truepair.methods.baseline import Baseline
from truepair.methods.confidence import pair_similarities, similarity_posterior
from truepair.methods.crcl import Crcl

CPU = torch.device("cpu")


@pytest.fixture
def model(make):
    torch.manual_seed(0)
    return make()


def by_definition(model, pairs):
    """One pair at a time, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        images = [model.image_encoder(pairs.images.take(i[None])).values for i in pairs.image_of_caption]
        captions = [model.text_encoder(pairs.caption_inputs.take(torch.tensor([i]))).values for i in range(len(pairs))]
    return torch.cat([(image * caption).sum(1) for image, caption in zip(images, captions, strict=True)])


@pytest.mark.parametrize("batch_size", [3, 40])
def test_every_pair_gets_the_similarity_it_has_alone(model, world, batch_size):
    loaders = Loaders(world, batch_size, 0, CPU)
    torch.testing.assert_close(pair_similarities(model, loaders), by_definition(model, world), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_left_as_it_was(model, loaders, training):
    model.train(training)
    pair_similarities(model, loaders)
    assert {module.training for module in model.modules()} == {training}


def test_confidence_is_in_0_1_and_rises_with_similarity(model, loaders):
    confidence, similarity = similarity_posterior(model, loaders), pair_similarities(model, loaders)
    assert confidence.dtype == torch.float32
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    assert (confidence[similarity.argsort()].diff() >= 0).all()


@pytest.mark.parametrize("method", [(Baseline, BaselineConfig()), (Crcl, CrclConfig())], ids=["baseline", "crcl"])
def test_reading_confidence_draws_no_random_number_and_changes_no_state(make, fabric, loaders, method):
    kind, config = method
    torch.manual_seed(0)
    trained = kind(config, make, 40, fabric)
    list(trained.train_epoch(0, loaders))
    state = {name: value.clone() for name, value in trained.model.state_dict().items()}
    random = torch.random.get_rng_state()
    first = trained.confidence(loaders)
    assert torch.equal(trained.confidence(loaders), first)
    assert torch.equal(torch.random.get_rng_state(), random)
    torch.testing.assert_close(trained.model.state_dict(), state, rtol=0, atol=0)
