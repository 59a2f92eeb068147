import pytest
import torch

from truepair.losses.contrastive import info_nce
from truepair.losses.soft_targets import soft_targets, targets_among_others


def batch(seed=0, items=6):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(items, items, generator=generator, dtype=torch.float64) * 2 - 1
    images, captions = torch.randn(2, items, 5, generator=generator, dtype=torch.float64)
    among = [torch.nn.functional.cosine_similarity(v[:, None], v[None], dim=2) for v in (images, captions)]
    return similarity, *among


def one_by_one(similarity, likeness, confidence, temperature, neighbours, smoothing):
    """The targets of one direction, entry by entry."""
    items = len(similarity)
    result = torch.zeros(items, items, dtype=similarity.dtype)
    for i in range(items):
        weights = []
        for j in range(items):
            logit = (similarity[i, j] + similarity[j, i]) / 2 + neighbours * likeness[i, j]
            is_out = i == j and confidence[i] < 0.5
            weights.append(torch.zeros(()) if is_out else (logit / temperature).exp())
        total = sum(weights)
        own = (1 - smoothing) * confidence[i]
        for j in range(items):
            result[i, j] = own * (i == j) + (1 - own) * weights[j] / total
    return result


def test_the_definition_entry_by_entry():
    similarity, images, captions = batch()
    confidence = torch.tensor([1.0, 0.9, 0.5, 0.49, 0.2, 0.0], dtype=torch.float64)
    options = {"temperature": 0.3, "neighbours": 0.5, "smoothing": 0.1}
    of_images, of_captions = soft_targets(similarity, images, captions, confidence, **options)
    torch.testing.assert_close(of_images, one_by_one(similarity, captions, confidence, *options.values()))
    torch.testing.assert_close(of_captions, one_by_one(similarity.T, images, confidence, *options.values()))


@pytest.mark.parametrize("confidence", [0.0, 0.3, 0.5, 1.0])
def test_rows_sum_to_one_and_carry_no_gradient(confidence):
    similarity, images, captions = (part.requires_grad_(True) for part in batch())
    weights = torch.full((6,), confidence, requires_grad=True)
    for targets in soft_targets(similarity, images, captions, weights):
        torch.testing.assert_close(targets.sum(1), torch.ones(6, dtype=torch.float64))
        assert targets.min() >= 0
        assert not targets.requires_grad


def test_believed_without_smoothing_is_symmetric_info_nce_exactly():
    similarity, images, captions = (part.float() for part in batch())
    targets = soft_targets(similarity, images, captions, torch.ones(6), smoothing=0.0)
    for of_direction in targets:
        assert of_direction.equal(torch.eye(6))
    torch.testing.assert_close(
        info_nce(similarity, 0.05, targets=targets), info_nce(similarity, 0.05), rtol=1e-6, atol=1e-6
    )


def test_a_pair_without_confidence_is_not_its_own_target():
    similarity, images, captions = batch()
    for targets in soft_targets(similarity, images, captions, torch.zeros(6, dtype=torch.float64)):
        assert targets.diagonal().abs().max() == 0


def test_half_precision_similarities_are_taken_to_full_precision_first():
    similarity, images, captions = batch()
    halves = [part.bfloat16() for part in (similarity, images, captions)]
    for targets in soft_targets(*halves, torch.full((6,), 0.7)):
        assert targets.dtype == torch.float32
        torch.testing.assert_close(targets.sum(1), torch.ones(6))


def test_targets_among_others_are_the_probabilities_without_the_own_partner():
    similarity, *_ = batch()
    both = targets_among_others(similarity.requires_grad_(), 0.3)
    for targets, scores in zip(both, (similarity, similarity.T), strict=True):
        assert not targets.requires_grad
        for i in range(6):
            others = [j for j in range(6) if j != i]
            weights = torch.stack([(scores[i, j] / 0.3).exp() for j in others]).detach()
            torch.testing.assert_close(targets[i, others], weights / weights.sum())
            assert targets[i, i] == 0


def test_targets_among_others_sum_to_one_and_ask_nothing_of_the_own_partner():
    similarity, *_ = batch()
    changed = similarity + torch.diag(torch.linspace(-3, 3, 6, dtype=torch.float64))
    for targets, again in zip(targets_among_others(similarity, 0.3), targets_among_others(changed, 0.3), strict=True):
        torch.testing.assert_close(targets.sum(1), torch.ones(6, dtype=torch.float64))
        assert targets.equal(again)
    of_images, of_captions = targets_among_others(similarity, 0.3)
    assert not torch.allclose(of_images, of_captions)
    assert targets_among_others(similarity.T, 0.3)[0].equal(of_captions)


def test_of_two_pairs_each_is_the_others_only_target_however_cold():
    for targets in targets_among_others(torch.tensor([[1.0, -1.0], [0.3, 1.0]]), 1e-3):
        assert targets.equal(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def test_half_precision_targets_among_others_are_full_precision():
    similarity = batch()[0].bfloat16()
    for targets, wanted in zip(
        targets_among_others(similarity, 0.05), targets_among_others(similarity.float(), 0.05), strict=True
    ):
        assert targets.dtype == torch.float32
        assert targets.equal(wanted)
