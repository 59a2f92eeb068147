import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck

from truepair.losses.complementary import (
    active_complementary_loss,
    complementary_loss,
    mean_matching_probability,
)
from truepair.losses.contrastive import info_nce

TEMPERATURE = 0.05
TRUST = torch.tensor([1.0, 0.7, 0.4, 0.1, 0.0], dtype=torch.float64)


def random_similarity(pairs=5, seed=0, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    return scale * (2 * torch.rand(pairs, pairs, generator=generator, dtype=torch.float64) - 1)


def probabilities_of(similarity):
    """p⇒ and p⇐, rows are queries."""
    return (similarity / TEMPERATURE).softmax(1), (similarity.T / TEMPERATURE).softmax(1)


def active_complementary_by_loops(similarity, correspondence, temperature, negative_weight):
    """From the released code's formulas, with plain exponentials and their guard of 1e-10."""
    pairs = len(similarity)
    total = 0.0
    for scores in (similarity.tolist(), similarity.T.tolist()):
        for i in range(pairs):
            exponentials = [math.exp(score / temperature) for score in scores[i]]
            p = [value / (sum(exponentials) + 1e-10) for value in exponentials]
            trust = correspondence[i].item()
            negatives = sum(math.tan(p[j]) for j in range(pairs) if j != i)
            everything = sum(math.tan(p[j]) for j in range(pairs))
            total += -trust * math.log(p[i]) + negative_weight * negatives / everything ** (1 - trust)
    return total / pairs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("negative_weight", [0.0, 1.0, 5.0])
def test_loss_equals_loops_with_plain_exponentials(seed, negative_weight):
    similarity = random_similarity(seed=seed)
    loss = active_complementary_loss(similarity, TRUST, temperature=TEMPERATURE, negative_weight=negative_weight)
    expected = active_complementary_by_loops(similarity, TRUST, TEMPERATURE, negative_weight)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_two_queries_and_three_candidates_by_hand():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]], dtype=torch.float64)
    loss = complementary_loss(probabilities, torch.tensor([1.0, 0.5], dtype=torch.float64))
    # tan of 0.5, 0.3, 0.2, 0.6, 0.1: 0.546302, 0.309336, 0.202710, 0.684137, 0.100335.
    expected = [0.512046 / 1.058349, 0.993473 / math.sqrt(1.093807)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_full_trust_gives_infonce_and_the_plain_sum_of_negative_tangents():
    similarity = random_similarity()
    image_to_text, text_to_image = probabilities_of(similarity)
    active = -image_to_text.diagonal().log() - text_to_image.diagonal().log()
    tangents = image_to_text.tan() + text_to_image.tan()
    negatives = tangents.sum(1) - tangents.diagonal()
    loss = active_complementary_loss(similarity, torch.ones(5), temperature=TEMPERATURE)
    torch.testing.assert_close(loss, (active + 5 * negatives).mean())


def test_no_trust_gives_the_bounded_loss_without_an_active_term():
    similarity = random_similarity()
    shares = [p.diagonal().tan() / p.tan().sum(1) for p in probabilities_of(similarity)]
    loss = active_complementary_loss(similarity, torch.zeros(5), temperature=TEMPERATURE)
    torch.testing.assert_close(loss, 5 * (2 - shares[0] - shares[1]).mean())


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_trust_never_costs_as_much_as_ten(scale, seed):
    similarity = random_similarity(8, seed, scale)
    assert 0 <= active_complementary_loss(similarity, torch.zeros(8), temperature=TEMPERATURE) < 10


def test_without_negative_weight_it_is_infonce_weighted_by_correspondence():
    similarity = random_similarity()
    loss = active_complementary_loss(similarity, TRUST, temperature=TEMPERATURE, negative_weight=0.0)
    torch.testing.assert_close(loss, info_nce(similarity, TEMPERATURE, weights=TRUST))


@pytest.mark.parametrize("candidates", [2, 5, 100])
@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0])
def test_losses_of_all_labels_sum_to_a_power_of_the_total_tangent(candidates, exponent):
    generator = torch.Generator().manual_seed(candidates)
    row = torch.rand(candidates, generator=generator, dtype=torch.float64).mul(8).softmax(0)
    # The same probabilities for every label: query y has y as its own candidate.
    losses = complementary_loss(row.expand(candidates, candidates), torch.full((candidates,), exponent).double())
    torch.testing.assert_close(losses.sum(), (candidates - 1) * row.tan().sum() ** (1 - exponent))
    if exponent == 1:
        assert losses.sum().item() == pytest.approx(candidates - 1)


def test_no_gradient_reaches_correspondences_or_probabilities():
    similarity = random_similarity().requires_grad_()
    trust = TRUST.clone().requires_grad_()
    active_complementary_loss(similarity, trust).backward()
    assert trust.grad is None
    assert similarity.grad is not None
    assert not mean_matching_probability(similarity).requires_grad


@pytest.mark.parametrize("correspondence", [0.0, 0.05, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("scale", [0.01, 0.1, 0.3, 1.0])
def test_more_similarity_never_costs_a_pair_more(correspondence, scale):
    for seed in range(5):
        similarity = random_similarity(6, seed, scale).requires_grad_()
        trust = torch.full((6,), correspondence)
        active_complementary_loss(similarity, trust, temperature=TEMPERATURE).backward()
        assert (similarity.grad.diagonal() <= 0).all()


def test_a_hopeless_pair_is_pulled_with_full_trust_and_left_alone_without():
    pairs = 4
    gradients = {}
    for correspondence in (0.0, 1.0):
        similarity = random_similarity(pairs).fill_diagonal_(-1).requires_grad_()
        active_complementary_loss(similarity, torch.full((pairs,), correspondence), temperature=TEMPERATURE).backward()
        gradients[correspondence] = similarity.grad.diagonal()
    assert gradients[0.0].abs().max() < 1e-4
    # The active term alone: -(1 - p)/(τ·K) from each direction, p ≈ 0.
    expected = torch.full((pairs,), -2 / (TEMPERATURE * pairs), dtype=torch.float64)
    torch.testing.assert_close(gradients[1.0], expected, rtol=1e-4, atol=0)


def test_the_denominator_takes_part_in_the_gradient():
    probabilities = torch.tensor([[0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    complementary_loss(probabilities, torch.ones(1, dtype=torch.float64)).sum().backward()
    # 1 - tan(p0) / (tan(p0) + tan(p1)): the derivatives are ∓ sec²(½)·tan(½) / (2·tan(½))².
    slope = (1 + math.tan(0.5) ** 2) / (4 * math.tan(0.5))
    assert probabilities.grad[0].tolist() == pytest.approx([-slope, slope])


def test_gradients_agree_with_finite_differences():
    similarity = random_similarity().requires_grad_()
    assert gradcheck(lambda s: active_complementary_loss(s, TRUST, temperature=0.2), (similarity,))
    probabilities = probabilities_of(random_similarity())[0].requires_grad_()
    assert gradcheck(lambda p: complementary_loss(p, 1 - TRUST), (probabilities,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("correspondence", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pattern", ["all pairs match", "no pair matches", "all alike"])
def test_saturated_similarities_have_finite_and_exact_loss_and_gradient(dtype, correspondence, pattern):
    signs = {
        "all pairs match": 2 * torch.eye(8) - 1,
        "no pair matches": 1 - 2 * torch.eye(8),
        "all alike": torch.ones(8, 8),
    }
    trust = torch.full((8,), correspondence)
    exact = signs[pattern].double()
    similarity = exact.to(dtype).requires_grad_()
    exact.requires_grad_()
    loss, expected = (active_complementary_loss(s, trust, temperature=TEMPERATURE) for s in (similarity, exact))
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-12)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(similarity.grad.double(), exact.grad, rtol=tolerance, atol=1e-5)


def test_the_loss_of_a_nearly_certain_query_is_not_lost_in_rounding():
    probabilities = torch.tensor([[1.0, 1e-9, 1e-9]])
    loss = complementary_loss(probabilities, torch.ones(1))
    assert loss.item() == pytest.approx(2e-9 / math.tan(1), rel=1e-5)


def test_transposing_and_permuting_change_nothing():
    similarity, order = random_similarity(), torch.tensor([3, 1, 4, 0, 2])
    loss = active_complementary_loss(similarity, TRUST)
    torch.testing.assert_close(active_complementary_loss(similarity.T, TRUST), loss)
    torch.testing.assert_close(active_complementary_loss(similarity[order][:, order], TRUST[order]), loss)


def test_a_batch_of_one_has_nothing_to_learn():
    similarity = torch.tensor([[0.3]], requires_grad=True)
    loss = active_complementary_loss(similarity, torch.tensor([0.5]))
    loss.backward()
    assert loss.item() == 0
    assert similarity.grad.item() == 0


def test_autocast_does_not_lower_the_precision():
    generator = torch.Generator().manual_seed(6)
    images, captions = torch.nn.functional.normalize(torch.randn(2, 16, 32, generator=generator), dim=2)
    trust = torch.rand(16, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        similarity = images @ captions.T
        loss = active_complementary_loss(similarity, trust)
    assert similarity.dtype == torch.bfloat16
    torch.testing.assert_close(loss, active_complementary_loss(similarity.float(), trust), rtol=0, atol=0)


def test_double_precision_is_kept_whatever_the_type_of_the_correspondences():
    assert active_complementary_loss(random_similarity(), TRUST.float()).dtype == torch.float64
    assert active_complementary_loss(random_similarity().float(), TRUST).dtype == torch.float32


def test_mean_matching_probability_is_the_mean_of_both_directions():
    similarity = TEMPERATURE * torch.log(torch.tensor([[3.0, 1.0], [1.0, 1.0]]))
    # Image 0 gives caption 0 ¾, caption 0 gives image 0 ¾; for pair 1 it is ½ both ways.
    assert mean_matching_probability(similarity, TEMPERATURE).tolist() == pytest.approx([0.75, 0.5])
    similarity = TEMPERATURE * torch.log(torch.tensor([[3.0, 1.0], [9.0, 3.0]]))
    assert mean_matching_probability(similarity, TEMPERATURE).tolist() == pytest.approx([0.5, 0.5])
    image_to_text, text_to_image = probabilities_of(random_similarity())
    torch.testing.assert_close(
        mean_matching_probability(random_similarity(), TEMPERATURE),
        (image_to_text.diagonal() + text_to_image.diagonal()) / 2,
    )


def test_wrong_shapes_are_refused():
    with pytest.raises(TypeCheckError):
        active_complementary_loss(torch.zeros(3, 3), torch.ones(4))
    with pytest.raises(TypeCheckError):
        active_complementary_loss(torch.zeros(3, 4), torch.ones(3))
    with pytest.raises(TypeCheckError):
        complementary_loss(torch.full((2, 2), 0.5), torch.ones(2, 1))
