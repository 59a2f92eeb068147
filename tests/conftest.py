"""A small world that every test can train on in seconds: 40 pairs, real objects of each kind, nothing mocked."""

import os
from functools import partial

import numpy as np
import pytest
import torch
from latent_factors import latent_factor_pairs
from lightning_fabric import Fabric

from truepair.config import ModelConfig, OptimisationConfig
from truepair.data.features import Features
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.data.pairs import Pairs
from truepair.data.text import Vocabulary, tokenised
from truepair.losses.contrastive import info_nce
from truepair.methods import METHODS
from truepair.methods.baseline import Baseline
from truepair.model import InputShape, make_model
from truepair.optimisation import Optimiser
from truepair.scoring.confidence import confidence_of_two_components

pytest_plugins = ("audited_table", "made_stores")  # fixtures of tests/made


@pytest.fixture(scope="session", autouse=True)
def one_cache(tmp_path_factory):
    """The folder for caches is one for all processes of a test run: a network is exported once, and nowhere else."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUEPAIR_CACHE", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


COLOURS = ("red", "green", "blue", "white", "black")
ANIMALS = ("dog", "cat", "horse", "bird")


def _world(seed: int) -> Pairs:
    """20 images of one animal in one colour, 4 regions × 6 features each, and 2 captions an image, of unlike length."""
    random = np.random.default_rng(seed)
    looks = {word: np.random.default_rng(place).standard_normal(6) for place, word in enumerate(COLOURS + ANIMALS)}
    images = [(colour, animal) for colour in COLOURS for animal in ANIMALS]
    regions = [
        [looks[colour], looks[animal], looks[colour] + looks[animal], np.zeros(6)]
        + 0.1 * random.standard_normal((4, 6))
        for colour, animal in images
    ]
    captions = [
        text for colour, animal in images for text in (f"{colour} {animal}", f"there is a {animal} and it is {colour}")
    ]
    image_of_caption = torch.arange(40) // 2
    return Pairs(
        images=Features(np.array(regions, dtype=np.float32)),
        captions=captions,
        image_of_caption=image_of_caption,
        image_ids=[" ".join(image) for image in images],
        caption_ids=[f"caption {i}" for i in range(40)],
        true_image_of_caption=image_of_caption,
    )


@pytest.fixture(scope="session")
def vocabulary():
    return Vocabulary.build(_world(0).captions, minimum_count=2)


@pytest.fixture(scope="session")
def world(vocabulary):
    """Regions and words."""
    return tokenised(_world(0), vocabulary)


@pytest.fixture(scope="session")
def dev_world(vocabulary):
    """The same animals, photographed again."""
    return tokenised(_world(1), vocabulary)


@pytest.fixture(scope="session")
def vector_world():
    """One vector on each side."""
    return latent_factor_pairs(40, world_seed=0, draw_seed=1, width=12).pairs


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def small():
    """A backbone with everything that draws random numbers switched on."""
    return ModelConfig(embedding=8, word_size=6, input_dropout=0.1)


@pytest.fixture
def make(world, vocabulary, small):
    """Fresh models of regions and words."""
    return partial(make_model, small, InputShape.of(world, vocabulary))


class Twins:
    """Two networks, each trained as by the baseline: the smallest method with several."""

    stage = 0

    def __init__(self, config, make_model, pairs, fabric):
        self.epochs = config.epochs
        self.notes = [f"{pairs} pairs, twice"]
        self.twins = [Baseline(config, make_model, pairs, fabric) for _ in range(2)]

    @property
    def models(self):
        return [model for twin in self.twins for model in twin.models]

    @property
    def pair_state(self):
        return {}

    def train_epoch(self, epoch, loaders):
        for twin in self.twins:
            yield from twin.train_epoch(epoch, loaders)

    def confidence(self, loaders):
        return confidence_of_two_components(self.models, loaders, 0.05).confidence

    def state_dict(self):
        return {"twins": [twin.state_dict() for twin in self.twins]}

    def load_state_dict(self, state):
        for twin, saved in zip(self.twins, state["twins"], strict=True):
            twin.load_state_dict(saved)


@pytest.fixture
def twins(monkeypatch):
    """While it lasts, the method called baseline trains two networks."""
    monkeypatch.setitem(METHODS, "baseline", Twins)


@pytest.fixture
def loaders(world):
    return Loaders(world, batch_size=8, seed=0, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def trained():
    """Two models that learned from 400 pairs of which 30 % do not match, and these."""
    pairs = inject_noise(latent_factor_pairs(400, world_seed=0, draw_seed=1).pairs, 0.3, 0)
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        fabric = Fabric(accelerator="cpu", devices=1)
        network = make_model(ModelConfig(embedding=16), InputShape.of(pairs, None))
        optimiser, loaders = (
            Optimiser(network, OptimisationConfig(learning_rate=3e-3), 4, fabric),
            Loaders(pairs, 32, seed, torch.device("cpu")),
        )
        for epoch in range(4):
            for batch in loaders.train(epoch):
                optimiser.step(info_nce(optimiser.model(batch), 0.05), float(epoch))
        models.append(network)
    return models, pairs
