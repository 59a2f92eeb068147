"""The gradient of the head through a virtual step: against finite differences, in float64."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy

from truepair.config import ModelConfig
from truepair.data.batch import Batch, Padded
from truepair.encoders.recurrent import twice_differentiable
from truepair.losses.triplet import self_adaptive_margin, triplet_loss
from truepair.methods.bilevel import AdamState, adam_step, directional_derivative, meta_gradient, sgd_step
from truepair.model import InputShape, make_model
from truepair.similarity.head import HeadNetwork, scored

WAYS = ("finite_difference", "backward")
RATE = 0.1


class Problem:
    """W, θ and what is made of them: vectors of 5 training pairs, all with all, and of 4 labelled pairs."""

    def __init__(self, vectors, meta_vectors, weights, head):
        self.vectors, self.meta_vectors = vectors, meta_vectors
        self.weights = {name: weight.detach() for name, weight in weights.items()}
        self.head_network = head
        self.head = {name: parameter.detach() for name, parameter in head.named_parameters()}
        self.labels = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)

    def scores(self, head, vectors):
        return scored(lambda v: functional_call(self.head_network, dict(head), (v,)), vectors)

    def loss(self, head, vectors):
        similarity = self.scores(head, vectors)
        margin = self_adaptive_margin(similarity.diagonal(), 0.2)
        return len(similarity) * triplet_loss(similarity, margin, negatives="mean")

    def meta_loss(self, head, vectors):
        return binary_cross_entropy(self.scores(head, vectors), self.labels)

    def found(self, step, way, meta_loss=None):
        return meta_gradient(
            self.weights,
            self.head,
            vectors=self.vectors,
            loss=self.loss,
            meta_vectors=self.meta_vectors,
            meta_loss=meta_loss or self.meta_loss,
            step=step,
            mixed_derivative=way,
        )

    def by_finite_differences(self, step, meta_loss=None, distance=1e-5):
        """The meta loss after the virtual step, with one number of θ at a time a little more and a little less."""

        def after_step(head):
            weights = {name: weight.clone().requires_grad_() for name, weight in self.weights.items()}
            loss = self.loss(head, self.vectors(weights))
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
            stepped = step(self.weights, dict(zip(weights, gradients, strict=True)))
            return (meta_loss or self.meta_loss)(head, self.meta_vectors(stepped)).item()

        slopes = {}
        for name, parameter in self.head.items():
            slope = torch.zeros_like(parameter)
            for place in range(parameter.numel()):
                sides = []
                for sign in (1, -1):
                    moved = parameter.clone()
                    moved.view(-1)[place] += sign * distance
                    sides.append(after_step(self.head | {name: moved}))
                slope.view(-1)[place] = (sides[0] - sides[1]) / (2 * distance)
            slopes[name] = slope
        return slopes


def tiny_mlp():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    images, captions = torch.randn(2, 5, 6, dtype=torch.float64)
    all_with_all, labelled = images[:, None] * captions, (images * captions.flip(0))[:4]
    return Problem(
        lambda weights: functional_call(network, dict(weights), (all_with_all,)),
        lambda weights: functional_call(network, dict(weights), (labelled,)),
        dict(network.named_parameters()),
        HeadNetwork(3, hidden=4).double(),
    )


class Vectors(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch, paired):
        similarity = self.model.similarity
        vectors = similarity.paired_vectors if paired else similarity.vectors
        return vectors(self.model.image_encoder(batch.images), self.model.text_encoder(batch.captions))


def tiny_gru(similarity="cosine"):
    """Regions and words: projections, a bidirectional GRU, pooling, and all that SAF and SGR add, in training mode."""
    torch.manual_seed(0)
    config = ModelConfig(
        similarity,
        embedding=4,
        word_size=3,
        similarity_size=2,
        graph_steps=2,
        head="network",
        head_size=4,
        alignment_dropout=0.0,
        region_dropping=0.0,
        word_dropping=0.0,
    )
    model = make_model(config, InputShape("regions", 5, "words", 12, mask=4, regions=3)).double().train()
    with torch.no_grad():
        for weight in model.parameters():  # biases of 0 put ReLUs at their kink, where there is no derivative
            weight += 0.05 * torch.randn_like(weight)
    lengths = torch.tensor([2, 5, 3, 3, 4])
    words = torch.randint(5, 12, (5, 5)) * (torch.arange(5) < lengths[:, None])
    regions = Padded(torch.randn(5, 3, 5, dtype=torch.float64), torch.full((5,), 3))
    batch = Batch(torch.arange(5), regions, Padded(words, lengths))
    first = torch.arange(4)
    labelled = Batch(first, batch.images.rows(first), batch.captions.rows(first.flip(0)))
    network = Vectors(model)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}

    def of(some, paired, weights):
        copies = {name: buffer.clone() for name, buffer in buffers.items()}
        return functional_call(network, {**weights, **copies}, (some,), {"paired": paired})

    weights = {name: w for name, w in network.named_parameters() if "similarity.head" not in name}
    problem = Problem(partial(of, batch, False), partial(of, labelled, True), weights, model.similarity.head)
    problem.model = model
    return problem


def sgd(problem):
    return partial(sgd_step, learning_rate=RATE)


def adam(problem):
    """From a state as after 3 steps."""
    generator = torch.Generator().manual_seed(1)
    state = {
        name: AdamState(
            0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64),
            0.1 + torch.rand(weight.shape, generator=generator, dtype=torch.float64),
            3.0,
        )
        for name, weight in problem.weights.items()
    }
    return partial(adam_step, learning_rate=RATE, state=state, weight_decay=0.01)


def relative_error(found, expected):
    one, other = (torch.cat([side[name].flatten() for name in expected]) for side in (found, expected))
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("virtual", [sgd, adam])
def test_the_meta_gradient_of_a_tiny_mlp_is_that_of_finite_differences(virtual, way):
    problem = tiny_mlp()
    step = virtual(problem)
    assert relative_error(problem.found(step, way).of_head, problem.by_finite_differences(step)) < 1e-4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("virtual", [sgd, adam])
@pytest.mark.parametrize("similarity", ["cosine", "saf", "sgr"])
def test_the_meta_gradient_of_a_tiny_gru_model_is_that_of_finite_differences(similarity, virtual, way):
    problem = tiny_gru(similarity)
    step = virtual(problem)
    with twice_differentiable(problem.model):
        found = problem.found(step, way).of_head
    assert relative_error(found, problem.by_finite_differences(step)) < 1e-4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [tiny_mlp, tiny_gru])
def test_with_the_direct_path_cut_the_virtual_step_alone_leads_back_to_the_head(make, way):
    problem = make()
    frozen = {name: parameter.clone() for name, parameter in problem.head.items()}

    def cut(_, vectors):
        return problem.meta_loss(frozen, vectors)

    step = sgd(problem)
    with twice_differentiable(getattr(problem, "model", nn.Module())):
        found = problem.found(step, way, cut).of_head
        of_nothing = problem.found(partial(sgd_step, learning_rate=0.0), way, cut).of_head
    assert sum(gradient.norm() for gradient in found.values()) > 1e-4
    assert relative_error(found, problem.by_finite_differences(step, cut)) < 1e-4
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in of_nothing.values())


@pytest.mark.parametrize("way", WAYS)
def test_a_step_of_nothing_leaves_the_direct_gradient(way):
    problem = tiny_mlp()
    found = problem.found(partial(sgd_step, learning_rate=0.0), way)
    head = {name: parameter.clone().requires_grad_() for name, parameter in problem.head.items()}
    direct = problem.meta_loss(head, problem.meta_vectors(problem.weights))
    expected = dict(zip(head, torch.autograd.grad(direct, list(head.values())), strict=True))
    torch.testing.assert_close(found.of_head, expected)
    torch.testing.assert_close(found.meta_loss, direct.detach())
    torch.testing.assert_close(found.loss, problem.loss(problem.head, problem.vectors(problem.weights)))


@pytest.mark.parametrize("way", WAYS)
def test_weights_and_head_stay_as_they_are(way):
    problem = tiny_mlp()
    before = {name: value.clone() for name, value in {**problem.weights, **problem.head}.items()}
    problem.found(sgd(problem), way)
    after = {**problem.weights, **problem.head}
    assert all(torch.equal(after[name], value) and after[name].grad is None for name, value in before.items())


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_virtual_adam_step_is_that_of_torch(steps, weight_decay):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    optimiser = torch.optim.AdamW([weight], lr=RATE, weight_decay=weight_decay)
    state = {}
    for _ in range(steps):
        before, weight.grad = weight.detach().clone(), torch.randn_like(weight)
        stepped = adam_step({"w": before}, {"w": weight.grad}, RATE, state, weight_decay=weight_decay)["w"]
        optimiser.step()
        torch.testing.assert_close(stepped, weight.detach())
        moments = optimiser.state[weight]
        state = {"w": AdamState(moments["exp_avg"], moments["exp_avg_sq"], float(moments["step"]))}


def test_a_weight_without_gradient_has_a_finite_virtual_adam_step_and_derivative():
    gradient = torch.zeros(3, requires_grad=True)
    stepped = adam_step({"w": torch.ones(3)}, {"w": gradient}, RATE, {})["w"]
    (slope,) = torch.autograd.grad(stepped.sum(), gradient)
    torch.testing.assert_close(stepped.detach(), torch.ones(3))
    assert slope.isfinite().all()


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
def test_the_directional_derivative_is_that_of_the_jacobian_at_any_length_of_the_direction(length):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    along = {name: length * torch.randn_like(weight) for name, weight in weights.items()}
    inputs = torch.randn(5, 6, dtype=torch.float64)

    def vectors(weights):
        return functional_call(network, dict(weights), (inputs,))

    places = {name: weight.requires_grad_() for name, weight in weights.items()}
    of_each = torch.autograd.functional.jacobian(
        lambda *values: vectors(dict(zip(weights, values, strict=True))), tuple(places.values())
    )
    expected = sum((slope * way).flatten(2).sum(2) for slope, way in zip(of_each, along.values(), strict=True))
    found = directional_derivative(vectors, weights, along, vectors(weights).detach())
    assert (found - expected).norm() < 1e-6 * expected.norm()


def test_vectors_of_nothing_have_a_derivative():
    weights, along = {"w": torch.ones(3)}, {"w": torch.full((3,), 2.0)}
    found = directional_derivative(lambda w: w["w"] - 1, weights, along, torch.zeros(3))
    torch.testing.assert_close(found, torch.full((3,), 2.0), atol=0.1, rtol=0)


def test_no_direction_is_no_change_and_asks_for_no_vectors():
    here = torch.ones(2, 3)
    weights = {"w": torch.ones(3)}
    found = directional_derivative(lambda _: pytest.fail("called"), weights, {"w": torch.zeros(3)}, here)
    assert torch.equal(found, torch.zeros_like(here))
