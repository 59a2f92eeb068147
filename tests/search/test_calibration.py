import json

import dacite
import pytest
import torch

from truepair.search.calibration import Calibration, Logistic, calibrated, hit_features, reliability


def test_a_logistic_recovers_the_weights_that_made_the_labels():
    generator = torch.Generator().manual_seed(0)
    values = 3 * torch.randn(20_000, 2, generator=generator)
    chance = (values @ torch.tensor([1.0, -0.5]) + 0.3).sigmoid()
    found = Logistic.fitted(values, torch.rand(20_000, generator=generator) < chance)
    torch.testing.assert_close(torch.tensor(found.weights), torch.tensor([1.0, -0.5]), atol=0.05, rtol=0)
    assert abs(found.offset - 0.3) < 0.06


def test_one_kind_of_rows_gives_a_constant_near_what_was_seen():
    found = Logistic.fitted(torch.randn(99, 3), torch.zeros(99, dtype=torch.bool))
    assert found.weights == (0, 0, 0)
    assert float(found(torch.randn(1, 3))) == pytest.approx(0.5 / 100)


def test_log_odds_of_a_hit_leave_its_own_reference_pair_out():
    """By hand: τ 1, cosine 1, and other references of which all score 0."""
    scores, own = torch.tensor([[1.0]]), torch.tensor([[[True, False, False]]])
    to_query, to_hit = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[[9.0, 0.0, 0.0]]])
    assert hit_features(scores, to_query, to_hit, own, 1.0).tolist() == [[[1.0, 1.0, 1.0]]]


def sample(queries, generator, told):
    """Partners score `told` more than others do."""
    without = torch.randn(queries, 10, 3, generator=generator).sort(1, descending=True).values
    with_partner = without.clone()
    with_partner[:, 0] += told
    is_partner = torch.zeros(queries, 10, dtype=torch.bool)
    is_partner[:, 0] = True
    return calibrated(with_partner, is_partner, without, torch.arange(queries))


def test_what_scores_more_is_more_probable_and_an_answer_is_told():
    found = sample(2_000, torch.Generator().manual_seed(0), told=3.0)
    assert found.measured.calibration_error < 0.05
    assert found.measured.answer_auroc > 0.95
    assert float(found.hit(torch.full((3,), 5.0))) > 0.9 > 0.1 > float(found.hit(torch.zeros(3)))
    assert found.typical_share(torch.full((1, 10), 9.0)) == 1
    assert found.typical_share(torch.full((1, 10), -9.0)) == 0


def test_where_partners_score_as_others_an_answer_is_not_told():
    found = sample(2_000, torch.Generator().manual_seed(0), told=0.0)
    assert abs(found.measured.answer_auroc - 0.5) < 0.05
    assert found.measured.answer_calibration_error < 0.05


def test_too_few_queries_give_no_probability():
    assert sample(49, torch.Generator().manual_seed(0), told=3.0) is None


def test_a_calibration_is_read_back_as_it_was_written():
    found = sample(100, torch.Generator().manual_seed(0), told=1.0)
    read = dacite.from_dict(Calibration, json.loads(json.dumps(found.as_dict())), dacite.Config(cast=[tuple]))
    assert read == found


def test_bins_say_their_mean_probability_their_share_of_right_hits_and_their_size():
    bins = reliability(torch.tensor([0.21, 0.23, 0.95, 0.93]), torch.tensor([False, False, True, True]))
    assert [(round(mean, 3), share, count) for mean, share, count in bins] == [(0.22, 0.0, 2), (0.94, 1.0, 2)]
