from dataclasses import replace

import pytest
import torch
from latent_factors import latent_factor_pairs

from truepair.audit.judging import FEWEST_LEARNED, judged
from truepair.audit.run import audit_pairs
from truepair.audit.shared_space import shared_space
from truepair.data.batch import Padded
from truepair.data.features import Features
from truepair.data.noise import inject_noise
from truepair.data.text import tokenised
from truepair.errors import ConfigError
from truepair.scoring.cross_fitting import Fold, cross_fitted_features
from truepair.scoring.pair_features import FEATURES, OF_FROZEN


def pairs_of_one_space(pairs=600, width=16, seed=0, rate=0.2):
    """Pairs whose features are of one space already, a fifth of them mismatched."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(pairs, width, generator=generator)
    captions = images + 0.6 * torch.randn(pairs, width, generator=generator)
    made = latent_factor_pairs(pairs, world_seed=0, draw_seed=0).pairs
    both = {"images": Features(images.numpy()), "caption_inputs": Features(captions.numpy())}
    found = replace(made, **both)
    return inject_noise(found, rate, seed=seed) if rate else found


def test_features_of_one_space_are_scored_without_training(quick, tmp_path):
    pairs = pairs_of_one_space()
    summary = audit_pairs(pairs, None, tmp_path / "audit", replace(quick, zero_shot=True))
    assert summary.scored_by.how == "zero-shot"
    assert summary.truth["auroc"] > 0.97
    assert summary.estimated_noise_rate == pytest.approx(0.2, abs=0.05)
    assert summary.truth["suggested_right"] > 60


def test_scores_are_cosines_less_the_means_of_the_corpus():
    pairs = pairs_of_one_space(60)
    model = shared_space(pairs, None)
    images, captions = (inputs.take(torch.arange(60)).values for inputs in (pairs.images, pairs.caption_inputs))
    image, caption = images[3] - images.mean(0), captions[5] - captions.mean(0)
    encoded = model.image_encoder(Padded(images[3:4])), model.text_encoder(Padded(captions[5:6]))
    torch.testing.assert_close(model.scores.matrix(*encoded)[0, 0], torch.cosine_similarity(image, caption, dim=0))


def test_words_beside_features_of_one_space_change_nothing_where_nothing_is_trained(vocabulary):
    pairs = pairs_of_one_space(60)
    both = tokenised(replace(pairs, captions=["red dog"] * 60), vocabulary, beside_features=True)
    every = torch.arange(60)
    found = [
        cross_fitted_features([Fold(every, every, [shared_space(each, None)])], each, 20, 0.05, 0).pairs
        for each in (pairs, both)
    ]
    assert torch.equal(*found)


def test_features_of_two_spaces_and_words_are_refused_where_nothing_is_trained(noisy_world, world):
    with pytest.raises(ConfigError, match="they are not of one space"):
        shared_space(replace(noisy_world, caption_inputs=Features(torch.zeros(len(noisy_world), 3).numpy())), None)
    with pytest.raises(ConfigError, match="these are regions or words"):
        shared_space(world, None)


def test_below_a_hundred_pairs_of_one_space_nothing_is_trained(quick):
    few = pairs_of_one_space(FEWEST_LEARNED - 1)
    assert not judged(few, None, None, quick).is_trained


def test_an_untrained_model_counts_beside_trained_ones_where_it_tells_pairs_from_random_pairs(quick):
    pairs = pairs_of_one_space(300)
    together = judged(pairs, None, None, quick)
    assert together.is_trained
    assert together.frozen is not None
    assert together.features.names == (*FEATURES, *OF_FROZEN)
    assert list(together.found.weights) == list(together.features.names)
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    elsewhere = pairs.caption_inputs.take(torch.arange(300)).values[:, shuffled]
    apart = judged(replace(pairs, caption_inputs=Features(elsewhere.numpy())), None, None, quick)
    assert apart.frozen is None
    assert apart.features.names == FEATURES


def test_of_forty_right_pairs_none_is_called_a_suspect_and_of_forty_with_ten_wrong_some_are(quick):
    suspects = []
    for seed in range(8):
        right = pairs_of_one_space(40, seed=seed, rate=0.0)
        of_right = judged(right, None, None, quick)
        assert not (of_right.match < 0.5).any()
        assert of_right.match.isnan().all()
        assert "it cannot be said whether any does not match" in of_right.found.warnings[0]
        of_wrong = judged(pairs_of_one_space(40, seed=seed, rate=0.25), None, None, quick)
        suspects.append(int((of_wrong.match < 0.5).sum()))
    assert sum(count > 4 for count in suspects) > 4
