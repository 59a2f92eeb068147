"""A method of your own in one file: small-loss selection, beside plain training and the default method.

Every epoch, pairs whose similarity is below the median are left out of the loss. All three have the same pairs, the
same backbone and the same seed, and are tested by the checkpoint that was best on the development pairs. Run it:
python examples/own_method.py
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from truepair import METHODS, MatchingModel, evaluate, inject_noise, load_corpus
from truepair.config import BaselineConfig, DataConfig, ModelConfig, OptimisationConfig, TeacherConfig
from truepair.data.loader import Loaders
from truepair.losses.contrastive import info_nce
from truepair.methods.protocol import MakeModel, Method, StepLog
from truepair.model import InputShape, make_model
from truepair.optimisation import Optimiser
from truepair.scoring.confidence import confidence_against_random_pairs, pair_scores
from truepair.training.fit import fit
from truepair.training.folder import load_best
from truepair.training.log import RunLog


class SmallLoss:
    """Learns from the half of the pairs that the network finds most similar."""

    stage = 0
    notes: Sequence[str] = ()

    def __init__(self, epochs: int, make_model: MakeModel, pairs: int, fabric: Fabric) -> None:
        self.epochs = epochs
        self.is_kept = torch.ones(pairs)
        self.optimiser = Optimiser(make_model(), OptimisationConfig(learning_rate=2e-3), epochs, fabric)

    @property
    def models(self) -> Sequence[MatchingModel]:
        return [self.optimiser.evaluated]

    @property
    def pair_state(self) -> Mapping[str, Tensor]:
        return {}  # nothing is remembered of a pair

    def train_epoch(self, epoch: int, loaders: Loaders) -> Iterator[StepLog]:
        if epoch >= 2:  # two epochs on everything, so that similarities mean something
            similarity = pair_scores(self.models, loaders, temperature=0.05).similarity
            self.is_kept = (similarity >= similarity.median()).float()
        self.optimiser.model.train()
        for batch in loaders.train(epoch):
            weights = self.is_kept[batch.pair]
            yield self.optimiser.step(info_nce(self.optimiser.model(batch), 0.05, weights=weights), float(epoch))

    def confidence(self, loaders: Loaders) -> Tensor:
        found = confidence_against_random_pairs(self.models, loaders, temperature=0.05)
        self.notes = found.warnings
        return found.confidence

    def state_dict(self) -> dict[str, Any]:
        return {"is_kept": self.is_kept, **self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.is_kept = state["is_kept"]
        self.optimiser.load_state_dict(state)


def main(epochs: int = 8, names: Sequence[str] = ("small loss", "plain", "default")) -> None:
    """Train on the demo corpus, 40 % of its training captions shuffled, and print the test rSum of each method.

    Args:
        epochs: Of each network.
        names: Which of the methods: "small loss", "plain", "default".
    """
    corpus = load_corpus(DataConfig(path="demo"))
    train = inject_noise(corpus.splits.train, rate=0.4, seed=0)
    shape, model = InputShape.of(train, corpus.vocabulary), ModelConfig(embedding=256)
    fabric = Fabric(accelerator="cpu", devices=1)
    loaders = Loaders(train, batch_size=128, seed=0, device=fabric.device)
    plain = BaselineConfig(epochs=epochs, optimisation=OptimisationConfig(learning_rate=2e-3))
    methods: dict[str, Callable[[MakeModel], Method]] = {
        "small loss": lambda make: SmallLoss(epochs, make, len(train), fabric),
        "plain": lambda make: METHODS["baseline"](plain, make, len(train), fabric),
        "default": lambda make: METHODS["teacher"](
            TeacherConfig(epochs=epochs, fold_epochs=epochs), make, len(train), fabric
        ),
    }
    for name in names:
        fabric.seed_everything(0, verbose=False)
        method = methods[name](partial(make_model, model, shape))
        with TemporaryDirectory() as folder:
            fit(method, loaders, corpus.splits.dev, RunLog(Path(folder)), {"method": name})
            load_best(method.models, Path(folder))  # `fit` leaves the last epoch in the method
        print(f"{name}: test rSum {evaluate(method.models, corpus.splits.test).rsum:.1f} of 600")


if __name__ == "__main__":
    main()
