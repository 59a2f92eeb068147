import math

import pytest
import torch
from torch import nn

from truepair.config import ModelConfig
from truepair.data.batch import Padded
from truepair.encoders.pooling import GeneralisedPooling, PooledEncoder, pool_sorted, position_codes
from truepair.model import InputShape, make_model

LENGTHS = torch.tensor([3, 1, 5, 5, 2])


def items(lengths=LENGTHS, dim=4, extra=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return Padded(torch.randn(len(lengths), int(lengths.max()) + extra, dim, generator=generator, dtype=dtype), lengths)


def pooling(seed=0):
    torch.manual_seed(seed)
    return GeneralisedPooling()


def ranks_alone(lengths, weights):
    """Weights of `pool_sorted`, given as a function of (rank from 0, length)."""
    width = int(lengths.max())
    return torch.tensor(
        [[weights(rank, n) if rank < n else 0.0 for rank in range(width)] for n in lengths.tolist()],
        dtype=torch.float64,
    )


def by_loops(module: GeneralisedPooling, sequences: Padded):
    """VSE∞'s pooling, one item after the other: codes, GRU step by step, scores, softmax, sorted values."""
    pooled = []
    for values, n in zip(sequences.values, sequences.lengths.tolist(), strict=True):
        codes = torch.zeros(n, 32)
        for position in range(n):
            for k in range(16):
                angle = position / 10_000 ** (2 * k / 32)
                codes[position, 2 * k], codes[position, 2 * k + 1] = math.sin(angle), math.cos(angle)
        cells = [nn.GRUCell(32, 32), nn.GRUCell(32, 32)]
        for cell, suffix in zip(cells, ("", "_reverse"), strict=True):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                delattr(cell, name)  # a parameter, which would refuse a tensor that has a history
                setattr(cell, name, getattr(module.gru.gru, f"{name}_l0{suffix}"))
        states = []
        for cell, order in zip(cells, (range(n), reversed(range(n))), strict=True):
            h, of_position = torch.zeros(1, 32), {}
            for position in order:
                h = of_position[position] = cell(codes[position : position + 1], h)
            states.append(torch.cat([of_position[position] for position in range(n)]))
        scores = ((states[0] + states[1]) / 2) @ module.score.weight.T
        weights = (scores.squeeze(1) / 0.1).softmax(0)
        ordered = torch.stack([column[:n].sort(descending=True).values for column in values.T], dim=1)
        pooled.append((weights[:, None].to(ordered.dtype) * ordered).sum(0))
    return torch.stack(pooled)


def test_weights_sum_to_1_over_the_valid_positions_and_are_0_beyond():
    weights = pooling().weights(LENGTHS, positions=7)
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    assert ((weights > 0) == (torch.arange(7) < LENGTHS[:, None])).all()


def test_equal_weights_are_mean_pooling():
    sequences = items()
    expected = torch.stack([v[:n].mean(0) for v, n in zip(sequences.values, LENGTHS.tolist(), strict=True)])
    torch.testing.assert_close(pool_sorted(sequences, ranks_alone(LENGTHS, lambda rank, n: 1 / n)), expected)


def test_all_weight_on_the_first_rank_is_maximum_pooling():
    sequences = items()
    expected = torch.stack([v[:n].amax(0) for v, n in zip(sequences.values, LENGTHS.tolist(), strict=True)])
    weights = ranks_alone(LENGTHS, lambda rank, n: float(rank == 0))
    torch.testing.assert_close(pool_sorted(sequences, weights), expected)


def test_all_weight_on_the_last_rank_is_minimum_pooling_of_valid_values_only():
    sequences = Padded(items().values + 10, LENGTHS)  # padding, which is 0 or less here, would be the minimum
    sequences = Padded(sequences.values.masked_fill(~sequences.mask[..., None], -1.0), LENGTHS)
    expected = torch.stack([v[:n].amin(0) for v, n in zip(sequences.values, LENGTHS.tolist(), strict=True)])
    weights = ranks_alone(LENGTHS, lambda rank, n: float(rank == n - 1))
    torch.testing.assert_close(pool_sorted(sequences, weights), expected)


def test_two_regions_by_hand():
    sequences = Padded(torch.tensor([[[1.0, 5.0], [3.0, -2.0], [99.0, 99.0]]]), torch.tensor([2]))
    pooled = pool_sorted(sequences, torch.tensor([[0.75, 0.25, 0.0]]))
    assert pooled.tolist() == [[0.75 * 3 + 0.25 * 1, 0.75 * 5 - 0.25 * 2]]


def test_sorted_values_are_masked():
    sequences = items(extra=2)
    outside = ~sequences.mask[..., None]
    expected = pooling()(sequences)
    for filler in (0.0, 1e9, -1e9):
        filled = Padded(sequences.values.masked_fill(outside, filler), LENGTHS)
        torch.testing.assert_close(pooling()(filled), expected, rtol=0, atol=0)


def test_extra_padding_changes_nothing():
    narrow = items()
    wide = Padded(torch.cat([narrow.values, torch.zeros(5, 4, 4, dtype=torch.float64)], dim=1), LENGTHS)
    torch.testing.assert_close(pooling()(wide), pooling()(narrow), rtol=1e-6, atol=1e-7)


def test_a_batch_of_one_is_pooled_like_a_batch_of_many():
    sequences = items()
    alone = [pooling()(Padded(sequences.values[k : k + 1, :n], LENGTHS[k : k + 1])) for k, n in enumerate(LENGTHS)]
    torch.testing.assert_close(torch.cat(alone), pooling()(sequences), rtol=1e-6, atol=1e-7)


def test_the_order_of_regions_is_irrelevant():
    sequences = items(torch.tensor([5, 5, 5]))
    shuffled = Padded(sequences.values[:, torch.tensor([3, 0, 4, 1, 2])], sequences.lengths)
    torch.testing.assert_close(pooling()(shuffled), pooling()(sequences), rtol=0, atol=0)


def test_constant_input_returns_itself():
    constant = torch.randn(5, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(
        pooling()(Padded(constant.expand(-1, 5, -1), LENGTHS)), constant[:, 0], rtol=1e-6, atol=1e-7
    )


def test_values_and_gradients_are_those_of_a_loop_over_items():
    module, sequences = pooling(), items(extra=1, dtype=torch.float32)
    sequences.values.requires_grad_()
    inputs = [sequences.values, *module.parameters()]
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    ours, reference = module(sequences), by_loops(module, sequences)
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((reference * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def by_torch_sort(sequences: Padded, weights):
    """The definition, with torch's sort, one item after the other."""
    return torch.stack(
        [
            (values[:n].sort(dim=0, descending=True).values * weight[:n, None]).sum(0)
            for values, n, weight in zip(sequences.values, sequences.lengths.tolist(), weights, strict=True)
        ]
    )


def test_values_and_gradients_are_those_of_torch_sort():
    sequences = items(extra=2)
    sequences.values.requires_grad_()
    weights = pooling().weights(LENGTHS, positions=7).double().detach().requires_grad_()
    ours, reference = pool_sorted(sequences, weights), by_torch_sort(sequences, weights)
    torch.testing.assert_close(ours, reference)
    of_values, of_weights = torch.autograd.grad(ours.sin().sum(), [sequences.values, weights])
    expected_of_values, expected_of_weights = torch.autograd.grad(reference.sin().sum(), [sequences.values, weights])
    torch.testing.assert_close(of_values, expected_of_values)
    torch.testing.assert_close(of_weights * sequences.mask, expected_of_weights)


def test_gradients_of_gradients_are_those_of_finite_differences():
    def pooled(values, weights):
        return pool_sorted(Padded(values, LENGTHS), weights).sin()

    weights = pooling().weights(LENGTHS, positions=5).double().detach().requires_grad_()
    torch.autograd.gradgradcheck(pooled, (items().values.requires_grad_(), weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_pooled_in_full_precision(dtype):
    sequences = items(dtype=torch.float32)
    halves = Padded(sequences.values.to(dtype), LENGTHS)
    expected = pooling()(Padded(halves.values.float(), LENGTHS))
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pool_sorted(halves, pooling().weights(LENGTHS, positions=5))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, expected, rtol=0.02, atol=0.02)  # the weights' score is a product in bfloat16
    plain = pooling()(halves)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain, expected, rtol=0, atol=0)


def test_position_codes_by_hand():
    codes = position_codes(3, 4)
    slow = 1 / 100  # 10000^(-2/4)
    expected = [[math.sin(p), math.cos(p), math.sin(p * slow), math.cos(p * slow)] for p in range(3)]
    torch.testing.assert_close(codes, torch.tensor(expected))


def test_equal_values_share_a_gradient_that_is_finite():
    sequences = Padded(torch.zeros(2, 3, 4, requires_grad=True), torch.tensor([3, 1]))
    PooledEncoder(nn.Identity(), pooling())(sequences).values.sum().backward()
    assert sequences.values.grad.isfinite().all()


@pytest.mark.parametrize("side", ["image", "caption"])
def test_an_item_is_encoded_alone_as_in_a_batch_of_128(side, vocabulary):
    torch.manual_seed(0)
    model = make_model(ModelConfig(embedding=16, word_size=8), InputShape("regions", 6, "words", len(vocabulary), 4))
    lengths = torch.randint(1, 12, (128,))
    if side == "image":
        encoder, values = model.image_encoder, torch.randn(128, 12, 6)
    else:
        encoder, values = model.text_encoder, torch.randint(1, len(vocabulary), (128, 12))
    batch = Padded(values, lengths)
    encoder(batch)  # one training step's worth of batch statistics
    encoder.eval()
    together = encoder(batch)
    assert together.lengths is None
    torch.testing.assert_close(together.values.norm(dim=1), torch.ones(128))
    for k in (0, 17, 127):
        alone = encoder(Padded(values[k : k + 1, : lengths[k]], lengths[k : k + 1])).values
        torch.testing.assert_close(alone[0], together.values[k], rtol=1e-5, atol=1e-6)
