"""Finished runs over tiny networks, trained once for all tests."""

import numpy as np
import pytest
from photographs import write_photographs

from truepair.config import BaselineConfig, DataConfig, ModelConfig, NoiseConfig, Recipe, SourceConfig, TrainingConfig
from truepair.scoring.encodings import encode_captions, encode_images
from truepair.training.folder import load_run
from truepair.training.run import run

pytest.importorskip("transformers", reason="needs the extra hf")
from tiny_networks import save_bert, save_clip


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Where they are, by name."""
    return {save.__name__[5:]: save(tmp_path_factory.mktemp("network")) for save in (save_bert, save_clip)}


@pytest.fixture(scope="session")
def recipe(tmp_path_factory, networks):
    """Both sides read by a CLIP network, which learns in full."""
    table = write_photographs(tmp_path_factory.mktemp("data"), images=24)
    model = ModelConfig(
        image="full",
        text="full",
        image_encoder=networks["clip"],
        text_encoder=networks["clip"],
        embedding=8,
        tower_learning_rate_factor=0.5,
        feature_scaling="auto",
    )
    return Recipe(
        DataConfig(str(table), SourceConfig(split_col="split")),
        NoiseConfig(0.2),
        model=model,
        method=BaselineConfig(epochs=1),
        training=TrainingConfig(batch_size=8, device="cpu"),
    )


@pytest.fixture(scope="session")
def trained(recipe, tmp_path_factory):
    """The run of `recipe`."""
    folder = tmp_path_factory.mktemp("run")
    run(recipe, folder)
    return folder


class Expected:
    """What a run's own networks make of its test pairs."""

    def __init__(self, folder):
        from truepair.sources.decoding import decoded

        read = load_run(folder)
        pairs = read.splits.test
        self.pictures = [decoded(pairs.pictures[row]) for row in range(len(pairs.images))]
        self.captions = list(pairs.captions)
        images = [encode_images(model, pairs.images).values.numpy() for model in read.models]
        captions = [encode_captions(model, pairs).values.numpy() for model in read.models]
        self.cosines = sum(i @ c.T for i, c in zip(images, captions, strict=True)) / len(read.models)
        self.among_captions = sum(c @ c.T for c in captions) / len(read.models)

    def check(self, images, captions):
        """Vectors of an export have the cosines of the run."""
        np.testing.assert_allclose(captions @ captions.T, self.among_captions, atol=1e-5)
        if images is not None:
            np.testing.assert_allclose(images @ captions.T, self.cosines, atol=1e-5)


@pytest.fixture(scope="session")
def expected_of():
    return Expected
