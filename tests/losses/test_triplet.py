import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck

from truepair.losses.contrastive import info_nce
from truepair.losses.triplet import self_adaptive_margin, triplet_loss

HINGES = ["sum", "mean", "hardest"]
WAYS = [*HINGES, "smooth"]


def random_similarity(pairs=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(pairs, pairs, generator=generator, dtype=torch.float64) - 1).to(dtype)


def triplet_by_loops(similarity, margins, negatives, margin_of="anchor"):
    """From the formula: one anchor and one negative at a time."""
    scores, pairs = similarity.tolist(), len(similarity)
    total = 0.0
    for i in range(pairs):
        for is_image, score_of in ((True, lambda j, i=i: scores[i][j]), (False, lambda j, i=i: scores[j][i])):
            whose = (lambda j: j) if is_image and margin_of == "caption" else (lambda j, i=i: i)
            behind = [margins[whose(j)] + score_of(j) - scores[i][i] for j in range(pairs) if j != i]
            hinges = [max(0.0, value) for value in behind]
            if negatives == "smooth":
                total += 0.05 * math.log(1 + sum(math.exp(value / 0.05) for value in behind))
            elif negatives == "hardest":
                total += max(hinges, default=0.0)
            else:
                total += sum(hinges) / (pairs if negatives == "mean" else 1)
    return total / pairs


@pytest.mark.parametrize("negatives", WAYS)
@pytest.mark.parametrize("pairs", [1, 2, 7])
def test_loss_equals_loops_over_anchors_and_negatives(negatives, pairs):
    similarity = random_similarity(pairs)
    loss = triplet_loss(similarity, 0.3, negatives=negatives)
    assert loss.item() == pytest.approx(triplet_by_loops(similarity, [0.3] * pairs, negatives), abs=1e-12)


@pytest.mark.parametrize("negatives", WAYS)
def test_each_direction_uses_the_margin_of_its_own_anchor(negatives):
    similarity = random_similarity(3, seed=1)
    margins = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    loss = triplet_loss(similarity, margins, negatives=negatives)
    assert loss.item() == pytest.approx(triplet_by_loops(similarity, margins.tolist(), negatives), abs=1e-12)


@pytest.mark.parametrize("negatives", WAYS)
def test_the_released_slip_takes_the_captions_margin_in_both_directions(negatives):
    similarity = random_similarity(3, seed=1)
    margins = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    slip = triplet_loss(similarity, margins, negatives=negatives, margin_of="caption")
    expected = triplet_by_loops(similarity, margins.tolist(), negatives, margin_of="caption")
    assert slip.item() == pytest.approx(expected, abs=1e-12)
    assert slip != triplet_loss(similarity, margins, negatives=negatives)


def test_three_pairs_by_hand():
    similarity = torch.tensor([[0.5, 0.4, 0.6], [0.0, 0.9, 0.1], [0.45, 0.2, 0.7]])
    # Margin 0.2. Image 0 wants every caption below 0.3: 0.1 and 0.3 too much; image 1 (below 0.7): none; image 2
    # (below 0.5): none. Caption 0 (below 0.3): image 2, 0.15; caption 1: none; caption 2 (below 0.5): image 0, 0.1.
    assert triplet_loss(similarity, 0.2, negatives="sum").item() == pytest.approx((0.1 + 0.3 + 0.15 + 0.1) / 3)
    assert triplet_loss(similarity, 0.2, negatives="mean").item() == pytest.approx((0.1 + 0.3 + 0.15 + 0.1) / 9)
    assert triplet_loss(similarity, 0.2, negatives="hardest").item() == pytest.approx((0.3 + 0.15 + 0.1) / 3)


@pytest.mark.parametrize("negatives", WAYS)
def test_adding_a_constant_to_the_matrix_changes_nothing(negatives):
    similarity = random_similarity()
    torch.testing.assert_close(
        triplet_loss(similarity + 3.0, negatives=negatives), triplet_loss(similarity, negatives=negatives)
    )


@pytest.mark.parametrize("negatives", WAYS)
def test_transposing_swaps_the_directions_and_keeps_the_loss(negatives):
    similarity, margins = random_similarity(), torch.linspace(0, 0.5, 6, dtype=torch.float64)
    torch.testing.assert_close(
        triplet_loss(similarity.T, margins, negatives=negatives), triplet_loss(similarity, margins, negatives=negatives)
    )


@pytest.mark.parametrize("seed", range(5))
def test_hardest_is_at_most_the_sum_and_at_least_the_mean(seed):
    similarity = random_similarity(seed=seed)
    mean, hardest, total = (triplet_loss(similarity, negatives=way) for way in ("mean", "hardest", "sum"))
    assert 0 < mean < hardest < total


@pytest.mark.parametrize("negatives", HINGES)
def test_loss_and_gradient_vanish_when_every_pair_is_ahead_by_the_margin(negatives):
    similarity = (0.25 * torch.eye(4, dtype=torch.float64)).requires_grad_()
    loss = triplet_loss(similarity, 0.25, negatives=negatives)
    loss.backward()
    assert loss.item() == 0
    assert similarity.grad.abs().max() == 0


def test_for_two_pairs_the_mean_is_half_of_the_hardest():
    similarity = random_similarity(2, seed=3)
    torch.testing.assert_close(
        triplet_loss(similarity, negatives="mean"), triplet_loss(similarity, negatives="hardest") / 2
    )


def test_hardest_negatives_alone_receive_gradient():
    similarity = torch.tensor([[0.5, 0.4, 0.6], [0.0, 0.9, 0.1], [0.45, 0.2, 0.7]], requires_grad=True)
    triplet_loss(similarity, 0.2, negatives="hardest").backward()
    # Image 0 is pushed from caption 2, caption 0 from image 2, caption 2 from image 0: see the hand-made case above.
    expected = torch.tensor([[-2.0, 0.0, 2.0], [0.0, 0.0, 0.0], [1.0, 0.0, -1.0]]) / 3
    torch.testing.assert_close(similarity.grad, expected)


def test_a_cold_smooth_maximum_is_the_hardest_hinge():
    similarity, margins = random_similarity(), torch.linspace(0, 0.5, 6, dtype=torch.float64)
    cold = triplet_loss(similarity, margins, negatives="smooth", temperature=1e-4)
    torch.testing.assert_close(cold, triplet_loss(similarity, margins, negatives="hardest"), atol=1e-3, rtol=0)
    assert triplet_loss(similarity, margins, negatives="smooth") > triplet_loss(similarity, margins)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_without_a_margin_the_smooth_maximum_is_info_nce_times_the_temperature(temperature):
    similarity = random_similarity()
    smooth = triplet_loss(similarity, 0.0, negatives="smooth", temperature=temperature)
    torch.testing.assert_close(smooth, temperature * info_nce(similarity, temperature))


@pytest.mark.parametrize("negatives", WAYS)
def test_gradients_agree_with_finite_differences(negatives):
    similarity = random_similarity(5, seed=4).requires_grad_()
    margins = torch.linspace(0.1, 0.5, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s, m: triplet_loss(s, m, negatives=negatives), (similarity, margins))


@pytest.mark.parametrize("negatives", WAYS)
def test_indistinguishable_pairs_cost_the_margin_and_stay_finite(negatives):
    similarity = torch.ones(4, 4, requires_grad=True)
    loss = triplet_loss(similarity, 0.2, negatives=negatives)
    loss.backward()
    # Each of 2 directions: 3 negatives of 0.2, their sum divided by 4, one of them, or the smooth maximum at τ 0.05.
    smooth = 0.05 * math.log(1 + 3 * math.exp(0.2 / 0.05))
    expected = {"sum": 0.6, "mean": 0.15, "hardest": 0.2, "smooth": smooth}[negatives]
    assert loss.item() == pytest.approx(2 * expected)
    assert similarity.grad.isfinite().all()


@pytest.mark.parametrize(
    ("given", "returned"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_half_precision_is_raised_to_single_and_double_is_kept(given, returned):
    similarity = random_similarity(dtype=given)
    loss = triplet_loss(similarity, negatives="sum")
    assert loss.dtype == returned
    torch.testing.assert_close(loss, triplet_loss(similarity.to(returned), negatives="sum"))


def test_wrong_shapes_and_unknown_names_are_refused():
    with pytest.raises(TypeCheckError):
        triplet_loss(torch.zeros(3, 4))
    with pytest.raises(TypeCheckError):
        triplet_loss(torch.zeros(3, 3), torch.zeros(4))
    with pytest.raises(TypeCheckError):
        triplet_loss(torch.zeros(3, 3), negatives="semi-hard")


def test_adaptive_margin_is_an_s_curve_from_nothing_to_the_whole_margin():
    similarity = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    margins = self_adaptive_margin(similarity, 0.2)
    assert not margins.requires_grad
    assert margins[[0, 50, 100]].tolist() == pytest.approx([0.0, 0.1, 0.2], abs=1e-15)
    assert (margins.diff() > 0).all()
    inner = similarity.detach()[1:-1]
    torch.testing.assert_close(margins[1:-1], 0.2 / (1 + (inner / (1 - inner)) ** -2))
    torch.testing.assert_close(margins + margins.flip(0), torch.full_like(margins, 0.2))
