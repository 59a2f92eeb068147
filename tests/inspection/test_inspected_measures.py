import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from truepair.evaluation.information import critic_information, info_nce_bound
from truepair.evaluation.probes import mlp_r2, ridge_r2
from truepair.inspection.codes import codes_of
from truepair.inspection.measures import COMPONENTS, _components, exclusive_information, probes_of, shared_information
from truepair.scoring.encodings import encode_captions, encode_images


@pytest.fixture(scope="module")
def codes(disncl):
    return [codes_of(disncl.models[0], pairs, seed=0) for pairs in (disncl.train, disncl.splits.test)]


def test_shared_information_is_the_bound_on_matching_training_pairs_and_as_many_test_pairs(disncl):
    test, model = disncl.splits.test, disncl.models[0]
    found = shared_information(disncl.models, disncl.train, test, 0.1, np.random.default_rng(0))
    assert found.pairs == 40
    assert found.most == math.log(40)
    similarity = model.scores.matrix(encode_images(model, test.images), encode_captions(model, test))
    assert found.test == pytest.approx(info_nce_bound(similarity, 0.1), abs=1e-5)


def test_mismatched_training_pairs_are_left_out(disncl):
    clean = disncl.train.select(disncl.train.is_clean.nonzero().flatten()[:20])
    rest = disncl.train.select((~disncl.train.is_clean).nonzero().flatten())
    both = disncl.train.select(
        torch.tensor([disncl.train.caption_ids.index(i) for i in clean.caption_ids + rest.caption_ids])
    )
    found = [
        shared_information(disncl.models, pairs, disncl.splits.test, 0.1, np.random.default_rng(0))
        for pairs in (clean, both)
    ]
    assert found[0].train == pytest.approx(found[1].train, abs=1e-5)
    assert shared_information(disncl.models, rest, disncl.splits.test, 0.1, np.random.default_rng(0)) is None


def test_exclusive_information_is_the_critics_estimate(codes):
    found = exclusive_information(codes[0], seed=3)
    for modality, of_items in codes[0].items():
        assert found[modality] == critic_information(of_items.shared_draw, of_items.exclusive_draw, seed=3)


def test_too_few_items_for_a_critic_give_no_number(disncl):
    few = codes_of(disncl.models[0], disncl.train.select(torch.arange(49)), seed=0)
    assert exclusive_information(few, seed=0) == {"image": None, "text": None}


def test_there_is_no_exclusive_information_without_exclusive_codes(codes):
    without = {
        modality: replace(of_items, exclusive=None, exclusive_draw=None) for modality, of_items in codes[0].items()
    }
    assert exclusive_information(without, seed=0) is None
    assert {probe.known for probe in probes_of(without, without, seed=0)} == {"shared"}


def test_probes_are_fitted_to_the_first_codes_and_tried_on_the_others(codes):
    probes = probes_of(*codes, seed=1)
    assert len(probes) == 6
    leak = next(probe for probe in probes if (probe.modality, probe.target) == ("text", "shared"))
    fitted, tried = (of_split["text"] for of_split in codes)
    given = (fitted.exclusive_draw, fitted.shared, tried.exclusive_draw, tried.shared)
    assert leak.components is None
    assert (leak.ridge, leak.mlp) == (ridge_r2(*given), mlp_r2(*given, seed=1))


def test_wide_targets_are_reduced_to_their_principal_components(codes):
    wide = [{"image": replace(of_split["image"], inputs=of_split["image"].inputs.repeat(1, 20))} for of_split in codes]
    components = {probe.target: probe.components for probe in probes_of(*wide, seed=0)}
    assert components == {"shared": None, "inputs": COMPONENTS}


def test_components_are_those_of_scikit_learn():
    values = torch.randn(90, 30, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 31)
    other = values[:7] + 1
    reference = PCA(COMPONENTS, svd_solver="full").fit(values.double().numpy())
    for mine, expected in zip(_components(values, other), (values, other), strict=True):
        assert np.abs(mine.numpy()) == pytest.approx(np.abs(reference.transform(expected.double().numpy())), abs=1e-3)
