"""Everything that a command depends on, as frozen dataclasses: fields of recipes and options of commands.

This package imports nothing heavy, so that ``--help`` answers at once. A field's docstring is its help text and says
where its default comes from; docs/papers.md has the table of paper, released code and here.
"""

from truepair.config.audit import AuditConfig
from truepair.config.data import DataConfig, NoiseConfig, TrustedConfig
from truepair.config.embedding import EmbedConfig
from truepair.config.methods import (
    FEWEST_CODES,
    BaselineConfig,
    CrclConfig,
    DisnclConfig,
    MethodConfig,
    MscnConfig,
    TeacherConfig,
)
from truepair.config.model import ModelConfig, OptimisationConfig
from truepair.config.recipe import Recipe
from truepair.config.source import SourceConfig
from truepair.config.training import TrainingConfig

__all__ = [
    "FEWEST_CODES",
    "AuditConfig",
    "BaselineConfig",
    "CrclConfig",
    "DataConfig",
    "DisnclConfig",
    "EmbedConfig",
    "MethodConfig",
    "ModelConfig",
    "MscnConfig",
    "NoiseConfig",
    "OptimisationConfig",
    "Recipe",
    "SourceConfig",
    "TeacherConfig",
    "TrainingConfig",
    "TrustedConfig",
]
