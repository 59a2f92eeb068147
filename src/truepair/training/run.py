"""A run: from a recipe to a folder with a trained model, its numbers and the confidence in every training pair."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from truepair import __version__, processes
from truepair.config import MethodConfig, Recipe
from truepair.data.corpora import Corpus, load_corpus
from truepair.data.loader import Loaders
from truepair.data.noise import noise_level
from truepair.data.pairs import Pairs
from truepair.data.pixels import pairs_without_picture
from truepair.encoders.towers import Towers
from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.detection import detection_metrics
from truepair.evaluation.retrieval import evaluate, folds_of
from truepair.files.locking import alone_in
from truepair.files.names import RUN
from truepair.methods import METHODS
from truepair.methods.protocol import MakeModel, Method
from truepair.model import InputShape, first_word_vectors, make_model
from truepair.progress import no_progress
from truepair.training.device import hardware, peak_memory_mb, training_fabric
from truepair.training.fit import fit
from truepair.training.folder import describe, learning_options, load_best, write_pairs
from truepair.training.log import RunLog
from truepair.training.results import BestEpoch, PairCounts, RunResults, TestProtocol, read_results, write_results
from truepair.training.same_data import refuse_other_data
from truepair.training.splits import prepared_splits

if TYPE_CHECKING:  # slow to load
    import lightning_fabric


def run(recipe: Recipe, folder: Path, corpus: Corpus | None = None) -> RunResults:
    """Train by `recipe` in `folder`, or go on with the run that is there; then test the best checkpoint.

    `truepair.training.folder` says what the folder then holds. Where it computes and how it is tested (device, workers,
    TensorBoard, test split and folds) may change from one call to the next; everything else makes another run.

    Of several processes (torchrun, SLURM), all call this alike; the first writes, and all return the results.

    Args:
        recipe: What to do.
        folder: Where to; made if missing.
        corpus: The corpus that ``recipe.data`` names, where the caller has it already.

    Returns:
        What ``results.json`` holds.

    Raises:
        CheckpointError: If `folder` holds a run of another recipe, or of other words.
        ConfigError: If another process is writing to `folder`, or the devices are not there.
        TrainingError: If training diverges, or another process of several is gone.
        TruepairError: If the data or an option is wrong.
    """
    with ExitStack() as stack:
        fabric = stack.enter_context(training_fabric(recipe.training))
        if not processes.is_first():
            stack.enter_context(_quiet())
        processes.on_first(lambda: stack.enter_context(alone_in(folder)))
        return _run(recipe, folder, corpus, fabric)


@contextmanager
def _quiet() -> Iterator[None]:
    """What process 0 says, others do not say again."""
    with no_progress(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _run(recipe: Recipe, folder: Path, corpus: Corpus | None, fabric: lightning_fabric.Fabric) -> RunResults:
    """As `run`, in a folder that no other run writes to."""
    # The pairs, and all that can be refused before hours of training.
    corpus = corpus or load_corpus(recipe.data, recipe.model)
    prepared, training = prepared_splits(recipe, corpus), recipe.training
    train, dev, test = prepared.splits.train, prepared.splits.dev, prepared.splits.test
    folds_of(test, recipe.data.test_folds)
    learned = train
    if training.oracle == "clean_pairs":
        learned = train.select(_truth(train).nonzero().flatten())
    correspondence = _truth(train).float() if training.oracle == "true_correspondence" else None
    shape = InputShape.of(train, corpus.vocabulary)
    loaders = partial(
        Loaders,
        batch_size=training.batch_size,
        seed=training.seed,
        device=fabric.device,
        workers=training.workers,
        trusted=prepared.trusted,
        encode_at_once=training.encode_at_once,
        shards_at_once=recipe.data.shards_at_once,
    )
    learned_loaders = loaders(learned)
    refuse_other_data(recipe, prepared, corpus.vocabulary)
    processes.on_first(partial(describe, folder, recipe, shape, corpus))
    _refuse_another_folder(folder)

    # Fresh networks. Words are counted in the captions of all training pairs, learned from or not: texts are not noisy.
    fabric.seed_everything(training.seed, verbose=False)
    make = partial(make_model, recipe.network, shape, first_word_vectors(recipe.network, shape, train), Towers())
    method = build_method(recipe.method, make, len(learned), fabric, correspondence)

    # Train. Then one process tests the best checkpoint, and reads the confidence in every training pair from it.
    log = RunLog(folder, tensorboard=training.tensorboard)
    state = fit(
        method,
        learned_loaders,
        dev,
        log,
        learning_options(recipe),
        training.patience,
        training.checkpoint_steps,
        frozen=_frozen_epochs(recipe, method.epochs),
        before_a_stop=recipe.method.epochs_before_a_stop(len(learned)),
    )
    where = hardware(fabric.device)
    if not processes.is_first():
        return _results_of_first(folder)
    with processes.alone():
        states = method.pair_state if len(learned) == len(train) else {}  # an oracle has none of the pairs left out
        load_best(method.models, folder)
        tested = evaluate(method.models, test, recipe.data.test_folds, state=folder)
        confidence = method.confidence(loaders(train)).cpu()  # [pairs], in [0, 1]
        lost = pairs_without_picture(train)  # known now that all pictures were read
        confidence[[*lost]] = float("nan")
        write_pairs(folder / "pairs.parquet", train, confidence, states, lost)

    # Numbers, and everything that they depend on.
    trusted, is_known = None if prepared.trusted is None else len(prepared.trusted), ~confidence.isnan()
    results = RunResults(
        corpus=corpus.splits.name,
        pairs=PairCounts(len(learned), len(dev), len(test), trusted),
        skipped=len(corpus.skipped),
        notes=[*corpus.notes, *prepared.notes, *method.notes, *_lost(train, lost)],
        method=recipe.method.name,
        networks=len(method.models),
        noise=recipe.noise,
        realised_noise_rate=train.realised_noise_rate,
        realised_noise_level=noise_level(train),
        trusted=None if trusted is None else recipe.trusted,
        seed=training.seed,
        epochs=method.epochs,
        best=BestEpoch(state.best_epoch, state.best_rsum),
        protocol=TestProtocol(recipe.data.test_split, len(test.images), len(test), recipe.data.test_folds),
        test=tested,
        detection=None if train.is_clean is None else detection_metrics(confidence[is_known], train.is_clean[is_known]),
        seconds=round(state.seconds, 2),
        cpu_seconds=round(state.cpu_seconds, 2),
        peak_memory_mb=peak_memory_mb(),
        hardware=where,
        truepair=__version__,
    )
    write_results(folder, results)
    processes.wait_for_all()
    return results


def _lost(train: Pairs, lost: Mapping[int, str]) -> list[str]:
    """What there is to say of pairs whose pictures turned out to be unreadable."""
    if not lost:
        return []
    pair, why = next(iter(lost.items()))
    return [
        f"{len(lost):,} pairs were not learned from, as their pictures cannot be decoded (first: "
        f"{train.caption_ids[pair]}: {why}); they have no confidence"
    ]


def _results_of_first(folder: Path) -> RunResults:
    """What process 0 has written, however long it takes."""
    processes.wait_for_all()
    results = read_results(folder)
    assert results is not None
    return results


def build_method(
    config: MethodConfig,
    make: MakeModel,
    pairs: int,
    fabric: lightning_fabric.Fabric,
    correspondence: Float[Tensor, " pairs"] | None = None,
) -> Method:
    """The method that `config` describes, with fresh networks; `correspondence` is for CRCL's matched oracle."""
    extra = {} if correspondence is None else {"correspondence": correspondence}
    method: Method = METHODS[config.name](config, make, pairs, fabric, **extra)
    return method


def _refuse_another_folder(folder: Path) -> None:
    """Processes with another folder than that of the first would find no results in it, after all the training."""
    described = folder / RUN
    other = processes.different({"run": described.read_bytes() if described.exists() else b""})
    if other:
        raise CheckpointError(
            f"process {other['run']} does not find {described.resolve()} as process 0 wrote it: the run's folder must "
            "lie on a file system that all nodes see, under the same path"
        )


def _frozen_epochs(recipe: Recipe, epochs: int) -> int:
    """Epochs at the beginning in which pretrained networks are frozen."""
    asked = recipe.model.projection_epochs
    if "projection_epochs" in recipe.model.unread:
        return 0
    if recipe.data.stream_index is not None:  # vectors of all pairs would be in memory
        asked = asked or 0
    frozen = 2 * epochs // 3 if asked is None else asked
    if frozen >= epochs:
        raise ConfigError(
            f"model.projection_epochs is {frozen}, but the run has {epochs} epochs in all: the pretrained networks "
            "would never learn"
        )
    return frozen


def _truth(train: Pairs) -> Tensor:
    clean = train.is_clean
    if clean is None:
        raise ConfigError("training.oracle needs to know the truth: inject noise with noise.rate or noise.index")
    return clean
