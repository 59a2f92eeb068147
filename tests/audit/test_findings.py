from dataclasses import replace

import numpy as np
import pytest
import torch
from latent_factors import latent_factor_pairs

from truepair.audit.findings import find, findings_table, suspects_at
from truepair.model import InputShape, make_model
from truepair.scoring.log_odds import Scores


@pytest.fixture
def pairs():
    return latent_factor_pairs(30, world_seed=0, draw_seed=0).pairs


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    return Scores(*(torch.randn(30, generator=generator) for _ in range(3)))


def found_with(pairs, scores, probability, models_for, at_least=5, at_most=10):
    return find(
        pairs,
        scores,
        probability,
        models_for,
        threshold=0.5,
        re_pair_threshold=0.5,
        at_least=at_least,
        at_most=at_most,
        seed=0,
    )


def test_unknown_probabilities_make_no_suspects_and_train_no_models_for_partners(pairs, scores):
    def no_models(asked):
        raise AssertionError("no partners are looked for")

    findings = found_with(pairs, scores, torch.full((30,), torch.nan), no_models)
    assert findings.is_unknown
    assert not findings.is_suspect.any()
    assert not findings.may_re_pair.any()
    assert torch.equal(findings.order, scores.log_odds.argsort())
    table = findings_table(findings)
    for column in ("mismatch_probability", "suggested_image_id", "suggested_caption_id", "suggestion_probability"):
        assert table[column].null_count == 30
    assert not any(table["is_suspect"].to_pylist())
    assert table["log_odds"].to_pylist() == sorted(scores.log_odds.tolist())


@pytest.mark.parametrize(("at_least", "at_most", "suspects"), [(5, 0, 15), (0, 10, 0)])
def test_where_no_partner_is_wanted_no_model_is_trained(pairs, scores, at_least, at_most, suspects):
    def no_models(asked):
        raise AssertionError("no partners are looked for")

    probability = (torch.arange(30) < suspects).float()
    findings = found_with(pairs, scores, probability, no_models, at_least, at_most)
    assert findings.is_suspect.sum() == suspects
    assert findings_table(findings)["suggested_image_id"].null_count == 30


def test_known_probabilities_order_the_pairs_and_stay_numbers(pairs, scores, small):
    model = make_model(small, InputShape.of(pairs, None)).eval()
    asked = []

    def models_for(ids):
        asked.extend(ids.tolist())
        return [model]

    probability = torch.linspace(0, 1, 30).roll(7)
    findings = found_with(replace(pairs), scores, probability, models_for)
    assert not findings.is_unknown
    assert torch.equal(findings.order, probability.argsort(descending=True))
    assert set(findings.order[:15].tolist()) <= set(asked), "every suspect is kept out of the models"
    table = findings_table(findings)
    assert table["mismatch_probability"].null_count == 0
    assert table["mismatch_probability"].type == "float"
    np.testing.assert_array_equal(table["mismatch_probability"].to_numpy(), probability[findings.order].numpy())


def test_a_threshold_of_unknown_probabilities_has_no_expected_numbers():
    assert suspects_at(torch.full((4,), torch.nan), 0.3) == {
        "threshold": 0.3,
        "suspects": 0,
        "expected_mismatched": None,
        "expected_missed": None,
    }
    known = suspects_at(torch.tensor([0.25, 0.75, 1.0]), 0.5)
    assert known == {"threshold": 0.5, "suspects": 2, "expected_mismatched": 1.75, "expected_missed": 0.25}
