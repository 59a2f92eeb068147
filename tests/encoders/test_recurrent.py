import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from truepair.data.batch import Padded
from truepair.encoders.recurrent import BidirectionalGru

LENGTHS = {
    "ragged": [3, 1, 6, 2, 6],
    "all of length 1": [1, 1, 1],
    "all equal": [4, 4],
    "a single item": [5],
    "padded beyond the longest": [2, 3],
}


def items(lengths, features=3, seed=0, extra=0):
    values = torch.randn(
        len(lengths), max(lengths) + extra, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return Padded(values.requires_grad_(), torch.tensor(lengths))


def gru(features=3, hidden=4, seed=0):
    torch.manual_seed(seed)
    return BidirectionalGru(features, hidden).double()


def by_torch(module: nn.GRU, sequences: Padded):
    """PyTorch's module on packed sequences, and the mean of its two directions."""
    packed = pack_padded_sequence(sequences.values, sequences.lengths, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(module(packed)[0], batch_first=True, total_length=sequences.values.shape[1])
    return sum(states.chunk(2, dim=-1)) / 2


def by_formula(module: nn.GRU, sequence):
    """One sequence, one time step after the other, from the definition of the GRU."""

    def direction(steps, suffix):
        w, u, w_bias, u_bias = (
            getattr(module, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, states = torch.zeros(u.shape[1], dtype=sequence.dtype), []
        for x in steps:
            a, b = (w @ x + w_bias).chunk(3), (u @ h + u_bias).chunk(3)
            r, z = (a[0] + b[0]).sigmoid(), (a[1] + b[1]).sigmoid()
            h = (1 - z) * (a[2] + r * b[2]).tanh() + z * h
            states.append(h)
        return torch.stack(states)

    return (direction(sequence, "") + direction(sequence.flip(0), "_reverse").flip(0)) / 2


def gradients(output, sequences, module):
    """Of a sum with fixed random weights, with respect to the input and every parameter."""
    weights = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(7))
    return torch.autograd.grad((output * weights).sum(), [sequences.values, *module.parameters()])


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_values_and_all_gradients_are_those_of_torch(lengths):
    module, sequences = gru(), items(lengths, extra=2)
    mine, theirs = module(sequences).values, by_torch(module.gru, sequences)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)
    for ours, reference in zip(
        gradients(mine, sequences, module), gradients(theirs, sequences, module.gru), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-13)


def test_values_are_those_of_the_formula():
    module, sequences = gru(), items([3, 1, 5])
    states = module(sequences)
    for row, length in enumerate(states.lengths.tolist()):
        torch.testing.assert_close(
            states.values[row, :length], by_formula(module.gru, sequences.values[row, :length]), rtol=1e-12, atol=1e-14
        )
        assert (states.values[row, length:] == 0).all()


def test_gradients_are_those_of_finite_differences():
    module, lengths = gru(2, 2), torch.tensor([3, 1, 2])
    names = [name for name, _ in module.named_parameters()]

    def output(values, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(module, given, (Padded(values, lengths),)).values

    torch.autograd.gradcheck(output, (items([3, 1, 2], 2).values, *module.parameters()))


def test_evaluation_gives_the_values_of_training():
    module, sequences = gru(), items([3, 1, 6])
    trained = module(sequences).values
    with torch.no_grad():
        torch.testing.assert_close(module(sequences).values, trained, rtol=1e-12, atol=1e-14)
    with torch.inference_mode():
        torch.testing.assert_close(module(sequences).values, trained.detach(), rtol=1e-12, atol=1e-14)


def test_twice_differentiable_has_the_same_gradients_and_gradients_of_them():
    once, twice = gru(), gru()
    twice.twice_differentiable = True
    sequences = items([3, 1, 6])
    for ours, reference in zip(
        gradients(once(sequences).values, sequences, once),
        gradients(twice(sequences).values, sequences, twice),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-13)

    def penalty(values):
        """The squared length of a gradient, as a virtual optimiser step would be differentiated."""
        given = Padded(values, sequences.lengths)
        return torch.autograd.grad(twice(given).values.sin().sum(), values, create_graph=True)[0].square().sum()

    torch.autograd.gradcheck(penalty, (sequences.values,))


def test_a_second_derivative_of_the_fast_path_is_an_error_not_a_wrong_number():
    module, sequences = gru(), items([3, 1])
    (first,) = torch.autograd.grad(module(sequences).values.sin().sum(), sequences.values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_padding_has_no_influence_and_gets_no_gradient():
    module, sequences = gru(), items([2, 4])
    states = module(sequences).values
    with torch.no_grad():
        other = sequences.values.clone()
        other[0, 2:] = 1e6
    torch.testing.assert_close(module(Padded(other, sequences.lengths)).values, states, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(states.sum(), sequences.values)
    assert (gradient[0, 2:] == 0).all()
    assert (gradient[1] != 0).all()


def test_inputs_and_parameters_without_gradient_are_left_alone():
    module, sequences = gru(), items([3, 1])
    module.gru.weight_ih_l0.requires_grad_(False)
    module(Padded(sequences.values.detach(), sequences.lengths)).values.sum().backward()
    assert sequences.values.grad is None
    assert module.gru.weight_ih_l0.grad is None
    assert module.gru.weight_hh_l0.grad is not None


def test_mixed_precision_trains_within_the_rounding_of_half_precision():
    module = gru().float()
    sequences = Padded(items([3, 1, 6]).values.detach().float(), torch.tensor([3, 1, 6]))
    expected = gradients_of_parameters(module, module(sequences).values)
    with torch.autocast("cpu", torch.bfloat16):
        states = module(sequences).values
    for ours, reference in zip(gradients_of_parameters(module, states), expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - reference).norm() < 0.05 * reference.norm()


def gradients_of_parameters(module, states):
    return torch.autograd.grad(states.float().square().sum(), list(module.parameters()))
