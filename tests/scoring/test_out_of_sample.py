import math
from dataclasses import replace

import pytest
import torch
from moved_captions import RATE, moved_captions
from one_space import zero_shot
from scipy.optimize import brentq, minimize
from torch.nn.functional import normalize

from truepair.data.features import Features
from truepair.evaluation.detection import detection_metrics
from truepair.scoring.confidence import in_sample_features, warnings_about
from truepair.scoring.out_of_sample import combined, prior_of

TEMPERATURE = 0.05


def cosines(pairs):
    """Models that compare the vectors as they are."""
    return zero_shot(pairs)[0].models


def auroc(confidence, pairs):
    return detection_metrics(confidence, pairs.is_clean).auroc


@pytest.fixture(scope="module")
def singles():
    """Images of one caption each."""
    pairs = moved_captions(1500, 1, "captions")
    return pairs, prior_of(zero_shot(pairs), pairs, TEMPERATURE, 0)


@pytest.mark.parametrize(("moved", "together"), [("captions", 0.0), ("images", 1.0)])
def test_the_prior_finds_the_rate_the_pairs_and_whether_captions_moved_together(moved, together):
    pairs = moved_captions(1000, 5, moved)
    prior = prior_of(zero_shot(pairs), pairs, TEMPERATURE, 0)
    assert prior.noise_rate == pytest.approx(RATE, abs=0.03)
    assert prior.moved_together == pytest.approx(together, abs=0.05)
    assert prior.confidence.mean().item() == pytest.approx(1 - prior.noise_rate, abs=0.005)
    assert auroc(prior.confidence, pairs) > auroc(prior.log_odds.sigmoid(), pairs) + 0.005
    assert not prior.warnings
    assert (prior.estimate.confidence is prior.confidence, prior.estimate.noise_rate) == (True, prior.noise_rate)


def test_images_of_one_caption_have_no_captions_to_be_judged_together(singles):
    pairs, prior = singles
    assert prior.moved_together is None
    assert prior.noise_rate == pytest.approx(RATE, abs=0.05)
    offset = prior.confidence.double().logit() - prior.log_odds  # of the noise rate alone
    torch.testing.assert_close(offset, offset.mean().expand_as(offset), atol=1e-3, rtol=0)
    assert auroc(prior.confidence, pairs) > 0.9


def test_where_nothing_consistent_was_learned_there_is_no_prior():
    pairs = moved_captions(1000, 1, "captions", rate=1.0)
    assert prior_of(zero_shot(pairs), pairs, TEMPERATURE, 0) is None


def test_what_speaks_against_the_pairs_themselves_is_told_with_the_prior():
    pairs = moved_captions(150, 1, "captions")
    prior = prior_of(zero_shot(pairs), pairs, TEMPERATURE, 0)
    assert prior.warnings[: len(warnings_about(pairs))] == warnings_about(pairs)
    assert "150 pairs" in prior.warnings[0]
    assert combined(prior, cosines(pairs), pairs, TEMPERATURE, 0).warnings == prior.warnings


def test_another_key_draws_other_reference_pairs_and_the_same_key_the_same(singles):
    pairs, prior = singles
    first, again, other = (prior_of(zero_shot(pairs), pairs, TEMPERATURE, 0, *key) for key in ((), (), (1,)))
    assert torch.equal(first.log_odds, prior.log_odds)
    assert torch.equal(again.confidence, first.confidence)
    assert not torch.equal(other.log_odds, first.log_odds)
    assert 0 < (other.confidence - first.confidence).abs().mean() < 0.05
    one, same, another = (combined(prior, cosines(pairs), pairs, TEMPERATURE, 0, key) for key in (0, 0, 1))
    assert torch.equal(one.confidence, same.confidence)
    assert 0 < (another.confidence - one.confidence).abs().mean() < 0.05


def confirmed_slope(confidence, scores):
    """Of the logistic curve over the scores that is nearest to the confidence, with a ridge of 1 on its steepness."""

    def loss(line):
        logit = line[0] * scores + line[1]
        fit = (torch.nn.functional.softplus(logit) - confidence * logit).sum()
        return float(fit + (line[0] * scores.std()) ** 2 / 2)

    return minimize(loss, (1.0, 0.0), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).x[0]


def test_both_log_odds_are_averaged_as_written_out_and_shifted_to_the_rate(singles):
    pairs, prior = singles
    found = combined(prior, cosines(pairs), pairs, TEMPERATURE, 0, 3)
    features = in_sample_features(cosines(pairs), pairs, TEMPERATURE, 0, 3)
    scores, of_random = (
        side[:, 1:3].double().mean(1) + 0.3 * side[:, 3:5].double().sum(1) for side in (features.pairs, features.random)
    )
    rate = prior.noise_rate
    matching = (scores.mean() - rate * of_random.mean()) / (1 - rate)
    most = float((matching - of_random.mean()) / (2 * of_random.var()))
    own = math.sqrt(most * confirmed_slope(prior.confidence.double(), scores)) * scores
    order = (own + prior.log_odds.double()) / 2
    shift = brentq(lambda by: float((order + by).sigmoid().mean()) - (1 - rate), -50, 50, xtol=1e-10)
    torch.testing.assert_close(found.confidence.double(), (order + shift).sigmoid(), atol=1e-4, rtol=0)
    assert found.noise_rate == rate
    assert (found.confidence[order.argsort()].diff() >= 0).all()


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("each", [1, 3])
def test_the_mean_confidence_is_what_the_rate_of_the_prior_leaves(rate, each):
    pairs = moved_captions(500, each, "captions")
    prior = replace(prior_of(zero_shot(pairs), pairs, TEMPERATURE, 0), noise_rate=rate)
    found = combined(prior, cosines(pairs), pairs, TEMPERATURE, 0)
    assert found.confidence.mean().item() == pytest.approx(1 - rate, abs=1e-4)
    assert found.noise_rate == rate


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_prior_that_is_sure_of_every_pair_can_be_combined(rate, singles):
    pairs, prior = singles
    found = combined(replace(prior, noise_rate=rate), cosines(pairs), pairs, TEMPERATURE, 0)
    assert found.confidence.isfinite().all()
    assert found.confidence.mean().item() == pytest.approx(1 - rate, abs=1e-4)


@pytest.mark.parametrize("moved", ["captions", "images"])
def test_another_look_at_the_same_pairs_judges_better_together_with_the_prior_than_alone(moved):
    pairs, seen_again = moved_captions(600, 5, moved), moved_captions(600, 5, moved, view=1)
    assert torch.equal(pairs.is_clean, seen_again.is_clean)
    prior, alone = (prior_of(zero_shot(each), each, TEMPERATURE, 0) for each in (pairs, seen_again))
    found = combined(prior, cosines(seen_again), seen_again, TEMPERATURE, 0)
    assert auroc(found.confidence, pairs) > max(auroc(each.confidence, pairs) for each in (prior, alone)) + 0.001


def test_captions_of_an_image_are_judged_together_in_the_end_too():
    """The prior and the models' own log-odds know nothing of other captions; the combination does."""
    pairs = moved_captions(600, 5, "captions")
    prior = prior_of(zero_shot(pairs), pairs, TEMPERATURE, 0)
    found = combined(prior, cosines(pairs), pairs, TEMPERATURE, 0)
    assert auroc(found.confidence, pairs) > auroc(prior.log_odds.sigmoid(), pairs) + 0.03


def test_models_that_find_pairs_no_more_plausible_than_random_pairs_leave_the_prior_as_it_is(singles):
    pairs, prior = singles
    captions = pairs.caption_inputs.take(torch.arange(len(pairs))).values
    images = pairs.images.take(pairs.image_of_caption).values
    opposite = replace(pairs, caption_inputs=Features(normalize(0.3 * captions - images, dim=1).numpy()))
    found = combined(prior, cosines(opposite), opposite, TEMPERATURE, 0)
    assert found.confidence is prior.confidence
    assert found == prior.estimate
