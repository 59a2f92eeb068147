from dataclasses import replace

import pytest
import torch
from latent_factors import latent_factor_pairs

from truepair.audit.crossfit import at_most, cross_fitted, zero_shot
from truepair.audit.run import audit_pairs
from truepair.config import BaselineConfig
from truepair.data.batch import Padded
from truepair.data.features import Features
from truepair.data.noise import inject_noise
from truepair.data.text import tokenised
from truepair.errors import ConfigError
from truepair.scoring.cross_fitting import cross_fitted_features


def test_models_do_not_depend_on_the_pairs_that_they_score(noisy_world, quick):
    config = replace(quick, folds=2, method=BaselineConfig(epochs=1))
    first = cross_fitted(noisy_world, None, config)
    scored = first[0].pairs
    wrecked = noisy_world.image_of_caption.clone()
    wrecked[scored] = wrecked[scored].roll(1)
    second = cross_fitted(replace(noisy_world, image_of_caption=wrecked), None, config)
    assert torch.equal(second[0].pairs, scored)
    for a, b in zip(first[0].models[0].parameters(), second[0].models[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_global_random_state_is_left_as_it_was(noisy_world, quick):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    cross_fitted(noisy_world, None, replace(quick, folds=2, method=BaselineConfig(epochs=1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_all_networks_of_a_method_score(twins, noisy_world, quick):
    folds = cross_fitted(noisy_world, None, replace(quick, folds=2, repetitions=2, method=BaselineConfig(epochs=1)))
    assert [len(fold.models) for fold in folds] == [4, 4]
    assert not any(model.training for fold in folds for model in fold.models)


def test_a_model_learns_from_no_image_of_its_fold_and_from_no_more_pairs_than_allowed(noisy_world, quick):
    folds = cross_fitted(noisy_world, None, replace(quick, folds=2, most_learned=100, method=BaselineConfig(epochs=1)))
    for fold in folds:
        assert len(fold.learned) == 100
        images = set(noisy_world.image_of_caption[fold.pairs].tolist())
        assert not images & set(noisy_world.image_of_caption[fold.learned].tolist())


def test_of_too_many_pairs_a_random_part_is_learned_in_their_order():
    pairs = torch.arange(0, 1000, 2)
    assert at_most(pairs, 500, seed=0) is pairs
    some = at_most(pairs, 50, seed=0)
    assert len(set(some.tolist())) == 50
    assert set(some.tolist()) <= set(pairs.tolist())
    assert some.tolist() == sorted(some.tolist())
    assert not torch.equal(some, at_most(pairs, 50, seed=1))


def shared_space(pairs=600, width=16, seed=0):
    """Pairs whose features are of one space already, a fifth of them mismatched."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(pairs, width, generator=generator)
    captions = images + 0.6 * torch.randn(pairs, width, generator=generator)
    made = latent_factor_pairs(pairs, world_seed=0, draw_seed=0).pairs
    both = {"images": Features(images.numpy()), "caption_inputs": Features(captions.numpy())}
    return inject_noise(replace(made, **both), 0.2, seed=0)


def test_features_of_one_space_are_scored_without_training(quick, tmp_path):
    pairs = shared_space()
    summary = audit_pairs(pairs, None, tmp_path / "audit", replace(quick, zero_shot=True))
    assert summary.scored_by.how == "zero-shot"
    assert summary.truth["auroc"] > 0.97
    assert summary.estimated_noise_rate == pytest.approx(0.2, abs=0.05)
    assert summary.truth["suggested_right"] > 60
    (fold,) = zero_shot(pairs)
    image, caption = (
        pairs.images.take(torch.tensor([3])).values[0],
        pairs.caption_inputs.take(torch.tensor([5])).values[0],
    )
    batch = Padded(image[None]), Padded(caption[None])
    found = fold.models[0].scores.matrix(fold.models[0].image_encoder(batch[0]), fold.models[0].text_encoder(batch[1]))
    torch.testing.assert_close(found[0, 0], torch.cosine_similarity(image, caption, dim=0))


def test_words_beside_features_of_one_space_change_nothing_where_nothing_is_trained(vocabulary):
    pairs = shared_space(60)
    both = tokenised(replace(pairs, captions=["red dog"] * 60), vocabulary, beside_features=True)
    found = [cross_fitted_features(zero_shot(each), each, 20, 0.05, 0).pairs for each in (pairs, both)]
    assert torch.equal(*found)


def test_features_of_two_spaces_and_words_are_refused_where_nothing_is_trained(noisy_world, world):
    with pytest.raises(ConfigError, match="they are not of one space"):
        zero_shot(replace(noisy_world, caption_inputs=Features(torch.zeros(len(noisy_world), 3).numpy())))
    with pytest.raises(ConfigError, match="these are regions or words"):
        zero_shot(world)
