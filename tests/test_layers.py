import torch

from truepair.layers import unit_length


def test_three_four_five():
    torch.testing.assert_close(unit_length(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.6, 0.8]]))


def test_a_zero_vector_stays_zero_with_a_finite_gradient():
    vectors = torch.zeros(2, 3, requires_grad=True)
    unit = unit_length(vectors)
    unit.sum().backward()
    assert (unit == 0).all()
    assert vectors.grad.isfinite().all()
