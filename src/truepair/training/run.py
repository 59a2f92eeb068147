"""A run: from a recipe to a folder with a trained model, its numbers and a belief in every training pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import dacite
import pyarrow as pa
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from truepair import __version__
from truepair.config import DataConfig, MethodConfig, NoiseConfig, Recipe
from truepair.data.corpora import Corpus, load_corpus
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise, read_noise_index
from truepair.data.pairs import Pairs, Splits
from truepair.data.text import Vocabulary, load_vocabulary
from truepair.data.trusted import TrustedSplits, with_trusted
from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.detection import detection_metrics
from truepair.evaluation.recall import RetrievalMetrics
from truepair.evaluation.retrieval import evaluate, folds_of
from truepair.files.checkpoint import load_checkpoint, save_checkpoint
from truepair.files.json import damaged, read_json, write_json
from truepair.files.parquet import write_parquet
from truepair.methods import METHODS
from truepair.methods.protocol import MakeModel, Method
from truepair.model import InputShape, MatchingModel, first_word_vectors, load_weights, make_model, retrieval_weights
from truepair.training.device import hardware, make_fabric, peak_memory_mb
from truepair.training.fit import differences, fit
from truepair.training.log import RunLog
from truepair.training.recipe import recipe_from

_LEARNING_DOES_NOT_DEPEND_ON = {
    "data": ("test_split", "test_folds"),
    "training": ("device", "workers", "tensorboard"),
}
"""Options that may change from one call to the next in the same folder, by section of the recipe."""

_RESULTS = {
    "corpus": str,
    "pairs": {"dev": int},
    "notes": list,
    "networks": int,
    "noise": {"realised_rate": float | None},
    "protocol": {"split": str, "images": int, "captions": int, "folds": int},
    "test": {field.name: int | float for field in fields(RetrievalMetrics)},
}
"""What must be in ``results.json``, at the least."""


def run(recipe: Recipe, folder: Path, corpus: Corpus | None = None) -> dict[str, Any]:
    """Train by `recipe` in `folder`, or go on with the run that is there; then test the best checkpoint.

    The folder then holds ``run.json`` (the recipe and what it ran on), ``vocabulary.json`` (where words are read),
    ``log.jsonl``, ``last.safetensors``, ``best.safetensors``, ``pairs.parquet`` (confidence of every training pair) and
    ``results.json``.

    Where it computes and how it is tested (device, workers, TensorBoard, test split and folds) may change from
    one call to the next; everything else makes another run.

    Args:
        recipe: What to do.
        folder: Where to; made if missing.
        corpus: The corpus that ``recipe.data`` names, where the caller has it already.

    Returns:
        What ``results.json`` holds.

    Raises:
        CheckpointError: If `folder` holds a run of another recipe, or of other words.
        TruepairError: If the data or an option is wrong.
    """
    corpus = corpus or load_corpus(recipe.data)
    prepared = prepared_splits(recipe, corpus)
    train, dev, test = prepared.splits.train, prepared.splits.dev, prepared.splits.test
    folds_of(test, recipe.data.test_folds)  # refused before hours of training, not after
    training = recipe.training
    learned = train
    if training.oracle == "clean_pairs":
        learned = train.select(_truth(train).nonzero().flatten())
    correspondence = _truth(train).float() if training.oracle == "true_correspondence" else None
    shape = InputShape.of(train, corpus.vocabulary)
    fabric = make_fabric(training.device, training.precision)
    loaders = partial(
        Loaders,
        batch_size=training.batch_size,
        seed=training.seed,
        device=fabric.device,
        workers=training.workers,
        trusted=prepared.trusted,
    )
    learned_loaders = loaders(learned)
    _describe(folder, recipe, shape, corpus)

    fabric.seed_everything(training.seed, verbose=False)
    # Captions are read of all training pairs, whoever learns from the pairs: texts are not noisy.
    make = partial(make_model, recipe.network, shape, first_word_vectors(recipe.network, shape, train))
    method = build_method(recipe.method, make, len(learned), fabric, correspondence)
    log = RunLog(folder, tensorboard=training.tensorboard)
    state = fit(method, learned_loaders, dev, folder, _learning(recipe), log, training.patience)

    _load_weights(method.models, _best_weights(folder), folder)
    tested = evaluate(method.models, test, recipe.data.test_folds, state=folder)
    confidence = method.confidence(loaders(train)).cpu()
    _write_pairs(folder / "pairs.parquet", train, confidence)
    clean = train.is_clean
    results = {
        "corpus": corpus.splits.name,
        "pairs": {"train": len(learned), "dev": len(dev), "test": len(test)},
        "skipped": len(corpus.skipped),
        "trusted": None if prepared.trusted is None else asdict(recipe.trusted) | {"pairs": len(prepared.trusted)},
        "notes": [*corpus.notes, *prepared.notes, *method.notes],
        "method": recipe.method.name,
        "networks": len(method.models),
        "noise": asdict(recipe.noise) | {"realised_rate": train.realised_noise_rate},
        "seed": training.seed,
        "epochs": method.epochs,
        "best": {"epoch": state.best_epoch, "dev_rsum": state.best_rsum},
        "protocol": {
            "split": recipe.data.test_split,
            "images": len(test.images),
            "captions": len(test),
            "folds": recipe.data.test_folds,
        },
        "test": tested.as_dict(),
        "detection": None if clean is None else detection_metrics(confidence, clean).as_dict(),
        "seconds": round(state.seconds, 2),
        "cpu_seconds": round(state.cpu_seconds, 2),
        "peak_memory_mb": peak_memory_mb(),
        "hardware": hardware(fabric.device),
        "truepair": __version__,
    }
    write_json(folder / "results.json", results)
    return results


def prepared_splits(recipe: Recipe, corpus: Corpus) -> TrustedSplits:
    """The corpus as `recipe` uses it: without the images of trusted pairs, and with mismatches among training pairs.

    With ``noise.development`` they are among development pairs too, drawn with the next seed.
    """
    taken, noise = with_trusted(corpus.splits, recipe.trusted, recipe.data, corpus.vocabulary), recipe.noise
    splits = replace(taken.splits, train=noisy(taken.splits.train, noise))
    if noise.development:
        splits = replace(splits, dev=noisy(splits.dev, replace(noise, seed=noise.seed + 1)))
    return replace(taken, splits=splits)


def noisy(train: Pairs, noise: NoiseConfig) -> Pairs:
    """The training pairs with the mismatches that `noise` asks for; as they are if it asks for none."""
    if noise.index is not None:
        return read_noise_index(Path(noise.index), train, convention=noise.index_convention)
    if not noise.rate:
        return train
    return inject_noise(train, noise.rate, noise.seed, level=noise.level, partners=noise.partners)


def build_method(
    config: MethodConfig,
    make: MakeModel,
    pairs: int,
    fabric: Fabric,
    correspondence: Float[Tensor, " pairs"] | None = None,
) -> Method:
    """The method that `config` describes, with fresh networks; `correspondence` is for CRCL's matched oracle."""
    extra = {} if correspondence is None else {"correspondence": correspondence}
    method: Method = METHODS[config.name](config, make, pairs, fabric, **extra)
    return method


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder, read back.

    Attributes:
        folder: Where it is.
        recipe: What it did.
        corpus: Its data as stored; words are tokens of the run's own vocabulary.
        splits: Its data as used: injected noise included, without the images of trusted pairs.
        models: The best checkpoint, in evaluation mode, on the CPU; several if the method trains several networks.
    """

    folder: Path
    recipe: Recipe
    corpus: Corpus
    splits: Splits
    models: list[MatchingModel]

    @property
    def train(self) -> Pairs:
        """Its training pairs, as they were learned from."""
        return self.splits.train


def finished(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """What ``results.json`` of `folder` holds; None if no run has finished there yet, or was tested in another way.

    Raises:
        CheckpointError: If `folder` holds a run of another recipe, or a damaged file.
    """
    refuse_another_run(folder, recipe)
    results = read_json(folder / "results.json", _RESULTS)
    if results is None:
        return None
    tested = (results["protocol"]["split"], results["protocol"]["folds"])
    return results if tested == (recipe.data.test_split, recipe.data.test_folds) else None


def load_run(folder: Path, corpus: Corpus | None = None) -> TrainedRun:
    """Read a run back from its folder.

    Args:
        folder: Where it is.
        corpus: The corpus that its recipe names, where the caller has it already; if its vocabulary is not the run's,
            it is read again.

    Raises:
        CheckpointError: If the folder holds no run, an unfinished one or a damaged one.
    """
    recipe, shape = _description(folder)
    if not (folder / "best.safetensors").exists():
        raise CheckpointError(f"the run in {folder} has not finished its first epoch: resume it with 'truepair train'")
    vocabulary = load_vocabulary(folder / "vocabulary.json") if shape.caption == "words" else None
    if corpus is None or corpus.vocabulary != vocabulary:
        corpus = load_corpus(_with_words_of(folder, recipe.data, vocabulary))
    best = _best_weights(folder)
    models = [make_model(recipe.network, shape).eval() for _ in best]
    _load_weights(models, best, folder)
    return TrainedRun(folder, recipe, corpus, prepared_splits(recipe, corpus).splits, models)


def load_runs(folders: Sequence[Path], corpus: Corpus | None = None) -> list[TrainedRun]:
    """Several runs that are to be one model; they share one corpus, which is read once.

    Args:
        folders: Where they are; at least one.
        corpus: See `load_run`.

    Raises:
        CheckpointError: See `load_run`.
        ConfigError: If they are of different data or vocabularies, or have different numbers of networks.
    """
    first, *others = folders
    data = asdict(_description(first)[0].data)
    for folder in others:
        different = differences(data, asdict(_description(folder)[0].data), "data")
        if different:
            raise ConfigError(
                f"the runs are of different data ({first} and {folder}; {'; '.join(different)}): only runs of the same "
                "data can be one model"
            )
    runs = [load_run(first, corpus)]
    for folder in others:
        run = load_run(folder, runs[0].corpus)
        if run.corpus is not runs[0].corpus:
            words = _different_words(runs[0].corpus.vocabulary, run.corpus.vocabulary)
            raise ConfigError(
                f"the runs in {first} and {folder} have different vocabularies ({words:,} words are not the same): "
                "only runs that read the same words can be one model; train one of them again"
            )
        runs.append(run)
    if len({len(run.models) for run in runs}) > 1:
        counts = ", ".join(f"{run.folder}: {len(run.models)}" for run in runs)
        raise ConfigError(
            f"the runs have different numbers of networks ({counts}), and would not count equally in the mean over "
            "all: only runs with as many networks each can be one model"
        )
    return runs


def drop_exclusive_codes(folder: Path) -> None:
    """Leave DisNCL's exclusive heads and decoders out of a finished run's ``best.safetensors``.

    Retrieval, audit and search stay the same bits; only ``truepair inspect`` has less to show.

    Raises:
        CheckpointError: If the file is missing, damaged or cannot be written; it is as it was.
    """
    path = folder / "best.safetensors"
    saved = load_checkpoint(path)
    save_checkpoint(path, saved | {"models": [retrieval_weights(weights) for weights in saved["models"]]})


def refuse_another_run(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds a run of another recipe; an empty one will do.

    Raises:
        CheckpointError: If it does, or is damaged.
    """
    if not (folder / "run.json").exists():
        return
    different = differences(_learning(_description(folder)[0]), _learning(recipe))
    if different:
        raise CheckpointError(
            f"{folder} holds another run ({'; '.join(different)}): choose a new folder, or delete this one"
        )


def _learning(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides what is learned."""
    values = asdict(recipe)
    for section, names in _LEARNING_DOES_NOT_DEPEND_ON.items():
        for name in names:
            del values[section][name]
    return values


def _best_weights(folder: Path) -> list[dict[str, Tensor]]:
    """What `fit` saved of each network in the best epoch."""
    weights: list[dict[str, Tensor]] | None = load_checkpoint(folder / "best.safetensors").get("models")
    if not weights:
        raise _unfit(folder, "it holds no networks")
    return weights


def _load_weights(models: Sequence[MatchingModel], weights: Sequence[dict[str, Tensor]], folder: Path) -> None:
    if len(weights) != len(models):
        raise _unfit(folder, f"networks: {len(weights)} there, {len(models)} here")
    for model, state in zip(models, weights, strict=True):
        try:
            load_weights(model, state)
        except RuntimeError as error:
            raise _unfit(folder, error) from error


def _unfit(folder: Path, why: Exception | str) -> CheckpointError:
    return CheckpointError(f"{folder / 'best.safetensors'} does not fit the model of run.json: {why}")


def _describe(folder: Path, recipe: Recipe, shape: InputShape, corpus: Corpus) -> None:
    """Write run.json and the vocabulary; if the folder already holds this run, the new way to test it at most."""
    refuse_another_run(folder, recipe)
    known = read_json(folder / "run.json")
    if known is not None:
        _refuse_other_words(folder, shape, corpus)
        write_json(folder / "run.json", known | {"recipe": asdict(recipe)})
        return
    make_folder(folder)
    if corpus.vocabulary is not None:
        (folder / "vocabulary.json").write_text(corpus.vocabulary.to_json(), encoding="utf-8")
    described = {
        "recipe": asdict(recipe),
        "inputs": asdict(shape),
        "skipped": [asdict(row) for row in corpus.skipped],
        "versions": {"truepair": __version__, "torch": torch.__version__},
    }
    write_json(folder / "run.json", described)


def _description(folder: Path) -> tuple[Recipe, InputShape]:
    """The recipe and the inputs of the run in `folder`."""
    path = folder / "run.json"
    described = read_json(path, {"recipe": dict, "inputs": dict})
    if described is None:
        raise CheckpointError(f"{folder} holds no run (no run.json): train one with 'truepair train'")
    try:
        recipe = recipe_from(described["recipe"], str(path))
        return recipe, dacite.from_dict(InputShape, described["inputs"], dacite.Config(strict=True))
    except (ConfigError, dacite.DaciteError) as error:
        raise damaged(path, error) from error


def _with_words_of(folder: Path, data: DataConfig, vocabulary: Vocabulary | None) -> DataConfig:
    """The same data, with words as the run in `folder` numbers them, whatever the captions or `data` say by now."""
    if vocabulary is None:
        return data
    return replace(data, vocabulary=str(folder / "vocabulary.json"), maximum_unknown_share=1.0)


def _refuse_other_words(folder: Path, shape: InputShape, corpus: Corpus) -> None:
    """Ids of words must mean what they meant when the run began."""
    if shape.caption != "words":
        return
    different = _different_words(load_vocabulary(folder / "vocabulary.json"), corpus.vocabulary)
    if different:
        raise CheckpointError(
            f"{folder / 'vocabulary.json'} and the vocabulary of {corpus.splits.name} as it is now differ in "
            f"{different:,} words: were the captions, or the file in data.vocabulary, changed? Restore them, or train "
            "in a new folder"
        )


def _different_words(one: Vocabulary | None, other: Vocabulary | None) -> int:
    """How many words have another id in the other vocabulary, or none."""
    ids = [set() if vocabulary is None else set(vocabulary.id_of.items()) for vocabulary in (one, other)]
    return len({word for word, _ in ids[0] ^ ids[1]})


def make_folder(folder: Path) -> None:
    """Make a folder to write to, and those above it, where missing.

    Raises:
        ConfigError: If that is not possible, for instance because a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder} ({error.strerror}): choose another one") from error


def _truth(train: Pairs) -> Tensor:
    clean = train.is_clean
    if clean is None:
        raise ConfigError("training.oracle needs to know the truth: inject noise with noise.rate or noise.index")
    return clean


def _write_pairs(path: Path, train: Pairs, confidence: Float[Tensor, " pairs"]) -> None:
    """One row a training pair, replaced atomically: its names, the confidence, and the truth where it is known."""
    images = train.image_of_caption.tolist()
    columns: dict[str, Any] = {
        "caption_id": list(train.caption_ids),
        "image_id": [train.image_ids[image] for image in images],
        "confidence": confidence.numpy(),
    }
    if train.is_clean is not None:
        columns["is_clean"] = train.is_clean.numpy()
    write_parquet(pa.table(columns), path)
