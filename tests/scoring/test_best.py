"""The best of many items, a block at a time, against sorting all of them."""

import pytest
import torch

from truepair.scoring.best import NONE, Best


@pytest.mark.parametrize("count", [1, 3, 7, 40])
def test_blocks_give_what_sorting_gives(count):
    scores = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    best = Best.unfilled(5, count)
    for block in torch.arange(30).split(7):
        best.put(torch.arange(5), scores[:, block], block)
    values, items = scores.sort(descending=True)
    assert torch.equal(best.best[:, :30], values[:, :count])
    assert torch.equal(best.where[:, :30], items[:, :count])
    assert (best.where[:, 30:] == NONE).all()
    assert best.best[:, 30:].isinf().all()


def test_what_is_hidden_or_scores_least_of_all_is_nowhere():
    best = Best.unfilled(1, 3)
    best.put(torch.zeros(1, dtype=torch.int64), torch.tensor([[0.9, 0.8]]), torch.tensor([7, 8]), lambda rows: _second)
    best.put(torch.zeros(1, dtype=torch.int64), torch.tensor([[-torch.inf, 0.1]]), torch.tensor([9, 10]))
    assert best.where.tolist() == [[7, 10, NONE]]
    assert best.best[0, 2] == -torch.inf


_second = torch.tensor([[False, True]])
