"""The options of an audit; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from truepair.config.methods import MethodConfig, TeacherConfig
from truepair.config.model import ModelConfig
from truepair.errors import ConfigError


@dataclass(frozen=True)
class AuditConfig:
    """How pairs are scored, and what is done with those that look wrong."""

    split: Literal["all", "train"] = "all"
    """Which pairs of a corpus to audit: all, or those of the training split. Of a run, always the training pairs."""
    threshold: float = 0.5
    """Pairs whose mismatch probability is at least this are suspects, and are left out of the cleaned manifest."""
    re_pair: bool = False
    """Give a suspect's caption the picture that it suggests, where the two choose each other among the suspects and the
    probability that it is the very one reaches audit.re_pair_threshold; other suspects are left out."""
    re_pair_threshold: float = 0.5
    """With audit.re_pair: from which suggestion probability on. Look at re_paired.csv all the same."""
    partners: int = 5_000
    """Suspects, the most suspicious ones, for which better partners are looked for in the whole corpus."""
    zero_shot: bool = False
    """Train nothing: compare the features of image and caption as they are, where both sides are of one space (CLIP or
    SigLIP). Quick; of a few thousand pairs or more of one kind, trained models usually find more."""
    folds: int | None = None
    """Cross-fitting: pairs are cut into this many parts, and each part is scored by models trained on the others. 4 if
    not given; 2 or 3 where these already leave audit.most_learned pairs to learn from."""
    repetitions: int | None = None
    """Models trained for each fold; their similarities are averaged. More takes longer and finds more. 2 if not given,
    or 1 where a model has audit.most_learned pairs to learn from."""
    method: MethodConfig = field(default_factory=TeacherConfig)
    """How a fold's models are trained: by the default method."""
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            embedding=512, input_dropout=0.4, words="mean", word_vectors="captions", word_vector_dropout=0.2
        )
    )
    """The backbone of a fold's models. Where captions are words, their mean is read, which costs a tenth of a GRU."""
    most_learned: int = 30_000
    """Pairs that one model learns from, at most. In a larger corpus these are a random part; all pairs are judged."""
    batch_size: int = 128
    """Pairs in a training batch."""
    candidates: int | None = None
    """Images (and as many captions) that a pair competes with when it is scored, and among which neighbours are sought;
    1,024 if not given, or 128 where a run with SAF or SGR scores, which takes thousands of times as long."""
    temperature: float = 0.05
    """τ of the scores; that of training."""
    seed: int = 0
    """Seed of folds, weights and competitors."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; "auto" takes a GPU if there is one."""
    look_at: int = 20_000
    """Pictures are looked at for copies, blanks and placeholders if there are at most so many; a feature store of
    truepair embed has done it already, whatever their number."""
    cards: int = 48
    """Suspects that the report shows as pictures."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name, smallest in (
            ("folds", 2),
            ("repetitions", 1),
            ("most_learned", 2),
            ("batch_size", 2),
            ("candidates", 3),
            ("partners", 0),
            ("look_at", 0),
            ("cards", 0),
        ):
            if getattr(self, name) is not None and getattr(self, name) < smallest:
                raise ConfigError(f"audit.{name} is {getattr(self, name)}, but it must be at least {smallest}")
        for name in ("threshold", "re_pair_threshold"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"audit.{name} is {getattr(self, name)}, but it is a probability above 0")
        if not self.temperature > 0:
            raise ConfigError(f"audit.temperature is {self.temperature}, but it must be above 0")
