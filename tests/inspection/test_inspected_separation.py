from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cosine_similarity

from truepair.inspection.codes import codes_of
from truepair.inspection.separation import Separation, separations, truth_is_of_use
from truepair.scoring.encodings import similarity_of_pairs


def test_auroc_is_that_of_the_models_similarity_and_of_the_features_cosine(disncl):
    pairs, clean = disncl.train, disncl.train.is_clean
    codes = codes_of(disncl.models[0], pairs, seed=0)
    found = separations(disncl.models, pairs, codes, np.random.default_rng(0))
    similarity = similarity_of_pairs(disncl.models, pairs)
    cosine = cosine_similarity(codes["image"].features, codes["text"].features)
    assert found["shared"].auroc == pytest.approx(roc_auc_score(clean.numpy(), similarity.numpy()))
    assert found["features"].auroc == pytest.approx(roc_auc_score(clean.numpy(), cosine.numpy()))
    assert len(found["shared"].mismatched) == (~clean).sum() > 0


def test_without_the_truth_pairs_are_compared_with_random_pairings_of_them(disncl):
    pairs = replace(disncl.train, true_image_of_caption=None)
    assert not truth_is_of_use(pairs)
    codes = codes_of(disncl.models[0], pairs, seed=0)
    found = separations(disncl.models, pairs, codes, np.random.default_rng(0))
    assert torch.equal(found["shared"].matching, similarity_of_pairs(disncl.models, pairs))
    image, text = codes["image"].features, codes["text"].features
    of_all = cosine_similarity(image[:, None], text[None], dim=2)  # [images, captions]
    of_others = of_all[~torch.eye(len(pairs), dtype=torch.bool)]
    assert all((of_others - value).abs().min() < 1e-6 for value in found["features"].mismatched)
    assert 0 <= found["shared"].auroc <= 1


def test_pairs_that_all_match_are_compared_with_random_pairings(corpus):
    assert corpus.splits.train.is_clean.all()
    assert not truth_is_of_use(corpus.splits.train)


def test_equal_similarities_are_guessing():
    assert Separation(torch.ones(5), torch.ones(3)).auroc == 0.5
    assert Separation(torch.ones(5), torch.zeros(3)).auroc == 1.0
