import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.autograd import gradcheck

from truepair.losses.contrastive import info_nce, matching_log_probabilities, matching_loss


def random_similarity(images=5, captions=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(images, captions, generator=generator, dtype=torch.float64) - 1


def random_targets(pairs=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(2, pairs, pairs, generator=generator, dtype=torch.float64).softmax(2))


def info_nce_by_loops(similarity, temperature, weights, targets):
    """From the formula, with plain exponentials."""
    scores, pairs = similarity.tolist(), len(similarity)
    total = 0.0
    for i in range(pairs):
        row = [math.exp(scores[i][j] / temperature) for j in range(pairs)]
        column = [math.exp(scores[j][i] / temperature) for j in range(pairs)]
        for j in range(pairs):
            total -= weights[i] * targets[0][i][j].item() * math.log(row[j] / sum(row))
            total -= weights[i] * targets[1][i][j].item() * math.log(column[j] / sum(column))
    return total / pairs


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_loss_equals_loops_with_plain_exponentials(temperature):
    similarity, one_hot = random_similarity(), torch.eye(5)
    expected = info_nce_by_loops(similarity, temperature, [1.0] * 5, (one_hot, one_hot))
    assert info_nce(similarity, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_weighted_loss_with_soft_targets_equals_loops():
    similarity, targets = random_similarity(seed=2), random_targets()
    weights = torch.tensor([1.0, 0.5, 0.0, 0.25, 0.75], dtype=torch.float64)
    expected = info_nce_by_loops(similarity, 0.3, weights.tolist(), targets)
    assert info_nce(similarity, 0.3, weights=weights, targets=targets).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("pairs", [1, 2, 100])
def test_constant_similarity_costs_twice_log_n(pairs):
    loss = info_nce(torch.full((pairs, pairs), 0.7), temperature=0.05)
    assert loss.item() == pytest.approx(2 * math.log(pairs), rel=1e-6)


def test_two_images_and_three_captions_by_hand():
    similarity = torch.log(torch.tensor([[1.0, 2.0, 1.0], [3.0, 2.0, 1.0]]))
    image_to_text, text_to_image = matching_log_probabilities(similarity, temperature=1.0)
    torch.testing.assert_close(image_to_text.exp(), torch.tensor([[1 / 4, 1 / 2, 1 / 4], [1 / 2, 1 / 3, 1 / 6]]))
    torch.testing.assert_close(text_to_image.exp(), torch.tensor([[1 / 4, 3 / 4], [1 / 2, 1 / 2], [1 / 2, 1 / 2]]))


def test_temperature_divides_the_similarity():
    similarity = random_similarity()
    torch.testing.assert_close(info_nce(similarity, 0.05), info_nce(similarity / 0.05, 1.0))


def test_shifting_rows_leaves_image_to_text_and_shifting_columns_text_to_image():
    similarity = random_similarity(4, 6)
    rows, columns = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(6.0, dtype=torch.float64)
    image_to_text, text_to_image = matching_log_probabilities(similarity, 0.5)
    torch.testing.assert_close(matching_log_probabilities(similarity + rows, 0.5)[0], image_to_text)
    torch.testing.assert_close(matching_log_probabilities(similarity + columns, 0.5)[1], text_to_image)


def test_masked_negatives_equal_deleted_negatives():
    similarity = random_similarity(4, 6)
    masked = similarity.clone()
    masked[:, 4:] = -torch.inf
    image_to_text, _ = matching_log_probabilities(masked, 0.1)
    torch.testing.assert_close(image_to_text[:, :4], matching_log_probabilities(similarity[:, :4], 0.1)[0])


def test_transposing_swaps_the_directions_and_keeps_the_loss():
    similarity, (of_image, of_caption) = random_similarity(), random_targets()
    torch.testing.assert_close(
        info_nce(similarity.T, 0.1, targets=(of_caption, of_image)),
        info_nce(similarity, 0.1, targets=(of_image, of_caption)),
    )


def test_permuting_the_pairs_changes_nothing():
    similarity, weights = random_similarity(), torch.rand(5, generator=torch.Generator().manual_seed(5)).double()
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(
        info_nce(similarity[order][:, order], 0.1, weights=weights[order]), info_nce(similarity, 0.1, weights=weights)
    )


def test_weighted_infonce_equals_infonce_when_every_weight_is_one():
    similarity = random_similarity()
    torch.testing.assert_close(
        info_nce(similarity, 0.05, weights=torch.ones(5, dtype=torch.float64)), info_nce(similarity, 0.05)
    )


def test_a_pair_without_weight_is_still_a_negative_of_the_others():
    similarity = random_similarity().requires_grad_()
    weights = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    info_nce(similarity, 0.5, weights=weights).backward()
    off_diagonal = similarity.grad[2, [0, 1, 3, 4]]
    assert similarity.grad[2, 2] == 0
    assert (off_diagonal > 0).all()


def test_one_hot_targets_equal_the_pairs_themselves():
    similarity, one_hot = random_similarity(), torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(info_nce(similarity, 0.05, targets=(one_hot, one_hot)), info_nce(similarity, 0.05))


def test_targets_equal_to_the_matching_probabilities_leave_no_gradient():
    similarity = random_similarity().requires_grad_()
    image_to_text, text_to_image = matching_log_probabilities(similarity.detach(), 0.2)
    loss = info_nce(similarity, 0.2, targets=(image_to_text.exp(), text_to_image.exp()))
    loss.backward()
    entropy = -(image_to_text.exp() * image_to_text + text_to_image.exp() * text_to_image).sum(1).mean()
    torch.testing.assert_close(loss.detach(), entropy)
    assert similarity.grad.abs().max() < 1e-14


def test_gradient_is_the_difference_of_probabilities_and_pairs():
    similarity = random_similarity().requires_grad_()
    info_nce(similarity, 0.2).backward()
    by_row, by_column = (similarity.detach() / 0.2).softmax(1), (similarity.detach() / 0.2).softmax(0)
    torch.testing.assert_close(similarity.grad, (by_row + by_column - 2 * torch.eye(5)) / (0.2 * 5))


def test_gradients_agree_with_finite_differences():
    similarity, (of_image, of_caption) = random_similarity(4, 4).requires_grad_(), random_targets(4)
    weights = torch.tensor([1.0, 0.5, 0.0, 0.2], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: info_nce(s, 0.2), (similarity,))
    assert gradcheck(lambda s, w: info_nce(s, 0.2, weights=w, targets=(of_image, of_caption)), (similarity, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sign", [1, -1])
def test_saturated_similarities_stay_finite_and_exact(dtype, sign):
    similarity = (sign * (2 * torch.eye(8) - 1)).to(dtype).requires_grad_()
    loss = info_nce(similarity, temperature=0.05)
    loss.backward()
    assert loss.dtype == torch.float32
    # Pairs 2/τ = 40 above 7 competitors, or 40 below them.
    expected = 2 * math.log1p(7 * math.exp(-40)) if sign == 1 else 2 * (40 + math.log(7))
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert similarity.grad.isfinite().all()


def test_autocast_does_not_lower_the_precision():
    generator = torch.Generator().manual_seed(6)
    images, captions = torch.nn.functional.normalize(torch.randn(2, 16, 32, generator=generator), dim=2)
    with torch.autocast("cpu", torch.bfloat16):
        similarity = images @ captions.T
        loss = info_nce(similarity, 0.05)
    assert similarity.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, info_nce(similarity.float(), 0.05), rtol=0, atol=0)


def test_double_precision_is_kept():
    assert info_nce(random_similarity(), 0.05).dtype == torch.float64


def test_wrong_shapes_are_refused():
    with pytest.raises(TypeCheckError):
        info_nce(torch.zeros(3, 4), 0.05)
    with pytest.raises(TypeCheckError):
        info_nce(torch.zeros(3, 3), 0.05, weights=torch.ones(3, 1))
    with pytest.raises(TypeCheckError):
        matching_loss(torch.zeros(3, 3), torch.zeros(4, 4))
