import pytest
import torch

from truepair.layers import unit_length
from truepair.scoring.best import Best
from truepair.search import exact
from truepair.search.exact import nearest


@pytest.fixture
def vectors():
    made = unit_length(torch.randn(3000, 32, generator=torch.Generator().manual_seed(0))).half()
    return [made[:1000], made[1000:1001], made[1001:]]


@pytest.fixture
def queries():
    return unit_length(torch.randn(9, 32, generator=torch.Generator().manual_seed(1)))


def whole(queries, vectors, count):
    return (queries @ torch.cat(vectors).float().T).topk(count, 1)


@pytest.mark.parametrize("count", [1, 10, 700])
@pytest.mark.parametrize("asked", [1, 9])
def test_blocks_find_what_the_whole_matrix_does(vectors, queries, count, asked, monkeypatch):
    monkeypatch.setattr(exact, "_ROWS_AT_A_TIME", 256)
    monkeypatch.setattr(exact, "_CONVERTED_AT_A_TIME", 100)
    expected = whole(queries[:asked], vectors, count)
    found = nearest(queries[:asked], vectors, count)
    torch.testing.assert_close(found.best, expected.values, rtol=0, atol=1e-6)
    assert (found.where == expected.indices).float().mean() > 0.999  # ties may change places


def test_rows_that_half_precision_cannot_tell_apart_are_scored_in_float32(queries, monkeypatch):
    monkeypatch.setattr(exact, "_SPARE", 4)
    base = unit_length(queries[:1] + 1e-4 * torch.randn(2000, 32, generator=torch.Generator().manual_seed(2))).half()
    found = nearest(queries[:1], [base], 10)
    torch.testing.assert_close(found.best, whole(queries[:1], [base], 10).values, rtol=0, atol=1e-7)


def test_rows_that_are_not_allowed_are_not_found(vectors, queries):
    allowed = torch.arange(3000) % 7 == 0
    for asked in (queries[:1], queries):
        assert (nearest(asked, vectors, 20, allowed).where % 7 == 0).all()


def test_where_fewer_are_allowed_the_last_are_missing(vectors, queries):
    allowed = torch.zeros(3000, dtype=torch.bool)
    allowed[[5, 1500]] = True
    for asked in (queries[:1], queries):
        found = nearest(asked, vectors, 4, allowed)
        assert set(found.where[0].tolist()) == {5, 1500, -1}
        assert found.best[0, 2:].tolist() == [-torch.inf] * 2


def test_the_best_do_not_depend_on_the_order_of_blocks():
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    forward, backward = Best.unfilled(4, 7), Best.unfilled(4, 7)
    for columns in torch.arange(50).split(8):
        forward.put(torch.arange(4), scores[:, columns], columns)
    for columns in reversed(torch.arange(50).split(8)):
        backward.put(torch.arange(4), scores[:, columns], columns)
    assert torch.equal(forward.where, backward.where)
    assert torch.equal(forward.best, scores.topk(7, 1).values)
