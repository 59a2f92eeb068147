"""Audits of runs with SAF and SGR, which cannot compare everything with everything."""

from dataclasses import replace

import pytest

from truepair.audit.run import audit_run
from truepair.config import BaselineConfig, DataConfig, ModelConfig, NoiseConfig, Recipe, TrainingConfig
from truepair.config.audit import AuditConfig
from truepair.data.corpora import load_corpus
from truepair.errors import ConfigError
from truepair.training.folder import load_run
from truepair.training.run import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One epoch of SAF on the demo's words, 10 % of which are shuffled."""
    folder = tmp_path_factory.mktemp("runs") / "saf"
    recipe = Recipe(
        data=DataConfig(path="demo", text="words"),
        noise=NoiseConfig(rate=0.1),
        model=ModelConfig("saf", embedding=16, word_size=8, similarity_size=8),
        method=BaselineConfig(epochs=1),
        training=TrainingConfig(device="cpu"),
    )
    run(recipe, folder, load_corpus(recipe.data))
    return load_run(folder)


@pytest.fixture
def config():
    return AuditConfig(device="cpu", cards=6)


def test_an_audit_of_a_saf_run_ranks_pairs_and_suggests_nothing(trained, config, tmp_path):
    summary = audit_run(trained, tmp_path / "audit", config)
    assert summary.pairs == len(trained.train)
    assert summary.scored_by.candidates == 128
    assert summary.may_re_pair == 0
    assert (tmp_path / "audit" / "report.html").exists()


def test_re_pairing_by_a_saf_run_is_refused(trained, config, tmp_path):
    with pytest.raises(ConfigError, match=r"--re-pair needs suggested partners, .* similarity 'saf', makes none"):
        audit_run(trained, tmp_path / "audit", replace(config, re_pair=True))
    assert not (tmp_path / "audit").exists()


def test_competitors_that_are_asked_for_are_used(trained, config, tmp_path):
    summary = audit_run(trained, tmp_path / "audit", replace(config, candidates=7))
    assert summary.scored_by.candidates == 7
