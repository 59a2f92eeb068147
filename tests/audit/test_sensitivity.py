from dataclasses import replace

import pytest
import torch
from latent_factors import latent_factor_pairs
from one_space import zero_shot

from truepair.audit import sensitivity as audit_sensitivity
from truepair.audit.crossfit import trained
from truepair.audit.sensitivity import sensitivity
from truepair.data.noise import inject_noise
from truepair.scoring.cross_fitting import cross_fitted_features
from truepair.scoring.pair_features import pair_features
from truepair.scoring.probability import probabilities


@pytest.fixture(scope="module")
def audited(quick):
    """Pairs of which a tenth are mismatched at random, the folds that score them, and their probabilities."""
    world = latent_factor_pairs(900, world_seed=3, draw_seed=4, exclusive=2).pairs
    pairs = inject_noise(world, rate=0.1, seed=0)
    folds = trained(pairs, None, quick).folds
    features = cross_fitted_features(folds, pairs, candidates=200, temperature=0.05, seed=0)
    return folds, pairs, probabilities(features, seed=0)


def tried(audited, threshold=0.5):
    folds, pairs, found = audited
    return sensitivity(folds, pairs, found, frozen=None, threshold=threshold, candidates=200, temperature=0.05, seed=0)


def test_as_many_random_mistakes_are_found_as_were_made_at_random(audited):
    _, pairs, found = audited
    is_suspect = found.match <= 0.5
    assert tried(audited).random == pytest.approx(float(is_suspect[~pairs.is_clean].double().mean()), abs=0.12)


def test_images_of_similar_captions_are_found_less_often_and_a_lower_threshold_finds_more(audited):
    strict, loose = tried(audited, 0.8), tried(audited, 0.2)
    assert 0 < strict.alike < strict.random
    assert strict.alike < loose.alike
    assert strict.random <= loose.random


@pytest.mark.parametrize("is_untrained", [False, True])
def test_reference_pairs_are_none_of_the_pairs_that_were_moved(audited, is_untrained, monkeypatch):
    folds, pairs, found = audited
    if is_untrained:
        folds = zero_shot(pairs)
    seen = []

    def features(models, moved, chosen, reference, *given, **options):
        seen.append((moved.image_of_caption != pairs.image_of_caption, chosen, reference))
        return pair_features(models, moved, chosen, reference, *given, **options)

    monkeypatch.setattr(audit_sensitivity, "pair_features", features)
    assert tried((folds, pairs, found)).alike is not None
    for is_moved, chosen, reference in seen:
        assert is_moved[chosen].all()
        assert not is_moved[reference].any()
        assert len(chosen) > 20
        assert len(reference) > 20


def test_nothing_is_tried_where_no_pair_is_sure_to_match(audited):
    folds, pairs, found = audited
    unsure = replace(found, match=torch.full_like(found.match, 0.5))
    assert (
        sensitivity(folds, pairs, unsure, frozen=None, threshold=0.5, candidates=200, temperature=0.05, seed=0).alike
        is None
    )


def test_nothing_is_tried_where_probabilities_are_unknown(audited):
    folds, pairs, found = audited
    unknown = replace(found, match=torch.full_like(found.match, torch.nan), unknown="too few pairs")
    tried = sensitivity(folds, pairs, unknown, frozen=None, threshold=0.5, candidates=200, temperature=0.05, seed=0)
    assert (tried.random, tried.alike) == (None, None)
