import pytest
import torch

from truepair.data.batch import Batch, Padded, joined


def test_mask_is_true_at_valid_positions():
    items = Padded(torch.zeros(3, 4, 2), torch.tensor([4, 1, 2]))
    assert items.mask.int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]


def test_single_vectors_have_no_mask():
    with pytest.raises(ValueError, match=r"\(3, 4\) have no positions"):
        _ = Padded(torch.zeros(3, 4)).mask


@pytest.mark.parametrize("chosen", [torch.tensor([2, 0, 2]), slice(1, 3)])
def test_rows_keep_the_order_asked_for(chosen):
    items = Padded(torch.randn(3, 4, 2), torch.tensor([4, 1, 2]))
    some = items.rows(chosen)
    assert torch.equal(some.values, items.values[chosen])
    assert torch.equal(some.lengths, items.lengths[chosen])
    assert items.rows(slice(1, 3)).lengths.tolist() == [1, 2]
    assert Padded(items.values[:, 0]).rows(chosen).lengths is None


@pytest.mark.parametrize("tail", [(), (3,)], ids=["token ids", "features"])
def test_joined_items_are_padded_with_zeros_to_the_longest_of_all(tail):
    parts = [
        Padded(torch.ones(2, 2, *tail), torch.tensor([1, 2])),
        Padded(torch.full((1, 4, *tail), 5.0), torch.tensor([4])),
    ]
    whole = joined(parts)
    assert whole.values.shape == (3, 4, *tail)
    assert whole.lengths.tolist() == [1, 2, 4]
    assert torch.equal(whole.values[:2, :2], parts[0].values)
    assert (whole.values[:2, 2:] == 0).all()
    assert torch.equal(whole.values[2:], parts[1].values)


def test_joined_vectors_stay_vectors():
    parts = [Padded(torch.randn(2, 3)), Padded(torch.randn(1, 3))]
    whole = joined(parts)
    assert whole.lengths is None
    assert torch.equal(whole.values, torch.cat([part.values for part in parts]))


def test_a_batch_moves_as_a_whole():
    items = Padded(torch.zeros(2, 3, 4), torch.tensor([3, 1]))
    moved = Batch(torch.tensor([5, 7]), items, Padded(torch.zeros(2, 4))).to(torch.device("meta"))
    assert len(moved) == 2
    tensors = (moved.pair, moved.images.values, moved.images.lengths, moved.captions.values)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.captions.lengths is None


def words_beside_vectors():
    return Padded(torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([2, 3]), torch.tensor([[0.5, 1.0], [2.0, -1.0]]))


@pytest.mark.parametrize("chosen", [torch.tensor([1, 0, 1]), slice(1, 2)])
def test_vectors_beside_words_go_where_the_words_go(chosen):
    items = words_beside_vectors()
    assert torch.equal(items.rows(chosen).vectors, items.vectors[chosen])
    assert torch.equal(items.rows(chosen).values, items.values[chosen])
    moved = Batch(torch.tensor([5, 7]), Padded(torch.zeros(2, 4)), items).to(torch.device("meta"))
    assert (moved.captions.vectors.device.type, moved.captions.vectors.shape) == ("meta", (2, 2))
    assert torch.equal(items.to(torch.device("cpu")).vectors, items.vectors)


def test_joined_words_keep_the_vectors_beside_them():
    longer = Padded(torch.tensor([[6, 7, 8, 9]]), torch.tensor([4]), torch.tensor([[7.0, 8.0]]))
    whole = joined([words_beside_vectors(), longer])
    assert whole.values.tolist() == [[1, 2, 0, 0], [3, 4, 5, 0], [6, 7, 8, 9]]
    assert whole.vectors.tolist() == [[0.5, 1.0], [2.0, -1.0], [7.0, 8.0]]
    assert joined([Padded(part.values, part.lengths) for part in (words_beside_vectors(), longer)]).vectors is None
