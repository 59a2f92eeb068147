from dataclasses import replace

import numpy as np
import pytest
import torch
from moved_captions import moved_captions
from one_space import zero_shot

from truepair.config import ModelConfig
from truepair.errors import ConfigError
from truepair.model import InputShape, make_model
from truepair.scoring.cross_fitting import (
    Fold,
    _in_proportion,
    candidates_of,
    cross_fitted_features,
    folds_by_image,
    reference_pairs_of,
)
from truepair.scoring.noise_rate import share_above


def test_every_pair_is_in_one_fold_and_captions_of_one_image_stay_together():
    image_of_caption = torch.tensor([0, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 9])
    folds = folds_by_image(image_of_caption, 3, seed=0)
    assert sorted(torch.cat(folds).tolist()) == list(range(14))
    images = [set(image_of_caption[fold].tolist()) for fold in folds]
    assert sum(len(part) for part in images) == 10  # no image in two folds
    assert sorted(len(part) for part in images) == [3, 3, 4]


def test_folds_depend_on_the_seed_only():
    image_of_caption = torch.arange(60)
    again = [folds_by_image(image_of_caption, 4, seed=7) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*again, strict=True))
    other = folds_by_image(image_of_caption, 4, seed=8)
    assert not all(torch.equal(a, b) for a, b in zip(again[0], other, strict=True))


def test_too_few_images_for_the_folds_is_an_error_that_says_how_many_would_do():
    with pytest.raises(ConfigError, match="8 images make at most 2 folds"):
        folds_by_image(torch.arange(8), 4, seed=0)


@pytest.fixture(scope="module")
def pairs():
    """Of 200 images with 3 captions each, 40 % of the captions are another image's."""
    return moved_captions(200, 3, "captions")


def folds_of(pairs, folds=3):
    """Each scored by the cosine of the vectors as they are."""
    (whole,) = zero_shot(pairs)
    cut = folds_by_image(pairs.image_of_caption, folds, seed=0)
    return [Fold(fold, torch.cat([other for other in cut if other is not fold]), whole.models) for fold in cut]


def test_every_pair_has_the_cosine_of_its_own_image_and_caption(pairs):
    found = cross_fitted_features(folds_of(pairs), pairs, 100, 0.05, 0)
    images = pairs.images.take(pairs.image_of_caption).values
    captions = pairs.caption_inputs.take(torch.arange(len(pairs))).values
    torch.testing.assert_close(found.pairs[:, 0], torch.cosine_similarity(images, captions))
    assert found.pairs.isfinite().all()
    assert len(found.random) == 4 * len(pairs)


def test_random_pairs_look_like_mismatched_pairs_and_unlike_clean_ones(pairs):
    found = cross_fitted_features(folds_of(pairs), pairs, 100, 0.05, 0)
    clean = pairs.is_clean
    assert share_above(found.log_odds[clean], found.random_log_odds) > 0.9
    assert share_above(found.log_odds[~clean], found.random_log_odds) == pytest.approx(0.5, abs=0.06)
    assert share_above(found.agreement[~clean], found.random_agreement) == pytest.approx(0.5, abs=0.06)


def test_the_order_in_which_folds_are_scored_leaves_no_pair_out(pairs):
    folds = folds_of(pairs)
    forwards, backwards = (cross_fitted_features(each, pairs, 100, 0.05, 0) for each in (folds, folds[::-1]))
    torch.testing.assert_close(forwards.pairs[:, 0], backwards.pairs[:, 0])  # similarities need no reference pairs
    assert backwards.pairs.isfinite().all()


def test_no_pair_is_its_own_reference(pairs):
    """The features of a fold's pairs stay the same when the fold's own pairs change partners."""
    folds = folds_of(pairs)
    scored = folds[0].pairs
    image = pairs.image_of_caption.clone()
    image[scored[1:]] = image[scored[1:]].roll(1)
    one, other = (
        cross_fitted_features(folds, each, 100, 0.05, 0) for each in (pairs, replace(pairs, image_of_caption=image))
    )
    torch.testing.assert_close(one.pairs[scored[0]], other.pairs[scored[0]])
    assert not torch.allclose(one.pairs[scored[1:]], other.pairs[scored[1:]])


def test_reference_pairs_were_learned_are_of_different_images_and_mostly_match(pairs):
    clean = []
    for fold in folds_of(pairs):
        reference = reference_pairs_of(fold, pairs, 50, np.random.default_rng(0))
        assert set(reference.tolist()) <= set(fold.learned.tolist())
        images = pairs.image_of_caption[reference].tolist()
        assert len(set(images)) == len(images) <= 50
        assert not set(images) & set(pairs.image_of_caption[fold.pairs].tolist())
        clean.append(pairs.is_clean[reference].double().mean())
    assert torch.stack(clean).mean() > pairs.is_clean.double().mean() + 0.1


def test_another_key_draws_other_pairs_and_the_same_key_the_same(pairs):
    folds = folds_of(pairs)
    first, again, other, seed = (
        cross_fitted_features(folds, pairs, 50, 0.05, *numbers) for numbers in ((0,), (0,), (0, 1), (1,))
    )
    for one, two in ((first.pairs, again.pairs), (first.random, again.random)):
        assert torch.equal(one, two)
    for another in (other, seed):
        torch.testing.assert_close(first.pairs[:, 0], another.pairs[:, 0])
        assert not torch.allclose(first.pairs[:, 1:], another.pairs[:, 1:])
        assert not torch.allclose(first.random, another.random)


def test_progress_counts_every_pair_once(pairs):
    told = []
    cross_fitted_features(folds_of(pairs), pairs, 50, 0.05, 0, progress=told.append)
    assert sum(told) == len(pairs)


def test_saf_and_sgr_have_fewer_negatives_than_cosines_unless_a_number_is_given(world, vocabulary):
    shape = InputShape.of(world, vocabulary)
    cosine, sgr = (
        [make_model(ModelConfig(similarity, embedding=8, word_size=6, similarity_size=5), shape)]
        for similarity in ("cosine", "sgr")
    )
    assert (candidates_of(cosine, None), candidates_of(sgr, None)) == (1024, 128)
    assert (candidates_of(cosine, 7), candidates_of(sgr, 7)) == (7, 7)


def test_random_pairs_of_a_large_fold_are_not_outnumbered_by_those_of_small_ones():
    few = [torch.zeros(4000, 5)] * 3
    assert [len(each) for each in _in_proportion(few, [100, 100, 9800])] == [41, 41, 4000]
    assert [len(each) for each in _in_proportion([torch.zeros(400, 5)] * 2, [100, 101])] == [400, 400]
    unequal = [torch.arange(float(count))[:, None] for count in (1100, 2050, 1000)]
    kept = _in_proportion(unequal, [1000, 1000, 1000])
    assert [len(each) for each in kept] == [1000] * 3
    assert all(len(each.unique()) == 1000 and each[-1] == each.max() for each in kept)
