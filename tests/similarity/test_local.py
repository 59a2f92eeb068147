"""SAF and SGR against `sgraf_loop`, a per-caption loop written from the formulas alone (C4)."""

import pytest
import torch
from sgraf_loop import loop_similarity, loop_vectors

from truepair.data.batch import Padded
from truepair.layers import unit_length
from truepair.similarity.local import LocalSimilarity
from truepair.similarity.protocol import Similarity
from truepair.similarity.saf import AttentionFiltration
from truepair.similarity.sgr import GraphReasoning

KINDS = ["saf", "sgr"]
DIM, SIZE = 12, 10


def module(kind, dim=DIM, size=SIZE):
    """Random weights, and running statistics that are not the initial ones."""
    torch.manual_seed(0)
    reasoning = AttentionFiltration(size) if kind == "saf" else GraphReasoning(size)
    similarity = LocalSimilarity(dim, size, reasoning)
    for parameter in similarity.parameters():
        parameter.data = torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    if kind == "saf":
        reasoning.norm.running_mean.fill_(0.3)
        reasoning.norm.running_var.fill_(2.0)
    return similarity


def encoded(lengths, seed, longest=None, dim=DIM):
    """Items as `LocalEncoder` leaves them: a vector of the whole, `lengths` unit vectors, and zeros."""
    lengths = torch.as_tensor(lengths)
    values = torch.randn(len(lengths), (longest or int(lengths.max())) + 1, dim, generator=_generator(seed))
    items = Padded(unit_length(values), lengths + 1)
    return Padded(items.values * items.mask[..., None], items.lengths)


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def weights_of(similarity):
    """The names that the loop knows; its keys have a bias, which drops out of the softmax."""
    state = dict(similarity.named_parameters())
    state |= {name.replace("weight", "bias"): w.new_ones(len(w)) for name, w in state.items() if "key.weight" in name}
    return state | {name: buffer.clone() for name, buffer in similarity.named_buffers()}


def by_loop(similarity, kind, images, captions, training=False):
    """What the loop makes of the same encodings."""
    words = [row[1:length] for row, length in zip(captions.values, captions.lengths.tolist(), strict=True)]
    return loop_similarity(
        images.values[:, 1:],
        images.values[:, 0],
        words,
        captions.values[:, 0],
        weights_of(similarity),
        kind,
        region_lengths=images.lengths - 1,
        training=training,
    )


def double(similarity, *items):
    return similarity.double(), *(Padded(item.values.double(), item.lengths) for item in items)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("kind", KINDS)
def test_batched_equals_the_loop_over_captions_in_values_and_gradients(kind, training):
    similarity = module(kind, dim=32, size=24).train(training)
    images, captions = encoded([36] * 7, seed=1, dim=32), encoded(range(1, 41), seed=2, dim=32)
    results = []
    for scores_of in (
        lambda *items: similarity.matrix(*items),
        lambda *items: by_loop(similarity, kind, *items, training),
    ):
        inputs = [images.values.clone().requires_grad_(), captions.values.clone().requires_grad_()]
        scores = scores_of(Padded(inputs[0], images.lengths), Padded(inputs[1], captions.lengths))
        direction = torch.randn(scores.shape, generator=_generator(3))
        wanted = {**dict(similarity.named_parameters()), "images": inputs[0], "captions": inputs[1]}
        gradients = torch.autograd.grad((scores * direction).sum(), list(wanted.values()))
        results.append((scores, dict(zip(wanted, gradients, strict=True))))
    (ours, our_gradients), (theirs, their_gradients) = results
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for name, gradient in their_gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(our_gradients[name], gradient, atol=1e-5 * max(1.0, scale), rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_regions_that_are_not_there_take_no_part(kind):
    similarity = module(kind).eval()
    images, captions = encoded(range(1, 37), seed=1), encoded([3, 9, 1], seed=2)
    torch.testing.assert_close(
        similarity.matrix(images, captions), by_loop(similarity, kind, images, captions), atol=1e-5, rtol=1e-5
    )
    filled = Padded(torch.where(images.mask[..., None], images.values, 7.0), images.lengths)
    torch.testing.assert_close(similarity.matrix(filled, captions), similarity.matrix(images, captions))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_1_equals_a_batch_of_128(kind):
    similarity = module(kind).eval()
    lengths = torch.randint(1, 30, (128,), generator=_generator(5))
    images, captions = encoded([4] * 128, seed=1), encoded(lengths, seed=2)
    whole = similarity.matrix(images, captions)
    for k in (0, 17, 127):
        one = slice(k, k + 1)
        torch.testing.assert_close(similarity.matrix(images.rows(one), captions.rows(one)), whole[one, one])


@pytest.mark.parametrize("kind", KINDS)
def test_more_padding_and_another_order_change_nothing(kind):
    similarity = module(kind).eval()
    images, captions = encoded([5] * 4, seed=1), encoded([2, 6, 2, 4], seed=2, longest=6)
    padded = Padded(torch.cat([captions.values, torch.full((4, 9, DIM), 3.0)], 1), captions.lengths)
    whole = similarity.matrix(images, captions)
    torch.testing.assert_close(similarity.matrix(images, padded), whole)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(similarity.matrix(images.rows(order), captions), whole[order])
    torch.testing.assert_close(similarity.matrix(images, captions.rows(order)), whole[:, order])


@pytest.mark.parametrize("kind", KINDS)
def test_paired_is_the_diagonal_of_the_matrix_and_its_gradient_too(kind):
    similarity, images, captions = double(module(kind).eval(), encoded([5] * 6, 1), encoded([3, 1, 8, 3, 2, 3], 2))
    images.values.requires_grad_()
    diagonal = similarity.matrix(images, captions).diagonal()
    paired = similarity.paired(images, captions)
    torch.testing.assert_close(paired, diagonal)
    gradients = [torch.autograd.grad(scores.square().sum(), images.values)[0] for scores in (diagonal, paired)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_similarity_vectors_are_reachable_and_what_the_head_scores(kind):
    similarity = module(kind).eval()
    images, captions = encoded([5] * 3, seed=1), encoded([3, 1, 8], seed=2)
    vectors = similarity.vectors(images, captions)
    assert vectors.shape == (3, 3, SIZE)
    words = [row[1:length] for row, length in zip(captions.values, captions.lengths.tolist(), strict=True)]
    inputs = (images.values[:, 1:], images.values[:, 0], words, captions.values[:, 0], weights_of(similarity), kind)
    torch.testing.assert_close(vectors, loop_vectors(*inputs), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(similarity.paired_vectors(images, captions), vectors[range(3), range(3)])
    similarity.head = torch.nn.Sequential(torch.nn.Linear(SIZE, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    expected = similarity.head(vectors).sigmoid().squeeze(2)  # a method may bring a head of its own, as MSCN does
    torch.testing.assert_close(similarity.matrix(images, captions), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_how_the_work_is_cut_changes_nothing(kind, monkeypatch):
    similarity, images, captions = double(module(kind).eval(), encoded([5] * 6, 1), encoded([3, 3, 8, 3, 2, 3], 2))
    images.values.requires_grad_()

    def scores_and_gradient():
        scores = similarity.matrix(images, captions)
        return scores, torch.autograd.grad(scores.square().sum(), images.values)[0]

    whole = scores_and_gradient()
    monkeypatch.setattr("truepair.similarity.alignment._BYTES_IN_CACHE", 1)
    monkeypatch.setattr("truepair.similarity.local._NODE_BYTES", 1)
    torch.testing.assert_close(scores_and_gradient(), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False], ids=["matrix", "paired"])
def test_gradients_are_those_of_finite_differences(kind, shared):
    similarity, images, captions = double(
        module(kind, dim=4, size=3), encoded([3] * 2, 1, dim=4), encoded([2, 1], 2, dim=4)
    )
    score = similarity.matrix if shared else similarity.paired

    def scores(image_values, caption_values, *parameters):
        named = dict(zip(dict(similarity.named_parameters()), parameters, strict=True))
        call = {"images": Padded(image_values, images.lengths), "captions": Padded(caption_values, captions.lengths)}
        return torch.func.functional_call(
            _Calls(similarity, score.__name__), {f"inner.{k}": v for k, v in named.items()}, (), call
        )

    parameters = [parameter.detach().clone().requires_grad_() for parameter in similarity.parameters()]
    inputs = [images.values.requires_grad_(), captions.values.requires_grad_()]
    similarity.eval()  # statistics of a batch would move with every evaluation
    assert torch.autograd.gradcheck(scores, (*inputs, *parameters))


class _Calls(torch.nn.Module):
    """A module whose forward is one of another module's methods."""

    def __init__(self, inner, method):
        super().__init__()
        self.inner, self.method = inner, method

    def forward(self, **arguments):
        return getattr(self.inner, self.method)(**arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_second_derivatives_are_those_of_the_loop(kind, training):
    """The gradient, in all inputs, of the size of a gradient: what a virtual optimiser step is differentiated by."""
    similarity, images, captions = double(
        module(kind, dim=6, size=5).train(training), encoded([4] * 3, 1, dim=6), encoded([2, 5, 2, 1], 2, dim=6)
    )
    wanted = {**dict(similarity.named_parameters()), "images": images.values, "captions": captions.values}
    inputs = [tensor.requires_grad_() for tensor in wanted.values()]
    seconds = []
    for scores in (similarity.matrix(images, captions), by_loop(similarity, kind, images, captions, training)):
        firsts = torch.autograd.grad(scores.square().sum(), inputs, create_graph=True)
        size = sum(first.square().sum() for first in firsts)
        seconds.append(torch.autograd.grad(size, inputs))
    for name, ours, theirs in zip(wanted, *seconds, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_joint_space(kind):
    kept = {}
    for dim in (8, 64):
        similarity = module(kind, dim=dim, size=8)
        images, captions = encoded([6] * 8, seed=1, dim=dim), encoded([7] * 4 + [9] * 4 + [11] * 4, seed=2, dim=dim)
        storages = {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            scores = similarity.matrix(images, captions)
        kept[dim] = sum(storages.values())
        assert scores.shape == (8, 12)
    words, wholes = 8 * (4 * 7 + 4 * 9 + 4 * 11), 2 * 8 * 12
    sides = 8 * 7 + 3 * 12 * 12
    assert kept[64] - kept[8] < 4 * 56 * (wholes + 3 * sides + 3 * 8)  # not 4 · 56 · words, for each pair of them
    assert 4 * 56 * words > 4 * 56 * (wholes + sides)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_compare_gives_nothing(kind):
    similarity = module(kind)
    images, captions = encoded([4] * 2, seed=1), encoded([3] * 2, seed=2)
    nothing = slice(0, 0)
    assert similarity.matrix(images.rows(nothing), captions).shape == (0, 2)
    assert similarity.matrix(images, captions.rows(nothing)).shape == (2, 0)
    assert similarity.paired(images.rows(nothing), captions.rows(nothing)).shape == (0,)


def test_a_word_that_attends_to_vectors_that_cancel_out_stays_finite():
    similarity, images, captions = double(module("sgr").eval(), encoded([2], 1), encoded([2], 2))
    images.values[0, 2] = -images.values[0, 1]
    captions.values[0, 1:] = 0.0  # every region gets the same attention, and they add up to nothing
    images.values.requires_grad_()
    scores = similarity.matrix(images, captions)
    assert scores.isfinite().all()
    assert torch.autograd.grad(scores.sum(), images.values)[0].isfinite().all()


def test_after_two_hundred_captions_saf_scores_in_evaluation_as_in_training():
    similarity = module("saf")
    norm = similarity.reasoning.norm
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)
    images = encoded([5] * 16, seed=1)
    batches = [encoded([3 + k % 5] * 40, seed=10 + k) for k in range(5)]
    training = torch.cat([similarity.matrix(images, batch) for batch in batches], 1)
    similarity.eval()
    evaluation = torch.cat([similarity.matrix(images, batch) for batch in batches], 1)
    assert norm.captions_seen.item() == 200
    assert (evaluation - training).abs().mean() < 0.1 * training.std()


def test_running_statistics_of_saf_forget():
    similarity = module("saf")
    norm, gate = similarity.reasoning.norm, similarity.reasoning.gate
    for _ in range(3000):
        norm(gate(torch.ones(2, 3, 4, SIZE)).squeeze(3))
    assert norm.running_mean.item() == pytest.approx(gate(torch.ones(SIZE)).item(), rel=1e-3)
    assert norm.running_var.item() < 1e-3
    norm(gate(torch.zeros(2, 1, 4, SIZE)).squeeze(3))  # one caption of 9,001 still moves them by a thousandth
    difference = gate(torch.zeros(SIZE)) - gate(torch.ones(SIZE))
    moved = norm.running_mean - gate(torch.ones(SIZE))
    assert moved.item() == pytest.approx(0.001 * difference.item(), rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_similarity_in_0_to_1(kind):
    similarity = module(kind).eval()
    assert isinstance(similarity, Similarity)
    scores = similarity.matrix(encoded([5] * 3, seed=1), encoded([3, 1, 8, 2], seed=2))
    assert scores.shape == (3, 4)
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_gives_nearly_the_same_scores_and_gradients(kind):
    similarity = module(kind, dim=32, size=24)
    images, captions = encoded([36] * 5, seed=1, dim=32), encoded([3, 12, 12, 7, 1], seed=2, dim=32)
    results = []
    for is_half in (False, True):
        regions = images.values.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            scores = similarity.matrix(Padded(regions, images.lengths), captions)
        assert scores.dtype == torch.float32
        wanted = (regions, similarity.local_map.weight)
        results.append((scores, *torch.autograd.grad((scores * scores.detach()).sum(), wanted)))
    for exact, half in zip(*results, strict=True):
        assert half.dtype == torch.float32
        assert (half - exact).norm() < 0.05 * exact.norm()
    assert not torch.equal(results[0][0], results[1][0])
