"""What lies in a run's folder: written by `run`, and read back.

``run.json`` (the recipe and what it ran on), ``vocabulary.json`` (where words are read), ``log.jsonl``,
``last.safetensors``, ``best.safetensors``, ``pairs.parquet`` (confidence of every training pair), ``results.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dacite
import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from truepair import __version__
from truepair.config import DataConfig, Recipe
from truepair.data.corpora import Corpus, load_corpus
from truepair.data.pairs import Pairs, Splits
from truepair.data.text import Vocabulary, load_vocabulary
from truepair.encoders.towers import Towers
from truepair.errors import CheckpointError, ConfigError
from truepair.files.checkpoint import load_checkpoint, save_checkpoint
from truepair.files.json import damaged, read_json, write_json
from truepair.files.locking import alone_in
from truepair.files.names import RUN
from truepair.files.parquet import write_parquet_in_parts
from truepair.files.replacing import replacing
from truepair.files.texts import chosen_texts
from truepair.model import InputShape, MatchingModel, load_weights, make_model, retrieval_weights
from truepair.training.fit import differences
from truepair.training.paths import whole_paths, with_whole_paths
from truepair.training.recipe import recipe_of_run
from truepair.training.results import RunResults, read_results
from truepair.training.splits import prepared_splits

_LEARNING_DOES_NOT_DEPEND_ON = {
    "data": ("test_split", "test_folds"),
    "training": ("device", "devices", "nodes", "encode_at_once", "workers", "tensorboard", "checkpoint_steps"),
}
"""Options that may change from one call to the next in the same folder, by section of the recipe."""
_ROWS_AT_A_TIME = 65_536
_RUNS_SHOWN = 5
"""Names of runs, where a folder of several is given in place of one."""


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder, read back.

    Attributes:
        folder: Where it is.
        recipe: What it did; paths in it are meant from any working folder.
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


@dataclass(frozen=True)
class RunModels:
    """What a run learned, without its data.

    Attributes:
        recipe: What it did; paths in it are meant from any working folder.
        vocabulary: What makes tokens of captions; None where it reads no words.
        models: As `TrainedRun.models`.
    """

    recipe: Recipe
    vocabulary: Vocabulary | None
    models: list[MatchingModel]


def finished(recipe: Recipe, folder: Path) -> RunResults | None:
    """What ``results.json`` of `folder` holds; None if no run has finished there yet, or was tested in another way.

    Raises:
        CheckpointError: If `folder` holds a run of another recipe, or a damaged file.
    """
    refuse_another_run(folder, recipe)
    results = read_results(folder)
    if results is None:
        return None
    tested = (results.protocol.split, results.protocol.folds)
    return results if tested == (recipe.data.test_split, recipe.data.test_folds) else None


def load_run(folder: Path, corpus: Corpus | None = None) -> TrainedRun:
    """Read a run back from its folder.

    Args:
        folder: Where it is.
        corpus: The corpus that its recipe names, where the caller has it already; if its vocabulary, or the networks
            that it was read for, are not the run's, it is read again.

    Raises:
        CheckpointError: If the folder holds no run, an unfinished one or a damaged one.
    """
    run = load_models(folder)
    if corpus is None or corpus.vocabulary != run.vocabulary or corpus.readers != run.recipe.model.readers:
        corpus = load_corpus(_with_words_of(folder, run.recipe.data, run.vocabulary), run.recipe.model)
    return TrainedRun(folder, run.recipe, corpus, prepared_splits(run.recipe, corpus).splits, run.models)


def load_models(folder: Path) -> RunModels:
    """Read what a run learned; its corpus is not looked at.

    Args:
        folder: Where it is.

    Raises:
        CheckpointError: If the folder holds no run, an unfinished one or a damaged one.
    """
    recipe, shape = description_of_run(folder)
    recipe = recipe_from_here(folder, recipe)
    if not (folder / "best.safetensors").exists():
        raise CheckpointError(f"the run in {folder} has not finished its first epoch: resume it with 'truepair train'")
    vocabulary = load_vocabulary(folder / "vocabulary.json") if shape.has_words else None
    best = _best_weights(folder)
    towers = Towers()
    models = [make_model(recipe.network, shape, towers=towers).eval() for _ in best]
    _put_into(models, best, folder)
    return RunModels(recipe, vocabulary, models)


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
    data = _data_of(first)
    for folder in others:
        different = differences(data, _data_of(folder), "data")
        if different:
            raise ConfigError(
                f"the runs are of different data ({first} and {folder}; {'; '.join(different)}): only runs of the same "
                "data can be one model"
            )
    runs = [load_run(first, corpus)]
    for folder in others:
        run = load_run(folder, runs[0].corpus)
        if run.recipe.model.readers != runs[0].recipe.model.readers:
            raise ConfigError(
                f"the runs in {first} and {folder} read pictures or captions by different networks "
                f"({runs[0].recipe.model.readers} and {run.recipe.model.readers}): only runs that read the same can be "
                "one model"
            )
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


def _data_of(folder: Path) -> dict[str, Any]:
    """Options of a run's data, with paths that are meant from any working folder."""
    return asdict(recipe_from_here(folder, description_of_run(folder)[0]).data)


def drop_exclusive_codes(folder: Path) -> None:
    """Leave DisNCL's exclusive heads and decoders out of a finished run's ``best.safetensors``.

    Retrieval, audit and search stay the same bits; only ``truepair inspect`` has less to show.

    Raises:
        CheckpointError: If the file is missing, damaged or cannot be written; it is as it was.
        ConfigError: If another process is writing to the folder.
    """
    path = folder / "best.safetensors"
    with alone_in(folder):
        saved = load_checkpoint(path)
        save_checkpoint(path, saved | {"models": [retrieval_weights(weights) for weights in saved["models"]]})


def refuse_another_run(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds a run of another recipe; an empty one will do.

    Raises:
        CheckpointError: If it does, or is damaged.
    """
    if not (folder / RUN).exists():
        return
    different = differences(learning_options(description_of_run(folder)[0]), learning_options(recipe))
    if different:
        raise CheckpointError(
            f"{folder} holds another run ({'; '.join(different)}): choose a new folder, or delete this one"
        )


def learning_options(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides what is learned; options that the backbone does not read are as by default."""
    values = asdict(recipe)
    default = asdict(recipe.method.default_model)
    values["model"] |= {name: default[name] for name in recipe.network.unread}
    del values["data"]["source"]["cache_size"]
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


def load_best(models: Sequence[MatchingModel], folder: Path) -> None:
    """Put the best checkpoint of a run's folder into networks like those that it holds.

    Raises:
        CheckpointError: If it is missing, damaged or of other networks.
    """
    _put_into(models, _best_weights(folder), folder)


def _put_into(models: Sequence[MatchingModel], weights: Sequence[dict[str, Tensor]], folder: Path) -> None:
    if len(weights) != len(models):
        raise _unfit(folder, f"networks: {len(weights)} there, {len(models)} here")
    for model, state in zip(models, weights, strict=True):
        try:
            load_weights(model, state)
        except RuntimeError as error:
            raise _unfit(folder, error) from error


def _unfit(folder: Path, why: Exception | str) -> CheckpointError:
    return CheckpointError(f"{folder / 'best.safetensors'} does not fit the model of run.json: {why}")


def describe(folder: Path, recipe: Recipe, shape: InputShape, corpus: Corpus) -> None:
    """Write the vocabulary and run.json; if the folder already holds this run, the new way to test it at most.

    Raises:
        CheckpointError: If the folder holds a run of another recipe, or of other words.
    """
    refuse_another_run(folder, recipe)
    known = read_json(folder / RUN)
    if known is not None:
        _refuse_other_words(folder, shape, corpus)
        write_json(folder / RUN, known | {"recipe": asdict(recipe), "paths": whole_paths(recipe)})
        return
    if corpus.vocabulary is not None:
        with replacing(folder / "vocabulary.json") as temporary:
            temporary.write_text(corpus.vocabulary.to_json(), encoding="utf-8")
    described = {
        "recipe": asdict(recipe),
        "inputs": asdict(shape),
        "paths": whole_paths(recipe),
        "skipped": [asdict(row) for row in corpus.skipped],
        "versions": {"truepair": __version__, "torch": torch.__version__},
    }
    write_json(folder / RUN, described)


def description_of_run(folder: Path) -> tuple[Recipe, InputShape]:
    """The recipe and the inputs of the run in `folder`.

    Raises:
        CheckpointError: If there is no run, or its ``run.json`` is damaged or of another version.
    """
    path = folder / RUN
    described = read_json(path, {"recipe": dict, "inputs": dict})
    if described is None:
        below = sorted(path.parent.name for path in folder.glob(f"*/{RUN}"))
        hint = "train one with 'truepair train'"
        if below:
            hint = (
                f"name one of those in it: {', '.join(below[:_RUNS_SHOWN])}{', …' if len(below) > _RUNS_SHOWN else ''}"
            )
        raise CheckpointError(f"{folder} holds no run (no run.json): {hint}")
    try:
        recipe = recipe_of_run(described["recipe"], str(path))
        return recipe, dacite.from_dict(InputShape, described["inputs"], dacite.Config(strict=True))
    except (ConfigError, dacite.DaciteError) as error:
        raise damaged(path, f"or of another version of truepair: {error}") from error


def recipe_from_here(folder: Path, recipe: Recipe) -> Recipe:
    """The recipe of the run in `folder` with paths that are meant from any working folder.

    Raises:
        CheckpointError: If ``run.json`` is damaged.
    """
    path = folder / RUN
    whole = (read_json(path) or {}).get("paths", {})
    if not isinstance(whole, dict) or not all(isinstance(one, str) for one in whole.values()):
        raise damaged(path, f"paths is {whole!r:.80}")
    return with_whole_paths(recipe, whole, str(path))


def _with_words_of(folder: Path, data: DataConfig, vocabulary: Vocabulary | None) -> DataConfig:
    """The same data, with words as the run in `folder` numbers them, whatever the captions or `data` say by now."""
    if vocabulary is None:
        return data
    return replace(data, vocabulary=str(folder / "vocabulary.json"), maximum_unknown_share=1.0)


def _refuse_other_words(folder: Path, shape: InputShape, corpus: Corpus) -> None:
    """Ids of words must mean what they meant when the run began."""
    if not shape.has_words:
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


def write_pairs(
    path: Path,
    train: Pairs,
    confidence: Float[Tensor, " pairs"],
    states: Mapping[str, Float[Tensor, " pairs"]],
    lost: Mapping[int, str],
) -> None:
    """One row a training pair, replaced atomically: its names, the confidence, and the truth where it is known.

    Args:
        path: The file.
        train: The pairs.
        confidence: That each matches; NaN where it is not known.
        states: What the method remembers of each after the last epoch; a column each, such as ``last_correspondence``.
        lost: Of pairs whose picture cannot be decoded, why; a column ``left_out`` if there are any.
    """
    numbers: dict[str, np.ndarray] = {"confidence": confidence.numpy()}
    numbers |= {f"last_{name}": values.cpu().numpy() for name, values in states.items()}
    if train.is_clean is not None:
        numbers["is_clean"] = train.is_clean.numpy()
    image_ids = chosen_texts(train.image_ids, train.image_of_caption.numpy())

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(train), _ROWS_AT_A_TIME):
            rows = slice(start, start + _ROWS_AT_A_TIME)
            names = {"caption_id": [*train.caption_ids[rows]], "image_id": [*image_ids[rows]]}
            columns = names | {name: values[rows] for name, values in numbers.items()}
            if lost:
                columns["left_out"] = pa.array(map(lost.get, range(len(train))[rows]), pa.string())
            yield pa.table(columns)

    write_parquet_in_parts(tables(), path)
