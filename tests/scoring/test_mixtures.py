import math

import numpy as np
import pytest
import torch

from truepair.errors import DataError
from truepair.scoring.mixtures import (
    Beta,
    Gaussian,
    Mixture,
    fit_beta,
    fit_beta_mixture,
    fit_gaussian_mixture,
    fit_with_known_mismatches,
)


def beta_world(seed, n=20_000, noise_rate=0.4):
    """Scores of Beta(2, 5) for mismatched and Beta(6, 2) for clean pairs, and which is which."""
    rng = np.random.default_rng(seed)
    is_clean = rng.random(n) >= noise_rate
    scores = np.where(is_clean, rng.beta(6, 2, n), rng.beta(2, 5, n))
    return torch.from_numpy(scores), torch.from_numpy(is_clean)


def gaussian_world(seed, n=20_000, noise_rate=0.3, low=(0.1, 0.05), high=(0.4, 0.1)):
    rng = np.random.default_rng(seed)
    is_clean = rng.random(n) >= noise_rate
    scores = np.where(is_clean, rng.normal(*high, n), rng.normal(*low, n))
    return torch.from_numpy(scores), torch.from_numpy(is_clean)


def accuracy(mixture, scores, is_clean):
    return ((mixture.posterior(scores) > 0.5) == is_clean).double().mean().item()


@pytest.mark.parametrize("seed", range(3))
def test_beta_mixture_recovers_known_parameters(seed):
    scores, is_clean = beta_world(seed)
    mixture = fit_beta_mixture(scores)
    assert mixture.converged
    assert not mixture.degenerate
    assert mixture.mismatched.mean == pytest.approx(2 / 7, abs=0.02)
    assert mixture.clean.mean == pytest.approx(6 / 8, abs=0.02)
    assert mixture.noise_rate == pytest.approx(0.4, abs=0.03)
    truth = Mixture(Beta(2.0, 5.0), Beta(6.0, 2.0), 0.4, converged=True, iterations=0)
    assert accuracy(mixture, scores, is_clean) >= accuracy(truth, scores, is_clean) - 0.01


def test_ten_steps_from_a_meta_set_keep_which_component_is_which():
    scores, _ = beta_world(seed=3)
    meta_scores, meta_is_clean = beta_world(seed=4, n=600, noise_rate=0.5)
    initial = fit_beta(meta_scores[~meta_is_clean]), fit_beta(meta_scores[meta_is_clean])
    mixture = fit_beta_mixture(scores, initial=initial, max_iterations=10, tolerance=1e-2)
    assert mixture.iterations <= 10
    assert mixture.mismatched.mean == pytest.approx(2 / 7, abs=0.02)
    assert mixture.clean.mean == pytest.approx(6 / 8, abs=0.02)
    assert mixture.noise_rate == pytest.approx(0.4, abs=0.03)


def test_scores_at_the_boundary_stay_finite():
    scores, _ = beta_world(seed=5, n=2000)
    scores = torch.cat([scores, torch.zeros(10), torch.ones(10)])
    mixture = fit_beta_mixture(scores)
    assert mixture.noise_rate == pytest.approx(0.4, abs=0.1)
    ends = mixture.posterior(torch.tensor([0.0, 1e-3, 1 - 1e-3, 1.0], dtype=torch.float64))
    assert ends[0] == ends[1] < 0.01
    assert ends[2] == ends[3] > 0.99


@pytest.mark.parametrize(("low", "high"), [((0.1, 0.05), (0.4, 0.1)), ((-3.0, 2.0), (4.0, 0.5)), ((70, 10), (120, 10))])
def test_gaussian_mixture_recovers_known_parameters_at_any_scale(low, high):
    scores, is_clean = gaussian_world(0, low=low, high=high)
    mixture = fit_gaussian_mixture(scores)
    spread = scores.std().item()
    assert mixture.converged
    assert mixture.noise_rate == pytest.approx(0.3, abs=0.02)
    assert mixture.mismatched.mean == pytest.approx(low[0], abs=0.03 * spread)
    assert mixture.clean.mean == pytest.approx(high[0], abs=0.03 * spread)
    assert math.sqrt(mixture.mismatched.variance) == pytest.approx(low[1], rel=0.06)
    assert math.sqrt(mixture.clean.variance) == pytest.approx(high[1], rel=0.06)
    truth = Mixture(
        *(Gaussian(float(mean), float(sd**2)) for mean, sd in (low, high)), 0.3, converged=True, iterations=0
    )
    assert accuracy(mixture, scores, is_clean) >= accuracy(truth, scores, is_clean) - 0.005


@pytest.mark.parametrize("noise_rate", [0.05, 0.9])
def test_gaussian_mixture_finds_a_rare_component(noise_rate):
    scores, _ = gaussian_world(1, noise_rate=noise_rate, low=(0, 1), high=(4, 1))
    assert fit_gaussian_mixture(scores).noise_rate == pytest.approx(noise_rate, abs=0.01)


def test_gaussian_mixture_follows_shift_and_scale():
    scores, _ = gaussian_world(2, n=500)
    mixture, moved = fit_gaussian_mixture(scores), fit_gaussian_mixture(100 * scores - 7)
    torch.testing.assert_close(moved.posterior(100 * scores - 7), mixture.posterior(scores), rtol=0, atol=1e-6)


def test_the_order_of_scores_is_irrelevant():
    scores, _ = beta_world(seed=6, n=3000)
    shuffled = scores[torch.from_numpy(np.random.default_rng(0).permutation(len(scores)))]
    for fit in (fit_beta_mixture, fit_gaussian_mixture):
        assert fit(shuffled).noise_rate == pytest.approx(fit(scores).noise_rate, abs=1e-9)


def test_posterior_equals_bayes_rule_between_the_means():
    mixture = Mixture(Gaussian(0.0, 1.0), Gaussian(2.0, 4.0), 0.25, converged=True, iterations=0)
    scores = torch.linspace(0, 2, 9, dtype=torch.float64)
    mismatched = 0.25 * torch.exp(-(scores**2) / 2)
    clean = 0.75 * torch.exp(-((scores - 2) ** 2) / 8) / 2
    torch.testing.assert_close(mixture.posterior(scores), clean / (clean + mismatched))


def test_log_densities_equal_those_of_torch():
    scores = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor(0.3).double(), torch.tensor(0.2).double())
    torch.testing.assert_close(
        Gaussian(normal.loc.item(), normal.scale.item() ** 2).log_density(scores), normal.log_prob(scores)
    )
    beta = torch.distributions.Beta(torch.tensor(0.7).double(), torch.tensor(3.0).double())
    ours = Beta(beta.concentration1.item(), beta.concentration0.item())
    torch.testing.assert_close(ours.log_density(scores), beta.log_prob(scores))


@pytest.mark.parametrize(("low", "high"), [((0, 3), (2, 1)), ((0, 1), (2, 3)), ((0, 1), (2, 1)), ((0, 1), (0.1, 50))])
@pytest.mark.parametrize("noise_rate", [0.01, 0.5, 0.99])
def test_gaussian_posterior_never_turns_back_however_far_the_score(low, high, noise_rate):
    components = (Gaussian(float(mean), float(variance)) for mean, variance in (low, high))
    mixture = Mixture(*components, noise_rate, converged=True, iterations=0)
    grid = torch.cat([torch.linspace(-1e6, 1e6, 2001), torch.linspace(-20, 20, 20_001)]).double().sort().values
    posterior = mixture.posterior(grid)
    assert posterior.isfinite().all()
    assert 0 <= posterior.min() <= posterior.max() <= 1
    assert posterior.diff().min() >= -1e-12
    if low[1] != high[1]:
        assert mixture.posterior(grid, monotone=False).diff().min() < -1e-5  # Bayes' rule does turn back here


@pytest.mark.parametrize(
    "components", [(Beta(2.0, 5.0), Beta(6.0, 8.0)), (Beta(2.0, 5.0), Beta(1.0, 1.0)), (Beta(2.0, 5.0), Beta(6.0, 2.0))]
)
@pytest.mark.parametrize("noise_rate", [0.01, 0.5, 0.99])
def test_beta_posterior_never_turns_back(components, noise_rate):
    mixture = Mixture(*components, noise_rate, converged=True, iterations=0)
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    posterior = mixture.posterior(grid)
    assert 0 <= posterior.min() <= posterior.max() <= 1
    assert posterior.diff().min() >= -1e-12
    turns_back = mixture.posterior(grid, monotone=False).diff().min() < -1e-9
    assert turns_back == (components[1] != Beta(6.0, 2.0))


@pytest.mark.parametrize("seed", range(10))
def test_fitted_posteriors_are_monotone_for_arbitrary_scores(seed):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(size=150) * rng.choice([0.1, 1, 5], 150) + rng.choice([0, 0.5, 3], 150))
    grid = torch.linspace(-50, 50, 5001, dtype=torch.float64)
    assert fit_gaussian_mixture(scores).posterior(grid).diff().min() >= -1e-12
    unit = (scores - scores.min()) / (scores.max() - scores.min())
    grid = torch.linspace(0, 1, 5001, dtype=torch.float64)
    assert fit_beta_mixture(unit).posterior(grid).diff().min() >= -1e-12


HUMP = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.001, 0.999, 500))
DEGENERATE = {
    "constant": torch.full((30,), 0.5),
    "one pair": torch.tensor([0.25]),
    "three distinct": torch.tensor([0.1, 0.5, 0.9] * 10),
    "one hump": torch.from_numpy(np.random.default_rng(0).beta(20, 20, 5000)),
    "a spike in the middle of a hump": torch.cat([0.5 + 0.1 * HUMP, 0.5001 + 0.001 * HUMP]),
}


@pytest.mark.parametrize("fit", [fit_gaussian_mixture, fit_beta_mixture])
@pytest.mark.parametrize("scores", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_scores_without_two_kinds_of_pairs_call_no_pair_mismatched(scores, fit):
    mixture = fit(scores)
    assert mixture.degenerate
    assert mixture.noise_rate == 0.0
    assert mixture.posterior(torch.tensor([0.0, 0.3, 1.0])).tolist() == [1.0, 1.0, 1.0]


def test_a_degenerate_fit_keeps_the_initial_components_with_equal_weights():
    initial = Beta(2.0, 5.0), Beta(6.0, 2.0)
    mixture = fit_beta_mixture(torch.full((30,), 0.5), initial=initial)
    assert mixture.degenerate
    assert (mixture.mismatched, mixture.clean, mixture.noise_rate) == (*initial, 0.5)


def test_components_that_cross_keep_the_initial_ones():
    # The initial clean density is the wide one, and the data's wide component lies below the narrow one.
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(np.concatenate([rng.beta(60, 40, 3000), rng.beta(2, 3, 3000)]))
    initial = Beta(300.0, 300.0), Beta(1.1, 1.0)
    mixture = fit_beta_mixture(scores, initial=initial)
    assert mixture.degenerate
    assert (mixture.mismatched, mixture.clean) == initial


def test_initial_components_in_the_wrong_order_are_no_fallback():
    mixture = fit_beta_mixture(torch.full((30,), 0.5), initial=(Beta(6.0, 2.0), Beta(2.0, 5.0)))
    assert mixture.degenerate
    assert mixture.noise_rate == 0.0


def test_fit_beta_matches_mean_and_variance():
    scores, is_clean = beta_world(seed=7)
    beta = fit_beta(scores[is_clean])
    assert beta.mean == pytest.approx(scores[is_clean].mean().item())
    variance = beta.mean * (1 - beta.mean) / (beta.a + beta.b + 1)
    assert variance == pytest.approx(scores[is_clean].var(correction=0).item())


@pytest.mark.parametrize(("mean", "variance"), [(0.9, 0.0), (0.6, 1e-7), (0.5, 0.25), (1.0, 0.0), (0.0, 0.0)])
def test_beta_parameters_stay_in_bounds_and_keep_the_mean(mean, variance):
    beta = Beta.from_moments(mean, variance)
    assert 1e-2 <= beta.a <= 1e4
    assert 1e-2 <= beta.b <= 1e4
    if 0 < mean < 1:
        assert beta.mean == pytest.approx(mean)


def test_the_posterior_has_the_type_of_the_scores():
    scores, _ = gaussian_world(3, n=500)
    mixture = fit_gaussian_mixture(scores.float())
    assert mixture.posterior(scores.float()).dtype == torch.float32
    assert mixture.posterior(scores.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("fit", [fit_gaussian_mixture, fit_beta_mixture, fit_beta])
def test_scores_that_are_not_finite_or_missing_are_refused(fit):
    with pytest.raises(DataError, match=r"1 of 3 are NaN or infinite \(first: pair 1\)"):
        fit(torch.tensor([0.1, math.nan, 0.3]))
    with pytest.raises(DataError, match="at least one score"):
        fit(torch.zeros(0))


def test_cosines_are_refused_by_the_beta_mixture_with_the_remedy():
    with pytest.raises(DataError, match=r"1 of 3 are outside \(range -0.2 … 0.9\); .*rescale them first"):
        fit_beta_mixture(torch.tensor([-0.2, 0.5, 0.9]))


def test_a_nan_score_has_no_posterior():
    mixture = Mixture(Beta(2.0, 5.0), Beta(6.0, 2.0), 0.4, converged=True, iterations=0)
    with pytest.raises(DataError, match="NaN"):
        mixture.posterior(torch.tensor([0.5, math.nan]))


def known_world(seed, noise_rate, n=5000, known=3000):
    """Scores of pairs, those of pairs known not to match, and which pairs are clean."""
    scores, is_clean = gaussian_world(seed, n=n, noise_rate=noise_rate, low=(0.0, 1.0), high=(3.0, 0.7))
    return scores, torch.from_numpy(np.random.default_rng(seed + 100).normal(0, 1, known)), is_clean


@pytest.mark.parametrize("noise_rate", [0.0, 0.05, 0.4, 0.95])
def test_with_known_mismatches_the_rate_and_the_clean_pairs_are_found(noise_rate):
    scores, known, is_clean = known_world(0, noise_rate)
    mixture = fit_with_known_mismatches(scores, known)
    assert mixture.converged
    assert not mixture.degenerate
    assert mixture.noise_rate == pytest.approx(noise_rate, abs=0.02)
    assert mixture.clean.mean == pytest.approx(3.0, abs=0.1)
    assert math.sqrt(mixture.clean.variance) == pytest.approx(0.7, abs=0.08)
    assert accuracy(mixture, scores, is_clean) > 0.95


def test_the_component_of_known_mismatches_stays_as_measured():
    scores, known, _ = known_world(1, 0.4)
    mixture = fit_with_known_mismatches(scores, known)
    assert mixture.mismatched.mean == pytest.approx(known.mean().item())
    assert mixture.mismatched.variance == pytest.approx(known.var().item())
    assert mixture.mismatched.mean != pytest.approx(fit_gaussian_mixture(scores).mismatched.mean)


def test_with_known_mismatches_the_fit_is_a_fixed_point_of_bayes_rule():
    scores, known, _ = known_world(2, 0.4)
    mixture = fit_with_known_mismatches(scores, known, tolerance=1e-9)
    of_null = torch.distributions.Normal(known.mean(), known.std()).log_prob(scores).exp()
    clean = torch.distributions.Normal(
        *(torch.tensor(v, dtype=torch.float64) for v in (mixture.clean.mean, mixture.clean.variance**0.5))
    )
    of_clean = (1 - mixture.noise_rate) * clean.log_prob(scores).exp()
    weight = of_clean / (of_clean + mixture.noise_rate * of_null)
    mean = (weight * scores).sum() / weight.sum()
    assert 1 - weight.mean().item() == pytest.approx(mixture.noise_rate, abs=1e-4)
    assert mean.item() == pytest.approx(mixture.clean.mean, abs=1e-3)
    variance = (weight * (scores - mean) ** 2).sum() / weight.sum()
    assert variance.item() == pytest.approx(mixture.clean.variance, abs=1e-3)
    torch.testing.assert_close(mixture.posterior(scores, monotone=False), weight, rtol=0, atol=1e-9)


def test_with_known_mismatches_shift_scale_and_order_change_nothing():
    scores, known, _ = known_world(3, 0.3, n=800)
    mixture = fit_with_known_mismatches(scores, known)
    posterior = mixture.posterior(scores)
    moved = fit_with_known_mismatches(40 * scores - 9, 40 * known - 9).posterior(40 * scores - 9)
    order = torch.randperm(800, generator=torch.Generator().manual_seed(0))
    shuffled = fit_with_known_mismatches(scores[order], known.flip(0)).posterior(scores[order])
    assert posterior.std() > 0.1
    torch.testing.assert_close(moved, posterior, rtol=0, atol=1e-6)
    torch.testing.assert_close(shuffled, posterior[order], rtol=0, atol=1e-6)


def test_scores_below_known_mismatches_call_no_pair_mismatched():
    scores, known, _ = known_world(4, 0.4)
    mixture = fit_with_known_mismatches(scores - 20, known)
    assert mixture.degenerate
    assert mixture.noise_rate == 0.0
    assert mixture.posterior(scores - 20).tolist() == [1.0] * len(scores)


def test_a_fit_cut_short_is_degenerate():
    scores, known, _ = known_world(5, 0.4)
    assert fit_with_known_mismatches(scores, known, max_iterations=1).degenerate
    assert not fit_with_known_mismatches(scores, known).degenerate


def test_mismatches_that_cannot_be_measured_are_refused():
    fine = torch.tensor([0.1, 0.2, 0.4])
    with pytest.raises(DataError, match=r"finite values of each score, but 2 of 3 are"):
        fit_with_known_mismatches(torch.tensor([0.1, math.nan, 0.2]), fine)
    with pytest.raises(DataError, match=r"score of mismatched pairs, but 1 of 1 are"):
        fit_with_known_mismatches(fine, fine[:1])
