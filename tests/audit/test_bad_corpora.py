"""Corpora that cannot be audited, or whose audit says nothing: it is said, with figures, and nothing crashes."""

from dataclasses import replace

import pytest
import torch
from latent_factors import latent_factor_pairs

from truepair.audit.run import audit_pairs
from truepair.data.features import Features
from truepair.errors import ConfigError


def test_one_pair_is_refused(quick, tmp_path):
    one = latent_factor_pairs(40, world_seed=0, draw_seed=0).pairs.select(torch.tensor([3]))
    with pytest.raises(ConfigError, match="pairs of 1 image, too few"):
        audit_pairs(one, None, tmp_path / "audit", quick)
    assert not (tmp_path / "audit" / "summary.json").exists()


def test_pairs_that_are_all_wrong_are_not_given_confident_nonsense(quick, tmp_path):
    pairs = latent_factor_pairs(400, world_seed=0, draw_seed=0).pairs
    generator = torch.Generator().manual_seed(0)
    wrong = replace(
        pairs, image_of_caption=torch.randperm(400, generator=generator), true_image_of_caption=torch.arange(400)
    )
    summary = audit_pairs(wrong, None, tmp_path / "audit", quick)
    assert any("nothing consistent was learned" in warning for warning in summary.warnings)
    assert summary.noise_rate_interval is None
    assert "nothing consistent was learned" in (tmp_path / "audit" / "report.html").read_text().lower()


def test_one_caption_for_all_pictures_is_said(quick, tmp_path):
    pairs = latent_factor_pairs(400, world_seed=0, draw_seed=0).pairs
    same = replace(
        pairs,
        captions=["the same"] * 400,
        caption_inputs=Features(torch.ones(400, 8).numpy()),
        true_image_of_caption=None,
    )
    summary = audit_pairs(same, None, tmp_path / "audit", quick)
    assert "400 of 400 pairs have the same caption" in summary.warnings[0]
    assert any("nothing consistent was learned" in warning for warning in summary.warnings)
    assert summary.issues["shared caption"] == 400
