import math

import pytest
import torch

from truepair.errors import ConfigError
from truepair.losses.complementary import complementary_loss
from truepair.losses.noise_tolerance import risk_gap_bounds, total_tangent_bounds

CANDIDATES = 4
EXPONENTS = [0.0, 0.5, 1.0]
NOISE_RATES = [0.0, 0.3, 0.6]


def losses_of_labels(probabilities, exponent):
    """``[contexts, labels]``: what each label would cost, for rows of probabilities."""
    candidates = probabilities.shape[1]
    exponents = torch.full((candidates,), exponent, dtype=probabilities.dtype)
    # Each row once for every label: query y has candidate y as its own.
    return torch.stack([complementary_loss(row.expand(candidates, candidates), exponents) for row in probabilities])


def noisy(label_probabilities, noise_rate):
    """Label distributions after uniform noise: kept with 1 - η, else uniform over the others."""
    others = (1 - label_probabilities) / (label_probabilities.shape[1] - 1)
    return (1 - noise_rate) * label_probabilities + noise_rate * others


def risk(probabilities, label_probabilities, exponent):
    """The exact expectation over contexts (all equally likely) and their labels."""
    return (label_probabilities * losses_of_labels(probabilities, exponent)).sum(1).mean().item()


def random_distributions(rows, candidates, seed, peakedness):
    generator = torch.Generator().manual_seed(seed)
    return (peakedness * torch.randn(rows, candidates, generator=generator, dtype=torch.float64)).softmax(1)


@pytest.mark.parametrize("candidates", [2, 5, 20])
@pytest.mark.parametrize("noise_rate", [0.0, 0.2, 0.6, 0.9])
@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0])
def test_noisy_risk_is_the_scaled_clean_risk_plus_a_term_of_the_total_tangent(candidates, noise_rate, exponent):
    model = random_distributions(12, candidates, seed=0, peakedness=2.0)
    labels = random_distributions(12, candidates, seed=1, peakedness=3.0)
    clean = risk(model, labels, exponent)
    expected_power = (model.tan().sum(1) ** (1 - exponent)).mean().item()
    identity = (1 - noise_rate * candidates / (candidates - 1)) * clean + noise_rate * expected_power
    assert risk(model, noisy(labels, noise_rate), exponent) == pytest.approx(identity, abs=1e-12)


@pytest.mark.parametrize("candidates", [2, 5, 100])
@pytest.mark.parametrize("peakedness", [0.1, 1.0, 10.0])
def test_total_tangent_lies_between_its_bounds(candidates, peakedness):
    least, largest = total_tangent_bounds(candidates)
    totals = random_distributions(200, candidates, seed=2, peakedness=peakedness).tan().sum(1)
    assert least - 1e-12 <= totals.min()
    assert totals.max() <= largest + 1e-12


@pytest.mark.parametrize("candidates", [1, 2, 5, 100])
def test_total_tangent_bounds_are_reached_at_uniform_and_certain_probabilities(candidates):
    least, largest = total_tangent_bounds(candidates)
    assert torch.full((candidates,), 1 / candidates).double().tan().sum().item() == pytest.approx(least)
    assert torch.eye(candidates)[0].double().tan().sum().item() == pytest.approx(largest)
    assert largest == pytest.approx(1.557408, abs=1e-6)


@pytest.mark.parametrize("noise_rate", [0.2, 0.5, 0.7])
def test_lemma_1_at_exponent_1_noise_keeps_the_order_of_all_models(noise_rate):
    labels = random_distributions(10, CANDIDATES, seed=3, peakedness=2.0)
    models = [random_distributions(10, CANDIDATES, seed, peakedness=3.0) for seed in range(10, 40)]
    clean = [risk(model, labels, 1.0) for model in models]
    with_noise = [risk(model, noisy(labels, noise_rate), 1.0) for model in models]
    assert sorted(range(30), key=clean.__getitem__) == sorted(range(30), key=with_noise.__getitem__)


def test_lemma_1_ends_where_a_label_says_nothing():
    labels = random_distributions(10, CANDIDATES, seed=3, peakedness=2.0)
    noise_rate = (CANDIDATES - 1) / CANDIDATES
    for seed in range(10, 20):
        model = random_distributions(10, CANDIDATES, seed, peakedness=3.0)
        assert risk(model, noisy(labels, noise_rate), 1.0) == pytest.approx(noise_rate, abs=1e-12)


def minimiser(label_probabilities, exponent):
    """The tabular softmax model of least risk: one row of logits a context, the best of several starts.

    The loss of every label comes from the row identity, ``(T - tan p_y) / T^q``, in one go.
    """
    contexts, candidates = label_probabilities.shape
    logits = torch.randn(4, contexts, candidates, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    logits.requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.2)
    for _ in range(150):
        tangents = logits.softmax(2).tan()
        total = tangents.sum(2, keepdim=True)
        risks = (label_probabilities * (total - tangents) / total**exponent).sum(2)  # [starts, contexts]
        optimiser.zero_grad()
        risks.sum().backward()
        optimiser.step()
    best = risks.argmin(0)  # contexts do not share parameters, so each may take its own start
    return logits.detach()[best, torch.arange(contexts)].softmax(1)


@pytest.fixture(scope="module")
def labels():
    """Six contexts, each with one likely label and three that occur now and then."""
    others = random_distributions(6, CANDIDATES, seed=8, peakedness=1.0)
    likely = torch.eye(CANDIDATES, dtype=torch.float64)[[0, 1, 2, 3, 0, 2]]
    return 0.6 * likely + 0.4 * others


@pytest.fixture(scope="module")
def minimisers(labels):
    return {(q, eta): minimiser(noisy(labels, eta), q) for q in EXPONENTS for eta in NOISE_RATES}


@pytest.mark.parametrize("noise_rate", NOISE_RATES)
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_lemma_2_risks_of_fitted_models_differ_within_the_bounds(labels, minimisers, exponent, noise_rate):
    of_clean, of_noisy = minimisers[exponent, 0.0], minimisers[exponent, noise_rate]
    noisy_labels = noisy(labels, noise_rate)
    lower, upper = risk_gap_bounds(CANDIDATES, noise_rate, exponent)
    rounding = 1e-6  # of the optimisation
    clean_gap = risk(of_clean, labels, exponent) - risk(of_noisy, labels, exponent)
    noisy_gap = risk(of_clean, noisy_labels, exponent) - risk(of_noisy, noisy_labels, exponent)
    assert lower - rounding <= clean_gap <= rounding
    assert -rounding <= noisy_gap <= upper + rounding


def test_lemma_2_has_a_gap_to_bound_and_it_closes_as_the_exponent_grows(labels, minimisers):
    gaps = [risk(minimisers[q, 0.6], labels, q) - risk(minimisers[q, 0.0], labels, q) for q in EXPONENTS]
    assert gaps[0] > gaps[1] > 1e-3
    assert gaps[2] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("noise_rate", NOISE_RATES)
def test_at_exponent_1_noise_changes_no_prediction_of_the_fitted_model(labels, minimisers, noise_rate):
    predictions = minimisers[1.0, noise_rate].argmax(1)
    assert predictions.tolist() == labels.argmax(1).tolist()
    torch.testing.assert_close(minimisers[1.0, noise_rate], minimisers[1.0, 0.0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("exponent", "lower", "upper"),
    [
        (0, -0.139696, 0.111475),
        (0.1, -0.122782, 0.097977),
        (0.25, -0.098774, 0.078820),
        (0.5, -0.062143, 0.049589),
        (0.75, -0.029353, 0.023423),
        (0.9, -0.011352, 0.009059),
        (1, 0, 0),
    ],
)
def test_bounds_for_100_candidates_and_20_percent_noise(exponent, lower, upper):
    assert risk_gap_bounds(100, 0.2, float(exponent)) == pytest.approx((lower, upper), abs=1e-5)


def test_bounds_narrow_as_the_exponent_grows_and_widen_with_noise():
    by_exponent = [risk_gap_bounds(100, 0.2, q / 10) for q in range(11)]
    by_noise = [risk_gap_bounds(100, eta / 10, 0.5) for eta in range(10)]
    for narrow_to_wide in (by_exponent[::-1], by_noise):
        assert narrow_to_wide[0] == (0, 0)
        lowers, uppers = zip(*narrow_to_wide, strict=True)
        assert list(lowers) == sorted(lowers, reverse=True)
        assert list(uppers) == sorted(uppers)


def test_no_gap_is_not_printed_as_minus_zero():
    assert math.copysign(1, risk_gap_bounds(10, 0.0, 0.5)[0]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0.0, 0.5), "candidates is 1"),
        ((4, 0.75, 0.5), r"noise_rate is 0.75, but with 4 candidates .* \[0, 0.75\)"),
        ((4, -0.1, 0.5), "noise_rate is -0.1"),
        ((4, 0.2, 1.5), "exponent is 1.5"),
        ((4, float("nan"), 0.5), "noise_rate is nan"),
    ],
)
def test_impossible_settings_are_refused_with_their_values(arguments, message):
    with pytest.raises(ConfigError, match=message):
        risk_gap_bounds(*arguments)
