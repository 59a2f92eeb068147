"""A run: from a recipe to a folder with a trained model, its numbers and a belief in every training pair."""

from __future__ import annotations

import json
import platform
import resource
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from truepair import __version__
from truepair.checkpoint import load_checkpoint
from truepair.config import MethodConfig, NoiseConfig, Recipe
from truepair.data.corpora import Corpus, load_corpus
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise, read_noise_index
from truepair.data.pairs import Pairs
from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.detection import detection_metrics
from truepair.evaluation.retrieval import evaluate
from truepair.methods import METHODS
from truepair.methods.protocol import MakeModel, Method
from truepair.model import InputShape, MatchingModel, make_model
from truepair.training.fit import differences, fit
from truepair.training.log import RunLog
from truepair.training.recipe import recipe_from


def run(recipe: Recipe, folder: Path, corpus: Corpus | None = None) -> dict[str, Any]:
    """Train by `recipe` in `folder`, or go on with the run that is there; then test the best checkpoint.

    The folder then holds ``run.json`` (the recipe and what it ran on), ``vocabulary.json`` (where words are read),
    ``log.jsonl``, ``last.safetensors``, ``best.safetensors``, ``pairs.parquet`` (confidence of every training pair) and
    ``results.json``.

    Args:
        recipe: What to do.
        folder: Where to; made if missing.
        corpus: The corpus that ``recipe.data`` names, where the caller has it already.

    Returns:
        What ``results.json`` holds.

    Raises:
        CheckpointError: If `folder` holds a run of another recipe.
        TruepairError: If the data or an option is wrong.
    """
    corpus = corpus or load_corpus(recipe.data)
    train = noisy(corpus.splits.train, recipe.noise)
    training = recipe.training
    learned = train
    if training.oracle == "clean_pairs":
        learned = train.select(_truth(train).nonzero().flatten())
    correspondence = _truth(train).float() if training.oracle == "true_correspondence" else None
    shape = InputShape.of(train, corpus.vocabulary)
    fabric = Fabric(accelerator=training.accelerator, devices=1, precision=training.precision)
    loaders = partial(
        Loaders, batch_size=training.batch_size, seed=training.seed, device=fabric.device, workers=training.workers
    )
    learned_loaders = loaders(learned)
    _describe(folder, recipe, shape, corpus)

    fabric.seed_everything(training.seed, verbose=False)
    method = build_method(recipe.method, partial(make_model, recipe.model, shape), len(learned), fabric, correspondence)
    log = RunLog(folder, tensorboard=training.tensorboard)
    state = fit(method, learned_loaders, corpus.splits.dev, folder, asdict(recipe), log, training.patience)

    method.model.load_state_dict(load_checkpoint(folder / "best.safetensors")["model"])
    confidence = method.confidence(loaders(train)).cpu()
    _write_pairs(folder / "pairs.parquet", train, confidence)
    clean, test = train.is_clean, corpus.splits.test
    results = {
        "corpus": corpus.splits.name,
        "pairs": {"train": len(learned), "dev": len(corpus.splits.dev), "test": len(test)},
        "skipped": len(corpus.skipped),
        "notes": list(corpus.notes),
        "method": recipe.method.name,
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
        "test": evaluate([method.model], test, recipe.data.test_folds, state=folder).as_dict(),
        "detection": None if clean is None else detection_metrics(confidence, clean).as_dict(),
        "seconds": round(state.seconds, 2),
        "cpu_seconds": round(state.cpu_seconds, 2),
        "peak_memory_mb": peak_memory_mb(),
        "hardware": hardware(fabric.device),
        "truepair": __version__,
    }
    write_json(folder / "results.json", results)
    return results


def noisy(train: Pairs, noise: NoiseConfig) -> Pairs:
    """The training pairs with the mismatches that `noise` asks for; as they are if it asks for none."""
    if noise.index is not None:
        return read_noise_index(Path(noise.index), train, convention=noise.index_convention)
    return inject_noise(train, noise.rate, noise.seed, level=noise.level) if noise.rate else train


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
        corpus: Its data, without injected noise.
        train: Its training pairs, noise included, as they were learned from.
        model: The best checkpoint, in evaluation mode, on the CPU.
    """

    folder: Path
    recipe: Recipe
    corpus: Corpus
    train: Pairs
    model: MatchingModel


def finished(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """What ``results.json`` of `folder` holds; None if no run has finished there yet.

    Raises:
        CheckpointError: If `folder` holds a run of another recipe, or a damaged file.
    """
    _holds(folder, recipe)
    return read_json(folder / "results.json")


def load_run(folder: Path, corpus: Corpus | None = None) -> TrainedRun:
    """Read a run back from its folder.

    Args:
        folder: Where it is.
        corpus: The corpus that its recipe names, where the caller has it already.

    Raises:
        CheckpointError: If the folder holds no run, an unfinished one or a damaged one.
    """
    described = read_json(folder / "run.json")
    if described is None:
        raise CheckpointError(f"{folder} holds no run (no run.json): train one with 'truepair train'")
    if not (folder / "best.safetensors").exists():
        raise CheckpointError(f"the run in {folder} has not finished its first epoch: resume it with 'truepair train'")
    recipe = recipe_from(described["recipe"], str(folder / "run.json"))
    corpus = corpus or load_corpus(recipe.data)
    shape = InputShape(**described["inputs"])
    model = make_model(recipe.model, shape)
    try:
        model.load_state_dict(load_checkpoint(folder / "best.safetensors")["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{folder / 'best.safetensors'} does not fit the model of run.json: {error}") from error
    return TrainedRun(folder, recipe, corpus, noisy(corpus.splits.train, recipe.noise), model.eval())


def _describe(folder: Path, recipe: Recipe, shape: InputShape, corpus: Corpus) -> None:
    """Write run.json and the vocabulary, unless the folder already holds this run."""
    described: dict[str, Any] = {"recipe": asdict(recipe), "inputs": asdict(shape)}
    if _holds(folder, recipe):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if corpus.vocabulary is not None:
        (folder / "vocabulary.json").write_text(corpus.vocabulary.to_json(), encoding="utf-8")
    described["skipped"] = [asdict(row) for row in corpus.skipped]
    described["versions"] = {"truepair": __version__, "torch": torch.__version__}
    write_json(folder / "run.json", described)


def _holds(folder: Path, recipe: Recipe) -> bool:
    """Whether `folder` holds a run of `recipe`; one of another recipe is an error."""
    known = read_json(folder / "run.json")
    if known is None:
        return False
    different = differences(known["recipe"], json.loads(json.dumps(asdict(recipe))))
    if different:
        raise CheckpointError(
            f"{folder} holds another run ({'; '.join(different)}): choose a new folder, or delete this one"
        )
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None if there is no such file.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): restore it, or delete the folder and train again"
        ) from error


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
    temporary = path.with_name(path.name + ".part")
    pq.write_table(pa.table(columns), temporary)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, replaced atomically."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    scale = 1e6 if platform.system() == "Darwin" else 1e3  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 1)


def hardware(device: torch.device) -> str:
    """What computed, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
