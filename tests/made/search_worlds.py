"""What indexes for search are made of: vectors of one space, and runs on the demo."""

from pathlib import Path

import numpy as np

from truepair.config import BaselineConfig, DataConfig, ModelConfig, Recipe, SourceConfig, TrainingConfig
from truepair.data.corpora import load_corpus
from truepair.training.run import run

IMAGES = 300


def write_vectors(folder: Path, count: int, seed: int) -> None:
    """images.npy and captions.npy of one space, one pair a row, and captions.txt."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    shared = random.standard_normal((count, 24)).astype(np.float32)
    for name in ("images", "captions"):
        np.save(folder / f"{name}.npy", shared + 0.4 * random.standard_normal(shared.shape).astype(np.float32))
    texts = [f"picture {seed}.{row} of {'dogs' if row % 3 else 'cats'}" for row in range(count)]
    (folder / "captions.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


def trained(folder: Path) -> Path:
    """A run on the demo's words, two epochs."""
    recipe = Recipe(
        data=DataConfig(text="words", minimum_word_count=1),
        model=ModelConfig(embedding=16, word_size=8, words="mean", projection="plain"),
        method=BaselineConfig(epochs=2),
        training=TrainingConfig(device="cpu"),
    )
    run(recipe, folder, load_corpus(recipe.data))
    return folder


def trained_saf(folder: Path) -> Path:
    """A run with SAF on 60 images of three regions with two captions each, one epoch."""
    features = np.random.default_rng(0).standard_normal((60, 3, 6)).astype(np.float32)
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", features)
    rows = [f"{image},a {side} thing of kind {image % 7}" for image in range(60) for side in ("big", "small")]
    (folder / "pairs.csv").write_text("\n".join(["name,caption", *rows]) + "\n", encoding="utf-8")
    recipe = Recipe(
        data=DataConfig(
            path=str(folder / "pairs.csv"),
            source=SourceConfig(image_col=None, image_id_col="name"),
            image_features=str(folder / "images.npy"),
            text="words",
            minimum_word_count=1,
        ),
        model=ModelConfig("saf", embedding=8, word_size=6, similarity_size=4),
        method=BaselineConfig(epochs=1),
        training=TrainingConfig(device="cpu", batch_size=32),
    )
    run(recipe, folder / "run", load_corpus(recipe.data))
    return folder / "run"
