"""The options of an audit; imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from truepair.config.methods import TeacherConfig
from truepair.config.model import ModelConfig
from truepair.errors import ConfigError


@dataclass(frozen=True)
class AuditConfig:
    """How pairs are scored, and what is done with those that look wrong."""

    pairs: Literal["all", "train"] = "all"
    """Which pairs of a corpus to audit: all, or those of the training split. Of a run, always the training pairs."""
    threshold: float = 0.5
    """Mismatch probability from which on a pair is a suspect; in (0, 1]."""
    re_pair: bool = False
    """Let 'truepair fix' give a suspect's caption the image that the audit suggests, where the two choose each other
    among the suspects and the suggestion probability reaches --re-pair-threshold. Other suspects are dropped."""
    re_pair_threshold: float = 0.5
    """Suggestion probability from which on a suggested image may be taken."""
    partners: int = 5_000
    """Largest number of suspects, the most suspicious ones, for which a better image and caption are looked for."""
    zero_shot: bool = False
    """Train nothing: compare the embeddings as they are, where those of images and captions share a space (CLIP or
    SigLIP on both sides, or what 'truepair embed' makes by default). Below 100 pairs this is done unasked; up to 20,000
    it is weighed together with models that are trained."""
    folds: int | None = None
    """Parts of cross-fitting, each of which is scored by models trained on the others. 4 by default, or 2 where there
    are 5,000 pairs to learn from."""
    repetitions: int | None = None
    """Trainings, whose similarities are averaged. More takes longer and finds more. 2 by default, or 1 where there are
    1,000 pairs to learn from."""
    method: TeacherConfig = field(default_factory=TeacherConfig)
    """How models are trained: by the default method, whose folds are the audit's."""
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            embedding=256,
            input_dropout=0.4,
            words="mean",
            word_vectors="captions",
            projection="plain",
            feature_scaling="auto",
        )
    )
    """The backbone of a fold's models. Where captions are words, their mean is read, which costs a tenth of a GRU."""
    most_learned: int = 30_000
    """Largest number of pairs that one model learns from, a random subset of a larger corpus. All pairs are scored."""
    batch_size: int | None = None
    """Pairs in a training batch; 128 by default, or 256 where there are 20,000 pairs to learn from."""
    candidates: int | None = None
    """Negatives of a pair: images, and as many captions, that it is compared with and among which neighbours are
    sought. 1,024 by default, or 128 for a run with SAF or SGR, which takes thousands of times as long."""
    temperature: float = 0.07
    """Temperature τ of the log-odds; that of training."""
    seed: int = 0
    """Seed of folds, weights and negatives."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; "auto" takes a GPU if there is one."""
    most_checked: int = 20_000
    """Largest number of images to check for duplicates, blanks and placeholders. Features of 'truepair embed' have been
    checked already, whatever their number."""
    cards: int = 48
    """Pairs that the report shows: half of them the most suspicious, half a sample of borderline ones (0.3 to 0.7)."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name, smallest in (
            ("folds", 2),
            ("repetitions", 1),
            ("most_learned", 2),
            ("batch_size", 2),
            ("candidates", 3),
            ("partners", 0),
            ("most_checked", 0),
            ("cards", 0),
        ):
            if getattr(self, name) is not None and getattr(self, name) < smallest:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least {smallest}")
        if self.method.fold_epochs == 0:
            raise ConfigError(
                "method.fold_epochs is 0, but an audit rests on networks that did not learn what they judge: leave it "
                "out, or use at least method.warmup_epochs"
            )
        for name in ("threshold", "re_pair_threshold"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it is a probability above 0")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}, but it must be above 0")
