"""The loop that others are tested against, tested against arithmetic: one pair at a time, floats and `math` only."""

import math
from itertools import pairwise

import pytest
import torch
from sgraf_loop import attended_regions, loop_global_image, loop_global_text, loop_similarity, loop_vectors

DIM, SIZE, STEPS = 3, 4, 3


# --- One pair in pure Python ------------------------------------------------------------------------------------------


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(vector):
    length = math.sqrt(dot(vector, vector)) + 1e-8
    return [x / length for x in vector]


def softmax(scores):
    exponentials = [math.exp(score) for score in scores]
    return [e / sum(exponentials) for e in exponentials]


def mixture(shares, vectors):
    return [dot(shares, column) for column in zip(*vectors, strict=True)]


def affine(weights, name, vector):
    rows, bias = weights[f"{name}.weight"].tolist(), weights[f"{name}.bias"].tolist()
    return [dot(row, vector) + shift for row, shift in zip(rows, bias, strict=True)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def nodes_of_pair(regions, image, words, caption, weights):
    products = [[dot(region, word) for word in words] for region in regions]
    scores = [unit([x if x > 0 else 0.1 * x for x in of_region]) for of_region in products]  # over words
    nodes = [unit(affine(weights, "global_map", [(v - t) ** 2 for v, t in zip(image, caption, strict=True)]))]
    for place, word in enumerate(words):
        attention = softmax([9 * of_region[place] for of_region in scores])  # over regions
        attended = unit(mixture(attention, regions))
        difference = [(a - w) ** 2 for a, w in zip(attended, word, strict=True)]
        nodes.append(unit(affine(weights, "local_map", difference)))
    return nodes


def reasoned_pair(nodes, weights, steps):
    for step in range(steps):
        name = f"reasoning.steps.{step}"
        queries = [affine(weights, f"{name}.query", node) for node in nodes]
        keys = [affine(weights, f"{name}.key", node) for node in nodes]
        messages = [mixture(softmax([dot(query, key) for key in keys]), nodes) for query in queries]
        nodes = [[max(x, 0.0) for x in affine(weights, f"{name}.graph", message)] for message in messages]
    return nodes[0]


def gates_of_pair(nodes, weights):
    return [affine(weights, "reasoning.gate", node)[0] for node in nodes]


def filtered_pair(nodes, weights, mean, variance):
    scale, shift = weights["reasoning.norm.weight"].item(), weights["reasoning.norm.bias"].item()
    normalised = [(gate - mean) / math.sqrt(variance + 1e-5) for gate in gates_of_pair(nodes, weights)]
    opened = [sigmoid(scale * gate + shift) for gate in normalised]
    total = sum(opened) + 1e-8
    return unit(mixture([share / total for share in opened], nodes))


def pooled(local, whole, vectors, weights):
    scores = [affine(weights, "score", [a * b for a, b in zip(row, whole, strict=True)])[0] for row in local]
    return unit(mixture(softmax(scores), vectors))


def tanh(vector):
    return [math.tanh(x) for x in vector]


def normalised(columns, weights, name, training):
    """Batch norm of columns, one a channel, with the batch's own statistics or the running ones."""
    means, variances, scales, shifts = (
        weights[f"{name}.{part}"].tolist() for part in ("running_mean", "running_var", "weight", "bias")
    )
    result = []
    for channel, column in enumerate(columns):
        mean, variance = moments(column) if training else (means[channel], variances[channel])
        factor = scales[channel] / math.sqrt(variance + 1e-5)
        result.append([(x - mean) * factor + shifts[channel] for x in column])
    return result


def moments(values):
    mean = sum(values) / len(values)
    return mean, sum((x - mean) ** 2 for x in values) / len(values)


# --- Small worlds -----------------------------------------------------------------------------------------------------


class World:
    """3 images of 5 regions, captions of 1, 4 and 2 words, weights that are far from any initialisation; doubles."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.regions = self.units(3, 5, DIM)
        self.image_global = self.units(3, DIM)
        self.words = [self.units(length, DIM) for length in (1, 4, 2)]
        self.caption_global = self.units(3, DIM)
        self.weights = {}
        for name in ("local_map", "global_map"):
            self.linear(name, DIM, SIZE)
        for step in range(STEPS):
            for name in ("query", "key", "graph"):
                self.linear(f"reasoning.steps.{step}.{name}", SIZE, SIZE)
        self.linear("reasoning.gate", SIZE, 1)
        self.norm("reasoning.norm", 1)
        self.linear("head", SIZE, 1)

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def units(self, *shape):
        vectors = self.normal(*shape)
        return vectors / vectors.norm(dim=-1, keepdim=True)

    def linear(self, name, inputs, outputs):
        self.weights[f"{name}.weight"] = self.normal(outputs, inputs)
        self.weights[f"{name}.bias"] = self.normal(outputs)

    def norm(self, name, channels):
        for part in ("weight", "bias", "running_mean"):
            self.weights[f"{name}.{part}"] = self.normal(channels)
        self.weights[f"{name}.running_var"] = self.normal(channels).exp()

    @property
    def inputs(self):
        return self.regions, self.image_global, self.words, self.caption_global, self.weights

    def nodes(self, image, caption, regions=5):
        return nodes_of_pair(
            self.regions[image, :regions].tolist(),
            self.image_global[image].tolist(),
            self.words[caption].tolist(),
            self.caption_global[caption].tolist(),
            self.weights,
        )

    def running(self):
        return [self.weights[f"reasoning.norm.running_{part}"].item() for part in ("mean", "var")]


@pytest.fixture
def world():
    return World()


def global_weights(world, regions=None):
    """Weights of the enhanced global vectors, in place of the world's own; batch norms for that many regions."""
    world.weights = {}
    for name in ("local", "global_"):
        world.linear(name, DIM, DIM)
    world.linear("score", DIM, 1)
    if regions is not None:
        world.norm("local_norm", regions)
        world.norm("global_norm", DIM)
    return world.weights


def two_regions_two_words():
    """Worked out on paper: products [[.6, .8], [.8, .6]], attended (1, e^1.8) and (e^1.8, 1) at unit length,
    squared differences (.19089, .03482) and (.03482, .19089), so nodes (.70711, .70711), (.98376, .17947) and
    (.17947, .98376)."""
    identity, nothing = torch.eye(2), torch.zeros(2)
    weights = {}
    for name in ("local_map", "global_map", "reasoning.steps.0.graph"):
        weights |= {f"{name}.weight": identity, f"{name}.bias": nothing}
    for name in ("query", "key"):  # nothing to tell the nodes apart: edges of a third
        weights |= {f"reasoning.steps.0.{name}.weight": 0 * identity, f"reasoning.steps.0.{name}.bias": nothing}
    weights |= {"reasoning.gate.weight": torch.tensor([[1.0, -1.0]]), "reasoning.gate.bias": torch.zeros(1)}
    for part, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
        weights[f"reasoning.norm.{part}"] = torch.tensor([value])
    weights |= {"head.weight": torch.tensor([[1.0, 3.0]]), "head.bias": torch.tensor([-2.0])}
    words = [torch.tensor([[0.6, 0.8], [0.8, 0.6]])]
    return torch.eye(2)[None], torch.tensor([[1.0, 0.0]]), words, torch.tensor([[0.0, 1.0]]), weights


# --- Numbers from paper -----------------------------------------------------------------------------------------------


def test_graph_reasoning_by_hand():
    # Node 0 becomes the mean node, (.62345, .62345), and the head's product 4 · .62345 - 2 = .49379.
    vectors = loop_vectors(*two_regions_two_words(), "sgr", graph_steps=1)
    torch.testing.assert_close(vectors, torch.full((1, 1, 2), 0.62345), atol=2e-5, rtol=0)
    similarity = loop_similarity(*two_regions_two_words(), "sgr", graph_steps=1)
    torch.testing.assert_close(similarity, torch.tensor([[0.62100]]), atol=2e-5, rtol=0)


def test_attention_filtration_by_hand():
    # Gates 0, .80429, -.80429 open to .5, .69090, .30910 of 1.5; the sum (.72580, .52108) has length .89349.
    vectors = loop_vectors(*two_regions_two_words(), "saf")
    torch.testing.assert_close(vectors, torch.tensor([[[0.81232, 0.58320]]]), atol=2e-5, rtol=0)
    similarity = loop_similarity(*two_regions_two_words(), "saf")
    torch.testing.assert_close(similarity, torch.tensor([[0.63690]]), atol=2e-5, rtol=0)


def test_products_below_zero_count_a_tenth():
    # Products (1, -1) and (0, 1); the first row becomes (1, -.1) / √1.01, so word 1 sees softmax 9·(.99504, 0).
    regions = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    words = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    odds = math.exp(9 * 0.9950372)
    expected = torch.tensor([odds, 1.0]) / math.hypot(odds, 1.0)
    torch.testing.assert_close(attended_regions(regions, words)[0, 0], expected)
    odds = math.exp(9 * (-0.0995037 - 1.0))
    expected = torch.tensor([odds, 1.0]) / math.hypot(odds, 1.0)
    torch.testing.assert_close(attended_regions(regions, words)[0, 1], expected)


def test_global_text_by_hand():
    # Words e1, e2, maps 2·identity: local tanh(2)·e, whole tanh(1) of the mean; the score of word 1 is their product.
    identity, nothing = 2 * torch.eye(2), torch.zeros(2)
    weights = {"local.weight": identity, "local.bias": nothing, "global_.weight": identity, "global_.bias": nothing}
    weights |= {"score.weight": torch.tensor([[1.0, 0.0]]), "score.bias": torch.tensor([5.0])}
    odds = math.exp(0.9640276 * 0.7615942)
    expected = torch.tensor([[odds, 1.0]]) / math.hypot(odds, 1.0)
    torch.testing.assert_close(loop_global_text([torch.eye(2)], weights), expected)


# --- Pair by pair -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, STEPS])
def test_graph_reasoning_is_that_of_one_pair_at_a_time(world, steps):
    expected = [[reasoned_pair(world.nodes(i, c), world.weights, steps) for c in range(3)] for i in range(3)]
    assert torch.tensor(expected).count_nonzero() > 9  # of 36: not all of it is cut off by the ReLU
    vectors = loop_vectors(*world.inputs, "sgr", graph_steps=steps)
    torch.testing.assert_close(vectors, vectors.new_tensor(expected))


def test_attention_filtration_is_that_of_one_pair_at_a_time(world):
    running = world.running()
    expected = [[filtered_pair(world.nodes(i, c), world.weights, *running) for c in range(3)] for i in range(3)]
    vectors = loop_vectors(*world.inputs, "saf")
    torch.testing.assert_close(vectors, vectors.new_tensor(expected))
    assert world.running() == running


@pytest.mark.parametrize("kind", ["saf", "sgr"])
def test_similarity_is_the_sigmoid_of_the_head(world, kind):
    vectors = loop_vectors(*world.inputs, kind).tolist()
    expected = [[sigmoid(affine(world.weights, "head", vector)[0]) for vector in row] for row in vectors]
    similarity = loop_similarity(*world.inputs, kind)
    torch.testing.assert_close(similarity, similarity.new_tensor(expected))


def test_in_training_gates_are_normalised_over_one_caption_and_all_images(world):
    running_mean, running_variance = world.running()
    expected = []
    for caption in range(3):  # the running statistics follow, a tenth of the way for each caption in turn
        nodes = [world.nodes(image, caption) for image in range(3)]
        gates = [gate for of_image in nodes for gate in gates_of_pair(of_image, world.weights)]
        mean, variance = moments(gates)
        expected.append([filtered_pair(of_image, world.weights, mean, variance) for of_image in nodes])
        running_mean = 0.9 * running_mean + 0.1 * mean
        running_variance = 0.9 * running_variance + 0.1 * variance * len(gates) / (len(gates) - 1)
    vectors = loop_vectors(*world.inputs, "saf", training=True)
    torch.testing.assert_close(vectors, vectors.new_tensor(expected).transpose(0, 1))
    assert world.running() == pytest.approx([running_mean, running_variance])


@pytest.mark.parametrize("kind", ["saf", "sgr"])
def test_regions_that_an_image_does_not_have_are_as_if_cut_off(world, kind):
    lengths = [1, 5, 3]
    running = world.running()
    expected = [
        [
            reasoned_pair(nodes, world.weights, STEPS)
            if kind == "sgr"
            else filtered_pair(nodes, world.weights, *running)
            for nodes in (world.nodes(image, caption, length) for caption in range(3))
        ]
        for image, length in enumerate(lengths)
    ]
    world.regions[0, 1:], world.regions[2, 3:] = 7.0, -7.0
    vectors = loop_vectors(*world.inputs, kind, region_lengths=torch.tensor(lengths))
    torch.testing.assert_close(vectors, vectors.new_tensor(expected))


@pytest.mark.parametrize("kind", ["saf", "sgr"])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_finite_differences(world, kind, training):
    names = [
        name for name in world.weights if "running" not in name and ("reasoning" not in name or read_by(kind, name))
    ]

    def similarity(regions, image_global, caption_global, *words_and_weights):
        words, values = words_and_weights[:3], words_and_weights[3:]
        weights = dict(world.weights) | dict(zip(names, values, strict=True))
        for part in ("mean", "var"):  # in training they change with every call
            weights[f"reasoning.norm.running_{part}"] = weights[f"reasoning.norm.running_{part}"].clone()
        return loop_similarity(regions, image_global, words, caption_global, weights, kind, training=training)

    inputs = [world.regions, world.image_global, world.caption_global, *world.words]
    inputs += [world.weights[name] for name in names]
    assert torch.autograd.gradcheck(similarity, [tensor.clone().requires_grad_() for tensor in inputs], fast_mode=True)


def read_by(kind, name):
    return ("steps" in name) == (kind == "sgr")


# --- Global vectors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_global_image_is_that_of_one_image_at_a_time(world, training):
    weights = global_weights(world, regions=5)
    local = [[affine(weights, "local", region) for region in image] for image in world.regions.tolist()]
    channels = [[x for image in local for x in image[place]] for place in range(5)]  # one a position: images × dim
    channels = normalised(channels, weights, "local_norm", training)
    bounds = [DIM * image for image in range(4)]
    local = [[tanh(channel[start:end]) for channel in channels] for start, end in pairwise(bounds)]

    means = [affine(weights, "global_", mean) for mean in world.regions.mean(dim=1).tolist()]
    columns = normalised(list(zip(*means, strict=True)), weights, "global_norm", training)
    whole = [tanh(image) for image in zip(*columns, strict=True)]

    expected = [
        pooled(image, vector, regions, weights)
        for image, vector, regions in zip(local, whole, world.regions.tolist(), strict=True)
    ]
    vectors = loop_global_image(world.regions, weights, training)
    torch.testing.assert_close(vectors, vectors.new_tensor(expected))


def test_global_image_moves_its_running_statistics_in_training_only(world):
    weights = global_weights(world, regions=5)
    statistics = {name: tensor.clone() for name, tensor in weights.items() if "running" in name}
    loop_global_image(world.regions, weights)
    assert all(torch.equal(weights[name], before) for name, before in statistics.items())
    loop_global_image(world.regions, weights, training=True)
    mean_of_branch = (world.regions.mean(dim=1) @ weights["global_.weight"].T + weights["global_.bias"]).mean(dim=0)
    expected = 0.9 * statistics["global_norm.running_mean"] + 0.1 * mean_of_branch
    torch.testing.assert_close(weights["global_norm.running_mean"], expected)
    assert not any(torch.equal(weights[name], before) for name, before in statistics.items())


def test_global_text_is_that_of_one_caption_at_a_time(world):
    weights = global_weights(world)
    expected = []
    for words in (words.tolist() for words in world.words):
        mean = mixture([1 / len(words)] * len(words), words)
        local = [tanh(affine(weights, "local", word)) for word in words]
        expected.append(pooled(local, tanh(affine(weights, "global_", mean)), words, weights))
    vectors = loop_global_text(world.words, weights)
    torch.testing.assert_close(vectors, vectors.new_tensor(expected))
