from dataclasses import replace

import pytest
import torch

from truepair.config import ModelConfig
from truepair.data.noise import inject_noise
from truepair.encoding import encode_captions, encode_images
from truepair.evaluation.recall import mean_metrics, ranks, retrieval_metrics
from truepair.evaluation.retrieval import evaluate, own_similarities
from truepair.model import InputShape, make_model


def whole_matrix(model, pairs):
    """All images against all captions in one go, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        images = model.image_encoder(pairs.images.take(torch.arange(len(pairs.images))))
        captions = model.text_encoder(pairs.caption_inputs.take(torch.arange(len(pairs))))
        return model.scores.matrix(images, captions)


@pytest.fixture
def models(make):
    """Two that disagree; fresh ones rank more or less at random."""
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(make())
    return models


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_evaluation_gives_the_ranks_of_the_whole_matrix(models, world, batch_size):
    expected = retrieval_metrics(ranks(whole_matrix(models[0], world), world.image_of_caption))
    assert evaluate([models[0]], world, batch_size) == expected
    assert 0 < expected.rsum < 600


def test_c5_two_models_are_ranked_by_the_mean_of_their_similarities(models, world):
    matrices = [whole_matrix(model, world) for model in models]
    expected = retrieval_metrics(ranks(sum(matrices) / 2, world.image_of_caption))
    assert evaluate(models, world) == expected
    separately = [retrieval_metrics(ranks(matrix, world.image_of_caption)) for matrix in matrices]
    assert separately == [evaluate([model], world) for model in models]
    assert expected != mean_metrics(separately)


def test_a_model_and_itself_are_as_good_as_the_model(models, world):
    assert evaluate([models[0], models[0]], world) == evaluate([models[0]], world)


def test_the_order_of_captions_is_irrelevant(models, world):
    shuffled = world.select(torch.randperm(40, generator=torch.Generator().manual_seed(0)))
    assert evaluate([models[0]], shuffled) == evaluate([models[0]], world)


def test_pairs_are_taken_as_they_are_and_the_truth_is_not_looked_at(models, world):
    noisy = inject_noise(world, 0.5, seed=0)
    blind = replace(noisy, true_image_of_caption=None)
    assert evaluate([models[0]], noisy) == evaluate([models[0]], blind)
    assert evaluate([models[0]], noisy) != evaluate([models[0]], world)


def test_vectors_on_both_sides(vector_world):
    torch.manual_seed(0)
    model = make_model(ModelConfig(embedding=8), InputShape.of(vector_world, None))
    expected = retrieval_metrics(ranks(whole_matrix(model, vector_world), vector_world.image_of_caption))
    assert evaluate([model], vector_world) == expected


def test_own_similarities_are_the_entries_of_each_caption_and_its_image(models, world):
    images, captions = encode_images(models[0], world.images), encode_captions(models[0], world)
    own = own_similarities(models[0], images, captions, world.image_of_caption, block=7)
    expected = whole_matrix(models[0], world)[world.image_of_caption, torch.arange(40)]
    torch.testing.assert_close(own, expected)


def test_evaluation_draws_nothing_from_the_global_generator(models, world):
    before = torch.random.get_rng_state()
    evaluate(models, world)
    assert torch.equal(torch.random.get_rng_state(), before)
