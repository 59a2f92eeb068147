"""Small DisNCL runs, each trained once and inspected once for all tests that look at the outcome."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from latent_factors import latent_factor_pairs
from picture_bytes import PictureBytes
from PIL import Image

from truepair.config import DisnclConfig, ModelConfig, NoiseConfig, OptimisationConfig, Recipe, TrainingConfig
from truepair.data.corpora import Corpus
from truepair.data.pairs import Pairs, Splits
from truepair.inspection.run import inspect_run
from truepair.training.folder import TrainedRun, load_run
from truepair.training.run import run

EVIL = '<script src="http://evil.example/x.js">alert("1")</script> & "quotes"'
RECIPE = Recipe(
    noise=NoiseConfig(rate=0.3),
    model=ModelConfig(embedding=16),
    method=DisnclConfig(
        warmup_epochs=1, main_epochs=3, critics_from=1, optimisation=OptimisationConfig(learning_rate=2e-3)
    ),
    training=TrainingConfig(batch_size=32, device="cpu"),
)
"""0.3 of the training pairs are mismatched, and the truth is known."""


def picture(number: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (60, 40), (number % 256, 90, 128)).save(written, "PNG")
    return written.getvalue()


def _pairs(count: int, draw_seed: int) -> Pairs:
    pairs = latent_factor_pairs(count, world_seed=0, draw_seed=draw_seed, width=12).pairs
    return replace(pairs, captions=[EVIL, *pairs.captions[1:]], image_ids=[f"<b>{i}</b>" for i in range(count)])


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """80 training pairs without pictures, each caption with one image of its own."""
    return Corpus(Splits(_pairs(80, 0), _pairs(30, 1), _pairs(40, 2), "factors"), None, [])


@dataclass
class Inspected:
    """A trained run and what an inspection of it wrote."""

    run: TrainedRun
    out: Path
    summary: dict
    html: str
    evil: str = EVIL


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return RECIPE


@pytest.fixture(scope="session")
def train(corpus, tmp_path_factory) -> Callable[[Recipe], TrainedRun]:
    def trained(recipe: Recipe, of: Corpus = corpus) -> TrainedRun:
        folder = tmp_path_factory.mktemp("runs") / "run"
        run(recipe, folder, of)
        return load_run(folder, of)

    return trained


@pytest.fixture(scope="session")
def inspect(tmp_path_factory) -> Callable[[TrainedRun], Inspected]:
    def inspected(of: TrainedRun, items: int = 40, examples: int = 3) -> Inspected:
        out = tmp_path_factory.mktemp("inspected")
        summary = inspect_run(of, out, items=items, examples=examples, seed=0)
        return Inspected(of, out, summary, (out / "inspect.html").read_text(encoding="utf-8"))

    return inspected


@pytest.fixture(scope="session")
def disncl(train, recipe) -> TrainedRun:
    return train(recipe)


@pytest.fixture(scope="session")
def inspected(disncl, inspect) -> Inspected:
    """All pairs, and all images as examples, so that every caption is on the page."""
    return inspect(disncl, items=100, examples=100)


@pytest.fixture(scope="session")
def with_pictures(disncl, corpus, inspect) -> Inspected:
    """The same run; its images can be seen, but for every fourth, whose bytes are broken."""
    splits = corpus.splits
    pictures = PictureBytes([picture(number) if number % 4 else b"broken" for number in range(80)])
    seen = replace(corpus, splits=replace(splits, train=replace(splits.train, pictures=pictures)))
    return inspect(load_run(disncl.folder, seen), examples=40)
