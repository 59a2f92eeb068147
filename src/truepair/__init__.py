"""Find the image–caption pairs that do not match, fix them, and train retrieval models that do not mind the rest."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truepair.audit.lab import PairLab, find_pair_issues
    from truepair.audit.run import audit_corpus, audit_run
    from truepair.config import Recipe
    from truepair.data.corpora import load_corpus
    from truepair.data.noise import inject_noise
    from truepair.data.pairs import Pairs
    from truepair.embedding.own_encoders import register_encoder
    from truepair.errors import TruepairError
    from truepair.evaluation.retrieval import evaluate
    from truepair.exporting.run import export_run
    from truepair.methods import METHODS
    from truepair.model import MatchingModel
    from truepair.search.index import open_index
    from truepair.training.folder import load_run
    from truepair.training.recipe import load_recipe
    from truepair.training.run import run

    __version__: str

_HOME = {
    "METHODS": "truepair.methods",
    "MatchingModel": "truepair.model",
    "PairLab": "truepair.audit.lab",
    "Pairs": "truepair.data.pairs",
    "Recipe": "truepair.config",
    "TruepairError": "truepair.errors",
    "audit_corpus": "truepair.audit.run",
    "audit_run": "truepair.audit.run",
    "evaluate": "truepair.evaluation.retrieval",
    "export_run": "truepair.exporting.run",
    "find_pair_issues": "truepair.audit.lab",
    "inject_noise": "truepair.data.noise",
    "load_corpus": "truepair.data.corpora",
    "load_recipe": "truepair.training.recipe",
    "load_run": "truepair.training.folder",
    "open_index": "truepair.search.index",
    "register_encoder": "truepair.embedding.own_encoders",
    "run": "truepair.training.run",
}

__all__ = [
    "METHODS",
    "MatchingModel",
    "PairLab",
    "Pairs",
    "Recipe",
    "TruepairError",
    "audit_corpus",
    "audit_run",
    "evaluate",
    "export_run",
    "find_pair_issues",
    "inject_noise",
    "load_corpus",
    "load_recipe",
    "load_run",
    "open_index",
    "register_encoder",
    "run",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: importing truepair alone stays instant."""
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def _version() -> str:
    """The version of the installed package, which git's tag gave it; "0+unknown" of a folder that nobody installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("truepair")
    except PackageNotFoundError:
        return "0+unknown"
