"""One run: data, noise, trusted pairs, model, method and training."""

from __future__ import annotations

from dataclasses import dataclass, field

from truepair.config.data import DataConfig, NoiseConfig, TrustedConfig
from truepair.config.methods import MethodConfig, TeacherConfig
from truepair.config.model import ModelConfig
from truepair.config.training import TrainingConfig
from truepair.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """One run: data, noise, trusted pairs, model, method and training."""

    data: DataConfig = field(default_factory=DataConfig)
    """Where the pairs are."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Mismatches put in on purpose."""
    trusted: TrustedConfig = field(default_factory=TrustedConfig)
    """Pairs known to match."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The backbone."""
    method: MethodConfig = field(default_factory=TeacherConfig)
    """The training method."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Batches, seed, device."""

    @property
    def network(self) -> ModelConfig:
        """The backbone as the method needs it."""
        return self.method.network(self.model)

    def __post_init__(self) -> None:
        """Refuse what does not suit the method or is not read, and a noise index whose numbers would shift."""
        self.method.check(self.training)
        self._refuse_unread()
        self._refuse_batch_statistics()
        if self.trusted.source == "split" and self.model.text != "features":
            raise ConfigError(
                f"trusted.source is 'split', whose captions are read as words or vectors, but model.text is "
                f"{self.model.text!r}: take trusted pairs from 'development' or 'training'"
            )
        if self.data.stream_index is not None and self.model.projection_epochs:
            raise ConfigError(
                f"model.projection_epochs is {self.model.projection_epochs}, which keeps the vectors of all training "
                "pairs in memory, but data.stream_index is for pairs that do not fit there: leave one of them out"
            )
        if self.noise.index is not None and self.trusted.source in ("training", "file"):
            raise ConfigError(
                f"noise.index numbers all training pairs, but trusted.source = {self.trusted.source!r} takes some out "
                "first: take trusted pairs from development or another split, or set noise.rate instead"
            )

    def _refuse_batch_statistics(self) -> None:
        """Refuse to encode a batch in parts where a network normalises over all of it."""
        network, most = self.network, self.training.encode_at_once
        if most and (network.projection == "batch_norm" or network.similarity != "cosine"):
            raise ConfigError(
                f"training.encode_at_once is {most}, but a network with model.similarity {network.similarity!r} and "
                f"model.projection {network.projection!r} normalises over all images of a batch: use model.similarity "
                "'cosine' with model.projection 'plain', or leave training.encode_at_once out"
            )

    def _refuse_unread(self) -> None:
        """Refuse options of the backbone that would change nothing, unless they are somebody's default."""
        network, defaults = self.network, (ModelConfig(), self.method.default_model)
        for name in sorted(network.unread):
            value = getattr(self.model, name)
            if value not in [getattr(default, name) for default in defaults]:
                raise ConfigError(
                    f"model.{name} is {value!r}, but a network with model.similarity {network.similarity!r}, "
                    f"model.projection {network.projection!r}, model.head {network.head!r}, model.codes "
                    f"{network.codes!r}, model.image {network.image!r} and model.text {network.text!r} does not "
                    "read it: leave it out"
                )
